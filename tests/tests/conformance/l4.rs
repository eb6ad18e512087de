//! TLSRoutes, TCPRoutes and UDPRoutes.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::bed::{Bed, until};
use crate::client::{Failed, ask_tls, get, tls};
use crate::manifests::{certificate, gateway, route};

fn to(port: u16, service: &str) -> String {
    format!("rules: [{{backendRefs: [{{name: {service}, port: {port}}}]}}]")
}

fn tls_route(name: &str, parents: &str, hosts: &str, port: u16, service: &str) -> String {
    let more = format!("hostnames: [{hosts}], {}", to(port, service));
    route("TLSRoute", name, parents, &more)
}

fn tls_listener(name: &str, hostname: &str, mode: &str) -> String {
    let hostname = match hostname {
        "" => String::new(),
        hostname => format!(", hostname: \"{hostname}\""),
    };
    let tls = match mode {
        "Terminate" => "{mode: Terminate, certificateRefs: [{name: cert}]}",
        _ => "{mode: Passthrough}",
    };
    format!("{{name: {name}, port: 443, protocol: TLS{hostname}, tls: {tls}}}")
}

/// The backend that a client of TLS comes through to, which sees the client's own TLS.
async fn through(at: SocketAddr, name: &str) -> Result<String, Failed> {
    let answer = ask_tls(at, name, &None, &get(name, "/")).await?;
    assert_eq!(answer.echo["tls"]["sni"], name);
    Ok(answer.backend().to_owned())
}

/// The end that the official suite takes for a name that nobody serves; an alert is none.
fn is_reset(failed: &Failed) -> bool {
    let error = failed.downcast_ref::<io::Error>();
    error.is_some_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof
        )
    })
}

