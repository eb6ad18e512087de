//! What policies may say, and the field that is named when they may not.

use std::time::Duration;

use agent_model::gateway::traffic::{Balancing, HashBy, LimitBy, WhenGone};
use agent_model::gateway::{Fraction, Persistence};
use serde_json::json;

use super::*;
use crate::source::Object;
use crate::source::decode::{Decoded, decode};

const GATEWAY: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: g}";
const LISTENER: &str =
    "{group: gateway.networking.k8s.io, kind: Gateway, name: g, sectionName: http}";
const ROUTE: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}";
const SERVICE: &str = "{group: '', kind: Service, name: web}";

fn read(target: &str, parts: &str) -> Result<TrafficPolicy, FieldError> {
    let text = format!("{{targetRefs: [{target}], {parts}}}");
    let spec: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    let object = json!({
        "apiVersion": "culvert.dev/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": spec,
        "status": {"ancestors": []},
    });
    match decode(object)? {
        Decoded::Object(Object::TrafficPolicy(object)) => translate(&object),
        other => panic!("{other:?}"),
    }
}

fn says(parts: &str) -> TrafficPolicy {
    read(SERVICE, parts).unwrap_or_else(|error| panic!("{parts}: {error:?}"))
}

#[test]
fn what_is_left_out_has_its_default() {
    let limit = says("rateLimit: {local: {requests: 10}}")
        .rate_limit
        .unwrap();
    let limit = limit.local.unwrap();
    assert_eq!((limit.requests, limit.burst), (10, 10));
    assert_eq!(limit.per, Duration::from_secs(1));
    assert_eq!(limit.by, []);
    let balancing = says("loadBalancing: {}").load_balancing;
    assert_eq!(balancing, Some(Balancing::PeakEwma));
    let outliers = says("outlierDetection: {}").outlier_detection.unwrap();
    assert_eq!(outliers.consecutive, Some(5));
    let check = says("healthCheck: {tcp: {}}").health_check.unwrap();
    assert_eq!((check.healthy, check.unhealthy), (1, 3));
    let retry = says("retry: {}").retry.unwrap();
    assert_eq!(retry.attempts, 1);
    let compression = says("compression: {}").compression.unwrap();
    assert_eq!(compression.min_length, 1024);
    assert_eq!(compression.codings.len(), 2);
}

#[test]
fn every_part_is_read() {
    let global = says(
        "rateLimit: {global: {requests: 5, per: 1m, burst: 2, by: [{property: header, name: X-User}, \
         {property: sourceIp}], redis: {address: 'redis:6379', timeout: 20ms}, whenUnavailable: \
         closed}}",
    );
    let global = global.rate_limit.unwrap().global.unwrap();
    assert_eq!(global.when_gone, WhenGone::Closed);
    assert_eq!(&*global.redis.address, "redis:6379");
    assert_eq!(global.redis.timeout, Duration::from_millis(20));
    assert_eq!(global.limit.burst, 2);
    let by = [LimitBy::Header("x-user".into()), LimitBy::SourceIp];
    assert_eq!(global.limit.by, by);

    for (more, path) in [("", "/"), (", path: /shop", "/shop")] {
        let hash = format!(
            "loadBalancing: {{algorithm: consistentHash, hashBy: {{cookie: {{name: s, ttl: 0s{more}}}}}}}"
        );
        let cookie = HashBy::Cookie {
            name: "s".into(),
            ttl: Some(Duration::ZERO),
            path: path.into(),
        };
        let said = says(&hash).load_balancing;
        assert_eq!(said, Some(Balancing::ConsistentHash(cookie)));
    }

    let retry = says("retry: {grpcCodes: [8, 14], attempts: 2}").retry;
    let retry = retry.unwrap();
    assert_eq!((retry.codes, retry.grpc_codes), (vec![], vec![8, 14]));

    let fault = says(
        "fault: {delay: {duration: 100ms, percent: 5}, abort: {status: 503, grpcStatus: 8, fraction: \
         {numerator: 1, denominator: 1000}}, expires: '2030-01-01T00:00:00Z'}",
    );
    let fault = fault.fault.unwrap();
    let part = |numerator, denominator| Fraction {
        numerator,
        denominator,
    };
    assert_eq!(fault.delay.unwrap().fraction, part(5, 100));
    let abort = fault.abort.unwrap();
    assert_eq!(
        (abort.grpc_status, abort.fraction),
        (Some(8), part(1, 1000))
    );
    assert_eq!(fault.expires, Some(1_893_456_000));

    let session = says(
        "sessionPersistence: {type: Cookie, absoluteTimeout: 1h, cookieConfig: {lifetimeType: \
         Permanent}}",
    );
    let kind = session.session_persistence.unwrap().kind;
    assert_eq!(kind, Persistence::Cookie { permanent: true });

    let limits = says("bodyLimits: {request: 2Mi}").body_limits.unwrap();
    assert_eq!(limits.request, Some(2 * 1024 * 1024));
    let off = says("timeouts: {request: 0s, backendRequest: 1s}")
        .timeouts
        .unwrap();
    assert_eq!(off.request, None, "zero turns it off");
    let edits = says("headers: {response: {remove: [Server]}}")
        .headers
        .unwrap();
    assert_eq!(edits.response.remove, ["server".into()]);
}

