//! Examples of each rule, and a differential property test against a small evaluator written
//! from the specification in another style.

use std::net::{IpAddr, SocketAddr};

use agent_model::{
    Action, Authorization, Clause, Identity, Match, PolicyKey, Reason, Rule, Scope,
    ServiceAccountMatch, StringMatch,
};
use proptest::prelude::*;

use super::*;

fn policy(name: &str, scope: Scope, action: Action, rules: Vec<Rule>) -> Authorization {
    Authorization {
        name: name.into(),
        namespace: "shop".into(),
        scope,
        action,
        rules,
        dry_run: false,
    }
}

fn one(fields: Match) -> Vec<Rule> {
    vec![Rule {
        clauses: vec![Clause {
            matches: vec![fields],
        }],
    }]
}

fn from_principal(pattern: StringMatch) -> Vec<Rule> {
    one(Match {
        principals: vec![pattern],
        ..Match::default()
    })
}

fn strict() -> Vec<Rule> {
    one(Match {
        not_principals: vec![StringMatch::Presence],
        ..Match::default()
    })
}

fn set(policies: &[Authorization]) -> PolicySet {
    let mut set = PolicySet::default();
    policies.iter().for_each(|policy| set.insert(policy));
    set
}

fn client() -> Identity {
    Identity::new("cluster.local", "shop", "client").unwrap()
}

fn connection(source: Option<&Identity>) -> Connection<'_> {
    Connection {
        source,
        peer: source,
        source_ip: "10.0.1.5".parse().unwrap(),
        source_ip_vouched: true,
        destination: "10.0.2.7:80".parse().unwrap(),
    }
}

const SHOP: Target<'static> = Target {
    namespace: "shop",
    policies: &[],
};

fn denied(reason: Reason, name: &str) -> Decision {
    Decision::Deny {
        reason,
        policy: Some(PolicyKey::new("shop", name)),
    }
}

#[test]
fn nothing_applies_so_it_passes() {
    let elsewhere = Target {
        namespace: "bank",
        policies: &[],
    };
    let set = set(&[policy(
        "deny-all",
        Scope::Namespace,
        Action::Deny,
        vec![Rule::default()],
    )]);
    assert!(decide(&set, &elsewhere, &connection(None)).is_allowed());
    assert_eq!(
        decide(&set, &SHOP, &connection(None)),
        denied(Reason::PolicyDenied, "deny-all")
    );
}

#[test]
fn allow_without_rules_denies_everything_and_deny_without_rules_nothing() {
    let allow_nothing = set(&[policy("none", Scope::Namespace, Action::Allow, vec![])]);
    let decision = decide(&allow_nothing, &SHOP, &connection(Some(&client())));
    assert_eq!(decision, denied(Reason::PolicyNotAllowed, "none"));
    let deny_nothing = set(&[policy("none", Scope::Namespace, Action::Deny, vec![])]);
    assert!(decide(&deny_nothing, &SHOP, &connection(None)).is_allowed());
}

#[test]
fn deny_beats_allow() {
    let by_name = StringMatch::Exact(client().principal());
    let set = set(&[
        policy(
            "yes",
            Scope::Global,
            Action::Allow,
            from_principal(by_name.clone()),
        ),
        policy(
            "no",
            Scope::Namespace,
            Action::Deny,
            from_principal(by_name),
        ),
    ]);
    let decision = decide(&set, &SHOP, &connection(Some(&client())));
    assert_eq!(decision, denied(Reason::PolicyDenied, "no"));
}

#[test]
fn strict_refuses_exactly_plaintext() {
    let set = set(&[policy(
        "strict",
        Scope::WorkloadSelector,
        Action::Deny,
        strict(),
    )]);
    let listed = [PolicyKey::new("shop", "strict")];
    let target = Target {
        namespace: "shop",
        policies: &listed,
    };
    assert_eq!(
        decide(&set, &target, &connection(None)),
        denied(Reason::PolicyDenied, "strict")
    );
    assert!(decide(&set, &target, &connection(Some(&client()))).is_allowed());
    assert!(decide(&set, &SHOP, &connection(None)).is_allowed());
}

#[test]
fn a_listed_policy_that_is_not_held_denies() {
    let listed = [PolicyKey::new("shop", "missing")];
    let target = Target {
        namespace: "shop",
        policies: &listed,
    };
    let decision = decide(&PolicySet::default(), &target, &connection(Some(&client())));
    assert_eq!(decision, denied(Reason::PolicyUnknown, "missing"));
}

