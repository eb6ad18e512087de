//! Pods that go and agents that stop.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use agent_datapath::PodSink;
use agent_model::{Action, Scope};
use agent_xds::Update;

use crate::lab::{APP, Lab, Node, echo, lab, must_be_reset, ping, policy, wait};

/// Sockets that hang on after a pod's removal keep its namespace and its veth.
fn nothing_is_left(lab: &Lab, node: &Node, host: u8) {
    for address in [
        node.outbound,
        node.inbound,
        lab.at(host, agent_model::HBONE_PORT),
    ] {
        // Another test may be starting a program, which holds every descriptor for a moment.
        wait("a closed listener", || {
            TcpStream::connect(address)
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        });
    }
    assert!(node.workers.pods().is_empty());
    assert_eq!(node.workers.tunnels(), agent_hbone::PoolStats::default());
}

#[test]
fn a_removed_destination_resets_its_connections_and_says_goodbye() {
    lab(|lab| {
        let (client, server) = lab.pair();
        let app = echo(lab.at(2, APP));
        let mut stream = client.connect(lab.at(2, APP));
        ping(&mut stream).unwrap();
        let start = Instant::now();
        server.workers.remove(server.pod);
        server.workers.remove(server.pod);
        assert_eq!(server.workers.pods_started(), 1);
        assert_eq!(server.workers.pods_stopped(), 1);
        assert!(start.elapsed() < Duration::from_secs(1));
        nothing_is_left(lab, &server, 2);
        must_be_reset(&mut stream);
        app.must_be_reset();
        wait("the end of the tunnel", || {
            client.workers.tunnels() == agent_hbone::PoolStats::default()
        });
    });
}

#[test]
fn a_removed_source_takes_its_tunnels_with_it() {
    lab(|lab| {
        let (client, server) = lab.pair();
        let app = echo(lab.at(2, APP));
        let mut stream = client.connect(lab.at(2, APP));
        ping(&mut stream).unwrap();
        assert_eq!(client.workers.tunnels().tunnels, 1);
        let start = Instant::now();
        client.workers.remove(client.pod);
        assert!(start.elapsed() < Duration::from_secs(1));
        nothing_is_left(lab, &client, 1);
        must_be_reset(&mut stream);
        app.must_be_reset();
        wait("the end of the tunnel", || {
            server
                .metrics
                .connections(agent_telemetry::Direction::Inbound)
                == 0
        });
    });
}

/// A dial belongs to the pool; the pod does not wait for it to fail.
#[test]
fn a_removed_source_does_not_wait_for_its_dials() {
    lab(|lab| {
        let (client, server) = lab.pair();
        server.workers.remove(server.pod);
        // As in `nothing_is_left`, another test may hold the listener that was closed.
        let mut bound = None;
        wait("a port to listen on", || {
            bound = TcpListener::bind(lab.at(2, agent_model::HBONE_PORT)).ok();
            bound.is_some()
        });
        let silent = bound.unwrap();
        let mut stream = client.connect(lab.at(2, APP));
        let _held = silent.accept().unwrap();
        let start = Instant::now();
        client.workers.remove(client.pod);
        assert!(start.elapsed() < Duration::from_secs(1));
        nothing_is_left(lab, &client, 1);
        must_be_reset(&mut stream);
    });
}

#[test]
fn an_idle_agent_stops_at_once() {
    lab(|lab| {
        let (client, server) = lab.pair();
        echo(lab.at(2, APP));
        ping(&mut client.connect(lab.at(2, APP))).unwrap();
        let start = Instant::now();
        assert!(server.workers.stop(Duration::from_secs(10)));
        assert!(client.workers.stop(Duration::from_secs(10)));
        assert!(start.elapsed() < Duration::from_secs(2));
    });
}

/// F-07: what had arrived at the agent is delivered, then both applications see FIN.
#[test]
fn what_outlives_the_drain_ends_cleanly_with_all_its_bytes() {
    lab(|lab| {
        let (client, server) = lab.pair();
        for (agent, host) in [(&server, 2), (&client, 7)] {
            let app = echo(lab.at(host, APP));
            let mut stream = client.connect(lab.at(host, APP));
            ping(&mut stream).unwrap();
            let rest = vec![7; 100_000];
            stream.write_all(&rest).unwrap();
            let start = Instant::now();
            assert!(!agent.workers.stop(Duration::from_millis(300)));
            assert!(start.elapsed() < Duration::from_millis(1300));
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert_eq!(answer.len(), rest.len());
            assert_eq!(app.end(), Ok(()));
        }
    });
}

/// F-13: what cannot be delivered does not hold the agent up, and does not look complete.
#[test]
fn what_does_not_drain_is_reset_in_time() {
    lab(|lab| {
        let (client, server) = lab.pair();
        let listener = TcpListener::bind(lab.at(2, APP)).unwrap();
        let mut stream = client.connect(lab.at(2, APP));
        let (mut stuck, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let chunk = vec![7; 1 << 20];
        wait("full buffers", || {
            let full = |error: &io::Error| error.kind() == ErrorKind::WouldBlock;
            let before = stream.write(&chunk).is_err_and(|error| full(&error));
            std::thread::sleep(Duration::from_millis(50));
            before && stream.write(&chunk).is_err_and(|error| full(&error))
        });
        let start = Instant::now();
        assert!(!server.workers.stop(Duration::from_millis(300)));
        assert!(start.elapsed() < Duration::from_millis(1300));
        must_be_reset(&mut stuck);
        wait("an error for who sent it", || {
            let written = stream.write(&chunk);
            written.is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
        });
    });
}

#[test]
fn a_draining_agent_lets_connections_finish_and_still_decides() {
    lab(|lab| {
        let (client, mut server) = lab.pair();
        echo(lab.at(2, APP));
        let mut stream = client.connect(lab.at(2, APP));
        ping(&mut stream).unwrap();
        std::thread::scope(|scope| {
            let (workers, mut apply) = server.split();
            let stop = scope.spawn(|| workers.stop(Duration::from_secs(10)));
            std::thread::sleep(Duration::from_millis(300));
            ping(&mut stream).unwrap();
            let deny = policy("nobody", Action::Deny, Scope::Namespace);
            let start = Instant::now();
            apply(vec![Update::Policy(deny)]);
            must_be_reset(&mut stream);
            assert!(start.elapsed() < Duration::from_secs(2));
            assert!(stop.join().unwrap(), "the last connection ended");
        });
    });
}
