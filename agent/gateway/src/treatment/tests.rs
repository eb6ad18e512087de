//! Which requests are limited and broken, and what is compressed.

use std::io::Read as _;
use std::time::{Duration, Instant, SystemTime};

use agent_model::gateway::traffic::{
    BodyLimits, Compression as CompressionSpec, ContentCoding, FaultAbort, FaultDelay, HeaderEdits,
    Limit, LimitBy, RateLimit, TrafficPolicy,
};
use agent_model::gateway::{Fraction, GatewayKey, HeaderChange, HeaderValue as Field};
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName};
use http::{Method, StatusCode};
use proptest::prelude::*;

use super::*;

fn target() -> TrafficTarget {
    TrafficTarget::Gateway {
        gateway: GatewayKey::new("shop", "edge"),
        listener: None,
    }
}

fn policy() -> TrafficPolicy {
    TrafficPolicy {
        namespace: "shop".into(),
        name: "p".into(),
        targets: vec![target()],
        ..TrafficPolicy::default()
    }
}

fn limited(requests: u32, by: Vec<LimitBy>) -> TrafficPolicy {
    TrafficPolicy {
        rate_limit: Some(RateLimit {
            local: Some(Limit {
                requests,
                per: Duration::from_secs(60),
                burst: requests,
                by,
            }),
            global: None,
        }),
        ..policy()
    }
}

fn compiled(policy: TrafficPolicy, limits: &mut Limits) -> Treatment {
    let policies = Policies::new(&[Arc::new(policy)]);
    let mut fault = |unusable: Unusable| panic!("{unusable}");
    Treatment::compile(&policies, &[target()], limits, &mut fault)
}

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let fields = fields.iter().map(|(name, value)| {
        let name: HeaderName = name.parse().unwrap();
        (name, value.parse().unwrap())
    });
    fields.collect()
}

fn requester<'a>(ip: &str, headers: &'a HeaderMap) -> Requester<'a> {
    Requester {
        ip: ip.parse().unwrap(),
        identity: None,
        host: "shop.example",
        path: "/",
        method: "GET",
        headers,
    }
}

#[test]
fn a_limit_counts_by_what_it_says() {
    let by = vec![LimitBy::SourceIp, LimitBy::Header("x-user".into())];
    let treatment = compiled(limited(1, by), &mut Limits::new());
    let limit = treatment.local.unwrap();
    let now = Instant::now();
    let (ann, bob, none) = (
        headers(&[("x-user", "ann")]),
        headers(&[("x-user", "bob")]),
        HeaderMap::new(),
    );
    let passes = |ip, headers| limit.check(&requester(ip, headers), now).is_allowed;
    assert!(passes("10.0.0.1", &ann));
    assert!(!passes("10.0.0.1", &ann), "her token is gone");
    assert!(!passes("::ffff:10.0.0.1", &ann), "the same address");
    assert!(passes("10.0.0.1", &bob));
    assert!(passes("10.0.0.2", &ann));
    assert!(passes("10.0.0.1", &none));
    assert!(!passes("10.0.0.1", &none), "those without count together");
}

#[test]
fn a_key_is_short_whatever_a_client_sends() {
    let by = vec![LimitBy::Header("x-user".into())];
    let treatment = compiled(limited(1, by), &mut Limits::new());
    let limit = treatment.local.unwrap();
    let now = Instant::now();
    let (long, other) = ("a".repeat(60_000), "a".repeat(59_999) + "b");
    let passes = |user: &str| {
        let headers = headers(&[("x-user", user)]);
        limit
            .check(&requester("10.0.0.1", &headers), now)
            .is_allowed
    };
    assert!(passes(&long) && passes(&other), "each counts by itself");
    assert!(!passes(&long) && !passes(&other));
    let headers = headers(&[("x-user", &long)]);
    let by = [LimitBy::Header("x-user".into())];
    assert!(requester("10.0.0.1", &headers).key(&by).len() < 256);
}

