//! What passes as bytes, while it passes, when what is said of it changes (F-72).

use std::time::Duration;

use agent_model::access::{
    Access, AccessRule, Condition, Operation, PathMatch, PolicyTarget, Source, TextAttribute,
};
use agent_model::authentication::{Authentication, KeySource};
use agent_model::gateway::{Listener, Protocol, Route, RouteKind};
use agent_model::{Action, Reason, StringMatch, Workload};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::backend::Backend;
use super::bed::{Bed, endpoint, listener, route, rule, service};
use super::issuer::{self, Issuer};
use super::streams::echo;
use super::waypoint::{Site, attached, behind_waypoint, worker};
use super::{datagrams, egress, streams};
use crate::access::RequestPolicies;

/// How long something may go on that is denied, or that would be served otherwise.
const LIMIT: Duration = Duration::from_secs(2);

fn deny(target: PolicyTarget, rule: AccessRule) -> Access {
    Access {
        name: "no".into(),
        namespace: "ns".into(),
        targets: vec![target],
        action: Action::Deny,
        rules: vec![rule],
        dry_run: false,
    }
}

fn gateway() -> PolicyTarget {
    PolicyTarget::Gateway("ns/edge".into())
}

fn of_service(name: &str) -> PolicyTarget {
    PolicyTarget::Service(service(name).key())
}

/// What matches nobody here.
fn other_port() -> AccessRule {
    AccessRule {
        when: vec![Condition::DestinationPort {
            values: vec![1],
            not_values: Vec::new(),
        }],
        ..AccessRule::default()
    }
}

fn apply(
    bed: &Bed,
    listener: Listener,
    routes: &[Route],
    access: &[Access],
    tokens: &[&Authentication],
) {
    let policies = RequestPolicies {
        access: access.iter().collect(),
        authentications: tokens.to_vec(),
        unreadable: Vec::new(),
    };
    let faults = bed.apply_guarded(vec![listener], routes, &policies);
    assert_eq!(faults, []);
}

/// A stream to [`echo`]'s `up`, which has said so.
async fn greeted<T: AsyncRead + AsyncWrite + Unpin>(mut stream: T) -> T {
    let mut said = [0; 2];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"up");
    lives(&mut stream).await;
    stream
}

async fn lives(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let mut said = [0; 4];
    stream.write_all(b"ping").await.unwrap();
    let heard = timeout(LIMIT, stream.read_exact(&mut said)).await;
    heard.expect("an answer").unwrap();
    assert_eq!(&said, b"ping");
}

/// Nothing that is said afterwards arrives, and no clean end is made of it.
async fn ends(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut said = [0; 4];
    let ended = timeout(LIMIT, stream.read(&mut said)).await;
    let ended = ended.expect("it ends in time");
    assert!(ended.is_err(), "{ended:?}");
}

async fn stream(site: &Site) -> impl AsyncRead + AsyncWrite + Unpin + use<> {
    greeted(site.open("shop", "10.96.0.1:80").await.unwrap()).await
}

#[tokio::test]
async fn a_policy_that_comes_ends_what_it_would_refuse_and_nothing_else() {
    worker(async {
        let site = Site::start(endpoint("one-0", "one", echo("up", None).await));
        let tokens = Issuer::new("a").policy(of_service("one"));
        let of_other = deny(of_service("other"), AccessRule::default());
        let refuses = [
            (vec![deny(of_service("one"), AccessRule::default())], vec![]),
            (vec![deny(gateway(), AccessRule::default())], vec![]),
            (vec![], vec![&tokens]),
        ];
        for (number, (access, tokens)) in refuses.into_iter().enumerate() {
            apply(&site.bed, site.listener(), &[], &[], &[]);
            let mut stream = stream(&site).await;
            let unrelated = [of_other.clone(), deny(of_service("one"), other_port())];
            apply(&site.bed, site.listener(), &[], &unrelated, &[]);
            lives(&mut stream).await;
            apply(&site.bed, site.listener(), &[], &access, &tokens);
            ends(stream).await;
            let passage = site.bed.passages(number + 1).await.remove(number);
            assert_eq!(passage.reason, Reason::PolicyChanged);
            assert_eq!((passage.received, passage.sent), (8, 10));
            assert!(passage.endpoint.is_some());
        }
    })
    .await;
}