#[test]
fn what_makes_no_sense_is_refused_by_its_field() {
    let cases = [
        ("wishes: {}", "spec.wishes"),
        (
            "rateLimit: {local: {requests: 1, burts: 2}}",
            "spec.rateLimit.local.burts",
        ),
        ("rateLimit: {}", "spec.rateLimit"),
        ("rateLimit: {local: {}}", "spec.rateLimit.local.requests"),
        (
            "rateLimit: {local: {requests: 1, per: 0s}}",
            "spec.rateLimit.local.per",
        ),
        (
            "rateLimit: {local: {requests: 1, per: 1.5s}}",
            "spec.rateLimit.local.per",
        ),
        (
            "rateLimit: {local: {requests: 1, burst: 0}}",
            "spec.rateLimit.local.burst",
        ),
        (
            "rateLimit: {local: {requests: 1, by: [{property: host, name: x}]}}",
            "spec.rateLimit.local.by[0].name",
        ),
        (
            "rateLimit: {local: {requests: 1, by: [{property: header}]}}",
            "spec.rateLimit.local.by[0].name",
        ),
        (
            "rateLimit: {global: {requests: 1, redis: {address: redis}}}",
            "spec.rateLimit.global.redis.address",
        ),
        (
            "rateLimit: {global: {requests: 1, redis: {address: 'r:1', tls: {hostname: '*.r'}}}}",
            "spec.rateLimit.global.redis.tls.hostname",
        ),
        (
            "rateLimit: {global: {requests: 1, redis: {address: 'r_s:1', tls: {}}}}",
            "spec.rateLimit.global.redis.tls.hostname",
        ),
        (
            "rateLimit: {global: {requests: 1, redis: {address: 'r:1', tls: {caCertificateRefs: \
             [{}]}}}}",
            "spec.rateLimit.global.redis.tls.caCertificateRefs",
        ),
        (
            "rateLimit: {global: {requests: 1, redis: {address: 'r:1', timeout: 11s}}}",
            "spec.rateLimit.global.redis.timeout",
        ),
        (
            "loadBalancing: {algorithm: fastest}",
            "spec.loadBalancing.algorithm",
        ),
        (
            "loadBalancing: {algorithm: consistentHash}",
            "spec.loadBalancing.hashBy",
        ),
        (
            "loadBalancing: {hashBy: {sourceIp: true}}",
            "spec.loadBalancing.hashBy",
        ),
        (
            "loadBalancing: {algorithm: consistentHash, hashBy: {sourceIp: true, header: x}}",
            "spec.loadBalancing.hashBy",
        ),
        (
            "loadBalancing: {algorithm: consistentHash, hashBy: {cookie: {name: s, path: shop}}}",
            "spec.loadBalancing.hashBy.cookie.path",
        ),
        (
            "loadBalancing: {algorithm: consistentHash, hashBy: {cookie: {name: s, path: '/;a'}}}",
            "spec.loadBalancing.hashBy.cookie.path",
        ),
        ("retry: {codes: [200]}", "spec.retry.codes[0]"),
        ("retry: {grpcCodes: [14, 0]}", "spec.retry.grpcCodes[1]"),
        ("retry: {grpcCodes: [17]}", "spec.retry.grpcCodes[0]"),
        ("retry: {attempts: 101}", "spec.retry.attempts"),
        (
            "retry: {budget: {percent: 101}}",
            "spec.retry.budget.percent",
        ),
        (
            "timeouts: {request: 1s, backendRequest: 2s}",
            "spec.timeouts.backendRequest",
        ),
        ("timeouts: {}", "spec.timeouts"),
        ("circuitBreaker: {}", "spec.circuitBreaker"),
        (
            "circuitBreaker: {connections: 0}",
            "spec.circuitBreaker.connections",
        ),
        (
            "outlierDetection: {consecutiveErrors: 0}",
            "spec.outlierDetection",
        ),
        (
            "outlierDetection: {ejection: 1h, maxEjection: 1m}",
            "spec.outlierDetection.maxEjection",
        ),
        ("healthCheck: {}", "spec.healthCheck"),
        ("healthCheck: {tcp: {}, grpc: {}}", "spec.healthCheck"),
        (
            "healthCheck: {tcp: {}, interval: 1s, timeout: 2s}",
            "spec.healthCheck.timeout",
        ),
        (
            "healthCheck: {http: {path: nowhere}}",
            "spec.healthCheck.http.path",
        ),
        (
            "healthCheck: {http: {statuses: {from: 300, to: 200}}}",
            "spec.healthCheck.http.statuses.to",
        ),
        ("fault: {}", "spec.fault"),
        ("fault: {abort: {status: 100}}", "spec.fault.abort.status"),
        (
            "fault: {abort: {status: 500, grpcStatus: 0}}",
            "spec.fault.abort.grpcStatus",
        ),
        (
            "fault: {abort: {status: 500, percent: 101}}",
            "spec.fault.abort.percent",
        ),
        (
            "fault: {delay: {duration: 1s, percent: 1, fraction: {numerator: 1}}}",
            "spec.fault.delay",
        ),
        (
            "fault: {delay: {duration: 2h}}",
            "spec.fault.delay.duration",
        ),
        (
            "fault: {abort: {status: 500}, expires: soon}",
            "spec.fault.expires",
        ),
        (
            "sessionPersistence: {sessionName: 'a b'}",
            "spec.sessionPersistence.sessionName",
        ),
        (
            "sessionPersistence: {type: Header, cookieConfig: {}}",
            "spec.sessionPersistence.cookieConfig",
        ),
        (
            "sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}",
            "spec.sessionPersistence.absoluteTimeout",
        ),
        ("compression: {codings: []}", "spec.compression.codings"),
        (
            "compression: {contentTypes: ['*/*']}",
            "spec.compression.contentTypes[0]",
        ),
        ("compression: {minLength: 1K}", "spec.compression.minLength"),
        ("headers: {}", "spec.headers"),
        (
            "headers: {request: {set: [{name: Host, value: x}]}}",
            "spec.headers.request.set[0].name",
        ),
        (
            "headers: {request: {add: [{name: x, value: ü}]}}",
            "spec.headers.request.add[0].value",
        ),
        (
            "headers: {response: {remove: ['a b']}}",
            "spec.headers.response.remove[0]",
        ),
        ("bodyLimits: {}", "spec.bodyLimits.request"),
        ("bodyLimits: {request: -1}", "spec.bodyLimits.request"),
        (
            "bodyLimits: {request: '99999999999Gi'}",
            "spec.bodyLimits.request",
        ),
        ("locality: near", "spec.locality"),
    ];
    for (parts, field) in cases {
        let error = read(SERVICE, parts).expect_err(parts);
        assert_eq!(error.path, field, "{parts}: {}", error.message);
    }
}