#[test]
fn a_refused_client_is_told_when_to_come_back() {
    let treatment = compiled(limited(2, Vec::new()), &mut Limits::new());
    let limit = treatment.local.unwrap();
    let (now, none) = (Instant::now(), HeaderMap::new());
    let check = |now| limit.check(&requester("10.0.0.1", &none), now);
    assert!(check(now).is_allowed && check(now).is_allowed);
    let refused = check(now);
    assert!(!refused.is_allowed);
    let told = refused.headers();
    let text = |name: &str| told[name].to_str().unwrap();
    assert_eq!(text("retry-after"), "30");
    assert_eq!(text("ratelimit-limit"), "2");
    assert_eq!(text("ratelimit-remaining"), "0");
    assert_eq!(text("ratelimit-reset"), "60");
    assert_eq!(text("ratelimit-policy"), "2;w=60");
    assert!(
        check(now + refused.retry_after).is_allowed,
        "and then passes"
    );
}

#[test]
fn a_limit_goes_on_in_the_next_plan_when_it_is_the_same() {
    let (now, none) = (Instant::now(), HeaderMap::new());
    let passes = |treatment: &Treatment| {
        let limit = treatment.local.as_ref().unwrap();
        limit.check(&requester("10.0.0.1", &none), now).is_allowed
    };
    let mut before = Limits::new();
    assert!(passes(&compiled(limited(1, Vec::new()), &mut before)));
    for (requests, expected) in [(1, false), (3, true)] {
        let mut after = Limits::new();
        let treatment = compiled(limited(requests, Vec::new()), &mut after);
        for (key, limit) in &after {
            if let Some(earlier) = before.get(key) {
                limit.inherit(earlier);
            }
        }
        assert_eq!(passes(&treatment), expected, "{requests}");
    }
}

#[test]
fn rules_of_one_target_share_its_limit() {
    let policies = Policies::new(&[Arc::new(limited(1, Vec::new()))]);
    let mut limits = Limits::new();
    let mut of_rule = |_| {
        let mut fault = |unusable: Unusable| panic!("{unusable}");
        Treatment::compile(&policies, &[target()], &mut limits, &mut fault)
    };
    let (first, second) = (of_rule(1), of_rule(2));
    assert!(Arc::ptr_eq(&first.local.unwrap(), &second.local.unwrap()));
}

#[test]
fn keys_of_a_redis_are_the_same_everywhere_and_change_with_the_limit() {
    use agent_model::gateway::traffic::{GlobalLimit as Spec, Redis, WhenGone};
    let key = |requests| {
        let mut policy = limited(requests, Vec::new());
        let limit = policy.rate_limit.as_mut().unwrap();
        limit.global = Some(Spec {
            limit: limit.local.take().unwrap(),
            redis: Redis {
                address: "redis:6379".into(),
                tls: None,
                login: None,
                timeout: Duration::from_millis(50),
            },
            when_gone: WhenGone::Open,
        });
        let treatment = compiled(policy, &mut Limits::new());
        let none = HeaderMap::new();
        treatment.global.unwrap().key(&requester("10.0.0.1", &none))
    };
    assert_eq!(key(5), b"culvert:shop/p:shop/edge:5/60000/5:");
    assert_ne!(key(5), key(6));
}

#[test]
fn routes_own_limits_come_first() {
    let mut with = policy();
    let second = Some(Duration::from_secs(1));
    with.timeouts = Some(Timeouts {
        request: second,
        backend_request: second,
    });
    let treatment = compiled(with, &mut Limits::new());
    let own = Timeouts {
        request: Some(Duration::from_secs(9)),
        backend_request: None,
    };
    let found = treatment.timeouts(own);
    assert_eq!(found.request, own.request);
    assert_eq!(found.backend_request, second);
}