#[tokio::test]
async fn a_route_that_comes_ends_bytes_and_one_that_goes_at_once_does_not() {
    worker(async {
        let site = Site::start(endpoint("one-0", "one", echo("up", None).await));
        let mut stream = stream(&site).await;
        let routes = [attached("all", None, None, vec![rule("/", "one")])];
        let elsewhere = [attached("81", Some(81), None, vec![rule("/", "one")])];
        let others = [attached("o", None, Some("other"), vec![rule("/", "one")])];
        apply(&site.bed, site.listener(), &routes, &[], &[]);
        for unrelated in [&elsewhere[..], &others] {
            apply(&site.bed, site.listener(), unrelated, &[], &[]);
            lives(&mut stream).await;
        }
        // Longer than what the first of them would have left it.
        sleep(Duration::from_millis(1500)).await;
        lives(&mut stream).await;
        apply(&site.bed, site.listener(), &routes, &[], &[]);
        ends(stream).await;
        let passage = site.bed.passages(1).await.remove(0);
        assert_eq!(passage.reason, Reason::PolicyChanged);
    })
    .await;
}

#[tokio::test]
async fn what_was_found_to_be_no_http_stays_until_it_is_refused() {
    worker(async {
        let site = Site::start(endpoint("one-0", "one", echo("up", None).await));
        let tokens = Issuer::new("a").policy(of_service("one"));
        // It asks for requests, and lets this client's connections be.
        let allow = Access {
            name: "yes".into(),
            action: Action::Allow,
            rules: vec![AccessRule::default()],
            ..deny(of_service("one"), other_port())
        };
        let mut asks = deny(of_service("one"), other_port());
        asks.rules[0].when.push(Condition::Text {
            attribute: TextAttribute::Header("x".into()),
            values: vec![StringMatch::Exact("y".to_owned())],
            not_values: Vec::new(),
        });
        apply(&site.bed, site.listener(), &[], &[], &[]);
        let never_seen = stream(&site).await;
        let access = [allow.clone(), asks.clone()];
        apply(&site.bed, site.listener(), &[], &access, &[]);
        let mut seen = stream(&site).await;
        ends(never_seen).await;
        apply(&site.bed, site.listener(), &[], &[asks], &[]);
        lives(&mut seen).await;
        apply(&site.bed, site.listener(), &[], &[], &[&tokens]);
        ends(seen).await;
    })
    .await;
}

#[tokio::test]
async fn bytes_to_a_pod_are_judged_by_what_comes_for_its_services() {
    worker(async {
        // The waypoint is at 127.0.0.1.
        let at = streams::echo_at("127.77.0.9", "up").await;
        let site = Site::start(Workload {
            waypoint: behind_waypoint("one").waypoint,
            ..endpoint("one-0", "one", at)
        });
        let opened = site.open("shop", &at.to_string()).await;
        let mut stream = greeted(opened.unwrap()).await;
        let unrelated = [deny(of_service("other"), AccessRule::default())];
        apply(&site.bed, site.listener(), &[], &unrelated, &[]);
        lives(&mut stream).await;
        let all = [deny(of_service("one"), AccessRule::default())];
        apply(&site.bed, site.listener(), &[], &all, &[]);
        ends(stream).await;
        let passage = site.bed.passages(1).await.remove(0);
        assert_eq!(passage.reason, Reason::PolicyChanged);
        assert_eq!(passage.endpoint, Some(at));
    })
    .await;
}

#[tokio::test]
async fn what_leaves_the_mesh_is_judged_again() {
    worker(async {
        let site = egress::site(echo("up", None).await);
        let mut stream = greeted(egress::open(&site).await).await;
        let unrelated = [deny(gateway(), other_port())];
        apply(&site.bed, site.listener(), &[], &unrelated, &[]);
        lives(&mut stream).await;
        let all = [deny(gateway(), AccessRule::default())];
        apply(&site.bed, site.listener(), &[], &all, &[]);
        ends(stream).await;
        let passage = site.bed.passages(1).await.remove(0);
        assert_eq!(passage.reason, Reason::PolicyChanged);
    })
    .await;
}

