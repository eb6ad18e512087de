//! What is sent is what is read, and what cannot be read is refused.

mod policies;
mod traffic;

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