#[test]
fn what_cannot_be_changed_is_reported_and_the_rest_holds() {
    let mut with = policy();
    with.body_limits = Some(BodyLimits { request: Some(7) });
    with.headers = Some(HeaderEdits {
        request: HeaderChange {
            set: vec![Field {
                name: "content-length".into(),
                value: "1".into(),
            }],
            ..HeaderChange::default()
        },
        response: HeaderChange::default(),
    });
    let policies = Policies::new(&[Arc::new(with)]);
    let mut faults = Vec::new();
    let mut fault = |unusable: Unusable| faults.push(unusable.to_string());
    let found = Treatment::compile(&policies, &[target()], &mut Limits::new(), &mut fault);
    assert_eq!(faults, ["header \"content-length\" cannot be changed"]);
    assert_eq!(found.body_limit, Some(7));
    assert!(found.request.is_none());
}

#[test]
fn faults_come_as_often_as_they_should_until_they_end() {
    let half = Fraction {
        numerator: 1,
        denominator: 2,
    };
    let fault = Fault {
        delay: Some(FaultDelay {
            duration: Duration::from_millis(5),
            fraction: half,
        }),
        abort: Some(FaultAbort {
            status: 503,
            grpc_status: Some(8),
            fraction: Fraction::ALL,
        }),
        expires: Some(100),
    };
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let low = inject(&fault, at(99), || 0);
    assert_eq!(low.delay, Some(Duration::from_millis(5)));
    let aborted = low.abort.unwrap();
    assert_eq!(aborted.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(aborted.grpc_status, Some(8));
    assert_eq!(inject(&fault, at(99), || u64::MAX).delay, None);
    assert!(
        inject(&fault, at(99), || u64::MAX).abort.is_some(),
        "all of them"
    );
    assert_eq!(inject(&fault, at(100), || 0), Injected::default());
}

fn compression(codings: &[ContentCoding]) -> Compression {
    Compression::new(&CompressionSpec {
        codings: codings.into(),
        content_types: vec!["text/*".into(), "application/json".into()],
        min_length: 100,
    })
}

#[test]
fn the_client_says_how_it_takes_content() {
    let both = compression(&[ContentCoding::Gzip, ContentCoding::Brotli]);
    let cases = [
        ("", None),
        ("gzip", Some(Coding::Gzip)),
        ("GZIP", Some(Coding::Gzip)),
        ("br", Some(Coding::Brotli)),
        ("gzip, br", Some(Coding::Gzip)),
        ("br, gzip", Some(Coding::Gzip)),
        ("gzip;q=0.5, br", Some(Coding::Brotli)),
        ("gzip;q=0.5, br;q=0.6", Some(Coding::Brotli)),
        ("gzip;q=0", None),
        ("deflate, zstd", None),
        ("*", Some(Coding::Gzip)),
        ("gzip;q=0, *", Some(Coding::Brotli)),
        ("*;q=0", None),
        ("identity", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", Some(Coding::Gzip)),
        ("gzip;q=nonsense", Some(Coding::Gzip)),
        ("gzip;q=NaN", Some(Coding::Gzip)),
    ];
    for (accepts, expected) in cases {
        let found = both.accepted(&headers(&[("accept-encoding", accepts)]));
        assert_eq!(found, expected, "{accepts}");
    }
    assert_eq!(both.accepted(&HeaderMap::new()), None);
    let brotli = compression(&[ContentCoding::Brotli]);
    let found = brotli.accepted(&headers(&[("accept-encoding", "gzip, *;q=0.1")]));
    assert_eq!(found, Some(Coding::Brotli));
}

#[test]
fn only_what_gains_and_may_is_compressed() {
    let text = [("content-type", "text/html; charset=utf-8")];
    let takes = |more: &[(&str, &str)], status| {
        let fields = headers(&[&text[..], more].concat());
        compression(&[ContentCoding::Gzip]).takes(&Method::GET, status, &fields)
    };
    let ok = StatusCode::OK;
    assert!(takes(&[], ok), "of a length that nobody says");
    assert!(takes(&[("content-length", "100")], ok));
    assert!(!takes(&[("content-length", "99")], ok));
    assert!(!takes(&[("content-encoding", "br")], ok));
    assert!(!takes(&[("content-range", "bytes 0-1/2")], ok));
    assert!(!takes(&[("cache-control", "max-age=1, No-Transform")], ok));
    for status in [204, 206, 304, 101] {
        assert!(
            !takes(&[], StatusCode::from_u16(status).unwrap()),
            "{status}"
        );
    }
    let gzip = compression(&[ContentCoding::Gzip]);
    let of = |kind: &str, method| gzip.takes(&method, ok, &headers(&[("content-type", kind)]));
    assert!(!of("text/html", Method::HEAD));
    assert!(of("Application/JSON", Method::POST));
    for kind in ["application/jsonp", "image/png", "text", ""] {
        assert!(!of(kind, Method::GET), "{kind}");
    }
    assert!(!gzip.takes(&Method::GET, ok, &HeaderMap::new()));
}

#[test]
fn the_head_says_what_became_of_the_content() {
    let gzip = compression(&[ContentCoding::Gzip]);
    let mut head = headers(&[
        ("content-length", "1000"),
        ("etag", "\"v1\""),
        ("accept-ranges", "bytes"),
        ("vary", "Origin"),
    ]);
    gzip.mark(&mut head, Some(Coding::Gzip));
    assert_eq!(head["content-encoding"], "gzip");
    assert_eq!(head["etag"], "W/\"v1\"");
    assert!(!head.contains_key(CONTENT_LENGTH));
    assert!(!head.contains_key("accept-ranges"));
    let vary: Vec<_> = head.get_all("vary").iter().collect();
    assert_eq!(vary, ["Origin", "accept-encoding"]);

    let mut plain = headers(&[
        ("content-length", "1000"),
        ("etag", "W/\"v1\""),
        ("vary", "Accept-Encoding"),
    ]);
    let before = plain.clone();
    gzip.mark(&mut plain, None);
    assert_eq!(plain, before, "as it was, for caches too");
    gzip.mark(&mut plain, Some(Coding::Gzip));
    assert_eq!(plain["etag"], "W/\"v1\"");
}

fn unpacked(coding: Coding, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match coding {
        Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out),
        Coding::Brotli => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out),
    }
    .unwrap();
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_goes_in_comes_out(pieces in prop::collection::vec(prop::collection::vec(97_u8..101, 0..3000), 0..8)) {
        for coding in [Coding::Gzip, Coding::Brotli] {
            let mut coder = Coder::new(coding);
            let mut out = Vec::new();
            for piece in &pieces {
                out.extend(coder.push(piece));
            }
            out.extend(coder.finish());
            prop_assert_eq!(unpacked(coding, &out), pieces.concat());
        }
    }
}

#[test]
fn each_piece_can_be_read_when_it_is_sent() {
    for coding in [Coding::Gzip, Coding::Brotli] {
        let mut coder = Coder::new(coding);
        let sent = coder.push(b"data: first\n\n");
        let mut got = [0; 13];
        match coding {
            Coding::Gzip => flate2::read::GzDecoder::new(&*sent).read_exact(&mut got),
            Coding::Brotli => brotli::Decompressor::new(&*sent, 64).read_exact(&mut got),
        }
        .unwrap_or_else(|error| panic!("{coding:?}: {error}"));
        assert_eq!(&got, b"data: first\n\n");
    }
}

#[test]
fn a_long_text_gets_short() {
    let text = "the quick brown fox ".repeat(5000);
    for coding in [Coding::Gzip, Coding::Brotli] {
        let mut coder = Coder::new(coding);
        let mut length = coder.push(text.as_bytes()).len();
        length += coder.finish().len();
        assert!(length * 20 < text.len(), "{coding:?}: {length}");
    }
}
