//! Policies of requests: who is told, who enforces them, what their authors are told.

use agent_model::access::{PathMatch, PolicyTarget, TextAttribute};
use agent_model::authentication::KeySource;
use agent_model::{Action, StringMatch};

use super::*;
use crate::code::Code;

/// An edge gateway and a waypoint in `infra`, with the Service `web` behind it; a waypoint in
/// `apps` that nothing is behind.
fn site(more: &str) -> World {
    let edge = "{gatewayClassName: culvert, listeners: [{name: http, port: 80, protocol: HTTP}]}";
    let waypoint = "{gatewayClassName: culvert-waypoint, listeners: [{name: mesh, port: 15008, \
                    protocol: HBONE}]}";
    let bound = "---\napiVersion: v1\nkind: Service\nmetadata: {name: bound, namespace: infra, \
                 labels: {culvert.dev/use-waypoint: way}}\nspec: {clusterIP: 10.0.0.9, ports: \
                 [{port: 80}]}\n";
    World::of(&format!(
        "{}{}{}{bound}{more}",
        object("Gateway", "infra", "edge", edge),
        object("Gateway", "infra", "way", waypoint),
        object("Gateway", "apps", "idle", waypoint),
    ))
}

fn policy(kind: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: \
         {namespace}}}\nspec: {spec}\n"
    )
}

fn access(namespace: &str, spec: &str) -> World {
    site(&policy("AuthorizationPolicy", namespace, spec))
}

/// Who is told, with the targets, and who enforces it.
fn placed(world: &World) -> (Vec<String>, Vec<String>) {
    let told = world.0.access.iter();
    let told = told.map(|(gateway, policy)| {
        let targets = policy.targets.iter().map(|target| match target {
            PolicyTarget::Gateway(name) => name.to_string(),
            PolicyTarget::Service(service) => service.hostname.to_string(),
        });
        format!("{gateway}: {}", targets.collect::<Vec<_>>().join(" "))
    });
    let enforcers = world.0.enforcers.values().flatten();
    (told.collect(), enforcers.map(ToString::to_string).collect())
}

fn codes(world: &World) -> Vec<Code> {
    world.0.notes.iter().map(|note| note.code).collect()
}

#[test]
fn a_policy_is_told_to_those_who_may_have_to_enforce_it() {
    const WEB: &str = "bound.infra.svc.cluster.local";
    let to_service = ["apps/idle", "infra/way"].map(|gateway| format!("{gateway}: {WEB}"));
    let cases: [(&str, &str, &[&str], &[&str]); 9] = [
        (
            "infra",
            "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]}",
            &["infra/edge: infra/edge"],
            &["infra/edge"],
        ),
        (
            "infra",
            "{targetRef: {kind: Gateway, name: way}}",
            &["infra/way: infra/way"],
            &["infra/way"],
        ),
        (
            "infra",
            "{targetRefs: [{kind: Service, name: bound}]}",
            &[&to_service[0], &to_service[1]],
            &["infra/way"],
        ),
        // Gateways at the border are workloads of their namespace.
        ("infra", "{}", &["infra/edge: infra/edge"], &["infra/edge"]),
        (
            "infra",
            "{selector: {matchLabels: {gateway.networking.k8s.io/gateway-name: edge}}}",
            &["infra/edge: infra/edge"],
            &["infra/edge"],
        ),
        (
            "infra",
            "{selector: {matchLabels: {gateway.networking.k8s.io/gateway-name: way}}}",
            &["infra/way: infra/way"],
            &["infra/way"],
        ),
        ("infra", "{selector: {matchLabels: {app: web}}}", &[], &[]),
        ("apps", "{}", &[], &[]),
        (
            "apps",
            "{action: AUDIT, targetRef: {kind: Gateway, name: idle}}",
            &[],
            &[],
        ),
    ];
    for (namespace, spec, told, enforcers) in cases {
        let world = access(namespace, spec);
        let (found, enforced) = placed(&world);
        assert_eq!(found, told, "{spec}");
        assert_eq!(enforced, enforcers, "{spec}");
        assert_eq!(codes(&world), [], "{spec}");
    }
}

#[test]
fn the_root_namespace_speaks_for_all() {
    let root = mesh().root_namespace;
    let world = access(&root, "{}");
    assert_eq!(placed(&world).1, ["infra/edge"]);
    let class = "{targetRefs: [{kind: GatewayClass, name: culvert-waypoint}]}";
    assert_eq!(placed(&access(&root, class)).1, ["apps/idle", "infra/way"]);
    assert_eq!(codes(&access("infra", class)), [Code::TargetUnsupported]);
}

