//! Culvert's client against a server of another make: what it sends, what it accepts, and what
//! applications see when the server is unwilling.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{NAMESPACE, Scene, merge};
use tests::Cluster;
use tests::manifests::ServiceSpec;
use tests::peer::spiffe;
use tests::stopwatch::Stopwatch;
use tests::traffic::{echo_on, must_refuse, must_serve, wait_closed};

/// A port that exists only behind the peer's tunnel.
const PORT: u16 = 9090;
/// Name of the peer's server.
const SERVER: &str = "server";

/// What a tunnel and its requests look like on the wire.
pub(super) fn request_form(cluster: &Cluster) -> Result<()> {
    let scene = Scene::open(cluster)?;
    listen(&scene)?;
    let service = ServiceSpec::new(NAMESPACE, "caller", 90);
    let ports = vec![(90, PORT.to_string())];
    let service = cluster.service(&ServiceSpec { ports, ..service })?;
    cluster.settle()?;
    let services: [IpAddr; 2] = [service.v4.into(), service.v6.into()];
    for (ip, vip) in scene.caller.ips().into_iter().zip(services) {
        scene.peer.forget(SERVER)?;
        let to = SocketAddr::new(ip, PORT);
        must_serve(&scene.client, to)?;
        let request = wait_request(&scene, &to)?;
        check_request(&scene, &request, ip, None)?;
        check_tunnel(&scene)?;
        scene.peer.forget(SERVER)?;
        must_serve(&scene.client, SocketAddr::new(vip, 90))?;
        let request = wait_request(&scene, &to)?;
        check_request(&scene, &request, ip, Some("caller"))?;
    }
    Ok(())
}

/// The TLS side of the first connection.
fn check_tunnel(scene: &Scene<'_>) -> Result<()> {
    let tls = scene
        .peer
        .wait_event(SERVER, "a tunnel", |event| event["event"] == "tls")?;
    ensure!(tls["version"] == "TLSv1.3" && tls["alpn"] == "h2", "{tls}");
    let cipher = tls["cipher"].as_str().unwrap_or_default();
    ensure!(cipher.starts_with("TLS_AES_"), "suite {cipher}");
    ensure!(
        tls["identities"] == json!([spiffe(NAMESPACE, "client")]),
        "{tls}"
    );
    Ok(())
}

