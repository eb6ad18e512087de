//! Routes of consumers, and what the service's owner says.

use std::time::Duration;

use agent_model::access::{Access, AccessRule, Condition, Operation, PathMatch, PolicyTarget};
use agent_model::access::{Source, TextAttribute};
use agent_model::authentication::ClaimToHeader;
use agent_model::gateway::traffic::{
    BodyLimits, HeaderEdits, Limit, RateLimit, TrafficPolicy, TrafficTarget,
};
use agent_model::gateway::{
    BackendProtocol, Filter, Fraction, HeaderChange, HeaderValue, HttpRule, Mirror, PathChange,
    Rewrite, Route,
};
use agent_model::{Action, Reason, StringMatch};
use agent_xds::{Apply, Update};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::backend::Backend;
use super::bed::{endpoint, rule, service, target, to};
use super::issuer::Issuer;
use super::waypoint::{Site, attached, behind_waypoint, worker};
use crate::access::RequestPolicies;

fn exact(text: &str) -> Vec<StringMatch> {
    vec![StringMatch::Exact(text.to_owned())]
}

fn policy(name: &str, of: &str, action: Action, rule: AccessRule) -> Access {
    Access {
        name: name.into(),
        namespace: "ns".into(),
        targets: vec![PolicyTarget::Service(service(of).key())],
        action,
        rules: vec![rule],
        dry_run: false,
    }
}

/// DENY what is below `/admin` of a service.
fn deny_admin(of: &str) -> Access {
    let to = Operation {
        paths: vec![PathMatch::Text(StringMatch::Prefix("/admin".into()))],
        ..Operation::default()
    };
    let rule = AccessRule {
        to: vec![to],
        ..AccessRule::default()
    };
    policy("admin", of, Action::Deny, rule)
}

/// DENY whoever says that it is root.
fn deny_root() -> Access {
    let is_root = Condition::Text {
        attribute: TextAttribute::Header("x-user".into()),
        values: exact("root"),
        not_values: Vec::new(),
    };
    let rule = AccessRule {
        when: vec![is_root],
        ..AccessRule::default()
    };
    policy("root", "one", Action::Deny, rule)
}

fn set(fields: &[(&str, &str)]) -> Filter {
    let field = |(name, value): &(&str, &str)| HeaderValue {
        name: (*name).into(),
        value: (*value).into(),
    };
    Filter::RequestHeaders(HeaderChange {
        set: fields.iter().map(field).collect(),
        ..HeaderChange::default()
    })
}

fn rewrite(path: &str) -> Filter {
    Filter::Rewrite(Rewrite {
        hostname: None,
        path: Some(PathChange::Prefix(path.into())),
    })
}

fn changing(prefix: &str, filters: Vec<Filter>) -> HttpRule {
    HttpRule {
        filters,
        ..rule(prefix, "one")
    }
}

/// A route for clients of the namespace `shop`.
fn consumer(rules: Vec<HttpRule>) -> Route {
    attached("consumer", None, Some("shop"), rules)
}

fn guarded(site: &Site, routes: &[Route], policies: &RequestPolicies<'_>) {
    let faults = site
        .bed
        .apply_guarded(vec![site.listener()], routes, policies);
    assert_eq!(faults, []);
}

async fn status(site: &Site, namespace: &str, target: &str) -> u16 {
    site.get(namespace, target).await.status().as_u16()
}

#[tokio::test]
async fn what_a_consumer_makes_of_a_request_is_judged() {
    worker(async {
        let backend = Backend::start("one").await;
        let site = Site::start(endpoint("one-0", "one", backend.address));
        let (admin, root) = (deny_admin("one"), deny_root());
        let policies = RequestPolicies {
            access: vec![&admin, &root],
            ..RequestPolicies::default()
        };
        let mut routes = [consumer(vec![
            rule("/", "one"),
            changing("/public", vec![rewrite("/admin")]),
            changing("/fine", vec![rewrite("/other")]),
            changing("/header", vec![set(&[("x-user", "root")])]),
            changing("/share", Vec::new()),
            changing(
                "/forged",
                vec![set(&[("x-forwarded-client-cert", "URI=x")])],
            ),
        ])];
        let agent_model::gateway::Rules::Http(rules) = &mut routes[0].rules else {
            unreachable!();
        };
        rules[4].backends[0].filters = vec![rewrite("/admin")];
        guarded(&site, &routes, &policies);
        for (target, expected) in [
            ("/x", 200),
            ("/admin", 403),
            ("/public", 403),
            ("/public/x", 403),
            ("/share/x", 403),
            ("/header", 403),
            ("/fine/x", 200),
            ("/forged", 200),
        ] {
            assert_eq!(status(&site, "shop", target).await, expected, "{target}");
        }
        let records = site.bed.records(8).await;
        assert_eq!(records[2].reason, Reason::PolicyDenied);
        let seen = backend.seen();
        let targets: Vec<_> = seen.iter().map(|seen| &*seen.target).collect();
        assert_eq!(targets, ["/x", "/other/x", "/forged"]);
        assert!(!seen[2].headers.contains_key("x-forwarded-client-cert"));
        // Others have no route that changes anything.
        assert_eq!(status(&site, "other", "/public").await, 200);
        assert_eq!(backend.last().target, "/public");
    })
    .await;
}

