//! The table of answers a tunnel request gets, and the forms a request may have.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::{APP_PORT, NAMESPACE, Scene, refused};
use tests::Cluster;
use tests::manifests::authorization_policy;

/// A port nobody listens on.
const CLOSED_PORT: u16 = 9;
/// A port that a policy denies.
const DENIED_PORT: u16 = 8081;
/// A port whose listener has no room: its SYNs go unanswered.
const SILENT_PORT: u16 = 8082;

/// What an answer must be.
enum Expected {
    /// Exactly this status.
    Status(u16),
    /// RST_STREAM with this code and no status.
    Reset(u64),
    /// An error status or a reset; which of them is not agreed between implementations.
    Refused,
}
use Expected::{Refused, Reset, Status};

/// Section 1.4: every row, in both families, all on one connection, which survives them all.
pub(super) fn table(cluster: &Cluster) -> Result<()> {
    let scene = Scene::open(cluster)?;
    deny_port(&scene)?;
    let _full = fill_backlog(&scene)?;
    for ip in scene.target.ips() {
        let connection = format!("table-{ip}");
        scene.dial(&connection, ip)?;
        for (authority, expected) in rows(&scene, ip) {
            let answer = scene.peer.connect(&connection, &authority)?;
            judge(&answer, &expected).with_context(|| format!("CONNECT {authority:?}"))?;
        }
        unanswered_connect(&scene, &connection, ip)?;
        served(
            &scene,
            &connection,
            &SocketAddr::new(ip, APP_PORT).to_string(),
        )?;
    }
    refusals_are_logged(&scene)?;
    cluster.unapply("protocol-deny")
}

fn rows(scene: &Scene<'_>, ip: IpAddr) -> Vec<(String, Expected)> {
    let own = |port: u16| SocketAddr::new(ip, port).to_string();
    let foreign = |ips: [IpAddr; 2]| SocketAddr::new(ips[usize::from(ip.is_ipv6())], APP_PORT);
    let vip = [scene.service.v4.into(), scene.service.v6.into()];
    let name = format!("target.{NAMESPACE}.svc.cluster.local");
    let portless = own(0).trim_end_matches(":0").to_owned();
    vec![
        (own(APP_PORT), Status(200)),
        (format!("{name}:80"), Status(200)),
        (format!("{name}:81"), Status(200)),
        // The authority without host or port, or not an authority at all.
        (portless, Status(400)),
        ("nonsense".to_owned(), Status(400)),
        // An address that is not this pod: another pod, the pod's own service.
        (foreign(scene.neighbour.ips()).to_string(), Status(400)),
        (foreign(vip).to_string(), Status(400)),
        // Names and ports nobody knows.
        (
            "nobody.nowhere.svc.cluster.local:80".to_owned(),
            Status(503),
        ),
        (format!("{name}:{APP_PORT}"), Status(503)),
        // The agent's own ports.
        (own(15001), Status(503)),
        (own(15006), Status(503)),
        (own(15008), Status(503)),
        (own(DENIED_PORT), Status(401)),
        (own(CLOSED_PORT), Status(503)),
    ]
}

/// CONNECT is written in one way only.
pub(super) fn request_forms(cluster: &Cluster) -> Result<()> {
    let scene = Scene::open(cluster)?;
    for ip in scene.target.ips() {
        let own = SocketAddr::new(ip, APP_PORT).to_string();
        let before = scene.app.accepted();
        for (what, headers, expected) in forms(&own) {
            // A malformed header block may cost its connection, so each form has its own.
            scene.dial("form", ip)?;
            let answer = scene.peer.must(&json!({
                "op": "request", "conn": "form", "headers": headers,
            }))?;
            judge(&answer, &expected).with_context(|| format!("{what}: {headers}"))?;
            scene.peer.must(&json!({ "op": "close", "conn": "form" }))?;
        }
        let reached = scene.app.accepted() - before;
        ensure!(
            reached == 0,
            "{reached} malformed requests reached the application"
        );
        let connection = format!("forms-{ip}");
        scene.dial(&connection, ip)?;
        served(&scene, &connection, &own)?;
        early_body(&scene, &connection, &own)?;
    }
    Ok(())
}

fn forms(own: &str) -> Vec<(&'static str, Value, Expected)> {
    let get = json!([
        [":method", "GET"],
        [":scheme", "https"],
        [":authority", own],
        [":path", "/"]
    ]);
    let post = json!([
        [":method", "POST"],
        [":scheme", "https"],
        [":authority", own],
        [":path", "/"]
    ]);
    vec![
        ("GET", get, Status(400)),
        ("POST", post, Status(400)),
        (
            "CONNECT with scheme and path",
            json!([
                [":method", "CONNECT"],
                [":scheme", "https"],
                [":authority", own],
                [":path", "/"]
            ]),
            Reset(1),
        ),
        ("no authority", json!([[":method", "CONNECT"]]), Refused),
        (
            "authority in Host only",
            json!([[":method", "CONNECT"], ["host", own]]),
            Refused,
        ),
        (
            "extended CONNECT",
            json!([
                [":method", "CONNECT"],
                [":protocol", "websocket"],
                [":scheme", "https"],
                [":authority", own],
                [":path", "/"]
            ]),
            Refused,
        ),
        (
            "two authorities",
            json!([
                [":method", "CONNECT"],
                [":authority", own],
                [":authority", "127.0.0.1:80"]
            ]),
            Refused,
        ),
        (
            "two methods",
            json!([
                [":method", "CONNECT"],
                [":method", "GET"],
                [":authority", own]
            ]),
            Refused,
        ),
        (
            "a pseudo header after others",
            json!([
                [":method", "CONNECT"],
                ["baggage", "a=b"],
                [":authority", own]
            ]),
            Refused,
        ),
        (
            "an unknown pseudo header",
            json!([[":method", "CONNECT"], [":authority", own], [":other", "x"]]),
            Refused,
        ),
        (
            "an upper-case header",
            json!([
                [":method", "CONNECT"],
                [":authority", own],
                ["Baggage", "a=b"]
            ]),
            Refused,
        ),
        (
            "a connection header",
            json!([
                [":method", "CONNECT"],
                [":authority", own],
                ["connection", "keep-alive"]
            ]),
            Refused,
        ),
    ]
}

