//! What is sent is what is read, and what cannot be read is refused.

use std::time::Duration;

use agent_model::NamespacedHostname;
use agent_model::gateway::*;
use prost::Message;
use proto::gateway as wire;

use super::*;
use crate::ResourceType;

fn key() -> GatewayKey {
    GatewayKey::new("shop", "edge")
}

fn certificate() -> Certificate {
    Certificate {
        chain: "chain".into(),
        key: SecretKey::new("key".to_owned()),
    }
}

fn listener(name: &str, protocol: Protocol, tls: Option<ListenerTls>) -> Listener {
    Listener {
        name: name.into(),
        port: 443,
        protocol,
        hostname: Some("*.shop.example".parse().unwrap()),
        tls,
    }
}

fn gateway() -> Gateway {
    let terminate = ListenerTls::Terminate {
        certificates: vec![certificate()],
        client_validation: Some(ClientValidation {
            roots: "roots".into(),
            mode: ClientValidationMode::AllowInsecureFallback,
        }),
    };
    Gateway {
        key: key(),
        kind: GatewayKind::Edge,
        listeners: vec![
            Listener {
                hostname: None,
                ..listener("plain", Protocol::Http, None)
            },
            listener("secure", Protocol::Https, Some(terminate)),
            listener("through", Protocol::Tls, Some(ListenerTls::Passthrough)),
            listener("names", Protocol::Udp, None),
            listener("mesh", Protocol::Hbone, None),
            listener("bytes", Protocol::Tcp, None),
        ],
        backend_client_certificate: Some(certificate()),
    }
}

fn service() -> NamespacedHostname {
    NamespacedHostname::new("shop", "web.shop.svc.cluster.local")
}

fn target(protocol: BackendProtocol) -> Target {
    Target::Service {
        service: service(),
        port: 80,
        protocol,
    }
}

fn named(name: &str, value: ValueMatch) -> NamedMatch {
    NamedMatch {
        name: name.into(),
        value,
    }
}

fn header(name: &str, value: &str) -> HeaderValue {
    HeaderValue {
        name: name.into(),
        value: value.into(),
    }
}

fn filters() -> Vec<Filter> {
    let change = HeaderChange {
        set: vec![header("a", "1")],
        add: vec![header("b", "")],
        remove: vec!["c".into()],
    };
    let redirect = Redirect {
        scheme: Some(Scheme::Https),
        hostname: Some("other.example".into()),
        path: Some(PathChange::Prefix("/new".into())),
        port: Some(8443),
        status: 308,
    };
    let unchanged = Redirect {
        scheme: None,
        hostname: None,
        path: None,
        port: None,
        status: 302,
    };
    let origins = ["*", "https://a.example:8443", "http://*.b.example"];
    vec![
        Filter::RequestHeaders(change.clone()),
        Filter::ResponseHeaders(change),
        Filter::Redirect(redirect),
        Filter::Redirect(unchanged),
        Filter::Rewrite(Rewrite {
            hostname: Some("inside".into()),
            path: Some(PathChange::Full("/".into())),
        }),
        Filter::Mirror(Mirror {
            backend: target(BackendProtocol::Http),
            fraction: Fraction {
                numerator: 1,
                denominator: 3,
            },
        }),
        Filter::Cors(Cors {
            allow_origins: origins.map(|text| OriginMatch::parse(text).unwrap()).into(),
            allow_credentials: true,
            allow_methods: vec!["GET".into()],
            allow_headers: vec!["*".into()],
            expose_headers: vec!["x-a".into()],
            max_age: Some(Duration::ZERO),
        }),
        Filter::Invalid("no such filter".into()),
    ]
}

fn http_rule() -> HttpRule {
    HttpRule {
        name: Some("first".into()),
        matches: vec![
            HttpMatch::default(),
            HttpMatch {
                path: PathMatch::Exact("/a".into()),
                method: Some("GET".into()),
                headers: vec![named("h", ValueMatch::Exact("".into()))],
                query: vec![named("q", ValueMatch::Regex("x+".into()))],
            },
            HttpMatch {
                path: PathMatch::Regex("/.*".into()),
                ..HttpMatch::default()
            },
        ],
        filters: filters(),
        timeouts: Timeouts {
            request: Some(Duration::from_secs(1)),
            backend_request: None,
        },
        retry: Some(Retry {
            codes: vec![500, 503],
            attempts: 3,
            backoff: Some(Duration::from_millis(25)),
        }),
        session_persistence: Some(SessionPersistence {
            name: "session".into(),
            kind: Persistence::Cookie { permanent: true },
            absolute_timeout: Some(Duration::from_secs(60)),
            idle_timeout: None,
        }),
        backends: vec![
            BackendRef {
                weight: 9,
                target: target(BackendProtocol::H2c),
                filters: filters(),
            },
            BackendRef {
                weight: 0,
                target: Target::Invalid("no such service".into()),
                filters: Vec::new(),
            },
        ],
    }
}