#[tokio::test]
async fn connections_of_listeners_are_judged_again() {
    let mut bed = Bed::idle(None);
    bed.service_at("a", &[echo("up", None).await]);
    let port = bed.address.port();
    let tcp = || streams::of(port, "tcp", Protocol::Tcp, None);
    let routes = [streams::on(
        RouteKind::Tcp,
        "tcp",
        "r",
        &[],
        &[(1, streams::to("a"))],
    )];
    apply(&bed, tcp(), &routes, &[], &[]);
    let connect = || async { greeted(TcpStream::connect(bed.address).await.unwrap()).await };
    let mut denied = connect().await;
    apply(&bed, tcp(), &routes, &[deny(gateway(), other_port())], &[]);
    lives(&mut denied).await;
    let all = [deny(gateway(), AccessRule::default())];
    apply(&bed, tcp(), &routes, &all, &[]);
    ends(denied).await;
    // The same port, for requests.
    apply(&bed, tcp(), &routes, &[], &[]);
    let other = connect().await;
    let http = [route(vec![rule("/", "a")])];
    apply(&bed, listener("http", port), &http, &[], &[]);
    ends(other).await;
    let passages = bed.passages(2).await;
    let reasons = passages.iter().map(|passage| passage.reason);
    assert_eq!(reasons.collect::<Vec<_>>(), [Reason::PolicyChanged; 2]);
    assert_eq!((passages[0].received, passages[0].sent), (8, 10));
}

#[tokio::test]
async fn sessions_of_datagrams_are_judged_again() {
    let mut bed = Bed::idle(None);
    bed.service_at("one", &[datagrams::echo("one").await]);
    let udp = || datagrams::udp(bed.address.port());
    let routes = [datagrams::to(&[(1, datagrams::service("one"))])];
    apply(&bed, udp(), &routes, &[], &[]);
    let client = datagrams::client(bed.address).await;
    assert!(datagrams::ask(&client, "x").await.is_some());
    apply(&bed, udp(), &routes, &[deny(gateway(), other_port())], &[]);
    assert!(datagrams::ask(&client, "x").await.is_some());
    let all = [deny(gateway(), AccessRule::default())];
    apply(&bed, udp(), &routes, &all, &[]);
    // Whoever is silent is judged, too.
    let passage = timeout(LIMIT, bed.passages(1)).await.unwrap().remove(0);
    assert_eq!(passage.reason, Reason::PolicyChanged);
    assert_eq!((passage.received, passage.sent), (2, 8));
    assert_eq!(datagrams::ask(&client, "x").await, None);
    let passages = bed.passages(2).await;
    assert_eq!(passages[1].reason, Reason::PolicyDenied);
}

