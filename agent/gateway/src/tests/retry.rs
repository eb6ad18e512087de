//! Requests that are sent again.

use std::time::Duration;

use agent_model::gateway::{HttpRule, Retry, Timeouts};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::backend::Backend;
use super::bed::{Bed, free_port, get, route, rule};

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
        (post("/fail-first/3", "x"), 503, 1),
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
async fn the_last_answer_counts() {
    let mut bed = Bed::start(&[route(vec![retried("/", 3)])]);
    bed.service_at("one", &[free_port()]);
    assert_eq!(bed.get("a", "/").await.status().as_u16(), 503);
}
