//! Limits of time, and what is tried again.

use std::time::Instant;

use crate::bed::Bed;
use crate::client::get;
use crate::manifests::{http_route, to};

const SAME: (&str, u16) = ("same", 80);

fn rule(path: &str, more: &str, service: &str) -> String {
    format!(
        "{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], {more}, {}}}",
        to(service)
    )
}

fn route(rules: &[String]) -> String {
    http_route("r", "same", &format!("rules: [{}]", rules.join(", ")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_timeout_request() {
    let rules = [
        rule("/timeout", "timeouts: {request: 500ms}", "infra-v1"),
        rule("/disabled", "timeouts: {request: 0s}", "infra-v1"),
    ];
    let bed = Bed::start(&["same"], &route(&rules)).await;
    bed.expect(SAME, &get("h", "/timeout"), 200, "infra-v1")
        .await;
    let began = Instant::now();
    bed.expect(SAME, &get("h", "/timeout?delay=1000"), 504, "")
        .await;
    assert!(began.elapsed().as_millis() < 950, "{:?}", began.elapsed());
    bed.expect(SAME, &get("h", "/disabled?delay=1000"), 200, "infra-v1")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_timeout_backend_request() {
    let rules = [
        rule("/timeout", "timeouts: {backendRequest: 500ms}", "infra-v1"),
        rule("/disabled", "timeouts: {backendRequest: 0s}", "infra-v1"),
    ];
    let bed = Bed::start(&["same"], &route(&rules)).await;
    bed.expect(SAME, &get("h", "/timeout"), 200, "infra-v1")
        .await;
    bed.expect(SAME, &get("h", "/timeout?delay=1000"), 504, "")
        .await;
    bed.expect(SAME, &get("h", "/disabled?delay=1000"), 200, "infra-v1")
        .await;
}

/// Of the experimental channel: codes, attempts, and that the last answer is the client's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_retry() {
    let retry = |codes: &str, attempts: u8| {
        format!("retry: {{codes: [{codes}], attempts: {attempts}, backoff: 5ms}}")
    };
    let rules = [
        rule("/twice", &retry("500, 503", 2), "app-twin"),
        rule("/thrice", &retry("503", 3), "app-twin"),
        rule("/other", &retry("500", 3), "app-twin"),
        rule("/never", &retry("503", 0), "app-twin"),
    ];
    // Of one pod, so that whoever is asked again has been asked before.
    let manifest = route(&rules) + &crate::manifests::service("infra", "app-twin", &[7]);
    let bed = Bed::start(&["same"], &manifest).await;
    for (path, status) in [
        ("/twice?fail=1&a", 200),
        ("/twice?fail=2&b", 200),
        ("/twice?fail=3&c", 503),
        ("/thrice?fail=3&d", 200),
        ("/other?fail=1&e", 503),
        ("/never?fail=1&f", 503),
    ] {
        bed.expect(SAME, &get("h", path), status, "app-v1").await;
    }
}

/// Nothing was heard of the request where a connection breaks before a byte of an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_retry_connection_error() {
    let rules = "rules: [{retry: {attempts: 2, backoff: 5ms}, \
                 backendRefs: [{name: infra-v1, port: 9009}]}]";
    let bed = Bed::start(&["same"], &http_route("r", "same", rules)).await;
    bed.expect(SAME, &get("h", "/"), 503, "").await;
}

/// Every try has its own time, and all of them have the request's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_retry_with_timeouts() {
    let rules = [
        rule(
            "/tries",
            "retry: {codes: [504], attempts: 2, backoff: 5ms}, timeouts: {backendRequest: 200ms}",
            "infra-v1",
        ),
        rule(
            "/all",
            "retry: {codes: [504], attempts: 4, backoff: 5ms}, \
             timeouts: {backendRequest: 200ms, request: 450ms}",
            "infra-v1",
        ),
    ];
    let bed = Bed::start(&["same"], &route(&rules)).await;
    bed.expect(SAME, &get("h", "/tries"), 200, "infra-v1").await;
    let began = Instant::now();
    bed.expect(SAME, &get("h", "/tries?delay=900"), 504, "")
        .await;
    let took = began.elapsed().as_millis();
    assert!(took >= 595, "three tries of 200 ms took {took}");
    let began = Instant::now();
    bed.expect(SAME, &get("h", "/all?delay=900"), 504, "").await;
    let took = began.elapsed().as_millis();
    assert!((440..900).contains(&took), "450 ms in all took {took}");
}
