//! What traffic policies do to requests and responses.

use std::io::Read as _;
use std::time::{Duration, Instant};

use agent_model::Reason;
use agent_model::gateway::traffic::{
    BodyLimits, Compression, ContentCoding, Fault, FaultAbort, FaultDelay, GlobalLimit,
    HeaderEdits, Limit, LimitBy, RateLimit, Redis, TrafficPolicy, TrafficTarget, WhenGone,
};
use agent_model::gateway::{
    Fraction, GatewayKey, HeaderChange, HeaderValue, HttpRule, RouteKey, RouteKind, Timeouts,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::backend::Backend;
use super::bed::{Bed, free_port, route, rule, service, to, whole};

fn gateway() -> TrafficTarget {
    TrafficTarget::Gateway {
        gateway: GatewayKey::new("ns", "edge"),
        listener: None,
    }
}

fn of_rule(rule: Option<&str>) -> TrafficTarget {
    TrafficTarget::Route {
        route: RouteKey::new(RouteKind::Http, "ns", "route"),
        rule: rule.map(Into::into),
    }
}

fn of_service(name: &str) -> TrafficTarget {
    TrafficTarget::Service {
        service: service(name).key(),
        port: None,
    }
}

fn policy(target: TrafficTarget) -> TrafficPolicy {
    TrafficPolicy {
        namespace: "ns".into(),
        name: "p".into(),
        targets: vec![target],
        ..TrafficPolicy::default()
    }
}

fn limit(requests: u32, by: Vec<LimitBy>) -> Limit {
    Limit {
        requests,
        per: Duration::from_secs(3600),
        burst: requests.max(1),
        by,
    }
}

fn limited(target: TrafficTarget, requests: u32, by: Vec<LimitBy>) -> TrafficPolicy {
    TrafficPolicy {
        rate_limit: Some(RateLimit {
            local: Some(limit(requests, by)),
            global: None,
        }),
        ..policy(target)
    }
}

async fn bed(rules: Vec<HttpRule>, policies: &[TrafficPolicy]) -> (Bed, Backend) {
    let one = Backend::start("one").await;
    let mut bed = Bed::idle(None);
    bed.service("one", &[&one]);
    assert_eq!(bed.apply_treated(&[route(rules)], policies), []);
    (bed, one)
}

async fn statuses(bed: &Bed, targets: &[&str]) -> Vec<u16> {
    let mut statuses = Vec::new();
    for target in targets {
        statuses.push(bed.get("a", target).await.status().as_u16());
    }
    statuses
}

#[tokio::test]
async fn what_is_above_a_limit_is_told_when_to_come_back() {
    let policies = [limited(gateway(), 2, Vec::new())];
    let (bed, one) = bed(vec![rule("/", "one")], &policies).await;
    assert_eq!(statuses(&bed, &["/", "/a", "/"]).await, [200, 200, 429]);
    assert_eq!(one.seen().len(), 2);
    let refused = bed.get("a", "/").await;
    let text = |name: &str| refused.headers()[name].to_str().unwrap();
    assert_eq!(text("ratelimit-limit"), "2");
    assert_eq!(text("ratelimit-remaining"), "0");
    assert!((1..=1800).contains(&text("retry-after").parse::<u32>().unwrap()));
    let records = bed.records(4).await;
    assert_eq!(records[3].reason, Reason::RateLimited);

    // gRPC clients are told in their own words.
    let call = Request::post("/s/m").header("host", "a");
    let call = call.header("content-type", "application/grpc");
    let answer = bed.ask(call.body(Full::default()).unwrap()).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["grpc-status"], "8");
    assert!(answer.headers().contains_key("retry-after"));

    // What has not changed goes on counting; a new limit begins anew.
    bed.apply_treated(&[route(vec![rule("/", "one")])], &policies);
    assert_eq!(statuses(&bed, &["/"]).await, [429]);
    let more = [limited(gateway(), 3, Vec::new())];
    bed.apply_treated(&[route(vec![rule("/", "one")])], &more);
    assert_eq!(statuses(&bed, &["/"]).await, [200]);
}

#[tokio::test]
async fn the_most_specific_policy_decides() {
    let named = HttpRule {
        name: Some("named".into()),
        ..rule("/named", "one")
    };
    let both = HttpRule {
        backends: vec![to("one", 1), to("two", 1)],
        ..rule("/both", "one")
    };
    let policies = [
        limited(gateway(), 0, Vec::new()),
        limited(of_service("one"), 1, Vec::new()),
        limited(of_rule(Some("named")), 2, Vec::new()),
    ];
    let (bed, _one) = bed(vec![rule("/", "one"), named, both], &policies).await;
    let targets = ["/named", "/named", "/named", "/", "/"];
    assert_eq!(statuses(&bed, &targets).await, [200, 200, 429, 200, 429]);
    assert_eq!(statuses(&bed, &["/both"]).await, [429], "of no one service");
}

