//! What the gateway answers itself.

use std::time::Duration;

use agent_model::Reason;
use agent_model::gateway::{Filter, HeaderChange, Target, Timeouts};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::backend::Backend;
use crate::plan::Subject;

use super::bed::{Bed, Kept, free_port, route, rule, to};

fn rules() -> Vec<agent_model::gateway::HttpRule> {
    let mut invalid = rule("/invalid", "one");
    invalid.backends[0].target = Target::Invalid("RefNotPermitted".into());
    let mut none = rule("/none", "one");
    none.backends.clear();
    let mut slow = rule("/delay", "one");
    slow.timeouts = Timeouts {
        request: Some(Duration::from_millis(100)),
        backend_request: None,
    };
    let mut zero = rule("/delay/1", "one");
    zero.timeouts.request = Some(Duration::ZERO);
    vec![
        rule("/ok", "one"),
        invalid,
        none,
        slow,
        zero,
        rule("/unknown", "unknown"),
        rule("/empty", "empty"),
        rule("/gone", "gone"),
    ]
}

async fn bed() -> (Bed, Backend) {
    let one = Backend::start("one").await;
    let mut bed = Bed::start(&[route(rules())]);
    bed.service("one", &[&one]);
    bed.service("empty", &[]);
    bed.service_at("gone", &[free_port()]);
    (bed, one)
}

#[tokio::test]
async fn every_reason_has_its_status() {
    let (bed, one) = bed().await;
    let cases = [
        ("/nowhere", 404, Reason::NoRoute),
        ("/invalid", 500, Reason::BackendInvalid),
        ("/none", 500, Reason::BackendInvalid),
        ("/unknown", 503, Reason::NoEndpoint),
        ("/empty", 503, Reason::NoEndpoint),
        ("/gone", 503, Reason::ConnectRefused),
        ("/delay/400", 504, Reason::RequestTimeout),
        ("/delay/1", 200, Reason::Ok),
        ("/ok/../../x", 400, Reason::RequestInvalid),
        ("/ok%2fx", 400, Reason::RequestInvalid),
        ("/ok/../nowhere", 404, Reason::NoRoute),
    ];
    for (number, (target, status, reason)) in cases.into_iter().enumerate() {
        let response = bed.get("a.org", target).await;
        assert_eq!(response.status().as_u16(), status, "{target}");
        let Kept {
            status: recorded,
            reason: why,
            ..
        } = bed.records(number + 1).await.remove(number);
        assert_eq!((recorded, why), (Some(status), reason), "{target}");
        if status != 200 {
            let text = StatusCode::from_u16(status).unwrap();
            let text = format!("{}\n", text.canonical_reason().unwrap());
            assert_eq!(response.body(), &text);
        }
    }
    let seen: Vec<_> = one.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(seen, ["/delay/400", "/delay/1"]);
}

#[tokio::test]
async fn grpc_clients_get_a_grpc_status() {
    let (bed, _one) = bed().await;
    let mut client = bed.http2().await;
    for (target, code) in [
        ("/nowhere", "12"),
        ("/empty", "14"),
        ("/delay/400", "4"),
        ("/none", "13"),
    ] {
        let request = Request::post(format!("http://a.org{target}"))
            .header("content-type", "application/grpc+proto")
            .body(Full::<Bytes>::default());
        let response = client.send_request(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], code, "{target}");
        assert_eq!(response.headers()["content-type"], "application/grpc");
    }
}

/// What a raw request gets, until the gateway closes the connection or says no more.
async fn raw(bed: &Bed, request: &str) -> String {
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_millis(300), read).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn requests_that_could_mean_two_things_reach_no_backend() {
    let (bed, one) = bed().await;
    let hosts = "host: a\r\nhost: b\r\n";
    for head in [
        format!("GET /ok HTTP/1.1\r\n{hosts}\r\n"),
        "GET /ok HTTP/1.1\r\n\r\n".to_owned(),
        "GET /ok HTTP/1.1\r\nhost: user@a\r\n\r\n".to_owned(),
        "GET /ok HTTP/1.1\r\nhost: a b\r\n\r\n".to_owned(),
        "GET http://a/ok HTTP/1.1\r\nhost: b\r\n\r\n".to_owned(),
        "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        "GET /ok HTTP/1.1\r\nhost: a\r\nx-user: 1\r\nx_user: 2\r\n\r\n".to_owned(),
        "GET /ok HTTP/1.1\r\nhost: a\r\nx-fold: 1\r\n 2\r\n\r\n".to_owned(),
        "GET /ok HTTP/1.1\r\nhost: a\r\nx-nul: \0\r\n\r\n".to_owned(),
        "GET /ok HTTP/1.1\r\nhost : a\r\n\r\n".to_owned(),
        "POST /ok HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx"
            .to_owned(),
        "POST /ok HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\nx".to_owned(),
        "POST /ok HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, x\r\n\r\n0\r\n\r\n".to_owned(),
        "POST /ok HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
    ] {
        let answer = raw(&bed, &head).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.0 400 "),
            "{head:?}: {answer:?}"
        );
    }
    assert_eq!(one.seen().len(), 0);
}

