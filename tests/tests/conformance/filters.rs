//! What rules and backends change of requests and answers, and who else is told.

use std::collections::BTreeMap;

use crate::bed::{Bed, until};
use crate::client::{Answer, Ask, ask, get, http2};
use crate::echo;
use crate::manifests::{http_route, to};

const SAME: (&str, u16) = ("same", 80);

fn rule(path: &str, filters: &str) -> String {
    format!(
        "{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], filters: [{filters}], {}}}",
        to("infra-v1")
    )
}

fn route(rules: &[String]) -> String {
    http_route("r", "same", &format!("rules: [{}]", rules.join(", ")))
}

const SET: &str = "set: [{name: X-Header-Set, value: set-overwrites-values}]";
const ADD: &str = "add: [{name: X-Header-Add, value: add-appends-values}]";
const REMOVE: &str = "remove: [X-Header-Remove]";
const SEVERAL: &str = "set: [{name: X-Header-Set-1, value: header-set-1}, \
                       {name: X-Header-Set-2, value: header-set-2}], \
                       add: [{name: X-Header-Add-1, value: header-add-1}, \
                       {name: X-Header-Add-2, value: header-add-2}], \
                       remove: [X-Header-Remove-1, X-Header-Remove-2]";

/// Path, what the request has, and what has to arrive (`None`: nothing of that name).
type Case = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [(&'static str, Option<&'static str>)],
);

/// Of the suite's tests for modifiers of requests, by rule and by backend.
const CASES: &[Case] = &[
    (
        "/set",
        &[("some-other-header", "val")],
        &[
            ("some-other-header", Some("val")),
            ("x-header-set", Some("set-overwrites-values")),
        ],
    ),
    (
        "/set",
        &[("x-header-set", "some-other-value")],
        &[("x-header-set", Some("set-overwrites-values"))],
    ),
    ("/add", &[], &[("x-header-add", Some("add-appends-values"))]),
    (
        "/add",
        &[("x-header-add", "some-other-value")],
        &[("x-header-add", Some("some-other-value,add-appends-values"))],
    ),
    (
        "/remove",
        &[("x-header-remove", "val")],
        &[("x-header-remove", None)],
    ),
    (
        "/several",
        &[
            ("x-header-set-2", "set-val-2"),
            ("x-header-add-2", "add-val-2"),
            ("x-header-remove-2", "remove-val-2"),
            ("another-header", "another-header-val"),
        ],
        &[
            ("x-header-set-1", Some("header-set-1")),
            ("x-header-set-2", Some("header-set-2")),
            ("x-header-add-1", Some("header-add-1")),
            ("x-header-add-2", Some("add-val-2,header-add-2")),
            ("x-header-remove-2", None),
            ("another-header", Some("another-header-val")),
        ],
    ),
    (
        "/case",
        &[
            ("x-header-set", "original-val-set"),
            ("x-header-add", "original-val-add"),
            ("x-header-remove", "original-val-remove"),
        ],
        &[
            ("x-header-set", Some("header-set")),
            ("x-header-add", Some("original-val-add,header-add")),
            ("x-header-remove", None),
        ],
    ),
];

const CASE: &str = "set: [{name: X-HEADER-SET, value: header-set}], \
                    add: [{name: x-hEADER-aDD, value: header-add}], remove: [X-hEADER-rEMOVE]";

