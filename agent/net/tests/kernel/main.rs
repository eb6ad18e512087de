//! Connections of a namespace on a real kernel, as root, in namespaces of the tests' own.
//! `CULVERT_SKIP_KERNEL_TESTS=1` skips.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panic, also in the functions it calls"
)]

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use agent_net::Netns;
use agent_net::sockdiag::{Connection, destroy, list};
use nix::sched::{CloneFlags, unshare};

const PORT: u16 = 8080;

/// A namespace that nobody else is in; none when kernel tests are not to run here.
fn namespace() -> Option<Netns> {
    if std::env::var_os("CULVERT_SKIP_KERNEL_TESTS").is_some_and(|value| value == "1") {
        eprintln!("skipped: CULVERT_SKIP_KERNEL_TESTS=1");
        return None;
    }
    let made = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs root: CLONE_NEWNET");
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    Some(Netns::from_fd(made.join().unwrap().into()).unwrap())
}

fn listen(netns: &Netns) -> TcpListener {
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PORT);
    netns.run(|| TcpListener::bind(any)).unwrap().unwrap()
}

fn connect(netns: &Netns, to: &str) -> TcpStream {
    let to: SocketAddr = to.parse().unwrap();
    let stream = netns.run(|| TcpStream::connect(to)).unwrap().unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    stream
}

/// The server's end of a client's connection.
fn server_end(netns: &Netns, client: &TcpStream) -> Option<Connection> {
    let sockets = list(netns, 100).unwrap();
    let remote = client.local_addr().unwrap();
    let mut found = sockets.connections.into_iter();
    found.find(|connection| connection.remote == remote && connection.local.port() == PORT)
}

#[test]
fn lists_both_ends_of_both_families_and_the_ports() {
    let (Some(netns), Some(other)) = (namespace(), namespace()) else {
        return;
    };
    let listener = listen(&netns);
    for to in ["127.0.0.1:8080", "[::1]:8080"] {
        let client = connect(&netns, to);
        let near = client.local_addr().unwrap();
        let sockets = list(&netns, 100).unwrap();
        // Nobody has accepted it yet. The listener is of IPv6, so this may be a mapped one.
        let end = server_end(&netns, &client).expect(to);
        assert_eq!(end.local, to.parse().unwrap());
        let (accepted, _) = listener.accept().unwrap();
        let cookie = socket2::SockRef::from(&accepted).cookie().unwrap();
        assert_eq!(server_end(&netns, &client).unwrap().cookie, cookie);
        assert_eq!(end.cookie, cookie);
        assert!(sockets.connections.iter().any(|end| end.local == near));
        assert_eq!(Vec::from_iter(sockets.listening), [PORT]);
    }
    let elsewhere = list(&other, 100).unwrap();
    assert_eq!(elsewhere, Default::default(), "of another namespace");
}

#[test]
fn ends_the_connection_it_is_told_and_no_other() {
    let (Some(netns), Some(other)) = (namespace(), namespace()) else {
        return;
    };
    let listener = listen(&netns);
    for to in ["127.0.0.1:8080", "[::1]:8080"] {
        let mut client = connect(&netns, to);
        let (mut accepted, _) = listener.accept().unwrap();
        let end = server_end(&netns, &client).expect(to);
        let stranger = Connection {
            cookie: end.cookie + 1_000_000,
            ..end
        };
        assert!(!destroy(&netns, &stranger).unwrap(), "another's cookie");
        assert!(!destroy(&other, &end).unwrap(), "another namespace");
        assert_eq!(server_end(&netns, &client), Some(end));
        assert!(destroy(&netns, &end).unwrap());
        let near = client.read(&mut [0; 8]).unwrap_err();
        assert_eq!(near.kind(), ErrorKind::ConnectionReset);
        let far = accepted.read(&mut [0; 8]).unwrap_err();
        assert_eq!(far.kind(), ErrorKind::ConnectionAborted);
        assert_eq!(server_end(&netns, &client), None);
        assert!(!destroy(&netns, &end).unwrap(), "gone");
    }
}

#[test]
fn half_closed_counts_and_let_go_does_not() {
    let Some(netns) = namespace() else { return };
    let listener = listen(&netns);
    let client = connect(&netns, "[::1]:8080");
    let (accepted, _) = listener.accept().unwrap();
    accepted.shutdown(Shutdown::Write).unwrap();
    assert!(server_end(&netns, &client).is_some());
    drop(accepted);
    // Another test may be starting a program, which holds every descriptor for a moment.
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Some(left) = server_end(&netns, &client) {
        assert!(Instant::now() < deadline, "{left:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn more_than_the_limit_is_an_error() {
    let Some(netns) = namespace() else { return };
    let _listener = listen(&netns);
    let _client = connect(&netns, "127.0.0.1:8080");
    assert_eq!(list(&netns, 2).unwrap().connections.len(), 2);
    let error = list(&netns, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
}

/// A namespace of which only an open netlink socket were left would keep its interfaces.
#[test]
fn nothing_stays_open() {
    let Some(netns) = namespace() else { return };
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let _listener = listen(&netns);
    let client = connect(&netns, "127.0.0.1:8080");
    let end = server_end(&netns, &client).unwrap();
    // Other tests run beside this one.
    let before = descriptors();
    for _ in 0..200 {
        list(&netns, 100).unwrap();
        destroy(&netns, &end).unwrap();
    }
    assert!(descriptors() < before + 100);
}