async fn passes(bed: &Bed, name: &str, to: Option<&str>) {
    let at = bed.tcp("g", 443).await;
    until(async || {
        let found = through(at, name).await;
        let is_so = match to {
            Some(to) => found.as_deref().ok() == Some(to),
            None => found.as_ref().is_err_and(is_reset),
        };
        is_so
            .then_some(())
            .ok_or(format!("{name}: {found:?} instead of {to:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_route_simple_same_namespace() {
    let manifest = gateway("g", &tls_listener("tls", "", "Passthrough"))
        + &tls_route("r", "g", "abc.example.com", 443, "infra-v1");
    let bed = Bed::start(&["g"], &manifest).await;
    passes(&bed, "abc.example.com", Some("infra-v1")).await;
    passes(&bed, "unknown.example.com", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_route_hostname_intersection() {
    let listeners = [
        tls_listener("exact", "abc.example.com", "Passthrough"),
        tls_listener("wild", "*.other.com", "Passthrough"),
    ];
    let manifest = gateway("g", &listeners.join(", "))
        + &tls_route(
            "wild-at-exact",
            "{name: g, sectionName: exact}",
            "\"*.example.com\"",
            443,
            "infra-v1",
        )
        + &tls_route(
            "exact-at-wild",
            "{name: g, sectionName: wild}",
            "a.other.com",
            443,
            "infra-v2",
        )
        + &tls_route(
            "wild-at-wild",
            "{name: g, sectionName: wild}",
            "\"*.other.com\"",
            443,
            "infra-v3",
        )
        + &tls_route("none", "g", "abc.third.com", 443, "infra-v1");
    let bed = Bed::start(&["g"], &manifest).await;
    passes(&bed, "abc.example.com", Some("infra-v1")).await;
    passes(&bed, "a.other.com", Some("infra-v2")).await;
    passes(&bed, "b.other.com", Some("infra-v3")).await;
    passes(&bed, "b.c.other.com", Some("infra-v3")).await;
    passes(&bed, "other.example.com", None).await;
    passes(&bed, "abc.third.com", None).await;
    let refused = bed.parents("TLSRoute", "none");
    assert!(
        refused[0].starts_with("Accepted=False/NoMatchingListenerHostname"),
        "{refused:?}"
    );
}

/// Tests whose name begins with `TLSRouteInvalid`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_route_invalid_references_and_listeners() {
    let listeners = format!(
        "{}, {{name: http, port: 80, protocol: HTTP}}, \
         {{name: https, port: 8443, protocol: HTTPS, tls: {{certificateRefs: [{{name: cert}}]}}}}",
        tls_listener("tls", "", "Passthrough")
    );
    let of = |name: &str, parents: &str, reference: &str| {
        let more = format!("hostnames: [h.org], rules: [{{backendRefs: [{reference}]}}]");
        route("TLSRoute", name, parents, &more)
    };
    let known = "{name: infra-v1, port: 443}";
    let manifest = gateway("g", &listeners)
        + &certificate("cert", &["h.org"])
        + &of("missing", "g", "{name: nowhere, port: 443}")
        + &of(
            "kind",
            "g",
            "{kind: Thing, group: nobody.org, name: infra-v1, port: 443}",
        )
        + &of("crossing", "g", "{name: web, namespace: web, port: 443}")
        + &of("http", "{name: g, sectionName: http}", known)
        + &of("https", "{name: g, sectionName: https}", known)
        + &of("section", "{name: g, sectionName: none}", known);
    let bed = Bed::start(&[], &manifest).await;
    for (name, expected) in [
        (
            "missing",
            "Accepted=True/Accepted ResolvedRefs=False/BackendNotFound",
        ),
        (
            "kind",
            "Accepted=True/Accepted ResolvedRefs=False/InvalidKind",
        ),
        (
            "crossing",
            "Accepted=True/Accepted ResolvedRefs=False/RefNotPermitted",
        ),
        (
            "http",
            "Accepted=False/NotAllowedByListeners ResolvedRefs=True/ResolvedRefs",
        ),
        (
            "https",
            "Accepted=False/NotAllowedByListeners ResolvedRefs=True/ResolvedRefs",
        ),
        (
            "section",
            "Accepted=False/NoMatchingParent ResolvedRefs=True/ResolvedRefs",
        ),
    ] {
        assert_eq!(bed.parents("TLSRoute", name), [expected], "{name}");
    }
}

/// What a server that speaks first says of itself over TLS.
async fn greeting(at: SocketAddr, name: &str) -> Result<String, String> {
    let stream = tls(at, name, "", &None).await;
    let mut stream = stream.map_err(|error| error.to_string())?;
    let mut said = [0; 64];
    let read = stream
        .read(&mut said)
        .await
        .map_err(|error| error.to_string())?;
    Ok(backend(&said[..read]))
}

fn backend(said: &[u8]) -> String {
    let pod = String::from_utf8_lossy(said).into_owned();
    pod.rsplit_once('-')
        .map_or(pod.clone(), |(backend, _)| backend.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_route_terminate_simple_same_namespace() {
    let manifest = gateway("g", &tls_listener("tls", "abc.example.com", "Terminate"))
        + &certificate("cert", &["abc.example.com"])
        + &tls_route("r", "g", "abc.example.com", 9000, "infra-v1");
    let bed = Bed::start(&["g"], &manifest).await;
    let at = bed.tcp("g", 443).await;
    assert_eq!(greeting(at, "abc.example.com").await.unwrap(), "infra-v1");
    assert!(greeting(at, "other.example.com").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_route_mixed_termination_same_namespace() {
    let listeners = [
        tls_listener("ends", "abc.example.com", "Terminate"),
        tls_listener("passes", "other.example.com", "Passthrough"),
    ];
    let manifest = gateway("g", &listeners.join(", "))
        + &certificate("cert", &["abc.example.com"])
        + &tls_route(
            "ends",
            "{name: g, sectionName: ends}",
            "abc.example.com",
            9000,
            "infra-v1",
        )
        + &tls_route(
            "passes",
            "{name: g, sectionName: passes}",
            "other.example.com",
            443,
            "infra-v2",
        );
    let bed = Bed::start(&["g"], &manifest).await;
    let at = bed.tcp("g", 443).await;
    assert_eq!(greeting(at, "abc.example.com").await.unwrap(), "infra-v1");
    passes(&bed, "other.example.com", Some("infra-v2")).await;
}

/// Who answers a connection at a port of `g`; empty when it is closed.
async fn connected(bed: &Bed, port: u16) -> String {
    let Ok(mut stream) = TcpStream::connect(bed.tcp("g", port).await).await else {
        return String::new();
    };
    let mut said = [0; 64];
    let read = stream.read(&mut said).await.unwrap_or(0);
    backend(&said[..read])
}

/// Who answers a datagram.
async fn asked(bed: &Bed, port: u16) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(bed.udp("g", port).await).await.unwrap();
    socket.send(b"who?").await.unwrap();
    let mut said = [0; 64];
    let read = timeout(Duration::from_millis(300), socket.recv(&mut said)).await;
    read.map_or(String::new(), |read| backend(&said[..read.unwrap_or(0)]))
}

/// Both kinds: how one asks, the port of their backends and their protocol.
async fn answers(bed: &Bed, kind: &str, port: u16) -> String {
    match kind {
        "TCPRoute" => connected(bed, port).await,
        _ => asked(bed, port).await,
    }
}

async fn expect(bed: &Bed, kind: &str, port: u16, to: &str) {
    until(async || {
        let found = answers(bed, kind, port).await;
        (found == to)
            .then_some(())
            .ok_or(format!("{kind} {port}: {found:?} instead of {to:?}"))
    })
    .await;
}

fn behind(kind: &str) -> (u16, &'static str) {
    match kind {
        "TCPRoute" => (9000, "TCP"),
        _ => (53, "UDP"),
    }
}

fn listeners(protocol: &str) -> String {
    let listener =
        |name: &str, port: u16| format!("{{name: {name}, port: {port}, protocol: {protocol}}}");
    [
        listener("one", 5300),
        listener("two", 5301),
        listener("three", 5302),
    ]
    .join(", ")
}

/// `TCPRouteParentRefAttachAll`, `TCPRouteParentRefPortAndSectionName`, `UDPRoute` and those of
/// UDPRoutes of the same names.
async fn parents(kind: &str) {
    let (port, protocol) = behind(kind);
    let gateway = gateway("g", &listeners(protocol));
    let all = gateway.clone() + &route(kind, "r", "g", &to(port, "infra-v1"));
    let bed = Bed::start(&["g"], &all).await;
    for at in [5300, 5301, 5302] {
        expect(&bed, kind, at, "infra-v1").await;
    }
    let each = gateway
        + &route(kind, "a", "{name: g, port: 5300}", &to(port, "infra-v1"))
        + &route(
            kind,
            "b",
            "{name: g, sectionName: two}",
            &to(port, "infra-v2"),
        )
        + &route(
            kind,
            "c",
            "{name: g, sectionName: three, port: 5302}",
            &to(port, "infra-v3"),
        )
        + &route(
            kind,
            "d",
            "{name: g, sectionName: three, port: 5300}",
            &to(port, "infra-v3"),
        );
    let bed = Bed::start(&["g"], &each).await;
    for (at, to) in [(5300, "infra-v1"), (5301, "infra-v2"), (5302, "infra-v3")] {
        expect(&bed, kind, at, to).await;
    }
    let refused = bed.parents(kind, "d");
    assert!(
        refused[0].starts_with("Accepted=False/NoMatchingParent"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_route_parent_ref_port_and_section_name() {
    parents("TCPRoute").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_route_parent_ref_port_and_section_name() {
    parents("UDPRoute").await;
}

/// Both are attached, the older one serves.
async fn several(kind: &str) {
    let (port, protocol) = behind(kind);
    let manifest = gateway("g", &listeners(protocol))
        + &route(
            kind,
            "a",
            "{name: g, sectionName: one}",
            &to(port, "infra-v1"),
        )
        + &route(
            kind,
            "b",
            "{name: g, sectionName: one}",
            &to(port, "infra-v2"),
        );
    let bed = Bed::start(&["g"], &manifest).await;
    expect(&bed, kind, 5300, "infra-v1").await;
    for _ in 0..20 {
        assert_eq!(answers(&bed, kind, 5300).await, "infra-v1");
    }
    for name in ["a", "b"] {
        let accepted = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs";
        assert_eq!(bed.parents(kind, name), [accepted]);
    }
    let status = bed.status("Gateway", "g");
    assert_eq!(status["listeners"][0]["attachedRoutes"], 2, "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_route_multiple_routes_attachment() {
    several("TCPRoute").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_route_multiple_routes_attachment() {
    several("UDPRoute").await;
}

/// `InvalidBackendRefNonexistent`, `InvalidCrossNamespaceBackendRef`, `ReferenceGrant` and listeners
/// of other protocols.
async fn invalid(kind: &str) {
    let (port, protocol) = behind(kind);
    let other = if protocol == "TCP" { "UDP" } else { "TCP" };
    let listeners = format!(
        "{}, {{name: http, port: 80, protocol: HTTP}}, \
         {{name: other, port: 5303, protocol: {other}}}",
        listeners(protocol)
    );
    let crossing =
        format!("rules: [{{backendRefs: [{{name: web, namespace: web, port: {port}}}]}}]");
    let manifest = gateway("g", &listeners)
        + &route(
            kind,
            "missing",
            "{name: g, sectionName: one}",
            &to(port, "nowhere"),
        )
        + &route(kind, "crossing", "{name: g, sectionName: two}", &crossing)
        + &route(
            kind,
            "http",
            "{name: g, sectionName: http}",
            &to(port, "infra-v1"),
        )
        + &route(
            kind,
            "other",
            "{name: g, sectionName: other}",
            &to(port, "infra-v1"),
        )
        + &crate::manifests::grant("web", kind).replace("kind: Service", "kind: Thing");
    let mut bed = Bed::start(&["g"], &manifest).await;
    for (name, expected) in [
        (
            "missing",
            "Accepted=True/Accepted ResolvedRefs=False/BackendNotFound",
        ),
        (
            "crossing",
            "Accepted=True/Accepted ResolvedRefs=False/RefNotPermitted",
        ),
        (
            "http",
            "Accepted=False/NotAllowedByListeners ResolvedRefs=True/ResolvedRefs",
        ),
        (
            "other",
            "Accepted=False/NotAllowedByListeners ResolvedRefs=True/ResolvedRefs",
        ),
    ] {
        assert_eq!(bed.parents(kind, name), [expected], "{name}");
    }
    expect(&bed, kind, 5300, "").await;
    expect(&bed, kind, 5301, "").await;
    bed.edit("kind: Thing", "kind: Service");
    expect(&bed, kind, 5301, "web").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_route_reference_grant() {
    invalid("TCPRoute").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_route_reference_grant() {
    invalid("UDPRoute").await;
}

async fn weighted(kind: &str) {
    let (port, protocol) = behind(kind);
    let backend =
        |name: &str, weight: u8| format!("{{name: {name}, port: {port}, weight: {weight}}}");
    let rules = format!(
        "rules: [{{backendRefs: [{}, {}, {}]}}]",
        backend("infra-v1", 70),
        backend("infra-v2", 30),
        backend("infra-v3", 0)
    );
    let manifest = gateway("g", &listeners(protocol)) + &route(kind, "r", "g", &rules);
    let bed = Bed::start(&["g"], &manifest).await;
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..300 {
        *counts.entry(answers(&bed, kind, 5300).await).or_default() += 1;
    }
    // Five standard deviations.
    assert!((170..=250).contains(&counts["infra-v1"]), "{counts:?}");
    assert_eq!(counts.len(), 2, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_route_weighted_routing() {
    weighted("TCPRoute").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_route_weighted_routing() {
    weighted("UDPRoute").await;
}
