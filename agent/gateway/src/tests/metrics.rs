//! What requests are counted as.

use std::time::Instant;

use agent_model::gateway::BackendProtocol;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};

use super::backend::Backend;
use super::bed::{Bed, get, route, rule, target, whole};

impl Bed {
    /// The sum of the rows of a metric that have all of these labels.
    fn counted(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.metrics.encode(Instant::now());
        let rows = text.lines().filter_map(|line| line.split_once('{'));
        let rows = rows
            .filter(|(of, rest)| *of == name && labels.iter().all(|label| rest.contains(label)));
        rows.map(|(_, rest)| rest.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
            .sum()
    }
}

#[tokio::test]
async fn requests_are_counted_by_who_asked_whom_and_by_rule() {
    let backend = Backend::start("one").await;
    let named = agent_model::gateway::HttpRule {
        name: Some("named".into()),
        ..rule("/named", "one")
    };
    let mut bed = Bed::start(&[route(vec![rule("/a", "one"), named, rule("/b", "none")])]);
    bed.service("one", &[&backend]);
    let post = Request::post("/a").header("host", "a");
    let post = post.body(Full::new(Bytes::from("hello"))).unwrap();
    assert_eq!(bed.ask(post).await.status(), 200);
    for _ in 0..3 {
        assert_eq!(bed.get("a", "/named").await.status(), 200);
    }
    assert_eq!(bed.get("a", "/b").await.status(), 503);
    assert_eq!(bed.get("a", "/c").await.status(), 404);
    bed.records(6).await;

    let all = "istio_requests_total";
    let of = ["reporter=\"source\"", "source_workload=\"edge\""];
    assert_eq!(bed.counted(all, &of), 6.0);
    let one = "destination_service=\"one.ns.svc.cluster.local\"";
    let plain = "connection_security_policy=\"unknown\"";
    let answered = [one, "response_code=\"200\"", "response_flags=\"-\"", plain];
    assert_eq!(bed.counted(all, &answered), 4.0);
    let none = "destination_service_name=\"none\"";
    assert_eq!(bed.counted(all, &[none, "503", "\"UH\""]), 1.0);
    assert_eq!(bed.counted(all, &["404", "\"NR\""]), 1.0);
    assert_eq!(bed.counted("istio_request_bytes_sum", &[one]), 5.0);
    assert_eq!(bed.counted("istio_response_bytes_sum", &[one]), 5.0);
    let durations = "istio_request_duration_milliseconds_count";
    assert_eq!(bed.counted(durations, &[]), 6.0);

    let by_rule = |rule: &str, outcome: &str| {
        let labels = ["HTTPRoute/ns/route", rule, outcome];
        bed.counted("culvert_route_requests_total", &labels)
    };
    assert_eq!(by_rule("rule=\"0\"", "\"success\""), 1.0);
    assert_eq!(by_rule("rule=\"named\"", "\"success\""), 3.0);
    assert_eq!(by_rule("rule=\"2\"", "\"server_error\""), 1.0);

    // The figures of a rule are those of its name, whatever else changes; a rule that is gone has
    // none.
    let named = agent_model::gateway::HttpRule {
        name: Some("named".into()),
        ..rule("/other", "one")
    };
    assert_eq!(bed.apply(&[route(vec![named])]), []);
    assert_eq!(bed.get("a", "/other").await.status(), 200);
    bed.records(7).await;
    let name = "culvert_route_requests_total";
    assert_eq!(bed.counted(name, &[]), 4.0);
}

#[tokio::test]
async fn grpc_is_counted_by_its_own_status() {
    let backend = Backend::start("one").await;
    let mut h2c = rule("/", "one");
    h2c.backends[0].target = target("one", BackendProtocol::H2c);
    let mut bed = Bed::start(&[route(vec![h2c])]);
    bed.service("one", &[&backend]);
    let mut client = bed.http2().await;
    let ask = |path: &str| {
        let request = Request::post(format!("http://a{path}"));
        let request = request.header("content-type", "application/grpc");
        request.body(Full::default()).unwrap()
    };
    let response = client.send_request(ask("/trailers")).await.unwrap();
    response.into_body().collect().await.unwrap();
    bed.records(1).await;
    let grpc = ["request_protocol=\"grpc\"", "grpc_response_status=\"0\""];
    assert_eq!(bed.counted("istio_requests_total", &grpc), 1.0);

    assert_eq!(bed.apply(&[]), []);
    let response = whole(client.send_request(ask("/x")).await.unwrap()).await;
    assert_eq!(response.headers()["grpc-status"], "12");
    bed.records(2).await;
    let unimplemented = ["grpc_response_status=\"12\"", "response_code=\"200\"", "NR"];
    assert_eq!(bed.counted("istio_requests_total", &unimplemented), 1.0);
    let plain = get("a", "/x");
    assert_eq!(bed.ask(plain).await.status(), 404);
    bed.records(3).await;
    assert_eq!(bed.counted("istio_requests_total", &["\"404\""]), 1.0);
}
