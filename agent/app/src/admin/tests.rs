use std::path::PathBuf;
use std::time::Instant;

use agent_model::{Action, PolicyKey, Reason};
use agent_telemetry::{Direction, Limits, Refusal};

use super::*;
use crate::listen::{Listeners, Serving};

struct Fixed;

impl AdminView for Fixed {
    fn status(&self) -> Status {
        status_sample()
    }

    fn config_dump(&self) -> serde_json::Value {
        serde_json::json!({"workloads": [], "version": "x"})
    }

    fn why(&self, source: &str, destination: SocketAddr) -> Result<Why, String> {
        if source == "shop/nobody" {
            return Err("this node knows no workload \"shop/nobody\"".to_owned());
        }
        Ok(why_sample(destination))
    }
}

fn status_sample() -> Status {
    Status {
        schema: SCHEMA,
        role: "node".to_owned(),
        version: "0.1.0".to_owned(),
        node: "n1".to_owned(),
        uptime_seconds: 61,
        pods: vec![PodView {
            namespace: "shop".to_owned(),
            name: "web\u{1b}[2J".to_owned(),
            ips: vec!["10.0.0.3".parse().unwrap()],
            verified: true,
            older_connections: vec![OlderView {
                direction: Direction::Inbound,
                local: "10.0.0.3:80".parse().unwrap(),
                peer: "10.0.0.8:4000".parse().unwrap(),
            }],
            ..PodView::default()
        }],
        certificates: vec![CertificateView {
            identity: "spiffe://cluster.local/ns/shop/sa/web".to_owned(),
            state: "available".to_owned(),
            expires_in_seconds: Some(3600),
            ..CertificateView::default()
        }],
        control_plane: ControlPlaneView {
            address: "https://control:15012".to_owned(),
            last_error: Some("refused".to_owned()),
            ..ControlPlaneView::default()
        },
        refusals: vec![Refusal {
            time: "2026-11-21T10:00:00.000000Z".to_owned(),
            direction: Direction::Inbound,
            source: "10.0.0.9:4000".parse().unwrap(),
            source_workload: Some("shop/outsider".to_owned()),
            destination: "10.0.0.3:80".parse().unwrap(),
            destination_workload: None,
            reason: Reason::PolicyDenied,
            policy: Some(PolicyKey::new("shop", "deny")),
            detail: Some("denied".to_owned()),
        }],
        ..Status::default()
    }
}

fn why_sample(destination: SocketAddr) -> Why {
    Why {
        schema: SCHEMA,
        source: EndView {
            workload: "shop/client".to_owned(),
            address: None,
            node: "n1".to_owned(),
            identity: None,
        },
        destination,
        service: None,
        route: RouteKind::Tunnel,
        route_detail: "mutual TLS".to_owned(),
        endpoint: None,
        policies: vec![PolicyView {
            policy: PolicyKey::new("shop", "deny"),
            action: Action::Deny,
            matches: true,
            dry_run: false,
        }],
        allowed: false,
        reason: Reason::PolicyDenied,
        policy: Some(PolicyKey::new("shop", "deny")),
        notes: Vec::new(),
    }
}

fn serving(name: &str) -> (Serving, PathBuf) {
    let folder = std::env::temp_dir().join(format!("culvert-admin-{}-{name}", std::process::id()));
    let socket = folder.join("admin.sock");
    let metrics = Metrics::new("test", Limits::default(), Instant::now());
    let serving = Listeners::default()
        .unix(&socket, &routes(Arc::new(Fixed), metrics))
        .unwrap()
        .start()
        .unwrap();
    (serving, socket)
}

fn remove(socket: &std::path::Path) {
    let _ = std::fs::remove_dir(socket.parent().unwrap());
}