/// Its token is the client's, whatever a route writes into headers.
#[tokio::test]
async fn a_consumer_says_nothing_in_the_name_of_tokens() {
    worker(async {
        let backend = Backend::start("one").await;
        let site = Site::start(endpoint("one-0", "one", backend.address));
        let issuer = Issuer::new("k");
        let mut tokens = issuer.policy(PolicyTarget::Service(service("one").key()));
        tokens.rules[0].output_claim_to_headers = vec![ClaimToHeader {
            header: "x-user".to_owned(),
            claim: vec!["sub".to_owned()],
        }];
        let with_token = AccessRule {
            from: vec![Source {
                request_principals: vec![StringMatch::Presence],
                ..Source::default()
            }],
            ..AccessRule::default()
        };
        let allow = policy("known", "one", Action::Allow, with_token);
        let policies = RequestPolicies {
            access: vec![&allow],
            authentications: vec![&tokens],
            ..RequestPolicies::default()
        };
        let forged = set(&[
            ("x-user", "root"),
            ("x_user", "root"),
            ("authorization", "Bearer forged"),
            ("x-plain", "set"),
        ]);
        let routes = [consumer(vec![changing("/", vec![forged])])];
        guarded(&site, &routes, &policies);
        let request = |token: Option<String>| {
            let mut request = Request::get("/x").header("host", "one");
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            request.body(Full::<Bytes>::default()).unwrap()
        };
        let anonymous = site.ask("shop", request(None)).await;
        assert_eq!(anonymous.status(), 401);
        let known = site.ask("shop", request(Some(issuer.token(60, ""))));
        assert_eq!(known.await.status(), 200);
        let seen = backend.last().headers;
        assert_eq!(seen["x-user"], "alice");
        assert_eq!(seen["x-plain"], "set");
        assert!(!seen.contains_key("x_user") && !seen.contains_key("authorization"));
    })
    .await;
}

/// Another service that policies name is not reached past them.
#[tokio::test]
async fn a_consumer_leads_nowhere_past_policies() {
    worker(async {
        let (one, two) = (Backend::start("one").await, Backend::start("two").await);
        let mut site = Site::start(endpoint("one-0", "one", one.address));
        let updates = vec![
            Update::Service(Box::new(behind_waypoint("two"))),
            Update::Workload(Box::new(endpoint("two-0", "two", two.address))),
        ];
        assert!(site.bed.writer.apply(updates).is_empty());
        let admin = deny_admin("two");
        let policies = RequestPolicies {
            access: vec![&admin],
            ..RequestPolicies::default()
        };
        let copied = Filter::Mirror(Mirror {
            backend: target("two", BackendProtocol::Http),
            fraction: Fraction {
                numerator: 1,
                denominator: 1,
            },
        });
        let led = HttpRule {
            backends: vec![to("two", 1)],
            ..rule("/", "one")
        };
        let routes = [consumer(vec![led, changing("/copied", vec![copied])])];
        guarded(&site, &routes, &policies);
        for (target, expected) in [("/x", 200), ("/admin", 403), ("/copied", 200)] {
            assert_eq!(status(&site, "shop", target).await, expected, "{target}");
        }
        assert_eq!([one.seen().len(), two.seen().len()], [1, 1]);
        // Where no policy names the other service, it gets its copies.
        guarded(&site, &routes, &RequestPolicies::default());
        assert_eq!(status(&site, "shop", "/copied").await, 200);
        assert_eq!(two.wait_for(2).await[1].target, "/copied");
    })
    .await;
}

#[tokio::test]
async fn traffic_policies_of_the_service_hold_for_its_consumers() {
    worker(async {
        let backend = Backend::start("one").await;
        let site = Site::start(endpoint("one-0", "one", backend.address));
        let routes = [consumer(vec![changing(
            "/",
            vec![set(&[("x-a", "route"), ("x-c", "route")])],
        )])];
        let policy = |target, requests, bytes, name: &str| TrafficPolicy {
            namespace: "ns".into(),
            name: name.into(),
            targets: vec![target],
            rate_limit: Some(RateLimit {
                local: Some(Limit {
                    requests,
                    per: Duration::from_secs(3600),
                    burst: requests,
                    by: Vec::new(),
                }),
                global: None,
            }),
            body_limits: Some(BodyLimits {
                request: Some(bytes),
            }),
            headers: Some(HeaderEdits {
                request: HeaderChange {
                    set: [("x-a", name), ("x-b", name), (&*format!("x-{name}"), "1")]
                        .map(|(field, value)| HeaderValue {
                            name: field.into(),
                            value: value.into(),
                        })
                        .into(),
                    ..HeaderChange::default()
                },
                response: HeaderChange::default(),
            }),
            ..TrafficPolicy::default()
        };
        let of_service = TrafficTarget::Service {
            service: service("one").key(),
            port: None,
        };
        let of_route = TrafficTarget::Route {
            route: routes[0].key.clone(),
            rule: None,
        };
        let post = |length: usize| {
            let request = Request::post("/").header("host", "one");
            request
                .body(Full::new(Bytes::from(vec![0; length])))
                .unwrap()
        };
        for (of_owner, of_consumer) in [((2, 4), (100, 1000)), ((100, 1000), (2, 4))] {
            let policies = [
                policy(of_service.clone(), of_owner.0, of_owner.1, "owner"),
                policy(of_route.clone(), of_consumer.0, of_consumer.1, "consumer"),
            ];
            let faults = site
                .bed
                .apply_treated_with(vec![site.listener()], &routes, &policies);
            assert_eq!(faults, []);
            let mut statuses = Vec::new();
            for length in [4, 5, 0] {
                statuses.push(site.ask("shop", post(length)).await.status().as_u16());
            }
            assert_eq!(statuses, [200, 413, 429], "{of_owner:?} {of_consumer:?}");
            let seen = backend.last().headers;
            for (name, value) in [
                ("x-a", "owner"),
                ("x-b", "owner"),
                ("x-c", "route"),
                ("x-owner", "1"),
                ("x-consumer", "1"),
            ] {
                assert_eq!(seen[name], value, "{name}");
            }
        }
    })
    .await;
}
