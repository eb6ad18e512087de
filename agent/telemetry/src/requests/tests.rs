use agent_model::{NamespacedHostname, Reason, Workload};

use super::*;
use crate::{Limits, Metrics};

fn labels(code: u16) -> RequestLabels {
    let workload = |name: &str| {
        Arc::new(Workload {
            workload_name: name.into(),
            namespace: "shop".into(),
            ..Workload::default()
        })
    };
    RequestLabels {
        reporter: Reporter::Waypoint,
        source: Some(workload("web")),
        source_identity: None,
        destination: Some(workload("cart-v1")),
        destination_identity: None,
        service: Some(NamespacedHostname::new(
            "shop",
            "cart.shop.svc.cluster.local",
        )),
        via: Via::Http,
        response_code: code,
        grpc_status: None,
        reason: Reason::Ok,
        mutual_tls: true,
    }
}

fn name(rule: &str) -> RouteName {
    RouteName {
        route: "HTTPRoute/shop/cart".into(),
        rule: rule.into(),
    }
}

fn measured(millis: u64) -> Measured {
    Measured {
        duration: Duration::from_millis(millis),
        received: 10,
        sent: 2000,
    }
}

fn row<'a>(text: &'a str, name: &str, with: &str) -> &'a str {
    text.lines()
        .find(|line| line.starts_with(&format!("{name}{{")) && line.contains(with))
        .unwrap_or_else(|| panic!("no {name} with {with} in\n{text}"))
}

fn value(row: &str) -> f64 {
    row.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn what_two_threads_count_is_one_row() {
    let now = Instant::now();
    let metrics = Metrics::new("1", Limits::default(), now);
    let shards = [metrics.requests().shard(), metrics.requests().shard()];
    for (shard, count) in shards.iter().zip([3, 4]) {
        let counter = shard.counter(labels(200), Some(name("0")), now);
        for _ in 0..count {
            counter.count(measured(7));
        }
    }
    let text = metrics.encode(now);
    let total = row(&text, "istio_requests_total", "");
    assert_eq!(value(total), 7.0);
    for label in [
        "reporter=\"waypoint\"",
        "source_workload=\"web\"",
        "destination_workload=\"cart-v1\"",
        "destination_service=\"cart.shop.svc.cluster.local\"",
        "destination_service_name=\"cart\"",
        "request_protocol=\"http\"",
        "response_code=\"200\"",
        "grpc_response_status=\"\"",
        "response_flags=\"-\"",
        "connection_security_policy=\"mutual_tls\"",
    ] {
        assert!(total.contains(label), "{label} in {total}");
    }
    let of = |name: &str, with: &str| value(row(&text, name, with));
    let bucket = "istio_request_duration_milliseconds_bucket";
    assert_eq!(of(bucket, "le=\"5.0\""), 0.0);
    assert_eq!(of(bucket, "le=\"10.0\""), 7.0);
    assert_eq!(of(bucket, "le=\"+Inf\""), 7.0);
    assert_eq!(of("istio_request_duration_milliseconds_sum", ""), 49.0);
    assert_eq!(of("istio_request_bytes_sum", ""), 70.0);
    assert_eq!(of("istio_response_bytes_sum", ""), 14_000.0);
    assert_eq!(of("istio_response_bytes_count", ""), 7.0);
    assert_eq!(of("culvert_route_requests_total", "success"), 7.0);
}

#[test]
fn a_process_without_requests_shows_none() {
    let now = Instant::now();
    let text = Metrics::new("1", Limits::default(), now).encode(now);
    assert!(!text.contains("istio_request"), "{text}");
    assert!(!text.contains("culvert_route"), "{text}");
}

#[test]
fn past_the_cap_requests_are_counted_together() {
    let now = Instant::now();
    let metrics = Metrics::new("1", Limits::default(), now);
    let shard = metrics.requests().shard();
    for n in 0..5000_u32 {
        let mut labels = labels(200);
        labels.service = Some(NamespacedHostname::new("shop", &format!("s{n}")));
        shard.counter(labels, None, now).count(measured(1));
    }
    let text = metrics.encode(now);
    let rows: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("istio_requests_total{"))
        .collect();
    assert_eq!(rows.len(), MAX_SERIES + 1);
    assert_eq!(rows.iter().map(|row| value(row)).sum::<f64>(), 5000.0);
    let overflow = row(&text, "istio_requests_total", "response_code=\"overflow\"");
    assert_eq!(value(overflow), (5000 - MAX_SERIES) as f64);
}

#[test]
fn label_sets_without_requests_are_forgotten_and_their_counters_know() {
    let start = Instant::now();
    let requests = Requests::new(start);
    let shard = requests.shard();
    let counter = shard.counter(labels(200), Some(name("0")), start);
    counter.count(measured(1));
    requests.expire(start + IDLE / 2);
    counter.count(measured(1));
    requests.expire(start + IDLE);
    assert!(!counter.is_retired(), "it counted meanwhile");
    requests.expire(start + IDLE * 2);
    assert!(counter.is_retired());
    assert_eq!(requests.len(), 0);
    assert_eq!(
        requests.routes().len(),
        1,
        "rules stay while they are served"
    );
    let again = shard.counter(labels(200), Some(name("0")), start + IDLE * 2);
    assert!(!again.is_retired());
}

#[test]
fn rules_that_are_gone_are_forgotten() {
    let now = Instant::now();
    let requests = Requests::new(now);
    let shard = requests.shard();
    let counters = ["0", "1"].map(|rule| shard.counter(labels(503), Some(name(rule)), now));
    counters.iter().for_each(|one| one.count(measured(3)));
    let ok = shard.counter(labels(200), Some(name("1")), now);
    (0..3).for_each(|_| ok.count(measured(1)));
    requests.keep_routes(|name| &*name.rule == "1");
    assert!(counters[0].is_retired() && !counters[1].is_retired());
    let routes = requests.routes();
    assert_eq!(routes.len(), 1);
    let (kept, figures) = &routes[0];
    assert_eq!(*kept, name("1"));
    assert_eq!((figures.requests(), figures.success()), (4, Some(0.75)));
    let p50 = figures.within(0.5).unwrap();
    assert!((1000..1200).contains(&p50.as_micros()), "{p50:?}");
    assert_eq!(figures.time, Duration::from_millis(6));
}

#[test]
fn outcomes() {
    let grpc = |status| RequestLabels {
        grpc_status: Some(status),
        ..labels(200)
    };
    for (labels, outcome) in [
        (labels(101), Outcome::Success),
        (labels(302), Outcome::Success),
        (labels(404), Outcome::ClientError),
        (labels(500), Outcome::ServerError),
        (labels(0), Outcome::ServerError),
        (grpc(0), Outcome::Success),
        (grpc(5), Outcome::ClientError),
        (grpc(14), Outcome::ServerError),
    ] {
        assert_eq!(labels.outcome(), outcome, "{labels:?}");
    }
}
