//! Traffic policies.

use agent_model::gateway::traffic::*;

use super::*;

fn limit(by: Vec<LimitBy>) -> Limit {
    Limit {
        requests: 10,
        per: Duration::from_secs(60),
        burst: 5,
        by,
    }
}

fn global(login: Option<RedisLogin>, when_gone: WhenGone) -> GlobalLimit {
    GlobalLimit {
        limit: limit(vec![LimitBy::Host, LimitBy::Path, LimitBy::Method]),
        redis: Redis {
            address: "redis.shop:6379".into(),
            tls: login.is_some().then(|| {
                BackendTls::Verified(VerifiedTls {
                    hostname: "redis.shop".into(),
                    roots: TrustedRoots::System,
                    subject_alt_names: Vec::new(),
                })
            }),
            login,
            timeout: Duration::from_millis(50),
        },
        when_gone,
    }
}

const HALF: Fraction = Fraction {
    numerator: 1,
    denominator: 2,
};

fn targets() -> Vec<TrafficTarget> {
    let route = RouteKey::new(RouteKind::Grpc, "shop", "calls");
    vec![
        TrafficTarget::Service {
            service: service(),
            port: None,
        },
        TrafficTarget::Service {
            service: service(),
            port: Some(80),
        },
        TrafficTarget::Gateway {
            gateway: key(),
            listener: None,
        },
        TrafficTarget::Gateway {
            gateway: key(),
            listener: Some("plain".into()),
        },
        TrafficTarget::Route {
            route: route.clone(),
            rule: None,
        },
        TrafficTarget::Route {
            route,
            rule: Some("first".into()),
        },
    ]
}

/// Nothing but its name.
fn silent() -> TrafficPolicy {
    TrafficPolicy {
        namespace: "shop".into(),
        name: "p".into(),
        ..TrafficPolicy::default()
    }
}

fn full() -> TrafficPolicy {
    let header = LimitBy::Header("x-tenant".into());
    let login = RedisLogin {
        user: Some("gateway".into()),
        password: SecretKey::new("secret".to_owned()),
    };
    TrafficPolicy {
        created: 7,
        targets: targets(),
        load_balancing: Some(Balancing::ConsistentHash(HashBy::Cookie {
            name: "stay".into(),
            ttl: Some(Duration::ZERO),
            path: "/shop".into(),
        })),
        locality: Some(LocalityPreference::Strict),
        retry: Some(RetryPolicy {
            codes: vec![502, 503],
            grpc_codes: vec![8, 14],
            attempts: 3,
            backoff: Some(Duration::from_millis(10)),
            budget: Some(RetryBudget {
                percent: 30,
                least: 2,
            }),
        }),
        timeouts: Some(Timeouts {
            request: Some(Duration::from_secs(1)),
            backend_request: None,
        }),
        circuit_breaker: Some(CircuitBreaker {
            connections: Some(1),
            pending: Some(0),
            requests: None,
        }),
        outlier_detection: Some(OutlierDetection {
            success_rate: Some(SuccessRate::default()),
            ..OutlierDetection::default()
        }),
        health_check: Some(HealthCheck {
            probe: HealthProbe::Http {
                path: "/health?full".into(),
                host: Some("inside".into()),
                statuses: (200, 299),
            },
            port: Some(8081),
            interval: Duration::from_secs(5),
            timeout: Duration::from_millis(500),
            healthy: 1,
            unhealthy: 3,
        }),
        rate_limit: Some(RateLimit {
            local: Some(limit(vec![
                LimitBy::SourceIp,
                LimitBy::SourceIdentity,
                header,
            ])),
            global: Some(global(Some(login), WhenGone::Closed)),
        }),
        fault: Some(Fault {
            delay: Some(FaultDelay {
                duration: Duration::from_millis(20),
                fraction: HALF,
            }),
            abort: Some(FaultAbort {
                status: 503,
                grpc_status: Some(14),
                fraction: Fraction::ALL,
            }),
            expires: Some(1_800_000_000),
        }),
        session_persistence: Some(SessionPersistence {
            name: "session".into(),
            kind: Persistence::Cookie { permanent: true },
            absolute_timeout: Some(Duration::from_secs(60)),
            idle_timeout: None,
        }),
        compression: Some(Compression {
            codings: vec![ContentCoding::Brotli, ContentCoding::Gzip],
            content_types: vec!["text/*".into()],
            min_length: 1024,
        }),
        headers: Some(HeaderEdits {
            request: HeaderChange {
                set: vec![header_value("a", "1")],
                ..HeaderChange::default()
            },
            response: HeaderChange {
                remove: vec!["server".into()],
                ..HeaderChange::default()
            },
        }),
        body_limits: Some(BodyLimits { request: Some(0) }),
        ..silent()
    }
}