/// A connection that has left HTTP by a request for `/ws` with these lines in its head.
async fn websocket<T: AsyncRead + AsyncWrite + Unpin>(mut stream: T, lines: &str) -> T {
    let head = format!(
        "GET /ws?x=y HTTP/1.1\r\nhost: A:80\r\nconnection: upgrade\r\nupgrade: websocket\r\n{lines}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let read = timeout(LIMIT, stream.read_buf(&mut answer)).await;
        assert_ne!(read.expect("an answer").unwrap(), 0);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{answer:?}");
    lives(&mut stream).await;
    stream
}

/// A rule for one path.
fn of_path(path: &str) -> AccessRule {
    AccessRule {
        to: vec![Operation {
            paths: vec![PathMatch::Text(StringMatch::Exact(path.to_owned()))],
            ..Operation::default()
        }],
        ..AccessRule::default()
    }
}

/// A rule for a header.
fn of_header(value: &str) -> AccessRule {
    AccessRule {
        when: vec![Condition::Text {
            attribute: TextAttribute::Header("x".into()),
            values: vec![StringMatch::Exact(value.to_owned())],
            not_values: Vec::new(),
        }],
        ..AccessRule::default()
    }
}

/// A rule for whoever brings a token.
fn of_anybody_known() -> AccessRule {
    AccessRule {
        from: vec![Source {
            request_principals: vec![StringMatch::Prefix(String::new())],
            ..Source::default()
        }],
        ..AccessRule::default()
    }
}

fn allow(target: PolicyTarget, rule: AccessRule) -> Access {
    Access {
        name: "yes".into(),
        action: Action::Allow,
        ..deny(target, rule)
    }
}

#[tokio::test]
async fn what_has_left_http_is_judged_again_by_its_head() {
    let one = Backend::start("one").await;
    let mut bed = Bed::idle(None);
    bed.service("one", &[&one]);
    let port = || listener("http", bed.address.port());
    let routes = [route(vec![rule("/", "one")])];
    let refuses = [
        deny(gateway(), of_path("/ws")),
        deny(gateway(), of_header("y")),
        allow(gateway(), of_path("/other")),
        allow(gateway(), of_anybody_known()),
    ];
    for (number, refusing) in refuses.into_iter().enumerate() {
        apply(&bed, port(), &routes, &[], &[]);
        let stream = TcpStream::connect(bed.address).await.unwrap();
        let mut stream = websocket(stream, "x: y\r\n").await;
        // Nor does a route end it that goes, or leads elsewhere: it leads where it led.
        let unrelated = [
            deny(gateway(), of_path("/other")),
            deny(gateway(), of_header("z")),
            deny(gateway(), other_port()),
            allow(gateway(), of_path("/ws")),
        ];
        apply(&bed, port(), &[], &unrelated, &[]);
        lives(&mut stream).await;
        apply(&bed, port(), &routes, &[refusing], &[]);
        ends(stream).await;
        let passage = bed.passages(number + 1).await.remove(number);
        assert_eq!(passage.reason, Reason::PolicyChanged);
        assert_eq!((passage.received, passage.sent), (8, 8));
        assert_eq!(passage.endpoint, Some(one.address));
    }
}

#[tokio::test]
async fn what_has_left_http_keeps_the_token_it_came_with() {
    let one = Backend::start("one").await;
    let mut bed = Bed::idle(None);
    bed.service("one", &[&one]);
    let port = || listener("http", bed.address.port());
    let routes = [route(vec![rule("/", "one")])];
    let known = [allow(gateway(), of_anybody_known())];
    let issuer = Issuer::new("a");
    let tokens = issuer.policy(gateway());
    let others = Issuer::new("a").policy(gateway());
    // Nobody answers there.
    let nowhere = KeySource::Remote("http://127.0.0.1:9/keys".into());
    let nowhere = issuer::policy(gateway(), nowhere);
    let line = format!("authorization: Bearer {}\r\n", issuer.token(60, ""));
    for (number, refusing) in [others, nowhere].iter().enumerate() {
        apply(&bed, port(), &routes, &known, &[&tokens]);
        let stream = TcpStream::connect(bed.address).await.unwrap();
        let mut stream = websocket(stream, &line).await;
        let unrelated = [known[0].clone(), deny(gateway(), of_path("/other"))];
        apply(&bed, port(), &routes, &unrelated, &[&tokens]);
        lives(&mut stream).await;
        apply(&bed, port(), &routes, &known, &[refusing]);
        ends(stream).await;
        let passage = bed.passages(number + 1).await.remove(number);
        assert_eq!(passage.reason, Reason::PolicyChanged);
    }
}

#[tokio::test]
async fn what_has_left_http_behind_a_waypoint_is_judged_again() {
    worker(async {
        let one = Backend::start("one").await;
        let site = Site::start(endpoint("one-0", "one", one.address));
        let routes = [attached("all", None, None, vec![rule("/", "one")])];
        apply(&site.bed, site.listener(), &routes, &[], &[]);
        let stream = site.open("shop", "10.96.0.1:80").await.unwrap();
        let mut stream = websocket(stream, "").await;
        let unrelated = [
            deny(of_service("other"), AccessRule::default()),
            deny(of_service("one"), of_path("/other")),
        ];
        apply(&site.bed, site.listener(), &routes, &unrelated, &[]);
        lives(&mut stream).await;
        let refusing = [deny(of_service("one"), of_path("/ws"))];
        apply(&site.bed, site.listener(), &routes, &refusing, &[]);
        ends(stream).await;
        let passage = site.bed.passages(1).await.remove(0);
        assert_eq!(passage.reason, Reason::PolicyChanged);
        assert_eq!(passage.endpoint, Some(one.address));
    })
    .await;
}
