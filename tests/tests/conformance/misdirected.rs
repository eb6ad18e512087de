//! HTTPS: the name in the handshake chooses the listener, and a request for another one's is refused.

use crate::bed::{Bed, until};
use crate::client::{ask_tls, get, http2, tls};
use crate::manifests::{certificate, gateway, http_route, to};

fn listener(name: &str, hostname: &str) -> String {
    let hostname = match hostname {
        "" => String::new(),
        hostname => format!(", hostname: \"{hostname}\""),
    };
    format!(
        "{{name: {name}, port: 443, protocol: HTTPS{hostname}, \
         tls: {{certificateRefs: [{{kind: Secret, name: cert}}]}}}}"
    )
}

fn manifest() -> String {
    let listeners = [
        listener("https", ""),
        listener("second", "second-example.org"),
        listener("wild", "*.wildcard.org"),
        listener("fourth", "fourth-example.wildcard.org"),
    ];
    let route = |name: &str, host: &str, service: &str| {
        let rules = format!("hostnames: [\"{host}\"], rules: [{{{}}}]", to(service));
        http_route(name, "g", &rules)
    };
    gateway("g", &listeners.join(", "))
        + &route("one", "example.org", "infra-v1")
        + &route("two", "second-example.org", "infra-v2")
        + &route("three", "*.wildcard.org", "infra-v3")
        + &route("four", "fourth-example.wildcard.org", "infra-v1")
        + &certificate("cert", &["example.org", "*.wildcard.org"])
}

/// `HTTPRouteHTTPSListener`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_https_listener() {
    let bed = Bed::start(&["g"], &manifest()).await;
    let at = bed.tcp("g", 443).await;
    for (name, status, backend) in [
        ("example.org", 200, "infra-v1"),
        ("second-example.org", 200, "infra-v2"),
        ("unknown-example.org", 404, ""),
    ] {
        let answer = ask_tls(at, name, &None, &get(name, "/")).await.unwrap();
        assert_eq!(
            (answer.status, answer.backend()),
            (status, backend),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_https_listener_detect_misdirected_requests() {
    let bed = Bed::start(&["g"], &manifest()).await;
    let at = bed.tcp("g", 443).await;
    for (name, host, status, backend) in [
        ("example.org", "example.org", 200, "infra-v1"),
        ("example.org", "second-example.org", 421, ""),
        ("example.org", "unknown-example.org", 404, ""),
        ("second-example.org", "second-example.org", 200, "infra-v2"),
        ("second-example.org", "example.org", 421, ""),
        ("second-example.org", "unknown-example.org", 421, ""),
        (
            "third-example.wildcard.org",
            "third-example.wildcard.org",
            200,
            "infra-v3",
        ),
        (
            "third-example.wildcard.org",
            "fith-example.wildcard.org",
            200,
            "infra-v3",
        ),
        (
            "third-example.wildcard.org",
            "fourth-example.wildcard.org",
            421,
            "",
        ),
        ("third-example.wildcard.org", "second-example.org", 421, ""),
        ("third-example.wildcard.org", "unknown-example.org", 421, ""),
        (
            "fourth-example.wildcard.org",
            "fourth-example.wildcard.org",
            200,
            "infra-v1",
        ),
        (
            "fourth-example.wildcard.org",
            "fith-example.wildcard.org",
            421,
            "",
        ),
        ("unknown-example.org", "example.org", 200, "infra-v1"),
        ("unknown-example.org", "unknown-example.org", 404, ""),
    ] {
        let asked = get(host, "/detect-misdirected-requests");
        let old = ask_tls(at, name, &None, &asked).await.unwrap();
        let stream = tls(at, name, "h2", &None).await.unwrap();
        let new = http2(stream, &asked).await.unwrap();
        for answer in [old, new] {
            let found = (answer.status, answer.backend());
            assert_eq!(found, (status, backend), "{name} {host}");
        }
    }
    // Names that overlap are said.
    until(async || {
        let status = bed.status("Gateway", "g");
        let listeners = status["listeners"].as_array().unwrap().iter();
        let overlapping = listeners.filter(|listener| {
            let conditions = listener["conditions"].as_array().unwrap();
            conditions
                .iter()
                .any(|of| of["type"] == "OverlappingTLSConfig")
        });
        let count = overlapping.count();
        (count == 4).then_some(()).ok_or(format!("{status}"))
    })
    .await;
}