fn judge(answer: &Value, expected: &Expected) -> Result<()> {
    let good = match expected {
        Status(200) => answer["status"] == json!("200") && answer["ended"] == json!(false),
        // An error is headers only: the stream ends with them.
        Status(code) => {
            answer["status"] == json!(code.to_string())
                && answer["ended"] == json!(true)
                && answer["received"] == json!(0)
        }
        Reset(code) => answer["status"].is_null() && answer["reset"] == json!(code),
        Refused => refused(answer) || (answer["status"].is_null() && answer["lost"].is_string()),
    };
    ensure!(good, "the answer was {answer}");
    Ok(())
}

fn served(scene: &Scene<'_>, connection: &str, authority: &str) -> Result<()> {
    let answer = scene.peer.connect(connection, authority)?;
    judge(&answer, &Status(200)).with_context(|| format!("CONNECT {authority}"))?;
    let stream = &answer["stream"];
    scene.peer.echo(connection, stream, "payload", 0)?;
    // Half-close: our end closes the application's read side, its end comes back to us.
    scene.peer.must(&json!({
        "op": "send", "conn": connection, "stream": stream, "text": "last", "end": true,
    }))?;
    let end = scene.peer.must(&json!({
        "op": "receive", "conn": connection, "stream": stream, "until": "end",
    }))?;
    ensure!(
        end["ended"] == json!(true) && end["text"] == json!("payloadlast"),
        "at the end: {end}"
    );
    Ok(())
}

/// A body sent before the 200 waits, and then arrives.
fn early_body(scene: &Scene<'_>, connection: &str, own: &str) -> Result<()> {
    let answer = scene.peer.must(&json!({
        "op": "connect", "conn": connection, "authority": own, "text": "early",
    }))?;
    judge(&answer, &Status(200)).context("CONNECT with a body")?;
    let echo = scene.peer.must(&json!({
        "op": "receive", "conn": connection, "stream": answer["stream"], "count": 5,
    }))?;
    ensure!(
        echo["text"] == json!("early"),
        "the early body came back as {echo}"
    );
    Ok(())
}

/// An application that does not answer its SYN: 503 within the ten seconds.
fn unanswered_connect(scene: &Scene<'_>, connection: &str, ip: IpAddr) -> Result<()> {
    let authority = SocketAddr::new(ip, SILENT_PORT).to_string();
    let answer = scene.peer.must(&json!({
        "op": "connect", "conn": connection, "authority": authority, "wait": 11,
    }))?;
    judge(&answer, &Status(503)).context("an application that does not answer")
}

fn refusals_are_logged(scene: &Scene<'_>) -> Result<()> {
    let denied = format!(
        "\"{}\"",
        SocketAddr::new(scene.target.ips()[0], DENIED_PORT)
    );
    let line = scene.log_has(&["reason=\"policy-denied\"", &denied])?;
    ensure!(
        line.contains("protocol-deny"),
        "the line does not name the policy: {line}"
    );
    scene.log_has(&["reason=\"authority-mismatch\""])?;
    scene.log_has(&["reason=\"authority-unknown\""])?;
    scene.log_has(&["reason=\"agent-port\""])?;
    scene.log_has(&["reason=\"connect-refused\""])?;
    scene.log_has(&["reason=\"connect-timeout\""])?;
    Ok(())
}

fn deny_port(scene: &Scene<'_>) -> Result<()> {
    let rules = format!("[{{to: [{{operation: {{ports: [\"{DENIED_PORT}\"]}}}}]}}]");
    let policy = authorization_policy(NAMESPACE, "protocol-deny", "DENY", Some("target"), &rules);
    scene.cluster.apply("protocol-deny", &policy)
}

/// A listener with a backlog of one that is full: Linux then drops SYNs.
fn fill_backlog(scene: &Scene<'_>) -> Result<Vec<Socket>> {
    scene.target.within(|| {
        let any: SocketAddr = (std::net::Ipv6Addr::UNSPECIFIED, SILENT_PORT).into();
        let listener = Socket::new(Domain::IPV6, Type::STREAM, None)?;
        listener.set_only_v6(false)?;
        listener.bind(&any.into())?;
        listener.listen(0)?;
        let mut sockets = vec![listener];
        for _ in 0..4 {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
            let to: SocketAddr = (std::net::Ipv6Addr::LOCALHOST, SILENT_PORT).into();
            // The ones beyond the backlog do not connect; they need not.
            let _ = socket.connect_timeout(&to.into(), Duration::from_millis(50));
            sockets.push(socket);
        }
        Ok(sockets)
    })?
}
