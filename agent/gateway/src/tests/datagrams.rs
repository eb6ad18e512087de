//! UDPRoutes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use agent_model::Reason;
use agent_model::gateway::{
    BackendProtocol, GatewayKey, L4Rule, Listener, Parent, Protocol, Route, RouteKey, RouteKind,
    Rules, Target, WeightedTarget,
};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::bed::{Bed, listener, target};
use crate::Config;

/// Answers each datagram with its name and what it got.
pub(super) async fn echo(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1024];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let answer = [name.as_bytes(), &buffer[..len]].concat();
            let _ = socket.send_to(&answer, from).await;
        }
    });
    address
}

pub(super) fn udp(port: u16) -> Listener {
    Listener {
        protocol: Protocol::Udp,
        ..listener("udp", port)
    }
}

pub(super) fn to(shares: &[(u32, Target)]) -> Route {
    let backends = shares.iter().map(|(weight, target)| WeightedTarget {
        weight: *weight,
        target: target.clone(),
    });
    Route {
        key: RouteKey::new(RouteKind::Udp, "ns", "r"),
        created: 0,
        hostnames: Vec::new(),
        parents: vec![Parent::Listener {
            gateway: GatewayKey::new("ns", "edge"),
            name: "udp".into(),
        }],
        rules: Rules::L4(vec![L4Rule {
            name: None,
            backends: backends.collect(),
        }]),
    }
}

pub(super) fn service(name: &str) -> Target {
    target(name, BackendProtocol::Http)
}

pub(super) async fn client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // A connected socket hears nobody but the address that it asked.
    socket.connect(to).await.unwrap();
    socket
}

pub(super) async fn ask(client: &UdpSocket, text: &str) -> Option<String> {
    client.send(text.as_bytes()).await.unwrap();
    let mut buffer = [0; 1024];
    let len = timeout(Duration::from_millis(500), client.recv(&mut buffer)).await;
    let len = len.ok()?.unwrap();
    Some(String::from_utf8(buffer[..len].to_vec()).unwrap())
}

#[tokio::test]
async fn datagrams_go_to_an_endpoint_and_answers_come_from_the_address_that_was_asked() {
    let mut bed = Bed::idle(None);
    bed.service_at("one", &[echo("one ").await]);
    let port = bed.address.port();
    bed.listen_at = "0.0.0.0".parse().unwrap();
    assert_eq!(
        bed.apply_with(vec![udp(port)], &[to(&[(1, service("one"))])]),
        []
    );
    for ip in ["127.0.0.1", "127.0.0.7"] {
        let client = client(SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port)).await;
        for text in ["hello", "again"] {
            let answer = ask(&client, text).await;
            assert_eq!(answer, Some(format!("one {text}")), "{ip}");
        }
    }
    // A port of TCP with the same number is another one.
    bed.apply_with(
        vec![udp(port), listener("http", port)],
        &[to(&[(1, service("one"))])],
    );
    assert_eq!(bed.get("a.org", "/").await.status(), 404);
    // The port is closed with its sessions, and can be had again.
    bed.apply_with(Vec::new(), &[]);
    let passages = bed.passages(2).await;
    for passage in passages {
        assert_eq!((passage.received, passage.sent), (10, 18));
        assert_eq!(passage.reason, Reason::Ok);
    }
    bed.apply_with(vec![udp(port)], &[to(&[(1, service("one"))])]);
    let client = client(SocketAddr::new([127, 0, 0, 1].into(), port)).await;
    assert_eq!(ask(&client, "x").await.as_deref(), Some("one x"));
}

#[tokio::test]
async fn sessions_are_shared_by_weight_and_stay_where_they_are() {
    let mut bed = Bed::idle(None);
    bed.service_at("a", &[echo("a").await]);
    bed.service_at("b", &[echo("b").await]);
    let shares = [
        (1, service("a")),
        (1, service("b")),
        (0, Target::Invalid("BackendNotFound".into())),
    ];
    bed.apply_with(vec![udp(bed.address.port())], &[to(&shares)]);
    let mut seen = [0, 0];
    for _ in 0..40 {
        let client = client(bed.address).await;
        let first = ask(&client, "").await.unwrap();
        assert_eq!(ask(&client, "").await.unwrap(), first);
        seen[usize::from(first == "b")] += 1;
    }
    // Six standard deviations are 19.
    assert!(seen.iter().all(|count| *count >= 1), "{seen:?}");
    // A share that leads nowhere is refused.
    bed.apply_with(
        vec![udp(bed.address.port())],
        &[to(&[(1, Target::Invalid("BackendNotFound".into()))])],
    );
    assert_eq!(ask(&client(bed.address).await, "x").await, None);
    let refused = bed.passages(1).await;
    assert_eq!(refused[0].reason, Reason::BackendInvalid);
}

#[tokio::test]
async fn a_session_ends_when_it_is_quiet_or_there_are_too_many() {
    let config = Config {
        sessions_per_worker: 3,
        session_idle: Duration::from_millis(300),
        ..Config::default()
    };
    let mut bed = Bed::with(&config, None);
    bed.service_at("one", &[echo("one").await]);
    bed.apply_with(vec![udp(bed.address.port())], &[to(&[(1, service("one"))])]);
    let mut clients = Vec::new();
    for number in 0..5 {
        let client = client(bed.address).await;
        // The one that has been quiet for the longest makes room.
        assert!(ask(&client, "x").await.is_some(), "{number}");
        clients.push(client);
    }
    let ended = bed.passages(2).await;
    assert!(ended.iter().all(|passage| passage.reason == Reason::Ok));
    assert_eq!(bed.passages(5).await.len(), 5, "the others were quiet");
    assert!(ask(&clients[0], "x").await.is_some());
}

#[tokio::test]
async fn a_session_leaves_an_endpoint_that_is_gone() {
    let mut bed = Bed::idle(None);
    let (gone, here) = (super::bed::free_port(), echo("here").await);
    bed.service_at("one", &[gone]);
    bed.apply_with(vec![udp(bed.address.port())], &[to(&[(1, service("one"))])]);
    let client = client(bed.address).await;
    assert_eq!(ask(&client, "x").await, None);
    assert_eq!(bed.passages(1).await[0].reason, Reason::ConnectRefused);
    bed.service_at("one", &[here]);
    assert_eq!(ask(&client, "x").await.as_deref(), Some("herex"));

    // One that still answers and is an endpoint no longer is left, too.
    let other = echo("other").await;
    bed.service_at("one", &[other]);
    let moved = async {
        while ask(&client, "x").await.as_deref() != Some("otherx") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(5), moved).await.unwrap();
}