#[test]
fn the_client_gets_what_the_view_says() {
    let (serving, socket) = serving("views");
    let status: Status = serde_json::from_str(&get(&socket, "/status").unwrap()).unwrap();
    assert_eq!(status, status_sample());
    let dump = get(&socket, "/config_dump").unwrap();
    assert!(dump.contains("\"workloads\""), "{dump}");
    let destination = "[fd00::1]:80".parse().unwrap();
    let why = get(&socket, &why_path("shop/client", destination)).unwrap();
    let why: Why = serde_json::from_str(&why).unwrap();
    assert_eq!(why.destination, destination);
    let error = get(&socket, &why_path("shop/nobody", destination)).unwrap_err();
    assert!(error.to_string().contains("no workload"), "{error}");
    assert!(get(&socket, "/metrics").unwrap().contains("istio_build"));
    assert!(get(&socket, "/quitquitquit").is_err());
    drop(serving);
    let error = get(&socket, "/status").unwrap_err();
    assert!(error.to_string().contains("no node agent"), "{error}");
    remove(&socket);
}

/// What a raw request is answered with.
fn raw(socket: &std::path::Path, request: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn only_get_with_our_host_is_answered() {
    let (serving, socket) = serving("hosts");
    for (request, status) in [
        ("GET /status HTTP/1.1\r\nHost: culvert\r\n\r\n", "200"),
        ("GET /status HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421"),
        ("GET /status HTTP/1.1\r\n\r\n", "421"),
        ("GET /config_dump HTTP/1.0\r\n\r\n", "421"),
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421"),
        (
            "POST /status HTTP/1.1\r\nHost: culvert\r\nContent-Length: 0\r\n\r\n",
            "405",
        ),
        ("DELETE /status HTTP/1.1\r\nHost: culvert\r\n\r\n", "405"),
        ("GET /why?src=a HTTP/1.1\r\nHost: culvert\r\n\r\n", "400"),
        ("GET /nothing HTTP/1.1\r\nHost: culvert\r\n\r\n", "404"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let answer = raw(&socket, request);
        let got = answer.split(' ').nth(1).unwrap_or_default();
        assert_eq!(got, status, "{request:?}: {answer}");
    }
    drop(serving);
    remove(&socket);
}

#[test]
fn the_socket_is_its_owners_alone_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let (serving, socket) = serving("mode");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    drop(serving);
    assert!(!socket.exists(), "removed at the end");
    remove(&socket);
}

#[test]
fn a_new_process_takes_the_socket_over_and_the_old_one_leaves_it() {
    let (old, socket) = serving("takeover");
    let (new, same) = serving("takeover");
    assert_eq!(socket, same);
    drop(old);
    assert!(get(&socket, "/status").is_ok());
    drop(new);
    remove(&socket);
}

#[test]
fn status_text_shows_the_facts_and_no_escape_sequences() {
    let text = status_sample().to_text();
    for expected in [
        "n1, culvert 0.1.0, up 1m 1s, ready",
        "NOT connected, NOT synced: refused",
        "Pods (1)",
        "shop/web\\u{1b}[2J",
        "in 1h",
        "Connections older than enrolment (1)",
        "10.0.0.8:4000",
        "policy-denied",
        "shop/deny",
    ] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn why_text_names_the_policy() {
    let text = why_sample("10.0.0.1:80".parse().unwrap()).to_text();
    assert!(
        text.contains("REFUSED: policy-denied, decided by shop/deny"),
        "{text}"
    );
    assert!(text.contains("DENY"), "{text}");
}

#[test]
fn status_json_has_camel_case_keys() {
    let json = serde_json::to_value(status_sample()).unwrap();
    assert_eq!(json["controlPlane"]["synced"], false);
    assert_eq!(json["certificates"][0]["expiresInSeconds"], 3600);
    assert_eq!(json["pods"][0]["verified"], true);
    let older = &json["pods"][0]["olderConnections"][0];
    assert_eq!(older["direction"], "inbound");
    assert_eq!(older["peer"], "10.0.0.8:4000");
    assert_eq!(json["refusals"][0]["reason"], "policy-denied");
    assert_eq!(json["schema"], 1);
}