fn header_value(name: &str, value: &str) -> HeaderValue {
    header(name, value)
}

/// The same policy with other forms of the parts that have several.
fn variants() -> Vec<TrafficPolicy> {
    let balancings = [
        Balancing::RoundRobin,
        Balancing::LeastRequest,
        Balancing::PeakEwma,
        Balancing::Random,
        Balancing::ConsistentHash(HashBy::Header("x-user".into())),
        Balancing::ConsistentHash(HashBy::SourceIp),
        Balancing::ConsistentHash(HashBy::Cookie {
            name: "stay".into(),
            ttl: None,
            path: "/".into(),
        }),
    ];
    let probes = [
        HealthProbe::Grpc { service: None },
        HealthProbe::Grpc {
            service: Some("shop.Orders".into()),
        },
        HealthProbe::Tcp,
    ];
    let mut all = vec![silent(), full()];
    all.extend(balancings.map(|balancing| TrafficPolicy {
        load_balancing: Some(balancing),
        ..silent()
    }));
    all.extend(probes.map(|probe| {
        let mut policy = full();
        let check = policy.health_check.as_mut().unwrap();
        check.probe = probe;
        check.port = None;
        policy
    }));
    all.extend(
        [LocalityPreference::None, LocalityPreference::Failover].map(|preference| TrafficPolicy {
            locality: Some(preference),
            ..silent()
        }),
    );
    let mut open = full();
    open.rate_limit.as_mut().unwrap().global = Some(global(None, WhenGone::Open));
    open.outlier_detection.as_mut().unwrap().consecutive = None;
    open.body_limits = Some(BodyLimits { request: None });
    open.fault = Some(Fault::default());
    all.push(open);
    all
}

#[test]
fn traffic_policies_arrive_as_they_were_sent() {
    for policy in variants() {
        let sent = encode_traffic(&key(), &policy);
        assert_eq!(decode_traffic(&sent.value).unwrap(), (key(), policy));
    }
    assert_eq!(policy_name(&key(), &full().key()), "shop/edge|shop/p");
}

#[test]
fn passwords_are_not_shown() {
    assert!(!format!("{:?}", full()).contains("secret"));
}

/// A damage to the message of a policy, and the words of the error.
type Damage = (fn(&mut wire::TrafficPolicy), &'static str);

#[test]
fn what_is_not_known_refuses_the_policy() {
    fn global(it: &mut wire::TrafficPolicy) -> &mut wire::GlobalLimit {
        let limit = it.rate_limit.as_mut().unwrap();
        limit.global.as_mut().unwrap()
    }
    fn abort(it: &mut wire::TrafficPolicy) -> &mut wire::FaultAbort {
        it.fault.as_mut().unwrap().abort.as_mut().unwrap()
    }
    let cases: [Damage; 15] = [
        (
            |it| it.retry.as_mut().unwrap().grpc_codes.push(17),
            "17 is no code of a failure",
        ),
        (|it| it.targets[0].target = None, "target is missing"),
        (|it| it.locality = 9, "unknown enum: locality 9"),
        (
            |it| it.load_balancing = Some(wire::Balancing { algorithm: None }),
            "algorithm is missing",
        ),
        (
            |it| it.retry.as_mut().unwrap().attempts = 1000,
            "retry attempts",
        ),
        (
            |it| it.retry.as_mut().unwrap().codes[0] = 42,
            "42 is not a status code",
        ),
        (
            |it| it.outlier_detection.as_mut().unwrap().percent = 101,
            "101 percent",
        ),
        (
            |it| it.health_check.as_mut().unwrap().probe = None,
            "probe is missing",
        ),
        (
            |it| it.health_check.as_mut().unwrap().healthy = 0,
            "healthy",
        ),
        (
            |it| global(it).limit.as_mut().unwrap().per_ms = 0,
            "limit period",
        ),
        (
            |it| global(it).redis_address.clear(),
            "redis address is missing",
        ),
        (|it| global(it).redis_timeout_ms = 0, "redis timeout"),
        (|it| abort(it).denominator = 0, "1 of 0"),
        (
            |it| abort(it).grpc_status = Some(17),
            "17 is no status of an error",
        ),
        (
            |it| it.compression.as_mut().unwrap().codings[0] = 0,
            "unknown enum: coding 0",
        ),
    ];
    for (damage, expected) in cases {
        let sent = encode_traffic(&key(), &full());
        let mut message = wire::TrafficPolicy::decode(&*sent.value).unwrap();
        damage(&mut message);
        let error = decode_traffic(&message.encode_to_vec()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}
