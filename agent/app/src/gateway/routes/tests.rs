use std::time::Instant;

use agent_model::Reason;
use agent_model::gateway::{BackendProtocol, RouteKey, RouteKind};
use agent_telemetry::{Measured, Reporter, RequestLabels, Via};

use super::*;
use crate::admin::routes_text;

fn in_force() -> InForce {
    let rule = HttpRule {
        matches: vec![HttpMatch {
            path: PathMatch::Prefix("/shop".into()),
            method: Some("GET".into()),
            headers: vec![NamedMatch {
                name: "x-version".into(),
                value: ValueMatch::Exact("b".into()),
            }],
            query: Vec::new(),
        }],
        backends: vec![
            BackendRef {
                weight: 9,
                target: Target::Service {
                    service: NamespacedHostname::new("shop", "web.shop.svc.cluster.local"),
                    port: 80,
                    protocol: BackendProtocol::Http,
                },
                filters: Vec::new(),
            },
            BackendRef {
                weight: 1,
                target: Target::Invalid("there is no such service".into()),
                filters: Vec::new(),
            },
        ],
        ..HttpRule::default()
    };
    let key = RouteKey::new(RouteKind::Http, "shop", "web");
    let route = Route {
        key: key.clone(),
        created: 0,
        hostnames: Vec::new(),
        parents: vec![Parent::Listener {
            gateway: GatewayKey::new("shop", "edge"),
            name: "http".into(),
        }],
        rules: Rules::Http(vec![rule, HttpRule::default()]),
    };
    InForce {
        listeners: vec![Listener {
            name: "http".into(),
            port: 8000,
            protocol: Protocol::Http,
            hostname: None,
            tls: None,
        }],
        routes: [("r".to_owned(), Arc::new(route))].into(),
        faults: vec![Fault {
            subject: Subject::Rule(key, 1),
            what: "the regex is none".to_owned(),
        }],
        ..InForce::default()
    }
}

fn counted() -> Arc<Requests> {
    let now = Instant::now();
    let requests = Requests::new(now);
    let shard = requests.shard();
    for (code, count) in [(200, 98), (404, 1), (503, 1)] {
        let labels = RequestLabels {
            reporter: Reporter::Source,
            source: None,
            source_identity: None,
            destination: None,
            destination_identity: None,
            service: None,
            via: Via::Http,
            response_code: code,
            grpc_status: None,
            reason: Reason::Ok,
            mutual_tls: false,
        };
        let name = RouteName::of("HTTPRoute/shop/web", None, 0);
        let counter = shard.counter(labels, Some(name), now);
        for _ in 0..count {
            counter.count(Measured {
                duration: Duration::from_millis(2),
                received: 0,
                sent: 0,
            });
        }
    }
    requests
}

#[test]
fn rules_are_shown_with_what_they_match_and_how_they_fare() {
    let (_writer, mesh) = agent_state::channel();
    let (_keep, in_force) = watch::channel(in_force());
    let view = RoutesView {
        key: GatewayKey::new("shop", "edge"),
        network: String::new(),
        in_force,
        mesh,
        requests: counted(),
        talked: Box::new(Vec::new),
    };
    let shown = view.json();
    let rules = &shown["routes"][0]["rules"];
    assert_eq!(rules[0]["matches"], json!(["GET /shop/* x-version=b"]));
    assert_eq!(rules[0]["requests"], 100);
    assert_eq!(rules[0]["success"], 0.99);
    assert_eq!(rules[0]["serverErrors"], 1);
    assert_eq!(rules[0]["backends"][0]["weight"], 9);
    assert_eq!(rules[1]["problem"], "the regex is none");
    assert_eq!(rules[1]["success"], Value::Null);
    let web = &shown["backends"][0];
    assert_eq!(web["service"], "shop/web.shop.svc.cluster.local");
    assert_eq!(web["known"], false);
    assert_eq!(totals(&view.requests)["success"], 98);

    let text = routes_text(&shown);
    for part in [
        "shop/edge",
        "http      8000  HTTP",
        "HTTPRoute/shop/web",
        "GET /shop/* x-version=b",
        "9 shop/web.shop.svc.cluster.local:80",
        "99.00%",
        "there is no such service",
        "the regex is none",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn an_endpoint_that_is_out_says_why_and_for_how_long() {
    let address = "10.0.0.3:8080".parse().unwrap();
    let view = EndpointView {
        address,
        workload: "w".into(),
        usable: false,
        healthy: true,
        ejected: Some((
            Duration::from_millis(2500),
            agent_gateway::outlier::Cause::Consecutive,
        )),
        in_flight: 2,
        latency: None,
    };
    let shown = endpoint(address, "w", Some(&view));
    assert_eq!(shown["state"], "ejected");
    let text = routes_text(&json!({
        "backends": [{"service": "shop/web", "port": 80, "known": true, "endpoints": [shown]}],
    }));
    assert!(
        text.contains("ejected (") && text.contains("2.5 s left"),
        "{text}"
    );
    assert_eq!(endpoint(address, "w", None)["state"], "ready");
}
