//! Where connections go, and what becomes of those that go nowhere.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use agent_model::{LoadBalancing, LoadBalancingMode, LocalityScope, Reason, TunnelProtocol};
use agent_xds::Update;

use crate::lab::{APP, Lab, Node, echo, lab, must_be_reset, ping, put};

#[test]
fn every_byte_and_both_ends_through_two_nodes() {
    lab(|lab| {
        let (client, server) = lab.pair();
        echo(lab.at(2, APP));
        let mut stream = client.connect(lab.at(2, APP));
        let own = stream.local_addr().unwrap();
        let sent: Vec<u8> = (0..1_000_003u32).map(|n| ((n * 31) >> 3) as u8).collect();
        let mut writing = stream.try_clone().unwrap();
        let to_send = sent.clone();
        let writer = std::thread::spawn(move || {
            writing.write_all(&to_send).unwrap();
            writing.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        writer.join().unwrap();
        assert!(received == sent, "{} bytes came back", received.len());
        assert_eq!(server.shown(), [own], "the application sees its client");
        assert_eq!(client.metrics.refusals(), []);
    });
}

/// A connection may live for days: its bytes must not come to light all at once at its end.
#[test]
fn the_bytes_of_a_running_connection_are_counted() {
    lab(|lab| {
        let (client, server) = lab.pair();
        echo(lab.at(2, APP));
        let mut stream = client.connect(lab.at(2, APP));
        ping(&mut stream).unwrap();
        let deadline = Instant::now() + Duration::from_secs(8);
        for node in [&client, &server] {
            let is_counted = |line: &str| {
                line.starts_with("istio_tcp_received_bytes_total{") && line.ends_with("} 4")
            };
            while !node.metrics.encode(Instant::now()).lines().any(is_counted) {
                assert!(Instant::now() < deadline, "nothing is counted");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        ping(&mut stream).unwrap();
    });
}

#[test]
fn another_endpoint_where_one_refuses() {
    lab(|lab| {
        let (mut client, mut server) = lab.pair();
        echo(lab.at(2, APP));
        // Nobody listens at the third and the fourth address.
        let mesh = || {
            let mut mesh: Vec<Update> = [("server", 2), ("gone", 3), ("away", 4)]
                .map(|(name, host)| put(lab.endpoint(name, host)))
                .into();
            mesh.push(Update::Service(Box::new(lab.service())));
            mesh
        };
        client.apply(mesh());
        server.apply(mesh());
        for _ in 0..16 {
            ping(&mut client.connect((lab.vip(), 80).into())).unwrap();
        }
        assert_eq!(client.metrics.refusals(), []);
    });
}

/// A hung agent accepts and says nothing; its node is the one that is preferred.
#[test]
fn another_endpoint_where_one_is_silent() {
    lab(|lab| {
        let (mut client, mut server) = lab.pair();
        echo(lab.at(2, APP));
        let silent = TcpListener::bind(lab.at(3, agent_model::HBONE_PORT)).unwrap();
        let mut near = lab.endpoint("silent", 3);
        near.node = "client".into();
        let mut service = lab.service();
        service.load_balancing = LoadBalancing {
            routing_preference: vec![LocalityScope::Node],
            mode: LoadBalancingMode::Failover,
            ..LoadBalancing::default()
        };
        let mesh = || {
            vec![
                put(lab.endpoint("server", 2)),
                put(near.clone()),
                Update::Service(Box::new(service.clone())),
            ]
        };
        client.apply(mesh());
        server.apply(mesh());
        ping(&mut client.connect((lab.vip(), 80).into())).unwrap();
        silent.set_nonblocking(true).unwrap();
        assert!(silent.accept().is_ok(), "the near endpoint was tried first");
    });
}

#[test]
fn a_pod_that_is_not_opted_in_connects_plainly() {
    lab(|lab| {
        let (mut client, _server) = lab.pair();
        echo(lab.at(2, APP));
        let mut outside = lab.workload("client", 1);
        outside.tunnel_protocol = TunnelProtocol::None;
        client.apply(vec![put(outside)]);
        ping(&mut client.connect(lab.at(2, APP))).unwrap();
        assert_eq!(client.workers.tunnels(), agent_hbone::PoolStats::default());
    });
}

#[test]
fn who_was_not_captured_is_reset() {
    lab(|lab| {
        let (client, _server) = lab.pair();
        let mut stranger = TcpStream::connect(client.outbound).unwrap();
        must_be_reset(&mut stranger);
        client.refused(Reason::NoOriginalDestination);
    });
}

#[test]
fn a_refused_connect_is_a_reset_with_its_reason() {
    lab(|lab| {
        let (client, server) = lab.pair();
        must_be_reset(&mut client.connect(lab.at(2, 9)));
        server.refused(Reason::ConnectRefused);
        client.refused(Reason::PeerRejected);
        // Unknown to the mesh: dialled as it is.
        must_be_reset(&mut client.connect(lab.at(5, 9)));
        client.refused(Reason::ConnectRefused);
        must_be_reset(&mut client.connect(lab.at(2, agent_model::HBONE_PORT)));
        client.refused(Reason::AgentPort);
    });
}

/// Half a mesh may lack the policies: nothing is served from it.
#[test]
fn nothing_goes_before_the_mesh_is_known() {
    lab(|lab| {
        let (client, server) = lab.pair();
        let app = echo(lab.at(2, APP));
        client.synced.send_replace(false);
        server.synced.send_replace(false);
        let mut stream = client.connect(lab.at(2, APP));
        stream.write_all(b"ping").unwrap();
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(client.workers.tunnels().dials, 0);
        client.synced.send_replace(true);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(app.accepted(), 0);
        server.synced.send_replace(true);
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ping");
    });
}

#[test]
fn a_pod_nobody_knows_is_refused_after_five_seconds() {
    lab(|lab: &Lab| {
        let client = lab.node("client", 1);
        let start = Instant::now();
        must_be_reset(&mut client.connect(lab.at(2, APP)));
        let took = start.elapsed();
        assert!(Duration::from_millis(4900) < took, "{took:?}");
        client.refused(Reason::SourceUnknown);
    });
}

/// Whoever reaches a pod may open connections to its tunnel port; the node's descriptors are not
/// theirs to use up.
#[test]
fn silent_tunnels_are_limited() {
    lab(|lab| {
        let limited: fn(&mut agent_proxy::Config) = |config| config.connections_per_pod = 2;
        let mut server = Node::start(lab, "server", 2, limited);
        server.apply(vec![put(lab.workload("server", 2))]);
        let open = || TcpStream::connect(lab.at(2, agent_model::HBONE_PORT)).unwrap();
        let silent = [open(), open()];
        std::thread::sleep(Duration::from_millis(100));
        let start = Instant::now();
        let mut third = open();
        let _ = third.read(&mut [0]);
        assert!(start.elapsed() < Duration::from_secs(1), "it was held");
        server.refused(Reason::LimitExceeded);
        // The handshakes of the others time out, and there is room again.
        drop(silent);
        crate::lab::wait("room", || {
            let mut again = open();
            again
                .set_read_timeout(Some(Duration::from_millis(300)))
                .unwrap();
            again
                .read(&mut [0])
                .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        });
    });
}