/// F-90: whatever a body is made to look like, what stands in it is no request.
#[tokio::test]
async fn a_smuggled_request_is_no_request() {
    let (bed, one) = bed().await;
    let smuggled = "GET /ok/smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let heads = [
        "content-length: 47\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 47\r\n\r\n0\r\n\r\n",
        "content-length: 0\r\ncontent-length: 47\r\n\r\n",
        "x: y\ncontent-length: 47\r\n\r\n",
        "x: y\n\r\n",
    ];
    for head in heads {
        let request = format!("POST /ok HTTP/1.1\r\nhost: a\r\n{head}{smuggled}");
        let answer = raw(&bed, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head:?}: {answer}");
    }
    assert_eq!(one.seen().len(), 0);
    let chunks = "transfer-encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n";
    let request = format!("POST /ok HTTP/1.1\r\nhost: a\r\n{chunks}{smuggled}");
    let answer = raw(&bed, &request).await;
    assert!(!answer.contains(" 200 "), "{answer}");
    assert!(
        one.seen().iter().all(|seen| seen.target == "/ok"),
        "{:?}",
        one.seen()
    );
}

/// After a refused upgrade nothing is read that might have been meant for the other protocol.
#[tokio::test]
async fn a_refused_upgrade_ends_its_connection() {
    let (bed, one) = bed().await;
    let request = "GET /ok HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\
                   GET /ok/smuggled HTTP/1.1\r\nhost: a\n\r\n";
    let answer = raw(&bed, request).await;
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert_eq!(one.seen().len(), 1);
}

#[tokio::test]
async fn heads_have_a_limit() {
    let (bed, one) = bed().await;
    let fields = "x: y\r\n".repeat(1000);
    let long = "y".repeat(100_000);
    for field in [fields, format!("x: {long}\r\n")] {
        let answer = raw(&bed, &format!("GET /ok HTTP/1.1\r\nhost: a\r\n{field}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    assert_eq!(one.seen().len(), 0);
    for record in bed.records(2).await {
        assert_eq!(
            (record.status, record.reason),
            (Some(431), Reason::RequestInvalid)
        );
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_recorded_and_counted_with_its_answer() {
    let (bed, one) = bed().await;
    let heads = [
        ("no request at all\r\n\r\n", "invalid"),
        (
            "GET /ok HTTP/1.1\r\nhost: a\r\nx: y\n\r\n",
            "a lone line feed",
        ),
        // After a good one.
        (
            "GET /ok HTTP/1.1\r\nhost: a\r\n\r\nGET /ok\r\n\r\n",
            "invalid",
        ),
    ];
    for (head, _) in heads {
        assert!(raw(&bed, head).await.contains("HTTP/1.1 400 "), "{head:?}");
    }
    // Who leaves has asked nothing.
    let mut client = TcpStream::connect(bed.address).await.unwrap();
    client.write_all(b"GET /o").await.unwrap();
    drop(client);
    let records = bed.records(4).await;
    let refused = records.iter().filter(|record| record.status == Some(400));
    let refused: Vec<_> = refused.collect();
    for (record, (head, why)) in refused.iter().zip(heads) {
        assert_eq!(record.reason, Reason::RequestInvalid, "{head:?}");
        assert!(record.detail.contains(why), "{head:?}: {}", record.detail);
    }
    assert_eq!((refused.len(), one.seen().len()), (3, 1));
    let text = bed.metrics.encode(std::time::Instant::now());
    let counted = text.lines().find(|line| {
        line.starts_with("istio_requests_total") && line.contains("response_code=\"400\"")
    });
    assert!(counted.is_some_and(|line| line.ends_with(" 3")), "{text}");
}

#[tokio::test]
async fn a_rule_that_cannot_be_used_takes_no_other_with_it() {
    let (bed, _one) = bed().await;
    let mut bad = rule("/bad", "one");
    bad.filters.push(Filter::RequestHeaders(HeaderChange {
        remove: vec!["content-length".into()],
        ..HeaderChange::default()
    }));
    let mut half = rule("/half", "one");
    half.backends = vec![to("one", 0), to("one", 1)];
    half.backends[1].filters = vec![Filter::Invalid("no such filter".into())];
    let faults = bed.apply(&[route(vec![rule("/ok", "one"), bad, half])]);
    let rules: Vec<_> = faults.into_iter().map(|fault| fault.subject).collect();
    let key = route(Vec::new()).key;
    assert_eq!(
        rules,
        [1, 2].map(|number| Subject::Rule(key.clone(), number))
    );
    for (target, status) in [("/ok", 200), ("/bad", 500), ("/half", 500)] {
        assert_eq!(
            bed.get("a", target).await.status().as_u16(),
            status,
            "{target}"
        );
    }
}
