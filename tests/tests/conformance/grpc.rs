//! GRPCRoutes.

use std::collections::BTreeMap;

use crate::bed::{Bed, until};
use crate::client::{Answer, Ask, get, http2};
use crate::manifests::{gateway, route};

const SAME: (&str, u16) = ("same", 80);

fn grpc_route(name: &str, parents: &str, more: &str) -> String {
    route("GRPCRoute", name, parents, more)
}

fn to(service: &str) -> String {
    format!("backendRefs: [{{name: {service}, port: 8080}}]")
}

fn call(host: &str, method: &str) -> Ask {
    let asked = get(host, &format!("/echo.Echo/{method}")).method("POST");
    asked
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// The status of a call: in the trailers, or in the head of an answer that has no more.
fn grpc_status(answer: &Answer) -> Option<&str> {
    let status = answer
        .trailers
        .get("grpc-status")
        .or(answer.headers.get("grpc-status"));
    status.and_then(|status| status.to_str().ok())
}

/// Calls until the answer is a backend's, or has the status (`12`).
async fn expect(bed: &Bed, at: (&str, u16), asked: &Ask, to: &str) -> Answer {
    let at = bed.tcp(at.0, at.1).await;
    until(async || {
        let stream = tokio::net::TcpStream::connect(at).await.unwrap();
        let answer = http2(stream, asked)
            .await
            .map_err(|error| error.to_string())?;
        let status = grpc_status(&answer);
        let is_so = answer.status == 200
            && match to.parse::<u8>() {
                Ok(_) => status == Some(to),
                Err(_) => status == Some("0") && answer.backend() == to,
            };
        is_so
            .then_some(())
            .ok_or_else(|| format!("{asked:?}: {answer:?} instead of {to}"))?;
        Ok(answer)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_exact_method_matching() {
    let rule = |method: &str, service: &str| {
        format!(
            "{{matches: [{{method: {{service: echo.Echo, method: {method}}}}}], {}}}",
            to(service)
        )
    };
    let rules = format!(
        "rules: [{}, {}]",
        rule("One", "infra-v1"),
        rule("Two", "infra-v2")
    );
    let bed = Bed::start(&["same"], &grpc_route("r", "same", &rules)).await;
    expect(&bed, SAME, &call("h", "One"), "infra-v1").await;
    expect(&bed, SAME, &call("h", "Two"), "infra-v2").await;
    // Unimplemented.
    expect(&bed, SAME, &call("h", "Three"), "12").await;
}

/// `GRPCRouteHeaderMatching` and `GRPCRouteNamedRule`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_route_header_matching() {
    let header = |name: &str, value: &str| format!("{{name: {name}, value: {value}}}");
    let rule = |headers: &[&str], service: &str| {
        let matches: Vec<String> = headers
            .iter()
            .map(|of| format!("{{headers: [{of}]}}"))
            .collect();
        format!(
            "{{name: {service}-rule, matches: [{}], {}}}",
            matches.join(", "),
            to(service)
        )
    };
    let one = header("version", "one");
    let two = header("version", "two");
    let orange = format!("{two}, {}", header("color", "orange"));
    let (blue, green) = (header("color", "blue"), header("color", "green"));
    let (red, yellow) = (header("color", "red"), header("color", "yellow"));
    let rules = [
        rule(&[&one], "infra-v1"),
        rule(&[&two], "infra-v2"),
        rule(&[&orange], "infra-v3"),
        rule(&[&blue, &green], "infra-v1").replace("infra-v1-rule", "a"),
        rule(&[&red, &yellow], "infra-v2").replace("infra-v2-rule", "b"),
    ];
    let rules = format!("rules: [{}]", rules.join(", "));
    let bed = Bed::start(&["same"], &grpc_route("r", "same", &rules)).await;
    for (headers, expected) in [
        (&[("version", "one")][..], "infra-v1"),
        (&[("version", "two")], "infra-v2"),
        (&[("version", "two"), ("color", "orange")], "infra-v3"),
        (&[("version", "three")], "12"),
        (&[], "12"),
        (&[("color", "blue")], "infra-v1"),
        (&[("color", "green")], "infra-v1"),
        (&[("color", "red")], "infra-v2"),
        (&[("color", "yellow")], "infra-v2"),
        (&[("color", "purple")], "12"),
    ] {
        let mut asked = call("h", "Any");
        for (name, value) in headers {
            asked = asked.header(name, value);
        }
        expect(&bed, SAME, &asked, expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_route_listener_hostname_matching() {
    let names = ["bar.com", "foo.bar.com", "*.bar.com", "*.foo.com"];
    let listeners: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(at, host)| {
            format!("{{name: l{at}, port: 80, protocol: HTTP, hostname: \"{host}\"}}")
        })
        .collect();
    let all = |service: &str| format!("rules: [{{{}}}]", to(service));
    let manifest = gateway("g", &listeners.join(", "))
        + &grpc_route("one", "{name: g, sectionName: l0}", &all("infra-v1"))
        + &grpc_route("two", "{name: g, sectionName: l1}", &all("infra-v2"))
        + &grpc_route(
            "three",
            "{name: g, sectionName: l2}, {name: g, sectionName: l3}",
            &all("infra-v3"),
        );
    let bed = Bed::start(&["g"], &manifest).await;
    for (host, expected) in [
        ("bar.com", "infra-v1"),
        ("foo.bar.com", "infra-v2"),
        ("baz.bar.com", "infra-v3"),
        ("multiple.prefixes.bar.com", "infra-v3"),
        ("multiple.prefixes.foo.com", "infra-v3"),
        ("foo.com", "12"),
        ("no.matching.host", "12"),
    ] {
        expect(&bed, ("g", 80), &call(host, "Any"), expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_route_request_header_modifier() {
    let filter = "filters: [{type: RequestHeaderModifier, requestHeaderModifier: \
                  {set: [{name: X-Set, value: set}], add: [{name: x-add, value: added}], \
                  remove: [x-remove]}}]";
    let rules = format!("rules: [{{{filter}, {}}}]", to("infra-v1"));
    let bed = Bed::start(&["same"], &grpc_route("r", "same", &rules)).await;
    let asked = call("h", "Any")
        .header("x-set", "before")
        .header("x-add", "before")
        .header("x-remove", "before");
    let answer = expect(&bed, SAME, &asked, "infra-v1").await;
    let headers = &answer.echo["headers"];
    assert_eq!(headers["x-set"], "set");
    assert_eq!(headers["x-add"], "before,added");
    assert!(headers["x-remove"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_route_weight() {
    let rules = "rules: [{backendRefs: [{name: infra-v1, port: 8080, weight: 70}, \
                 {name: infra-v2, port: 8080, weight: 30}, \
                 {name: infra-v3, port: 8080, weight: 0}]}]";
    let bed = Bed::start(&["same"], &grpc_route("r", "same", rules)).await;
    let at = bed.tcp("same", 80).await;
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..500 {
        let stream = tokio::net::TcpStream::connect(at).await.unwrap();
        let answer = http2(stream, &call("h", "Any")).await.unwrap();
        assert_eq!(grpc_status(&answer), Some("0"), "{answer:?}");
        *counts.entry(answer.backend().to_owned()).or_default() += 1;
    }
    assert!((309..=391).contains(&counts["infra-v1"]), "{counts:?}");
    assert_eq!(counts.len(), 2, "{counts:?}");
}
