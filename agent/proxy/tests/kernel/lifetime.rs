//! Pods that go and agents that stop.

use std::io::ErrorKind;
use std::net::TcpStream;
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
        let silent = std::net::TcpListener::bind(lab.at(2, agent_model::HBONE_PORT)).unwrap();
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

/// A clean end would tell both applications that they have everything.
#[test]
fn what_outlives_the_drain_is_reset() {
    lab(|lab| {
        let (client, server) = lab.pair();
        let app = echo(lab.at(2, APP));
        let mut stream = client.connect(lab.at(2, APP));
        ping(&mut stream).unwrap();
        assert!(!server.workers.stop(Duration::from_millis(300)));
        must_be_reset(&mut stream);
        app.must_be_reset();
        // And at the source's end.
        let app = echo(lab.at(7, APP));
        let mut stream = client.connect(lab.at(7, APP));
        ping(&mut stream).unwrap();
        assert!(!client.workers.stop(Duration::from_millis(300)));
        must_be_reset(&mut stream);
        app.must_be_reset();
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
