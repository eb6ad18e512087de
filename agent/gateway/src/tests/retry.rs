//! Requests that are sent again.

use std::time::Duration;

use agent_model::gateway::{HttpRule, Retry, Timeouts};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::backend::Backend;
use super::bed::{Bed, free_port, get, route, rule, service};
use crate::balance::Algorithm;
use crate::tuning::{RetryBudget, Settings, Tuning};

fn retried(prefix: &str, attempts: u32) -> HttpRule {
    HttpRule {
        retry: Some(Retry {
            codes: vec![503],
            attempts,
            backoff: Some(Duration::from_millis(1)),
        }),
        ..rule(prefix, "one")
    }
}

#[tokio::test]
async fn failures_are_hidden_as_far_as_the_rule_says() {
    let mut slow = retried("/delay", 2);
    slow.timeouts = Timeouts {
        request: Some(Duration::from_secs(5)),
        backend_request: Some(Duration::from_millis(150)),
    };
    let mut short = retried("/delay/2000", 50);
    short.timeouts = Timeouts {
        request: Some(Duration::from_millis(1000)),
        backend_request: Some(Duration::from_millis(600)),
    };
    let one = Backend::start("one").await;
    let mut bed = Bed::start(&[route(vec![retried("/", 2), slow, short])]);
    bed.service("one", &[&one]);
    let post = |target: &str, text| {
        let request = Request::post(target).header("host", "a");
        request.body(Full::<Bytes>::from(text)).unwrap()
    };
    let cases = [
        (get("a", "/ok"), 200, 1),
        (get("a", "/fail-first/2"), 200, 3),
        (get("a", "/fail-first/9"), 503, 3),
        (get("a", "/status/500"), 500, 1),
        (get("a", "/delay/1000"), 504, 3),
        (get("a", "/delay/2000"), 504, 2),
        (post("/fail-first/1", ""), 200, 2),
        // By its status: the rule says so. What was sent was kept.
        (post("/fail-first/3", "x"), 503, 3),
    ];
    for (request, status, attempts) in cases {
        let before = one.seen().len();
        let target = request.uri().clone();
        let response = bed.ask(request).await;
        assert_eq!(response.status().as_u16(), status, "{target}");
        assert_eq!(one.seen().len() - before, attempts, "{target}");
    }
}

#[tokio::test]
async fn bodies_are_sent_again_byte_by_byte_as_far_as_they_are_kept() {
    let (bad, good) = (Backend::start("bad").await, Backend::start("good").await);
    let mut bed = Bed::start(&[route(vec![retried("/", 1)])]);
    bed.service("one", &[&bad, &good]);
    turns(&bed, None);
    let send = |size: usize| {
        let body: Bytes = (0..size).map(|at| (at % 251) as u8).collect();
        let request = Request::post("/upload").header("host", "a");
        let request = request.body(Full::new(body.clone())).unwrap();
        let bed = &bed;
        async move { (bed.ask(request).await, body) }
    };
    for size in [1, 5_000, 60_000] {
        for _ in 0..2 {
            let (response, body) = send(size).await;
            assert_eq!(response.status(), 200, "{size}");
            assert!(good.last().body == body, "{size} bytes came changed");
            let length = good.last().headers["content-length"].clone();
            assert_eq!(length, size.to_string().as_str());
        }
    }
    assert!(bad.seen().len() >= 3, "some were sent again");
    assert!(bad.seen().iter().all(|seen| !seen.body.is_empty()));
    // Too long to be kept: what the first endpoint says counts.
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(send(300_000).await.0.status().as_u16());
    }
    assert!(
        statuses.contains(&503) && statuses.contains(&200),
        "{statuses:?}"
    );
    assert_eq!(
        bed.gateway.backends()[0].retries,
        bad.seen().len() as u64 - 2
    );
}

/// In turn, with this room for retries.
fn turns(bed: &Bed, budget: Option<RetryBudget>) {
    let settings = Settings {
        algorithm: Algorithm::RoundRobin,
        budget: budget.unwrap_or_default(),
        ..Settings::default()
    };
    bed.gateway
        .tune(Tuning::new([(service("one").key(), None, settings)]));
}

#[tokio::test]
async fn a_failing_endpoint_is_hidden_as_far_as_the_budget_reaches() {
    let (bad, good) = (Backend::start("bad").await, Backend::start("good").await);
    let gone = free_port();
    let mut bed = Bed::start(&[route(vec![retried("/", 2)])]);
    bed.service_at("one", &[bad.address, gone, good.address]);
    turns(&bed, None);
    for _ in 0..30 {
        let response = bed.get("a", "/").await;
        assert_eq!(response.headers()["x-backend"], "good");
        assert_eq!(response.status().as_u16(), 200);
    }
    let view = bed.gateway.backends().remove(0);
    assert!(
        view.retries >= 10 && view.retries_over_budget == 0,
        "{view:?}"
    );
    let none = RetryBudget {
        percent: 0,
        least: 0,
    };
    turns(&bed, Some(none));
    let mut failed = 0;
    for _ in 0..12 {
        failed += usize::from(bed.get("a", "/").await.status() == 503);
    }
    assert!(failed >= 4, "{failed}");
    let view = bed.gateway.backends().remove(0);
    assert_eq!(view.retries_over_budget, failed as u64);
}

#[tokio::test]
async fn a_grpc_answer_without_a_body_is_retried_by_its_code() {
    let (bad, good) = (
        Backend::start("grpc-bad").await,
        Backend::start("good").await,
    );
    let mut bed = Bed::start(&[route(vec![retried("/", 1)])]);
    bed.service("one", &[&bad, &good]);
    turns(&bed, None);
    for _ in 0..6 {
        let response = bed.get("a", "/").await;
        assert_eq!(response.headers()["x-backend"], "good");
    }
    assert_eq!(bad.seen().len() as u64, bed.gateway.backends()[0].retries);
    assert!(!bad.seen().is_empty());
}

#[tokio::test]
async fn the_last_answer_counts() {
    let mut bed = Bed::start(&[route(vec![retried("/", 3)])]);
    bed.service_at("one", &[free_port()]);
    assert_eq!(bed.get("a", "/").await.status().as_u16(), 503);
}