#[tokio::test]
async fn requests_count_by_their_own_properties() {
    let by = vec![LimitBy::Header("x-user".into()), LimitBy::Path];
    let policies = [limited(gateway(), 1, by)];
    let (bed, _one) = bed(vec![rule("/", "one")], &policies).await;
    let mut found = Vec::new();
    for (user, path) in [
        ("a", "/1"),
        ("a", "/1"),
        ("b", "/1"),
        ("a", "/2"),
        ("a", "/%31"),
    ] {
        let request = Request::get(path)
            .header("host", "a")
            .header("x-user", user);
        let response = bed.ask(request.body(Full::default()).unwrap()).await;
        found.push(response.status().as_u16());
    }
    assert_eq!(
        found,
        [200, 429, 200, 200, 429],
        "paths in their normal form"
    );
}

#[tokio::test]
async fn without_redis_the_policy_says_what_happens() {
    let global = |when_gone| TrafficPolicy {
        rate_limit: Some(RateLimit {
            local: Some(limit(2, Vec::new())),
            global: Some(GlobalLimit {
                limit: limit(1, Vec::new()),
                redis: Redis {
                    address: free_port().to_string().into(),
                    tls: None,
                    login: None,
                    timeout: Duration::from_millis(500),
                },
                when_gone,
            }),
        }),
        ..policy(gateway())
    };
    let (bed, _one) = bed(vec![rule("/", "one")], &[global(WhenGone::Open)]).await;
    let found = statuses(&bed, &["/", "/", "/"]).await;
    assert_eq!(found, [200, 200, 429], "the local limit holds");
    let uncounted = || {
        let found = bed.uncounted.by_policy().into_iter();
        found.map(|(key, found)| (key.to_string(), found.passed, found.refused))
    };
    assert!(uncounted().eq([("ns/p".to_owned(), 2, 0)]));
    let closed = TrafficPolicy {
        name: "closed".into(),
        ..global(WhenGone::Closed)
    };
    bed.apply_treated(&[route(vec![rule("/", "one")])], &[closed]);
    let refused = bed.get("a", "/").await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    let closed = ("ns/closed".to_owned(), 0, 1);
    assert!(uncounted().eq([closed, ("ns/p".to_owned(), 2, 0)]));
}

fn faulty(delay: Option<u64>, abort: Option<u16>) -> TrafficPolicy {
    TrafficPolicy {
        fault: Some(Fault {
            delay: delay.map(|milliseconds| FaultDelay {
                duration: Duration::from_millis(milliseconds),
                fraction: Fraction::ALL,
            }),
            abort: abort.map(|status| FaultAbort {
                status,
                grpc_status: None,
                fraction: Fraction::ALL,
            }),
            expires: None,
        }),
        ..policy(gateway())
    }
}

#[tokio::test]
async fn faults_hold_back_and_answer_until_they_end() {
    let rules = || vec![rule("/", "one")];
    let (bed, one) = bed(rules(), &[faulty(Some(100), None)]).await;
    let began = Instant::now();
    assert_eq!(statuses(&bed, &["/"]).await, [200]);
    assert!(began.elapsed() >= Duration::from_millis(100));
    bed.apply_treated(&[route(rules())], &[faulty(None, Some(418))]);
    assert_eq!(statuses(&bed, &["/"]).await, [418]);
    assert_eq!(one.seen().len(), 1, "the backend is not asked");
    assert_eq!(bed.records(2).await[1].reason, Reason::FaultInjected);
    let mut over = faulty(None, Some(418));
    over.fault.as_mut().unwrap().expires = Some(1_000_000_000);
    bed.apply_treated(&[route(rules())], &[over]);
    assert_eq!(statuses(&bed, &["/"]).await, [200]);
}

#[tokio::test]
async fn headers_change_around_those_of_the_route() {
    let field = |value: &str| HeaderValue {
        name: "x-policy".into(),
        value: value.into(),
    };
    let edited = TrafficPolicy {
        headers: Some(HeaderEdits {
            request: HeaderChange {
                set: vec![field("asked")],
                ..HeaderChange::default()
            },
            response: HeaderChange {
                set: vec![field("answered")],
                remove: vec!["x-backend".into()],
                ..HeaderChange::default()
            },
        }),
        ..policy(gateway())
    };
    let (bed, one) = bed(vec![rule("/", "one")], &[edited]).await;
    let response = bed.get("a", "/").await;
    assert_eq!(one.last().headers["x-policy"], "asked");
    assert_eq!(response.headers()["x-policy"], "answered");
    assert!(!response.headers().contains_key("x-backend"));
}