fn modifiers() -> [(&'static str, String); 5] {
    let of =
        |what: &str| format!("{{type: RequestHeaderModifier, requestHeaderModifier: {{{what}}}}}");
    [
        ("/set", of(SET)),
        ("/add", of(ADD)),
        ("/remove", of(REMOVE)),
        ("/several", of(SEVERAL)),
        ("/case", of(CASE)),
    ]
}

async fn arrives(bed: &Bed) {
    for (path, sent, expected) in CASES {
        let mut asked = get("h", path);
        for (name, value) in *sent {
            asked = asked.header(name, value);
        }
        let answer = bed.expect(SAME, &asked, 200, "infra-v1").await;
        for (name, value) in *expected {
            assert_eq!(
                answer.echo["headers"][name].as_str(),
                *value,
                "{path} {name}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_request_header_modifier() {
    let rules = modifiers().map(|(path, filter)| rule(path, &filter));
    let bed = Bed::start(&["same"], &route(&rules)).await;
    arrives(&bed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_backend_request_header_modifier() {
    let rules = modifiers().map(|(path, filter)| {
        format!(
            "{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], \
             backendRefs: [{{name: infra-v1, port: 8080, filters: [{filter}]}}]}}"
        )
    });
    let bed = Bed::start(&["same"], &route(&rules)).await;
    arrives(&bed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_request_header_modifier_backend_weights() {
    let backend = |name: &str| {
        format!(
            "{{name: {name}, port: 8080, weight: 50, filters: [{{type: RequestHeaderModifier, \
             requestHeaderModifier: {{set: [{{name: Backend, value: {name}}}]}}}}]}}"
        )
    };
    let rules = format!(
        "{{backendRefs: [{}, {}]}}",
        backend("infra-v1"),
        backend("infra-v2")
    );
    let bed = Bed::start(&["same"], &route(&[rules])).await;
    let at = bed.tcp("same", 80).await;
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..100 {
        let answer = ask(at, &get("h", "/")).await.unwrap();
        assert_eq!(answer.echo["headers"]["backend"], answer.backend());
        *counts.entry(answer.backend().to_owned()).or_default() += 1;
    }
    assert_eq!(counts.len(), 2, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_response_header_modifier() {
    let of = |what: &str| {
        format!("{{type: ResponseHeaderModifier, responseHeaderModifier: {{{what}}}}}")
    };
    let rules = [
        rule("/set", &of(SET)),
        rule("/add", &of(ADD)),
        rule("/remove", &of(REMOVE)),
        rule("/several", &of(SEVERAL)),
        rule("/case", &of(CASE)),
        rule(
            "/two",
            &format!(
                "{}, {{type: RequestHeaderModifier, requestHeaderModifier: {{{SET}}}}}",
                of(ADD)
            ),
        ),
    ];
    let bed = Bed::start(&["same"], &route(&rules)).await;
    for (path, sent, expected) in CASES {
        let sent: Vec<String> = sent
            .iter()
            .map(|(name, value)| format!("{name}:{value}"))
            .collect();
        let asked = get("h", path).header("x-echo-set", &sent.join(","));
        let answer = bed.expect(SAME, &asked, 200, "infra-v1").await;
        for (name, value) in *expected {
            let all = answer.headers.get_all(*name).iter();
            let all: Vec<&str> = all.map(|value| value.to_str().unwrap()).collect();
            let all = (!all.is_empty()).then(|| all.join(","));
            assert_eq!(all.as_deref(), *value, "{path} {name}");
        }
    }
    let both = bed.expect(SAME, &get("h", "/two"), 200, "infra-v1").await;
    assert_eq!(both.header("x-header-add"), Some("add-appends-values"));
    assert_eq!(
        both.echo["headers"]["x-header-set"],
        "set-overwrites-values"
    );
}

const HEADERS: &str = "{type: RequestHeaderModifier, requestHeaderModifier: \
                       {set: [{name: X-Header-Set, value: header-val-1}], \
                       add: [{name: X-Header-Add, value: header-val-1}], \
                       remove: [X-Header-Remove]}}";

/// What has to arrive with the filter [`HEADERS`] for a request of `asked`.
async fn rewritten(bed: &Bed, host: &str, path: &str, to: (&str, &str), modified: bool) {
    let asked = get(host, path)
        .header("x-header-add", "add-val-1")
        .header("x-header-set", "set-val-1")
        .header("x-header-remove", "remove-val-1");
    let answer = bed.expect(SAME, &asked, 200, "infra-v1").await;
    assert_eq!(answer.echo["host"], to.0, "{host}{path}");
    assert_eq!(answer.echo["path"], to.1, "{host}{path}");
    let headers = &answer.echo["headers"];
    if modified {
        assert_eq!(headers["x-header-set"], "header-val-1");
        assert_eq!(headers["x-header-add"], "add-val-1,header-val-1");
        assert!(headers["x-header-remove"].is_null());
    } else {
        assert_eq!(headers["x-header-set"], "set-val-1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_rewrite_host() {
    let rewrite = "{type: URLRewrite, urlRewrite: {hostname: one.example.org}}";
    let rules = [
        rule("/one", rewrite),
        rule("/headers", &format!("{HEADERS}, {rewrite}")),
        rule("/", ""),
    ];
    let bed = Bed::start(&["same"], &route(&rules)).await;
    rewritten(
        &bed,
        "rewrite.example",
        "/one",
        ("one.example.org", "/one"),
        false,
    )
    .await;
    rewritten(
        &bed,
        "rewrite.example",
        "/two",
        ("rewrite.example", "/two"),
        false,
    )
    .await;
    rewritten(
        &bed,
        "rewrite.example",
        "/headers",
        ("one.example.org", "/headers"),
        true,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_rewrite_path() {
    let rewrite = |how: &str| format!("{{type: URLRewrite, urlRewrite: {{path: {{{how}}}}}}}");
    let prefix = |to: &str| {
        rewrite(&format!(
            "type: ReplacePrefixMatch, replacePrefixMatch: {to}"
        ))
    };
    let full = |to: &str| rewrite(&format!("type: ReplaceFullPath, replaceFullPath: {to}"));
    let rules = [
        rule("/prefix/one", &prefix("/one")),
        rule("/strip-prefix", &prefix("/")),
        rule("/full/one", &full("/one")),
        rule("/full/headers", &format!("{}, {HEADERS}", full("/test"))),
        rule(
            "/prefix/headers",
            &format!("{}, {HEADERS}", prefix("/prefix")),
        ),
    ];
    let bed = Bed::start(&["same"], &route(&rules)).await;
    for (path, to, modified) in [
        ("/prefix/one/two", "/one/two", false),
        ("/strip-prefix/three", "/three", false),
        ("/strip-prefix", "/", false),
        ("/full/one/two", "/one", false),
        ("/full/headers/one", "/test", true),
        ("/prefix/headers/two", "/prefix/two", true),
    ] {
        rewritten(&bed, "h", path, ("h", to), modified).await;
    }
}

fn mirror(service: &str, more: &str) -> String {
    format!(
        "{{type: RequestMirror, requestMirror: {{backendRef: {{name: {service}, port: 8080}}{more}}}}}"
    )
}

/// The requests for a path that the pods of a backend saw.
fn copies(backend: &str, path: &str) -> Vec<serde_json::Value> {
    let pods = ["a", "b"].map(|end| format!("{backend}-{end}"));
    let pods = echo::PODS
        .into_iter()
        .filter(|pod| pods.iter().any(|of| of == pod));
    pods.flat_map(|pod| echo::seen(pod, path)).collect()
}

async fn mirrored(backend: &str, path: &str) -> serde_json::Value {
    until(async || {
        copies(backend, path)
            .pop()
            .ok_or(format!("no copy at {backend}"))
    })
    .await
}

/// `HTTPRouteRequestMirror` and `HTTPRouteRequestMultipleMirrors`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_request_mirror() {
    let rules = [
        rule("/mirror", &mirror("infra-v2", "")),
        rule(
            "/mirror-and-modify",
            &format!("{HEADERS}, {}", mirror("infra-v2", "")),
        ),
        rule(
            "/mirror-to-two",
            &format!("{}, {}", mirror("infra-v2", ""), mirror("infra-v3", "")),
        ),
    ];
    let bed = Bed::start(&["same"], &route(&rules)).await;
    bed.expect(SAME, &get("h", "/mirror"), 200, "infra-v1")
        .await;
    assert_eq!(mirrored("infra-v2", "/mirror").await["host"], "h");
    rewritten(
        &bed,
        "h",
        "/mirror-and-modify",
        ("h", "/mirror-and-modify"),
        true,
    )
    .await;
    let copy = mirrored("infra-v2", "/mirror-and-modify").await;
    assert_eq!(copy["headers"]["x-header-set"], "header-val-1");
    bed.expect(SAME, &get("h", "/mirror-to-two"), 200, "infra-v1")
        .await;
    mirrored("infra-v2", "/mirror-to-two").await;
    mirrored("infra-v3", "/mirror-to-two").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_request_percentage_mirror() {
    let rules = [
        rule("/percent-20", &mirror("infra-v2", ", percent: 20")),
        rule(
            "/fraction-35",
            &mirror("infra-v2", ", fraction: {numerator: 35}"),
        ),
        rule(
            "/fraction-1-2",
            &mirror("infra-v2", ", fraction: {numerator: 1, denominator: 2}"),
        ),
    ];
    let bed = Bed::start(&["same"], &route(&rules)).await;
    let at = bed.tcp("same", 80).await;
    for (path, expected) in [
        ("/percent-20", 0.2),
        ("/fraction-35", 0.35),
        ("/fraction-1-2", 0.5),
    ] {
        const REQUESTS: f64 = 300.0;
        for _ in 0..REQUESTS as u32 {
            assert_eq!(ask(at, &get("h", path)).await.unwrap().status, 200);
        }
        let deviation = (REQUESTS * expected * (1.0 - expected)).sqrt();
        let bounds = REQUESTS * expected - 5.0 * deviation..REQUESTS * expected + 5.0 * deviation;
        // The last copies may be under way.
        until(async || {
            let count = copies("infra-v2", path).len() as f64;
            bounds
                .contains(&count)
                .then_some(())
                .ok_or(format!("{path}: {count} of {REQUESTS}"))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_backend_protocol_h2c() {
    let rules = "rules: [{backendRefs: [{name: infra-v1, port: 8081}]}]";
    let bed = Bed::start(&["same"], &http_route("r", "same", rules)).await;
    let answer = bed.expect(SAME, &get("h", "/"), 200, "infra-v1").await;
    assert_eq!(answer.echo["version"], "HTTP/2.0");
    // A client that knows already that this is HTTP/2.
    let at = bed.tcp("same", 80).await;
    let stream = tokio::net::TcpStream::connect(at).await.unwrap();
    let answer: Answer = http2(stream, &get("h", "/")).await.unwrap();
    assert_eq!((answer.status, answer.backend()), (200, "infra-v1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_backend_protocol_web_socket() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let rules = "rules: [{backendRefs: [{name: infra-v1, port: 8082}]}]";
    let bed = Bed::start(&["same"], &http_route("r", "same", rules)).await;
    let plain: Ask = get("h", "/plain");
    bed.expect(SAME, &plain, 200, "infra-v1").await;
    let at = bed.tcp("same", 80).await;
    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
    let upgrade = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", head.escape_ascii());
    stream.write_all(b"frames").await.unwrap();
    let mut echoed = [0; 6];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"frames");
}