fn route(kind: RouteKind, rules: Rules) -> Route {
    Route {
        key: RouteKey::new(kind, "shop", "web"),
        created: 1_700_000_000,
        hostnames: vec!["web.shop.example".parse().unwrap()],
        parents: vec![
            Parent::Listener {
                gateway: key(),
                name: "secure".into(),
            },
            Parent::Service {
                service: service(),
                port: Some(80),
                consumer_namespace: Some("till".into()),
            },
            Parent::Service {
                service: service(),
                port: None,
                consumer_namespace: None,
            },
        ],
        rules,
    }
}

#[test]
fn gateways_arrive_as_they_were_sent() {
    let traffic = [
        WaypointFor::Service,
        WaypointFor::Workload,
        WaypointFor::All,
        WaypointFor::None,
    ];
    let kinds = traffic.map(GatewayKind::Waypoint);
    for kind in [GatewayKind::Edge].into_iter().chain(kinds) {
        let gateway = Gateway { kind, ..gateway() };
        let sent = encode_gateway(&gateway);
        assert_eq!(sent.type_url, ResourceType::Gateway.url());
        assert_eq!(decode_gateway(&sent.value).unwrap(), gateway);
    }
}

#[test]
fn routes_arrive_as_they_were_sent() {
    let l4 = L4Rule {
        name: None,
        backends: vec![WeightedTarget {
            weight: 1,
            target: target(BackendProtocol::Http),
        }],
    };
    for kind in [RouteKind::Http, RouteKind::Grpc] {
        let route = route(kind, Rules::Http(vec![http_rule(), HttpRule::default()]));
        let sent = encode_route(&key(), &route);
        assert_eq!(decode_route(&sent.value).unwrap(), (key(), route));
    }
    for kind in [RouteKind::Tls, RouteKind::Tcp, RouteKind::Udp] {
        let route = route(kind, Rules::L4(vec![l4.clone()]));
        let sent = encode_route(&key(), &route);
        assert_eq!(decode_route(&sent.value).unwrap(), (key(), route));
    }
}

#[test]
fn a_gateway_is_not_told_of_listeners_of_others() {
    let route = route(RouteKind::Http, Rules::Http(Vec::new()));
    let sent = encode_route(&GatewayKey::new("shop", "inner"), &route);
    let (_, told) = decode_route(&sent.value).unwrap();
    assert_eq!(told.parents, route.parents[1..]);
}

#[test]
fn backends_arrive_as_they_were_sent() {
    let verified = |roots| {
        BackendTls::Verified(VerifiedTls {
            hostname: "web".into(),
            roots,
            subject_alt_names: vec![
                SubjectAltName::Hostname("web".into()),
                SubjectAltName::Uri("spiffe://a/b".into()),
            ],
        })
    };
    let each = [
        None,
        Some(BackendTls::Invalid("no such ConfigMap".into())),
        Some(verified(TrustedRoots::System)),
        Some(verified(TrustedRoots::Certificates("roots".into()))),
    ];
    for (port, tls) in [None, Some(443)]
        .into_iter()
        .zip(each.chunks(2))
        .flat_map(|(port, each)| each.iter().map(move |tls| (port, tls.clone())))
    {
        let backend = Backend {
            service: service(),
            port,
            tls,
        };
        let sent = encode_backend(&key(), &backend);
        assert_eq!(decode_backend(&sent.value).unwrap(), (key(), backend));
    }
}

#[test]
fn names_tell_gateways_ports_and_kinds_apart() {
    let route = route(RouteKind::Grpc, Rules::Http(Vec::new()));
    assert_eq!(
        route_name(&key(), &route.key),
        "shop/edge|GRPCRoute/shop/web"
    );
    let backend = |port| Backend {
        service: service(),
        port,
        tls: None,
    };
    assert_eq!(
        backend_name(&key(), &backend(None)),
        "shop/edge|shop/web.shop.svc.cluster.local"
    );
    assert_eq!(
        backend_name(&key(), &backend(Some(8443))),
        "shop/edge|shop/web.shop.svc.cluster.local:8443"
    );
}