fn check_request(
    scene: &Scene<'_>,
    request: &Value,
    ip: IpAddr,
    service: Option<&str>,
) -> Result<()> {
    let headers = headers_of(request);
    let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    let order = [
        ":method",
        ":authority",
        "baggage",
        "forwarded",
        "traceparent",
    ];
    ensure!(names == order, "headers {names:?}");
    let of = |name: &str| {
        let found = headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    ensure!(of(":method") == "CONNECT", "{headers:?}");
    ensure!(
        of(":authority") == SocketAddr::new(ip, PORT).to_string(),
        "{headers:?}"
    );
    check_baggage(of("baggage"))?;
    let client = scene.client.ips()[usize::from(ip.is_ipv6())];
    check_forwarded(of("forwarded"), client, service)?;
    check_trace(of("traceparent"))
}

fn check_baggage(baggage: &str) -> Result<()> {
    let pairs: Vec<(&str, &str)> = baggage
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .collect();
    let has = |key: &str, value: &str| pairs.contains(&(key, value));
    ensure!(
        has("k8s.cluster.name", tests::CLUSTER_ID),
        "baggage {baggage:?}"
    );
    ensure!(has("k8s.namespace.name", NAMESPACE), "baggage {baggage:?}");
    let workload = pairs
        .iter()
        .any(|(key, value)| key.starts_with("k8s.") && value.contains("client"));
    ensure!(workload, "the workload is not in baggage {baggage:?}");
    let empty = pairs.iter().any(|(_, value)| value.is_empty());
    ensure!(!empty, "empty values in baggage {baggage:?}");
    Ok(())
}

/// `for="ip:port"`, and `;host=` with the service's name when one was dialled.
fn check_forwarded(forwarded: &str, client: IpAddr, service: Option<&str>) -> Result<()> {
    let mut parts = forwarded.split(';');
    let source = parts.next().unwrap_or_default();
    let source = source
        .strip_prefix("for=\"")
        .and_then(|rest| rest.strip_suffix('"'))
        .with_context(|| format!("forwarded {forwarded:?}"))?;
    let source: SocketAddr = source
        .parse()
        .with_context(|| format!("forwarded {forwarded:?}"))?;
    ensure!(
        source.ip() == client,
        "forwarded {forwarded:?}, the client is {client}"
    );
    let host = service.map(|name| format!("host={name}.{NAMESPACE}.svc.cluster.local"));
    let told = parts.next().map(str::to_owned);
    ensure!(
        host.is_none() || told == host,
        "forwarded {forwarded:?}, expected {host:?}"
    );
    Ok(())
}

fn check_trace(trace: &str) -> Result<()> {
    let parts: Vec<&str> = trace.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let digits = parts.concat().bytes().all(|byte| byte.is_ascii_hexdigit());
    ensure!(lengths == [2, 32, 16, 2] && digits, "traceparent {trace:?}");
    Ok(())
}

/// Answers other than 200, and none at all.
pub(super) fn refusals(cluster: &Cluster) -> Result<()> {
    let scene = Scene::open(cluster)?;
    listen(&scene)?;
    let unwilling = [
        (json!({ "status": 401 }), "peer-denied"),
        (json!({ "status": 503 }), "peer-rejected"),
        (json!({ "status": 404, "body": 3000 }), "peer-rejected"),
        (json!({ "status": 204 }), "peer-rejected"),
        (json!({ "reset": 7 }), ""),
        (json!({ "reset": 2 }), ""),
    ];
    for to in scene.caller.sockets(PORT) {
        behave(&scene, json!({}))?;
        must_serve(&scene.client, to)?;
        for (wishes, reason) in &unwilling {
            behave(&scene, wishes.clone())?;
            must_refuse(&scene.client, to).with_context(|| format!("a server that {wishes}"))?;
            if !reason.is_empty() {
                let reason = format!("reason=\"{reason}\"");
                scene.log_has(&[&reason, "outbound", &to.to_string()])?;
            }
        }
        // The refusals did not cost the tunnel.
        behave(&scene, json!({ "informational": true }))?;
        must_serve(&scene.client, to).context("103 before 200")?;
        behave(&scene, json!({ "mode": "speak", "text": "welcome" }))?;
        server_speaks_first(&scene, to)?;
        gives_up(&scene, to)?;
    }
    Ok(())
}

fn server_speaks_first(scene: &Scene<'_>, to: SocketAddr) -> Result<()> {
    use std::io::Read;
    let mut stream = scene.client.connect(to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = [0; 7];
    stream
        .read_exact(&mut text)
        .context("awaiting the server's greeting")?;
    ensure!(&text == b"welcome", "the greeting is {text:?}");
    Ok(())
}

/// The server never answers; the application loses patience; the server is told.
fn gives_up(scene: &Scene<'_>, to: SocketAddr) -> Result<()> {
    behave(scene, json!({ "status": null }))?;
    scene.peer.forget(SERVER)?;
    let stream = scene.client.connect(to, Duration::from_secs(5))?;
    wait_request(scene, &to)?;
    tests::traffic::close_with_reset(stream)?;
    let told = |event: &Value| {
        event["event"] == "reset" || event["event"] == "end" || event["event"] == "closed"
    };
    let waited = Stopwatch::start();
    scene
        .peer
        .wait_event(SERVER, "the end of the request", told)?;
    // Well below the time that the agent itself gives a server.
    let waited = waited.took();
    ensure!(
        waited < Duration::from_secs(2),
        "the server was told after {waited:?}"
    );
    Ok(())
}

/// Pooling, GOAWAY, and ends in the middle of a transfer.
pub(super) fn tunnels(cluster: &Cluster) -> Result<()> {
    let scene = Scene::open(cluster)?;
    listen(&scene)?;
    for to in scene.caller.sockets(PORT) {
        pooled(&scene, to)?;
        goaway(&scene, to)?;
        trailers(&scene, to)?;
        behave(&scene, json!({ "reset_after": 1 }))?;
        ends_midway(&scene, to).context("RST_STREAM in the middle")?;
        behave(&scene, json!({ "abort_after": 1 }))?;
        ends_midway(&scene, to).context("TCP reset in the middle")?;
        behave(&scene, json!({}))?;
        must_serve(&scene.client, to).context("after the ends")?;
    }
    Ok(())
}

/// Connections one after the other share tunnels: one for each worker of the agent at most.
fn pooled(scene: &Scene<'_>, to: SocketAddr) -> Result<()> {
    behave(scene, json!({}))?;
    drop_tunnels(scene)?;
    for _ in 0..20 {
        must_serve(&scene.client, to)?;
    }
    let workers = scene.cluster.node(2)?.agent()?.settings().workers;
    let events = scene.peer.events(SERVER)?;
    let dialled = events
        .iter()
        .filter(|event| event["event"] == "tls")
        .count();
    ensure!(
        (1..=workers).contains(&dialled),
        "{dialled} tunnels for 20 connections"
    );
    Ok(())
}

fn goaway(scene: &Scene<'_>, to: SocketAddr) -> Result<()> {
    behave(scene, json!({ "goaway_after": 1 }))?;
    drop_tunnels(scene)?;
    let mut first = scene.client.connect(to, Duration::from_secs(5))?;
    first.set_read_timeout(Some(Duration::from_secs(5)))?;
    echo_on(&mut first, b"before").context("the first stream")?;
    for _ in 0..3 {
        must_serve(&scene.client, to).context("after GOAWAY")?;
    }
    echo_on(&mut first, b"after").context("the stream that GOAWAY admitted")?;
    Ok(())
}

/// Trailers end a stream as END_STREAM on data does: the application sees a FIN, not a reset.
fn trailers(scene: &Scene<'_>, to: SocketAddr) -> Result<()> {
    use std::io::Read;
    behave(scene, json!({ "trailers": true }))?;
    let mut stream = scene.client.connect(to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    echo_on(&mut stream, b"then trailers")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut rest = Vec::new();
    stream
        .read_to_end(&mut rest)
        .context("the end by trailers")?;
    ensure!(rest.is_empty(), "after the echo came {rest:?}");
    Ok(())
}

fn ends_midway(scene: &Scene<'_>, to: SocketAddr) -> Result<()> {
    use std::io::Write;
    let mut stream = scene.client.connect(to, Duration::from_secs(5))?;
    stream.write_all(b"some bytes")?;
    wait_closed(&mut stream, Duration::from_secs(10)).map(drop)
}

/// The peer serves every address of its pod with its own certificate.
pub(super) fn listen(scene: &Scene<'_>) -> Result<()> {
    scene
        .peer
        .must(&json!({ "op": "listen", "name": SERVER, "cert": "me" }))
        .map(drop)
}

fn behave(scene: &Scene<'_>, wishes: Value) -> Result<()> {
    let mut wish = json!({ "op": "behave", "name": SERVER });
    merge(&mut wish, wishes);
    scene.peer.must(&wish).map(drop)
}

fn drop_tunnels(scene: &Scene<'_>) -> Result<()> {
    scene.peer.must(&json!({ "op": "drop", "name": SERVER }))?;
    // The agent has seen the end when it has acted on it; it closes its side at once.
    std::thread::sleep(Duration::from_millis(200));
    scene.peer.forget(SERVER)
}

fn wait_request(scene: &Scene<'_>, to: &SocketAddr) -> Result<Value> {
    let authority = json!([":authority", to.to_string()]);
    scene.peer.wait_event(SERVER, "a tunnel request", |event| {
        let headers = event["headers"].as_array();
        event["event"] == "request" && headers.is_some_and(|all| all.contains(&authority))
    })
}

fn headers_of(request: &Value) -> Vec<(String, String)> {
    serde_json::from_value(request["headers"].clone()).unwrap_or_default()
}