#[test]
fn an_unreadable_policy_denies_its_namespace_unless_a_good_version_is_held() {
    let mut never_good = PolicySet::default();
    never_good.reject(&PolicyKey::new("shop", "odd"));
    let decision = decide(&never_good, &SHOP, &connection(Some(&client())));
    assert_eq!(decision, denied(Reason::PolicyUnknown, "odd"));

    let mut once_good = set(&[policy("odd", Scope::Namespace, Action::Deny, strict())]);
    once_good.reject(&PolicyKey::new("shop", "odd"));
    assert!(decide(&once_good, &SHOP, &connection(Some(&client()))).is_allowed());

    never_good.insert(&policy("odd", Scope::Namespace, Action::Deny, strict()));
    assert!(decide(&never_good, &SHOP, &connection(Some(&client()))).is_allowed());
}

#[test]
fn an_address_nobody_vouches_for_never_allows_and_always_denies() {
    let by_ip = |network: &str| {
        one(Match {
            source_ips: vec![network.parse().unwrap()],
            ..Match::default()
        })
    };
    let spoofed = Connection {
        source_ip_vouched: false,
        ..connection(None)
    };
    let allow = set(&[policy(
        "ip",
        Scope::Namespace,
        Action::Allow,
        by_ip("10.0.1.0/24"),
    )]);
    assert!(decide(&allow, &SHOP, &connection(None)).is_allowed());
    assert!(!decide(&allow, &SHOP, &spoofed).is_allowed());
    let deny = set(&[policy(
        "ip",
        Scope::Namespace,
        Action::Deny,
        by_ip("192.0.2.0/24"),
    )]);
    assert!(decide(&deny, &SHOP, &connection(None)).is_allowed());
    assert!(!decide(&deny, &SHOP, &spoofed).is_allowed());
}

#[test]
fn what_did_not_pass_the_waypoint_is_told_from_what_policy_denies() {
    let waypoint = Identity::new("cluster.local", "shop", "wp").unwrap();
    let key = PolicyKey::waypoint_guard("shop", "shop_wp");
    let only_waypoint = policy(
        key.name(),
        Scope::WorkloadSelector,
        Action::Deny,
        one(Match {
            not_principals: vec![StringMatch::Exact(waypoint.principal())],
            ..Match::default()
        }),
    );
    let exact = StringMatch::Exact(client().principal());
    let client_only = policy(
        "client",
        Scope::Namespace,
        Action::Allow,
        from_principal(exact),
    );
    let set = set(&[only_waypoint, client_only]);
    let keys = [key.clone()];
    let target = Target {
        policies: &keys,
        ..SHOP
    };
    let bypassed = Decision::Deny {
        reason: Reason::WaypointBypassed,
        policy: Some(key),
    };
    let of_client = client();
    assert_eq!(decide(&set, &target, &connection(None)), bypassed);
    assert_eq!(
        decide(&set, &target, &connection(Some(&of_client))),
        bypassed
    );
    // The guard looks at who comes, every other policy at whom it comes for.
    let through = Connection {
        peer: Some(&waypoint),
        ..connection(Some(&of_client))
    };
    assert!(decide(&set, &target, &through).is_allowed());
    assert!(explain(&set, &target, &through).decision.is_allowed());
    let for_itself = connection(Some(&waypoint));
    assert_eq!(
        decide(&set, &target, &for_itself),
        denied(Reason::PolicyNotAllowed, "client")
    );
}

#[test]
fn dry_run_enforces_nothing_and_is_explained() {
    let mut dry = policy("dry", Scope::Namespace, Action::Deny, vec![Rule::default()]);
    dry.dry_run = true;
    let explanation = explain(&set(&[dry]), &SHOP, &connection(None));
    assert!(explanation.decision.is_allowed());
    assert!(explanation.verdicts[0].matches && explanation.verdicts[0].dry_run);
}

#[test]
fn replacing_a_policy_moves_it_between_scopes() {
    let mut set = set(&[policy(
        "p",
        Scope::Global,
        Action::Deny,
        vec![Rule::default()],
    )]);
    set.insert(&policy(
        "p",
        Scope::WorkloadSelector,
        Action::Deny,
        vec![Rule::default()],
    ));
    assert!(decide(&set, &SHOP, &connection(None)).is_allowed());
    set.remove(&PolicyKey::new("shop", "p"));
    assert!(set.is_empty());
}

// --- differential test -------------------------------------------------------------------------