/// A damage to the message of [`gateway`], and the words of the error.
type OfGateway = (fn(&mut wire::Gateway), &'static str);

#[test]
fn what_a_gateway_cannot_be_is_refused_with_the_field() {
    let cases: [OfGateway; 9] = [
        (|it| it.name.clear(), "name is missing"),
        (|it| it.kind = 0, "unknown enum: kind 0"),
        (|it| it.kind = 99, "unknown enum: kind 99"),
        (|it| it.kind = 2, "unknown enum: waypoint_for 0"),
        (|it| it.listeners[0].port = 0, "0 is not a port"),
        (|it| it.listeners[0].port = 65_536, "65536 is not a port"),
        (|it| it.listeners[1].tls = None, "listener tls is missing"),
        (
            |it| it.listeners[1].hostname = "a..b".to_owned(),
            "listener hostname is invalid",
        ),
        (
            |it| it.listeners[1].name = "plain".to_owned(),
            "two are named \"plain\"",
        ),
    ];
    for (damage, expected) in cases {
        let sent = encode_gateway(&gateway());
        let mut message = wire::Gateway::decode(&*sent.value).unwrap();
        damage(&mut message);
        let error = decode_gateway(&message.encode_to_vec()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn errors_show_no_key() {
    let mut message = wire::Gateway::decode(&*encode_gateway(&gateway()).value).unwrap();
    let certificate = message.backend_client_certificate.as_mut().unwrap();
    certificate.key = "hush".repeat(MAX_PEM);
    let error = decode_gateway(&message.encode_to_vec()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("certificate key is too large")
    );
    assert!(!error.to_string().contains("hush"));
}

/// A damage to the message of a route, and the words of the error.
type OfRoute = (fn(&mut wire::Route), &'static str);

#[test]
fn what_a_route_cannot_be_is_refused_with_the_field() {
    let cases: [OfRoute; 9] = [
        (|it| it.gateway = "edge".to_owned(), "gateway is invalid"),
        (|it| it.kind = 3, "rules of another kind in a TLSRoute"),
        (|it| it.parents[0].parent = None, "parent is missing"),
        (
            |it| it.hostnames.push("-".to_owned()),
            "hostnames is invalid",
        ),
        (
            |it| it.http_rules[0].filters[0].filter = None,
            "filter is missing",
        ),
        (
            |it| it.http_rules[0].matches[0].path = None,
            "path is missing",
        ),
        (
            |it| it.http_rules[0].backends[0].target = None,
            "target is missing",
        ),
        (
            |it| it.http_rules[0].retry.as_mut().unwrap().attempts = 101,
            "retry attempts is too large",
        ),
        (
            |it| it.http_rules[0].retry.as_mut().unwrap().codes.push(7),
            "7 is not a status code",
        ),
    ];
    let route = route(RouteKind::Http, Rules::Http(vec![http_rule()]));
    for (damage, expected) in cases {
        let sent = encode_route(&key(), &route);
        let mut message = wire::Route::decode(&*sent.value).unwrap();
        damage(&mut message);
        let error = decode_route(&message.encode_to_vec()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

mod policies {
    //! Who may send requests, and which tokens count.

    use agent_model::access::{
        Access, AccessRule, AddressAttribute, Condition, Operation, PathMatch as PathTest,
        PolicyTarget, Source, TextAttribute,
    };
    use agent_model::authentication::{
        Authentication, ClaimToHeader, JwtRule, KeySource, TokenHeader,
    };
    use agent_model::{Action, ServiceAccountMatch, StringMatch};

    use super::*;

    fn strings() -> Vec<StringMatch> {
        vec![
            StringMatch::Exact("a".to_owned()),
            StringMatch::Prefix("b".to_owned()),
            StringMatch::Suffix(String::new()),
            StringMatch::Presence,
        ]
    }

    fn accounts() -> Vec<ServiceAccountMatch> {
        vec![ServiceAccountMatch {
            namespace: "shop".to_owned(),
            service_account: "web".to_owned(),
        }]
    }

    fn conditions() -> Vec<Condition> {
        let texts = [
            TextAttribute::Header("x-a".to_owned()),
            TextAttribute::SourceNamespace,
            TextAttribute::SourcePrincipal,
            TextAttribute::RequestPrincipal,
            TextAttribute::RequestAudiences,
            TextAttribute::RequestPresenter,
            TextAttribute::Claim(vec!["a".to_owned(), "b".to_owned()]),
            TextAttribute::Sni,
        ];
        let addresses = [
            AddressAttribute::Source,
            AddressAttribute::Remote,
            AddressAttribute::Destination,
        ];
        let texts = texts.map(|attribute| Condition::Text {
            attribute,
            values: strings(),
            not_values: Vec::new(),
        });
        let addresses = addresses.map(|attribute| Condition::Address {
            attribute,
            values: vec!["10.0.0.0/8".parse().unwrap()],
            not_values: vec!["fd00::1/128".parse().unwrap()],
        });
        let port = Condition::DestinationPort {
            values: vec![80],
            not_values: vec![443],
        };
        texts.into_iter().chain(addresses).chain([port]).collect()
    }

    fn access(action: Action) -> Access {
        let block = || vec!["192.0.2.0/24".parse().unwrap()];
        let source = Source {
            principals: strings(),
            not_principals: strings(),
            request_principals: strings(),
            not_request_principals: strings(),
            namespaces: strings(),
            not_namespaces: strings(),
            service_accounts: accounts(),
            not_service_accounts: accounts(),
            ip_blocks: block(),
            not_ip_blocks: block(),
            remote_ip_blocks: block(),
            not_remote_ip_blocks: block(),
        };
        let paths = || {
            let texts = strings().into_iter().map(PathTest::Text);
            texts
                .chain([PathTest::Template("/a/{*}".to_owned())])
                .collect::<Vec<_>>()
        };
        let operation = Operation {
            hosts: strings(),
            not_hosts: strings(),
            ports: vec![80],
            not_ports: vec![0],
            methods: strings(),
            not_methods: strings(),
            paths: paths(),
            not_paths: paths(),
        };
        Access {
            name: "p".into(),
            namespace: "shop".into(),
            targets: vec![
                PolicyTarget::Gateway("shop/edge".into()),
                PolicyTarget::Service(service()),
            ],
            action,
            rules: vec![
                AccessRule::default(),
                AccessRule {
                    from: vec![source, Source::default()],
                    to: vec![operation, Operation::default()],
                    when: conditions(),
                },
            ],
            dry_run: true,
        }
    }

    fn authentication(keys: KeySource) -> Authentication {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        Authentication {
            name: "p".into(),
            namespace: "shop".into(),
            targets: vec![PolicyTarget::Service(service())],
            rules: vec![JwtRule {
                issuer: "https://issuer".to_owned(),
                audiences: words(&["a", "b"]),
                keys,
                from_headers: vec![TokenHeader {
                    name: "x-token".to_owned(),
                    prefix: "Bearer ".to_owned(),
                }],
                from_params: words(&["token"]),
                from_cookies: words(&["session"]),
                output_payload_to_header: Some("x-payload".to_owned()),
                output_claim_to_headers: vec![ClaimToHeader {
                    header: "x-sub".to_owned(),
                    claim: words(&["sub"]),
                }],
                forward_original_token: true,
                space_delimited_claims: words(&["groups"]),
            }],
        }
    }

    #[test]
    fn policies_arrive_as_they_were_sent() {
        for action in [Action::Allow, Action::Deny] {
            let policy = access(action);
            let sent = encode_access(&key(), &policy);
            assert_eq!(decode_access(&sent.value).unwrap(), (key(), policy));
        }
        for keys in [
            KeySource::Inline("{\"keys\":[]}".into()),
            KeySource::Remote("https://issuer/keys".into()),
        ] {
            let policy = authentication(keys);
            let sent = encode_authentication(&key(), &policy);
            assert_eq!(decode_authentication(&sent.value).unwrap(), (key(), policy));
        }
        let named = access(Action::Deny).key();
        assert_eq!(policy_name(&key(), &named), "shop/edge|shop/p");
    }

    /// A damage to the message of a policy, and the words of the error.
    type Damage = (fn(&mut wire::Access), &'static str);

    #[test]
    fn what_is_not_known_never_widens_a_policy() {
        let cases: [Damage; 8] = [
            (|it| it.action = 0, "unknown enum: action 0"),
            (|it| it.action = 9, "unknown enum: action 9"),
            (|it| it.targets[0].target = None, "target is missing"),
            (
                |it| it.rules[1].from[0].principals[0].r#match = None,
                "match is missing",
            ),
            (
                |it| it.rules[1].from[0].not_ip_blocks[0] = "10.0.0.0/33".to_owned(),
                "no block of addresses",
            ),
            (
                |it| it.rules[1].to[0].paths[0].test = None,
                "path is missing",
            ),
            (
                |it| it.rules[1].when[0].condition = None,
                "condition is missing",
            ),
            (
                |it| it.rules[1].to[0].not_ports[0] = 70_000,
                "70000 is not a port",
            ),
        ];
        for (damage, expected) in cases {
            let sent = encode_access(&key(), &access(Action::Deny));
            let mut message = wire::Access::decode(&*sent.value).unwrap();
            damage(&mut message);
            let error = decode_access(&message.encode_to_vec()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}

mod traffic {
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
            [LocalityPreference::None, LocalityPreference::Failover].map(|preference| {
                TrafficPolicy {
                    locality: Some(preference),
                    ..silent()
                }
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
}