#[tokio::test]
async fn limits_of_time_are_for_rules_without_their_own() {
    let timed = TrafficPolicy {
        timeouts: Some(Timeouts {
            request: Some(Duration::from_millis(200)),
            backend_request: None,
        }),
        ..policy(gateway())
    };
    let patient = HttpRule {
        timeouts: Timeouts {
            request: Some(Duration::from_secs(20)),
            backend_request: None,
        },
        ..rule("/delay/500", "one")
    };
    let (bed, _one) = bed(vec![rule("/", "one"), patient], &[timed]).await;
    let found = statuses(&bed, &["/delay/2000", "/delay/500", "/"]).await;
    assert_eq!(found, [504, 200, 200]);
}

fn bodies(limit: u64) -> TrafficPolicy {
    TrafficPolicy {
        body_limits: Some(BodyLimits {
            request: Some(limit),
        }),
        ..policy(gateway())
    }
}

/// A POST whose body comes in pieces of a length that nobody says.
async fn pieces(bed: &Bed, pieces: &'static [&'static str]) -> Response<Bytes> {
    let stream = TcpStream::connect(bed.address).await.unwrap();
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let frames = pieces
        .iter()
        .map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(*piece))));
    let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
    let request = Request::post("/").header("host", "a").body(body).unwrap();
    whole(send.send_request(request).await.unwrap()).await
}

#[tokio::test]
async fn bodies_that_are_too_large_are_refused() {
    let (bed, one) = bed(vec![rule("/", "one")], &[bodies(10)]).await;
    let post = |text: &'static str| {
        let request = Request::post("/").header("host", "a");
        request.body(Full::<Bytes>::from(text)).unwrap()
    };
    assert_eq!(bed.ask(post("0123456789")).await.status(), 200);
    assert_eq!(bed.ask(post("0123456789a")).await.status(), 413);
    assert_eq!(one.seen().len(), 1, "nothing of it was sent");
    assert_eq!(pieces(&bed, &["01234", "56789"]).await.body(), "0123456789");
    assert_eq!(pieces(&bed, &["01234", "56789", "a"]).await.status(), 413);
    let records = bed.records(4).await;
    let reasons: Vec<_> = records.iter().map(|record| record.reason).collect();
    let (ok, large) = (Reason::Ok, Reason::BodyTooLarge);
    assert_eq!(reasons, [ok, large, ok, large]);
}

fn compressing() -> TrafficPolicy {
    TrafficPolicy {
        compression: Some(Compression {
            codings: vec![ContentCoding::Gzip, ContentCoding::Brotli],
            content_types: vec!["text/*".into()],
            min_length: 100,
        }),
        headers: Some(HeaderEdits {
            request: HeaderChange::default(),
            response: HeaderChange {
                set: vec![HeaderValue {
                    name: "content-type".into(),
                    value: "text/plain".into(),
                }],
                ..HeaderChange::default()
            },
        }),
        ..policy(gateway())
    }
}

#[tokio::test]
async fn responses_are_compressed_for_who_takes_them_so() {
    let (bed, _one) = bed(vec![rule("/", "one")], &[compressing()]).await;
    let text = "what the backend says ".repeat(1000);
    let ask = |target: &str, body: &str, accepts: &str| {
        let request = Request::post(target)
            .header("host", "a")
            .header("accept-encoding", accepts);
        let request = request.body(Full::from(Bytes::from(body.to_owned())));
        bed.ask(request.unwrap())
    };
    let plain = ask("/", &text, "identity").await;
    assert_eq!(plain.body(), &text);
    assert_eq!(plain.headers()["vary"], "accept-encoding");
    assert!(!plain.headers().contains_key("content-encoding"));
    for target in ["/", "/stream"] {
        for coding in ["gzip", "br"] {
            let packed = ask(target, &text, coding).await;
            assert_eq!(packed.headers()["content-encoding"], coding);
            assert!(!packed.headers().contains_key("content-length"));
            assert!(packed.body().len() * 10 < text.len());
            let mut unpacked = String::new();
            match coding {
                "gzip" => {
                    flate2::read::GzDecoder::new(&**packed.body()).read_to_string(&mut unpacked)
                }
                _ => {
                    brotli::Decompressor::new(&**packed.body(), 4096).read_to_string(&mut unpacked)
                }
            }
            .unwrap();
            assert_eq!(unpacked, text, "{target} {coding}");
        }
    }
    let short = ask("/", "short", "gzip").await;
    assert_eq!(short.body(), "short");
}

#[tokio::test]
async fn trailers_come_after_what_is_compressed() {
    let (bed, _one) = bed(vec![rule("/", "one")], &[compressing()]).await;
    let mut client = bed.http2().await;
    let request = Request::get("http://a/trailers")
        .header("te", "trailers")
        .header("accept-encoding", "gzip");
    let request = request.body(Full::default()).unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    let packed = body.to_bytes();
    let mut unpacked = String::new();
    let mut decoder = flate2::read::GzDecoder::new(&*packed);
    decoder.read_to_string(&mut unpacked).unwrap();
    assert_eq!(unpacked, "body");
}