#[test]
fn targets_are_checked() {
    let part = "bodyLimits: {request: '1'}";
    for target in [SERVICE, GATEWAY, LISTENER, ROUTE] {
        assert!(read(target, part).is_ok(), "{target}");
    }
    let cases = [
        ("{kind: Pod, name: p}", "spec.targetRefs[0].kind"),
        (
            "{group: apps, kind: Service, name: p}",
            "spec.targetRefs[0].kind",
        ),
        ("{kind: Gateway, name: p}", "spec.targetRefs[0].kind"),
        ("{kind: Service}", "spec.targetRefs[0].name"),
        (
            "{kind: Service, name: a, namespace: b}",
            "spec.targetRefs[0].namespace",
        ),
    ];
    for (target, field) in cases {
        assert_eq!(read(target, part).expect_err(target).path, field);
    }
    let twice = format!("{SERVICE}, {SERVICE}");
    assert_eq!(read(&twice, part).unwrap_err().path, "spec.targetRefs[1]");
    assert_eq!(read("", part).unwrap_err().path, "spec.targetRefs");
    assert_eq!(read(SERVICE, "").unwrap_err().path, "spec");
}

#[test]
fn what_all_requests_to_a_service_share_is_for_services_and_gateways() {
    let shared = [
        ("loadBalancing", "{}"),
        ("locality", "strict"),
        ("circuitBreaker", "{requests: 1}"),
        ("outlierDetection", "{}"),
        ("healthCheck", "{tcp: {}}"),
    ];
    for (part, value) in shared {
        let parts = format!("{part}: {value}");
        for target in [SERVICE, GATEWAY] {
            assert!(read(target, &parts).is_ok(), "{target} {parts}");
        }
        for target in [LISTENER, ROUTE] {
            let error = read(target, &parts).expect_err(&parts);
            assert_eq!(error.path, format!("spec.{part}"));
        }
    }
}
