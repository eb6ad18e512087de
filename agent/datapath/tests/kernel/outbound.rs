//! Connects of an enrolled pod.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use agent_net::{OriginalDst, SocketTags, socket::canonical};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{
    Lab, accept, connect, connect_prepared, eventually, nothing_arrives, say, serve, turn,
};

/// Nobody has these addresses: only capture can make a connect to them succeed.
const ELSEWHERE: [&str; 3] = [
    "198.51.100.7:80",
    "[2001:db8::7]:443",
    "[::ffff:198.51.100.9]:81",
];

#[test]
fn a_connect_arrives_at_the_outbound_listener_with_its_destination() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let pod = lab.pod(1);
    let datapath = lab.load();
    let enrolled = pod.enrol(&datapath);
    for destination in ELSEWHERE {
        let destination: SocketAddr = destination.parse().unwrap();
        let client = connect(&pod.netns, destination).unwrap();
        let (agent, peer) = accept(&enrolled.outbound).expect(ELSEWHERE[0]);
        say(&client, &agent);
        let peer = canonical(peer);
        let found = datapath.original_dst(pod.netns.cookie(), peer);
        assert_eq!(found, Some(canonical(destination)));
        // The application sees what it would without a mesh.
        assert_eq!(client.peer_addr().unwrap(), destination);
        let local = canonical(client.local_addr().unwrap());
        assert_eq!(local, peer);
        assert!(pod.addresses().contains(&local.ip()));
        drop(client);
        eventually("the entry dies with its socket", || {
            datapath.original_dst(pod.netns.cookie(), peer).is_none()
        });
    }
}

#[test]
fn a_socket_that_connects_again_is_judged_again() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let pod = lab.pod(1);
    let datapath = lab.load();
    let enrolled = pod.enrol(&datapath);
    let application = pod.serve(8080);
    drop(enrolled);
    // Captured and refused, for nobody listens; then the same socket to the pod itself.
    let socket = pod
        .netns
        .run(|| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)))
        .unwrap()
        .unwrap();
    let elsewhere: SocketAddr = ELSEWHERE[0].parse().unwrap();
    assert!(socket.connect(&elsewhere.into()).is_err());
    let own = SocketAddr::new(pod.v4, 8080);
    socket.connect(&own.into()).unwrap();
    assert!(accept(&application).is_some());
    assert_eq!(socket.peer_addr().unwrap().as_socket(), Some(own));
}

#[test]
fn a_pod_talks_to_itself_untouched() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let pod = lab.pod(1);
    let datapath = lab.load();
    let enrolled = pod.enrol(&datapath);
    let application = pod.serve(8080);
    let targets = [
        SocketAddr::new(pod.v4, 8080),
        SocketAddr::new(pod.v6, 8080),
        "127.0.0.1:8080".parse().unwrap(),
        "127.0.0.53:8080".parse().unwrap(),
        "[::1]:8080".parse().unwrap(),
        "[::ffff:127.0.0.1]:8080".parse().unwrap(),
        "0.0.0.0:8080".parse().unwrap(),
    ];
    for target in targets {
        let client = connect(&pod.netns, target).unwrap();
        let (server, _) = accept(&application).unwrap_or_else(|| panic!("{target}"));
        say(&client, &server);
    }
    assert!(nothing_arrives(&enrolled.outbound));
    assert!(nothing_arrives(&enrolled.inbound));
    // Port 15001 of loopback is the application's own, too.
    let local = serve(&pod.netns, "127.0.0.1:15001".parse().unwrap());
    connect(&pod.netns, "127.0.0.1:15001".parse().unwrap()).unwrap();
    assert!(accept(&local).is_some());
}

#[test]
fn the_agents_sockets_are_exempt() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let (pod, other) = (lab.pod(1), lab.pod(2));
    let datapath = lab.load();
    let enrolled = pod.enrol(&datapath);
    let server = other.serve(8080);
    for target in other.addresses() {
        let target = SocketAddr::new(target, 8080);
        let stream = connect_prepared(&pod.netns, target, |socket| datapath.exempt(socket.as_fd()));
        let stream = stream.unwrap();
        let (accepted, _) = accept(&server).unwrap();
        say(&stream, &accepted);
    }
    assert!(nothing_arrives(&enrolled.outbound));
}

#[test]
fn without_an_address_of_the_family_a_connect_is_refused() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let mut pod = lab.pod(1);
    pod.info.ips.retain(|ip| ip.is_ipv4());
    let datapath = lab.load();
    let _enrolled = pod.enrol(&datapath);
    let before = datapath.counters();
    let error = connect(&pod.netns, ELSEWHERE[1].parse().unwrap()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    assert_eq!(datapath.counters().no_address, before.no_address + 1);
}

#[test]
fn without_a_listener_a_captured_connect_is_refused_also_past_a_squatter() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let pod = lab.pod(1);
    let datapath = lab.load();
    let enrolled = pod.enrol(&datapath);
    let squatter = pod.serve(15001);
    drop(enrolled);
    let dropped = datapath.counters().no_listener;
    for destination in ELSEWHERE {
        let error = connect(&pod.netns, destination.parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    assert!(nothing_arrives(&squatter));
    assert!(datapath.counters().no_listener >= dropped + 3);
}

#[test]
fn an_mptcp_client_sees_its_destination() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::new();
    let pod = lab.pod(1);
    let datapath = lab.load();
    let enrolled = pod.enrol(&datapath);
    let destination: SocketAddr = ELSEWHERE[0].parse().unwrap();
    let mptcp = Protocol::from(libc::IPPROTO_MPTCP);
    let socket = pod
        .netns
        .run(|| Socket::new(Domain::IPV4, Type::STREAM, Some(mptcp)))
        .unwrap()
        .expect("the kernel has MPTCP");
    socket.connect(&destination.into()).unwrap();
    let (_agent, peer) = accept(&enrolled.outbound).unwrap();
    let found = datapath.original_dst(pod.netns.cookie(), canonical(peer));
    assert_eq!(found, Some(destination));
    assert_eq!(socket.peer_addr().unwrap().as_socket(), Some(destination));
}