/// Plain reading of the specification, all values in one list of (field, holds) pairs.
fn reference_allows(policies: &[Authorization], target: &Target<'_>, c: &Connection<'_>) -> bool {
    let applies = |p: &&Authorization| {
        let in_scope = match p.scope {
            Scope::Global => true,
            Scope::Namespace => *p.namespace == *target.namespace,
            Scope::WorkloadSelector => false,
        };
        in_scope || target.policies.contains(&p.key())
    };
    if target
        .policies
        .iter()
        .any(|key| policies.iter().all(|p| p.key() != *key))
    {
        return false;
    }
    let live: Vec<_> = policies
        .iter()
        .filter(applies)
        .filter(|p| !p.dry_run)
        .collect();
    let hit = |p: &&&Authorization| reference_policy(p, c);
    if live
        .iter()
        .filter(|p| p.action == Action::Deny)
        .any(|p| hit(&p))
    {
        return false;
    }
    let allows: Vec<_> = live.iter().filter(|p| p.action == Action::Allow).collect();
    allows.is_empty() || allows.iter().any(hit)
}

fn reference_policy(p: &Authorization, c: &Connection<'_>) -> bool {
    for rule in &p.rules {
        let mut all = true;
        for clause in &rule.clauses {
            let mut any = clause.matches.is_empty();
            for m in &clause.matches {
                if *m != Match::default() && reference_match(m, p.action, c) {
                    any = true;
                }
            }
            all = all && any;
        }
        if all {
            return true;
        }
    }
    false
}

fn reference_match(m: &Match, action: Action, c: &Connection<'_>) -> bool {
    let text = c.source.map(ToString::to_string);
    let principal = text
        .as_deref()
        .map(|t| t.trim_start_matches("spiffe://").to_owned());
    let namespace = c.source.map(|s| s.namespace().to_owned());
    let is = |pattern: &StringMatch, value: &Option<String>| match (pattern, value) {
        (_, None) => false,
        (StringMatch::Exact(x), Some(v)) => v == x,
        (StringMatch::Prefix(x), Some(v)) => v.get(..x.len()) == Some(x),
        (StringMatch::Suffix(x), Some(v)) => {
            v.len() >= x.len() && v.get(v.len() - x.len()..) == Some(x)
        }
        (StringMatch::Presence, Some(v)) => !v.is_empty(),
    };
    let account = |a: &ServiceAccountMatch| {
        principal
            .as_ref()
            .is_some_and(|p| p.ends_with(&format!("/ns/{}/sa/{}", a.namespace, a.service_account)))
    };
    let port = c.destination.port();
    let (source, destination) = (c.source_ip, c.destination.ip());
    let unvouched = !c.source_ip_vouched;
    let positive = [
        m.principals.is_empty() || m.principals.iter().any(|x| is(x, &principal)),
        m.namespaces.is_empty() || m.namespaces.iter().any(|x| is(x, &namespace)),
        m.service_accounts.is_empty() || m.service_accounts.iter().any(account),
        m.destination_ports.is_empty() || m.destination_ports.contains(&port),
        m.destination_ips.is_empty() || m.destination_ips.iter().any(|n| n.contains(&destination)),
        m.source_ips.is_empty()
            || if unvouched {
                action == Action::Deny
            } else {
                m.source_ips.iter().any(|n| n.contains(&source))
            },
    ];
    let negative = [
        m.not_principals.iter().any(|x| is(x, &principal)),
        m.not_namespaces.iter().any(|x| is(x, &namespace)),
        m.not_service_accounts.iter().any(account),
        m.not_destination_ports.contains(&port),
        m.not_destination_ips
            .iter()
            .any(|n| n.contains(&destination)),
        !m.not_source_ips.is_empty()
            && if unvouched {
                action == Action::Allow
            } else {
                m.not_source_ips.iter().any(|n| n.contains(&source))
            },
    ];
    positive.iter().all(|holds| *holds) && !negative.iter().any(|holds| *holds)
}

fn strings() -> impl Strategy<Value = Vec<StringMatch>> {
    let pattern = prop_oneof![
        Just(StringMatch::Presence),
        prop::sample::select(vec!["cluster.local/ns/shop/sa/client", "shop", "bank"])
            .prop_map(|s| StringMatch::Exact(s.to_owned())),
        prop::sample::select(vec!["cluster.local/ns/shop", "sh", "other.td"])
            .prop_map(|s| StringMatch::Prefix(s.to_owned())),
        prop::sample::select(vec!["client", "op", "/sa/web"])
            .prop_map(|s| StringMatch::Suffix(s.to_owned())),
    ];
    prop::collection::vec(pattern, 0..2)
}

fn networks() -> impl Strategy<Value = Vec<ipnet::IpNet>> {
    let network =
        prop::sample::select(vec!["10.0.1.0/24", "10.0.2.7/32", "fd00::/16", "0.0.0.0/0"]);
    prop::collection::vec(network.prop_map(|n| n.parse().unwrap()), 0..2)
}