#[test]
fn what_nobody_enforces_is_said() {
    for spec in [
        "{targetRefs: [{kind: Gateway, name: missing}]}",
        "{targetRefs: [{kind: Service, name: missing}]}",
        // Behind no waypoint: told to those it may come behind, and enforced by nobody.
        "{targetRefs: [{kind: Service, name: web}]}",
        "{targetRefs: [{kind: Gateway, name: edge, namespace: apps}]}",
        "{targetRefs: [{group: apps, kind: Deployment, name: web}]}",
        "{targetRefs: [{kind: GatewayClass, name: culvert}]}",
    ] {
        let world = access("infra", spec);
        assert_eq!(codes(&world), [Code::TargetUnsupported], "{spec}");
        assert!(world.0.enforcers.is_empty());
    }
    let half = "{targetRefs: [{kind: Gateway, name: edge}, {kind: Service, name: missing}]}";
    let world = access("infra", half);
    assert_eq!(codes(&world), [Code::TargetMissing]);
    assert_eq!(placed(&world).1, ["infra/edge"]);

    let tokens = "{jwtRules: [{issuer: i, jwks: '{\"keys\":[]}'}]}";
    let of = |namespace| codes(&site(&policy("RequestAuthentication", namespace, tokens)));
    assert_eq!(of("infra"), []);
    assert_eq!(
        of("apps"),
        [Code::TargetUnsupported],
        "no gateway at the border is there"
    );
}

#[test]
fn whole_requests_are_judged() {
    let spec = "{targetRef: {kind: Gateway, name: edge}, action: DENY, rules: [{from: [{source: \
                {notRequestPrincipals: ['*']}}], to: [{operation: {methods: [GET], paths: \
                [/a*, '/v/{*}/x']}}], when: [{key: 'request.auth.claims[a][b]', notValues: \
                [c]}, {key: source.serviceAccount, values: [web]}]}]}";
    let world = access("infra", spec);
    let (_, policy) = &world.0.access[0];
    assert_eq!(policy.action, Action::Deny);
    let rule = &policy.rules[0];
    assert_eq!(rule.from[0].not_request_principals, [StringMatch::Presence]);
    assert_eq!(rule.from[0].service_accounts[0].service_account, "web");
    let prefix = StringMatch::Prefix("/a".to_owned());
    let paths = [
        PathMatch::Text(prefix),
        PathMatch::Template("/v/{*}/x".to_owned()),
    ];
    assert_eq!(rule.to[0].paths, paths);
    let agent_model::access::Condition::Text { attribute, .. } = &rule.when[0] else {
        panic!("{rule:?}");
    };
    assert_eq!(
        *attribute,
        TextAttribute::Claim(vec!["a".to_owned(), "b".to_owned()])
    );
    assert_eq!(rule.when.len(), 1);

    let never = "{targetRef: {kind: Gateway, name: edge}, rules: [{when: [{key: \
                 experimental.x, values: [a]}]}]}";
    let world = access("infra", never);
    assert_eq!(codes(&world), [Code::NotDecided]);
    assert!(world.0.access[0].1.rules.is_empty(), "an ALLOW of nothing");
}

#[test]
fn tokens_are_told_with_their_keys() {
    let spec = "{targetRef: {kind: Gateway, name: edge}, jwtRules: [{issuer: a, jwksUri: \
                'http://a/keys', jwks: '{\"keys\":[]}'}, {issuer: b, jwksUri: 'http://b/keys', \
                fromHeaders: [{name: x-token}], outputClaimToHeaders: [{header: x-role, claim: \
                a.b}], forwardOriginalToken: true}]}";
    let world = site(&policy("RequestAuthentication", "infra", spec));
    let (gateway, policy) = &world.0.authentications[0];
    assert_eq!(gateway.to_string(), "infra/edge");
    let [inline, remote] = &policy.rules[..] else {
        panic!("{policy:?}");
    };
    assert_eq!(inline.keys, KeySource::Inline("{\"keys\":[]}".into()));
    assert_eq!(remote.keys, KeySource::Remote("http://b/keys".into()));
    assert_eq!(remote.output_claim_to_headers[0].claim, ["a", "b"]);
    assert!(remote.forward_original_token && !inline.forward_original_token);
}
