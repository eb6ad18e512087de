use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::SystemTime;

use agent_model::access::{
    Access, AccessRule, Condition, Operation, PathMatch, PolicyTarget, Source, TextAttribute,
};
use agent_model::authentication::{Authentication, ClaimToHeader};
use agent_model::gateway::GatewayKey;
use agent_model::{Action, Identity, NamespacedHostname, PolicyKey, Reason, StringMatch};
use agent_policy::http::{Address, Peer, Request};
use agent_policy::jwt::Cache;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::*;
use crate::tests::issuer::Issuer;

fn gateway() -> PolicyTarget {
    PolicyTarget::Gateway("ns/edge".into())
}

fn service(name: &str) -> NamespacedHostname {
    NamespacedHostname::new("ns", name)
}

fn exact(text: &str) -> Vec<StringMatch> {
    vec![StringMatch::Exact(text.to_owned())]
}

fn policy(name: &str, target: PolicyTarget, action: Action, to: Operation) -> Access {
    Access {
        name: name.into(),
        namespace: "ns".into(),
        targets: vec![target],
        action,
        rules: vec![AccessRule {
            to: vec![to],
            ..AccessRule::default()
        }],
        dry_run: false,
    }
}

fn deny_path(name: &str, target: PolicyTarget, path: &str) -> Access {
    let paths = vec![PathMatch::Text(StringMatch::Exact(path.to_owned()))];
    let to = Operation {
        paths,
        ..Operation::default()
    };
    policy(name, target, Action::Deny, to)
}

fn compile(access: &[Access], tokens: &[Authentication]) -> Guards {
    let policies = RequestPolicies {
        access: access.iter().collect(),
        authentications: tokens.iter().collect(),
        unreadable: Vec::new(),
    };
    let (guards, wrong) = Guards::compile(&GatewayKey::new("ns", "edge"), &policies);
    assert_eq!(wrong, []);
    guards
}

/// A request from nobody.
fn request<'a>(path: &'a str, headers: &'a HeaderMap) -> Request<'a> {
    let ip = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let address = Address { ip, vouched: true };
    Request {
        source: None,
        source_address: address,
        remote_address: address,
        destination: SocketAddr::new(ip, 80),
        sni: None,
        method: "GET",
        host: "shop.example",
        port: None,
        path,
        headers,
        token: None,
    }
}

/// The same, judged.
fn judged(
    guard: &Guard,
    path: &str,
    headers: &HeaderMap,
    trials: &mut Vec<Trial>,
) -> Result<Admitted, Refused> {
    let request = request(path, headers);
    let (remote, mut cache) = (Remote::default(), Cache::default());
    let now = SystemTime::now();
    guard.judge(request, Some("a=1"), &remote, &mut cache, now, trials)
}

fn refusal(guard: &Guard, path: &str) -> Option<Reason> {
    let judged = judged(guard, path, &HeaderMap::new(), &mut Vec::new());
    judged.err().map(|refused| refused.refusal.reason)
}

fn bearer(token: &str) -> HeaderMap {
    let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
    [(AUTHORIZATION, value)].into_iter().collect()
}