fn ports() -> impl Strategy<Value = Vec<u16>> {
    prop::collection::vec(prop::sample::select(vec![80u16, 443]), 0..2)
}

fn accounts() -> impl Strategy<Value = Vec<ServiceAccountMatch>> {
    let account = prop::sample::select(vec![
        ("shop", "client"),
        ("bank", "client"),
        ("shop", "web"),
    ]);
    let account = account.prop_map(|(namespace, account)| ServiceAccountMatch {
        namespace: namespace.to_owned(),
        service_account: account.to_owned(),
    });
    prop::collection::vec(account, 0..2)
}

fn matches() -> impl Strategy<Value = Match> {
    let identity = (
        strings(),
        strings(),
        strings(),
        strings(),
        accounts(),
        accounts(),
    );
    let place = (
        networks(),
        networks(),
        networks(),
        networks(),
        ports(),
        ports(),
    );
    // Full random fields nearly never match; blank most of them.
    (identity, place, any::<u16>()).prop_map(|(i, p, keep)| {
        let keeps = |bit: u32| keep & (1 << bit) != 0 && keep & (1 << ((bit + 5) % 16)) != 0;
        let mut m = Match::default();
        if keeps(0) {
            m.namespaces = i.0
        }
        if keeps(1) {
            m.not_namespaces = i.1
        }
        if keeps(2) {
            m.principals = i.2
        }
        if keeps(3) {
            m.not_principals = i.3
        }
        if keeps(4) {
            m.service_accounts = i.4
        }
        if keeps(5) {
            m.not_service_accounts = i.5
        }
        if keeps(6) {
            m.source_ips = p.0
        }
        if keeps(7) {
            m.not_source_ips = p.1
        }
        if keeps(8) {
            m.destination_ips = p.2
        }
        if keeps(9) {
            m.not_destination_ips = p.3
        }
        if keeps(10) {
            m.destination_ports = p.4
        }
        if keeps(11) {
            m.not_destination_ports = p.5
        }
        m
    })
}

fn policies() -> impl Strategy<Value = Vec<Authorization>> {
    let clause = prop::collection::vec(matches(), 0..3).prop_map(|matches| Clause { matches });
    let rule = prop::collection::vec(clause, 0..3).prop_map(|clauses| Rule { clauses });
    let scope = prop::sample::select(vec![
        Scope::Global,
        Scope::Namespace,
        Scope::WorkloadSelector,
    ]);
    let action = prop::sample::select(vec![Action::Allow, Action::Deny]);
    let namespace = prop::sample::select(vec!["shop", "bank"]);
    let one = (
        scope,
        action,
        namespace,
        prop::collection::vec(rule, 0..3),
        prop::bool::weighted(0.1),
    );
    prop::collection::vec(one, 0..5).prop_map(|all| {
        let named =
            |(i, (scope, action, namespace, rules, dry_run)): (usize, (_, _, &str, _, _))| {
                let name = format!("p{i}").into();
                Authorization {
                    name,
                    namespace: namespace.into(),
                    scope,
                    action,
                    rules,
                    dry_run,
                }
            };
        all.into_iter().enumerate().map(named).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn agrees_with_the_reference_evaluator(
        policies in policies(),
        listed in prop::collection::vec(0usize..6, 0..3),
        source in prop::option::of(prop::sample::select(vec![
            ("cluster.local", "shop", "client"), ("other.td", "bank", "client"), ("cluster.local", "shop", "web"),
        ])),
        source_ip in prop::sample::select(vec!["10.0.1.5", "192.0.2.1", "fd00::5"]),
        destination in prop::sample::select(vec!["10.0.2.7:80", "10.0.2.7:443", "[fd00::7]:80"]),
        vouched in any::<bool>(),
    ) {
        let identity = source.map(|(td, ns, sa)| Identity::new(td, ns, sa).unwrap());
        let keys: Vec<PolicyKey> = listed
            .iter()
            .map(|i| policies.get(*i).map_or_else(|| PolicyKey::new("shop", "gone"), Authorization::key))
            .collect();
        let target = Target { namespace: "shop", policies: &keys };
        let connection = Connection {
            source: identity.as_ref(),
            peer: identity.as_ref(),
            source_ip: source_ip.parse::<IpAddr>().unwrap(),
            source_ip_vouched: vouched || identity.is_some(),
            destination: destination.parse::<SocketAddr>().unwrap(),
        };
        let decision = decide(&set(&policies), &target, &connection);
        prop_assert_eq!(decision.is_allowed(), reference_allows(&policies, &target, &connection));
    }
}
