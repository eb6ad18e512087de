//! Requests that are sent again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use agent_model::gateway::traffic::{Balancing, RetryPolicy, TrafficPolicy, TrafficTarget};
use agent_model::gateway::{
    BackendProtocol, GatewayKey, HttpRule, Parent, Persistence, Retry, Route, SessionPersistence,
    Timeouts,
};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::backend::Backend;
use super::bed::{Bed, free_port, get, listener, route, rule, service, target};
use crate::balance::Algorithm;
use crate::traffic::Policies;
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
    let ask = |kind: &str| {
        let request = Request::post("/").header("host", "a");
        let request = request.header("content-type", kind);
        bed.ask(request.body(Full::default()).unwrap())
    };
    for _ in 0..6 {
        let response = ask("application/grpc").await;
        assert_eq!(response.headers()["x-backend"], "good");
    }
    assert_eq!(bad.seen().len() as u64, bed.gateway.backends()[0].retries);
    assert!(!bad.seen().is_empty());
    // What a backend says in that header of other requests is nothing to the gateway.
    let mut answered = BTreeSet::new();
    for _ in 0..4 {
        let response = ask("text/plain").await;
        answered.insert(response.headers()["x-backend"].clone());
    }
    assert_eq!(answered.len(), 2, "{answered:?}");
}

#[tokio::test]
async fn a_policy_says_which_codes_of_grpc_are_retried() {
    let (bad, good) = (
        Backend::start("grpc-bad").await,
        Backend::start("good").await,
    );
    let mut h2c = rule("/", "one");
    h2c.backends[0].target = target("one", BackendProtocol::H2c);
    let mut bed = Bed::start(&[route(vec![h2c])]);
    bed.service("one", &[&bad, &good]);
    let policy = |grpc_codes: Vec<u16>| TrafficPolicy {
        targets: vec![TrafficTarget::Service {
            service: service("one").key(),
            port: None,
        }],
        load_balancing: Some(Balancing::RoundRobin),
        retry: Some(RetryPolicy {
            grpc_codes,
            attempts: 1,
            backoff: Some(Duration::from_millis(1)),
            ..RetryPolicy::default()
        }),
        ..TrafficPolicy::default()
    };
    // UNAVAILABLE is what it says; the other one is RESOURCE_EXHAUSTED.
    for (code, hidden) in [(14, true), (8, false)] {
        let policies = Policies::new(&[Arc::new(policy(vec![code]))]);
        let tuning = Tuning::told(policies, &GatewayKey::new("ns", "edge"));
        bed.gateway.tune(tuning);
        // The way to a backend is found once for each plan.
        let mut h2c = rule("/", "one");
        h2c.backends[0].target = target("one", BackendProtocol::H2c);
        assert_eq!(bed.apply(&[route(vec![h2c])]), []);
        let mut client = bed.http2().await;
        let mut statuses = BTreeSet::new();
        for _ in 0..6 {
            let request = Request::post("http://a/x").header("content-type", "application/grpc");
            let request = request.body(Full::default()).unwrap();
            let response = client.send_request(request).await.unwrap();
            let status = response.headers().get("grpc-status").cloned();
            statuses.insert(status.map(|status| status.to_str().unwrap().to_owned()));
        }
        let failed = statuses.contains(&Some("14".to_owned()));
        assert_eq!(failed, !hidden, "{code}: {statuses:?}");
    }
    assert!(!bad.seen().is_empty() && !good.seen().is_empty());
}

#[tokio::test]
async fn a_policy_of_one_listener_is_for_its_requests() {
    let (bad, good) = (Backend::start("bad").await, Backend::start("good").await);
    let mut bed = Bed::idle(None);
    bed.service("one", &[&bad, &good]);
    let (inner, outer) = (free_port(), free_port());
    let of_both = Route {
        parents: ["inner", "outer"]
            .map(|name| Parent::Listener {
                gateway: GatewayKey::new("ns", "edge"),
                name: name.into(),
            })
            .into(),
        ..route(vec![rule("/", "one")])
    };
    let gateway = GatewayKey::new("ns", "edge");
    let said = |listener: Option<&str>| TrafficPolicy {
        targets: vec![TrafficTarget::Gateway {
            gateway: gateway.clone(),
            listener: listener.map(Into::into),
        }],
        ..TrafficPolicy::default()
    };
    let policies = [
        TrafficPolicy {
            load_balancing: Some(Balancing::RoundRobin),
            ..said(None)
        },
        TrafficPolicy {
            retry: Some(RetryPolicy {
                codes: vec![503],
                attempts: 1,
                backoff: Some(Duration::from_millis(1)),
                ..RetryPolicy::default()
            }),
            session_persistence: Some(SessionPersistence {
                name: "stay".into(),
                kind: Persistence::Cookie { permanent: false },
                absolute_timeout: None,
                idle_timeout: None,
            }),
            ..said(Some("inner"))
        },
    ];
    let policies = Policies::new(&policies.map(Arc::new));
    bed.gateway.tune(Tuning::told(policies, &gateway));
    let listeners = vec![
        listener("inner", inner.port()),
        listener("outer", outer.port()),
    ];
    assert_eq!(bed.apply_with(listeners, &[of_both]), []);
    for (address, is_inner) in [(inner, true), (outer, false)] {
        bed.address = address;
        let mut answers = Vec::new();
        for _ in 0..6 {
            answers.push(bed.get("a", "/").await);
        }
        let failed = answers.iter().filter(|one| one.status() == 503).count();
        assert_eq!(failed > 0, !is_inner, "{failed} of 6 at {address}");
        let told = |one: &http::Response<Bytes>| one.headers().contains_key("set-cookie");
        assert!(answers.iter().all(|one| told(one) == is_inner), "{address}");
    }
}

#[tokio::test]
async fn the_last_answer_counts() {
    let mut bed = Bed::start(&[route(vec![retried("/", 3)])]);
    bed.service_at("one", &[free_port()]);
    assert_eq!(bed.get("a", "/").await.status().as_u16(), 503);
}