#[test]
fn without_a_gateway_nothing_passes_anywhere() {
    let guards = Guards::closed();
    let one = service("one");
    let places = [guards.of_gateway(), guards.of_service(&one)];
    let places = places
        .into_iter()
        .flatten()
        .chain(guards.of_pod(std::slice::from_ref(&one)));
    let places: Vec<_> = places.collect();
    assert_eq!(places.len(), 3);
    for guard in places {
        assert_eq!(refusal(guard, "/"), Some(Reason::WaypointUnavailable));
        let refused = guard.refuses_bytes(&request("/", &HeaderMap::new()));
        assert_eq!(refused.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert!(Guards::default().refusal().is_none());
}

#[test]
fn policies_stand_where_they_are_attached() {
    let guards = compile(
        &[
            deny_path("all", gateway(), "/never"),
            deny_path("one", PolicyTarget::Service(service("one")), "/one"),
            deny_path("other", PolicyTarget::Gateway("ns/other".into()), "/"),
        ],
        &[],
    );
    let everywhere = guards.of_gateway().unwrap();
    let (one, two) = (service("one"), service("two"));
    let (one, two) = (
        guards.of_service(&one).unwrap(),
        guards.of_service(&two).unwrap(),
    );
    for (path, refused) in [("/never", [true; 3]), ("/one", [false, true, false])] {
        let found = [everywhere, one, two].map(|guard| refusal(guard, path).is_some());
        assert_eq!(found, refused, "{path}");
    }
    assert_eq!(
        refusal(one, "/"),
        None,
        "what is for another gateway is not ours"
    );
    assert!(compile(&[], &[]).of_gateway().is_none());
}

#[test]
fn a_policy_that_cannot_be_used_refuses_what_it_is_for_and_nothing_else() {
    let template = Operation {
        paths: vec![PathMatch::Template("/{x}".into())],
        ..Operation::default()
    };
    let target = PolicyTarget::Service(service("one"));
    let bad = policy("bad", target.clone(), Action::Deny, template.clone());
    let trial = Access {
        dry_run: true,
        ..policy("trial", target, Action::Deny, template)
    };
    let policies = RequestPolicies {
        access: vec![&bad],
        ..RequestPolicies::default()
    };
    let key = GatewayKey::new("ns", "edge");
    let (guards, wrong) = Guards::compile(&key, &policies);
    assert_eq!(wrong[0].0, PolicyKey::new("ns", "bad"));
    let guard = guards.of_service(&service("one")).unwrap();
    assert_eq!(refusal(guard, "/"), Some(Reason::PolicyUnknown));
    assert!(guards.of_service(&service("two")).is_none());

    let policies = RequestPolicies {
        access: vec![&trial],
        ..RequestPolicies::default()
    };
    let (guards, wrong) = Guards::compile(&key, &policies);
    assert_eq!(wrong.len(), 1);
    assert!(
        guards.of_service(&service("one")).is_none(),
        "a trial has no say"
    );

    let policies = RequestPolicies {
        unreadable: vec![PolicyKey::new("ns", "lost")],
        ..RequestPolicies::default()
    };
    let (guards, _) = Guards::compile(&key, &policies);
    let guard = guards.of_gateway().unwrap();
    assert_eq!(refusal(guard, "/"), Some(Reason::PolicyUnknown));
}

#[test]
fn connections_are_judged_by_what_they_have() {
    let source = |text: &str| Source {
        namespaces: exact(text),
        ..Source::default()
    };
    let from = |namespace: &str, to: Operation| AccessRule {
        from: vec![source(namespace)],
        to: vec![to],
        ..AccessRule::default()
    };
    let get = || Operation {
        methods: exact("GET"),
        ..Operation::default()
    };
    let port = || Operation {
        ports: vec![80],
        ..Operation::default()
    };
    let peer = Peer::new(Identity::new("cluster.local", "shop", "web").unwrap());
    let judged = |action, rules: Vec<AccessRule>| {
        let policy = Access {
            rules: rules.clone(),
            ..policy("p", gateway(), action, Operation::default())
        };
        let guards = compile(&[policy], &[]);
        let guard = guards.of_gateway().unwrap();
        let is_whole = rules.iter().all(|rule| rule.to[0].methods.is_empty());
        assert_eq!(guard.is_of_connections(), is_whole);
        let headers = HeaderMap::new();
        let request = Request {
            source: Some(&peer),
            ..request("/", &headers)
        };
        guard.refuses_bytes(&request).is_none()
    };
    assert!(judged(Action::Allow, vec![from("shop", port())]));
    assert!(
        !judged(Action::Allow, vec![from("shop", get())]),
        "left out"
    );
    assert!(
        !judged(Action::Deny, vec![from("shop", get())]),
        "the rest denies"
    );
    assert!(judged(Action::Deny, vec![from("other", get())]));
    let tokens = compile(&[], &[Issuer::new("k").policy(gateway())]);
    let headers = HeaderMap::new();
    let bytes = request("/", &headers);
    assert!(tokens.of_gateway().unwrap().refuses_bytes(&bytes).is_some());
}

#[test]
fn trials_are_told_and_never_enforced() {
    let trial = |name, action, path: &str| Access {
        action,
        dry_run: true,
        ..deny_path(name, gateway(), path)
    };
    let guards = compile(
        &[
            trial("deny", Action::Deny, "/a"),
            trial("allow", Action::Allow, "/a"),
            deny_path("in-force", gateway(), "/b"),
        ],
        &[],
    );
    let guard = guards.of_gateway().unwrap();
    for (path, passes, would_refuse) in [
        ("/a", true, ["deny"]),
        // What is refused anyway is told of, too.
        ("/b", false, ["allow"]),
    ] {
        let mut trials = Vec::new();
        let judged = judged(guard, path, &HeaderMap::new(), &mut trials);
        assert_eq!(judged.is_ok(), passes);
        let refusing = trials.iter().filter(|trial| trial.would_refuse());
        let refusing: Vec<_> = refusing.map(|trial| trial.policy.clone()).collect();
        assert_eq!(
            refusing,
            would_refuse.map(|name| PolicyKey::new("ns", name))
        );
        assert_eq!(trials.len(), 2);
    }
}

#[test]
fn tokens_are_judged_taken_out_and_told() {
    let issuer = Issuer::new("k");
    let mut tokens = issuer.policy(gateway());
    tokens.rules[0].output_claim_to_headers = vec![ClaimToHeader {
        header: "x-user".into(),
        claim: vec!["sub".into()],
    }];
    let only_alice = Access {
        rules: vec![AccessRule {
            from: vec![Source {
                request_principals: exact("https://issuer.test/alice"),
                ..Source::default()
            }],
            when: vec![Condition::Text {
                attribute: TextAttribute::Header("x-user".into()),
                values: exact("alice"),
                not_values: Vec::new(),
            }],
            ..AccessRule::default()
        }],
        ..policy("alice", gateway(), Action::Allow, Operation::default())
    };
    let guards = compile(&[only_alice], &[tokens]);
    let guard = guards.of_gateway().unwrap();
    let ask = |headers: &HeaderMap| judged(guard, "/", headers, &mut Vec::new());

    let admitted = ask(&bearer(&issuer.token(60, ""))).unwrap();
    let headers = admitted.headers.unwrap();
    assert_eq!(headers.get("x-user").unwrap(), "alice");
    assert!(!headers.contains_key(AUTHORIZATION), "it is not forwarded");

    let refused = |headers: &HeaderMap| {
        let Refused { refusal, missing } = ask(headers).unwrap_err();
        assert_eq!(missing, None);
        (refusal.status, refusal.reason, refusal.grpc_code())
    };
    let bad = (StatusCode::UNAUTHORIZED, Reason::TokenInvalid, 16);
    let forged = Issuer::new("k").token(60, "");
    let unknown = Issuer::new("another").token(60, "");
    for token in [issuer.token(-120, ""), forged, unknown, "x".to_owned()] {
        assert_eq!(refused(&bearer(&token)), bad, "{token}");
    }
    // No token is nobody; and what a client writes into the header is not the token's word.
    let mut claimed = HeaderMap::new();
    claimed.insert("x-user", HeaderValue::from_static("alice"));
    let nobody = (StatusCode::FORBIDDEN, Reason::PolicyNotAllowed, 7);
    assert_eq!(refused(&claimed), nobody);
}

#[test]
fn who_brings_no_token_where_one_would_do_is_asked_for_it() {
    let issuer = Issuer::new("k");
    let anybody = Source {
        request_principals: vec![StringMatch::Presence],
        ..Source::default()
    };
    let nobody = Source {
        not_request_principals: vec![StringMatch::Presence],
        ..Source::default()
    };
    let access = |action: Action, source: &Source| {
        let operation = Operation {
            paths: vec![PathMatch::Text(StringMatch::Exact("/a".into()))],
            ..Operation::default()
        };
        let mut access = policy("tokens", gateway(), action, operation);
        access.rules[0].from = vec![source.clone()];
        access
    };
    let (allow, deny) = (
        access(Action::Allow, &anybody),
        access(Action::Deny, &nobody),
    );
    let missing = Some((StatusCode::UNAUTHORIZED, Reason::TokenMissing));
    let not_allowed = Some((StatusCode::FORBIDDEN, Reason::PolicyNotAllowed));
    let denied = Some((StatusCode::FORBIDDEN, Reason::PolicyDenied));
    for (rules, tokens, path, expected) in [
        (vec![&allow], true, "/a", missing),
        // No token helps there.
        (vec![&allow], true, "/b", not_allowed),
        // Nobody would look at it.
        (vec![&allow], false, "/a", not_allowed),
        (vec![&deny], true, "/a", missing),
        (vec![&deny], true, "/b", None),
        (vec![&deny], false, "/a", denied),
    ] {
        let rules: Vec<_> = rules.into_iter().cloned().collect();
        let tokens: Vec<_> = tokens
            .then(|| issuer.policy(gateway()))
            .into_iter()
            .collect();
        let guards = compile(&rules, &tokens);
        let guard = guards.of_gateway().unwrap();
        let judged = judged(guard, path, &HeaderMap::new(), &mut Vec::new());
        let refused = judged.err().map(|refused| refused.refusal);
        let found = refused.map(|refusal| (refusal.status, refusal.reason));
        assert_eq!(found, expected, "{rules:?} {path}");
    }
    // Whoever is refused whatever token there is is not asked for one.
    let everybody = policy("all", gateway(), Action::Deny, Operation::default());
    for rules in [
        [allow.clone(), everybody],
        [allow, deny_path("a", gateway(), "/a")],
    ] {
        let guards = compile(&rules, &[issuer.policy(gateway())]);
        let guard = guards.of_gateway().unwrap();
        let refused = judged(guard, "/a", &HeaderMap::new(), &mut Vec::new());
        assert_eq!(refused.unwrap_err().refusal.reason, Reason::PolicyDenied);
    }
}
