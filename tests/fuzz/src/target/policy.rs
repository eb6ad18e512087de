//! Policies, decided twice: by `agent-policy`, and by an evaluator that asks of every policy
//! which connections of a table it is for.

use std::net::{IpAddr, SocketAddr};

use agent_model::{
    Action, Authorization, Clause, Identity, Match, PolicyKey, Rule, Scope, ServiceAccountMatch,
    StringMatch,
};
use agent_policy::{Connection, Decision, PolicySet, Target, decide, explain};
use ipnet::IpNet;

use crate::choices::Choices;

/// Bytes are choices of policies and of connections.
pub(super) fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut held: Vec<Authorization> = Vec::new();
    let mut set = PolicySet::default();
    for policy in choices.list(6, policy) {
        set.insert(&policy);
        held.retain(|old| old.key() != policy.key());
        held.push(policy);
    }
    let mut unreadable = Vec::new();
    for key in choices.list(3, key) {
        if choices.flag() {
            set.reject(&key);
            if held.iter().all(|policy| policy.key() != key) {
                unreadable.push(key);
            }
        } else {
            set.remove(&key);
            held.retain(|policy| policy.key() != key);
            unreadable.retain(|other| *other != key);
        }
    }
    assert_eq!(set.len(), held.len());
    let listed = choices.list(3, key);
    for _ in 0..4 {
        let identity = choices.maybe(identity);
        let target = Target {
            namespace: choices.of(&["shop", "bank"]),
            policies: &listed,
        };
        let connection = Connection {
            source: identity.as_ref(),
            peer: identity.as_ref(),
            source_ip: ip(&mut choices),
            source_ip_vouched: choices.flag(),
            destination: SocketAddr::new(ip(&mut choices), choices.of(&[80, 443])),
        };
        let decision = decide(&set, &target, &connection);
        let expected = allowed(&held, &unreadable, &target, &connection);
        assert_eq!(
            decision.is_allowed(),
            expected,
            "{decision:?}\n{held:#?}\n{connection:?}"
        );
        assert_eq!(explain(&set, &target, &connection).decision, decision);
        fails_closed(&set, &target, &connection, &decision);
    }
}

/// A DENY on top never allows more, and an unreadable one allows nothing in its namespace.
fn fails_closed(set: &PolicySet, target: &Target<'_>, connection: &Connection<'_>, was: &Decision) {
    let mut stricter = set.clone();
    stricter.insert(&Authorization {
        name: "everything".into(),
        namespace: target.namespace.into(),
        scope: Scope::Namespace,
        action: Action::Deny,
        rules: vec![Rule::default()],
        dry_run: false,
    });
    assert!(!decide(&stricter, target, connection).is_allowed());
    let mut doubtful = set.clone();
    doubtful.reject(&PolicyKey::new(target.namespace, "doubtful"));
    assert!(!decide(&doubtful, target, connection).is_allowed());
    let unvouched = Connection {
        source_ip_vouched: false,
        ..*connection
    };
    let then = decide(set, target, &unvouched).is_allowed();
    assert!(
        !then || was.is_allowed(),
        "a doubtful address opens nothing"
    );
}

fn allowed(
    held: &[Authorization],
    unreadable: &[PolicyKey],
    target: &Target<'_>,
    connection: &Connection<'_>,
) -> bool {
    let is_held = |key: &PolicyKey| held.iter().any(|policy| policy.key() == *key);
    let prefix = format!("{}/", target.namespace);
    if !target.policies.iter().all(is_held)
        || unreadable.iter().any(|key| key.0.starts_with(&prefix))
    {
        return false;
    }
    let mut of_allow = Vec::new();
    for policy in held.iter().filter(|policy| !policy.dry_run) {
        let applies = target.policies.contains(&policy.key())
            || match policy.scope {
                Scope::Global => true,
                Scope::Namespace => *policy.namespace == *target.namespace,
                Scope::WorkloadSelector => false,
            };
        if !applies {
            continue;
        }
        let matched = matched(policy, connection);
        match policy.action {
            Action::Deny if matched => return false,
            Action::Deny => {}
            Action::Allow => of_allow.push(matched),
        }
    }
    of_allow.is_empty() || of_allow.contains(&true)
}

fn matched(policy: &Authorization, connection: &Connection<'_>) -> bool {
    let mut any_rule = false;
    for rule in &policy.rules {
        let mut every_clause = true;
        for clause in &rule.clauses {
            let said = clause
                .matches
                .iter()
                .filter(|fields| **fields != Match::default());
            let one = said
                .clone()
                .any(|fields| holds(fields, policy.action, connection));
            every_clause &= one || clause.matches.is_empty();
        }
        any_rule |= every_clause;
    }
    any_rule
}

/// Every field as a pair: what must be one of these, and what must be none of those.
fn holds(fields: &Match, action: Action, connection: &Connection<'_>) -> bool {
    let principal = connection.source.map(Identity::principal);
    let namespace = connection
        .source
        .map(|source| source.namespace().to_owned());
    let strings = |yes: &[StringMatch], no: &[StringMatch], value: &Option<String>| {
        let hit = |pattern: &StringMatch| match (pattern, value) {
            (_, None) => false,
            (StringMatch::Presence, Some(_)) => true,
            (StringMatch::Exact(text), Some(value)) => text == value,
            (StringMatch::Prefix(text), Some(value)) => value.starts_with(text),
            (StringMatch::Suffix(text), Some(value)) => value.ends_with(text),
        };
        pair(yes, no, hit)
    };
    let account = |wanted: &ServiceAccountMatch| {
        connection.source.is_some_and(|source| {
            (source.namespace(), source.service_account())
                == (wanted.namespace.as_str(), wanted.service_account.as_str())
        })
    };
    let port = connection.destination.port();
    let destination = connection.destination.ip();
    let source_ip = if fields.source_ips.is_empty() && fields.not_source_ips.is_empty() {
        true
    } else if connection.source_ip_vouched {
        let inside = |network: &IpNet| is_inside(network, connection.source_ip);
        pair(&fields.source_ips, &fields.not_source_ips, inside)
    } else {
        action == Action::Deny
    };
    source_ip
        && strings(&fields.principals, &fields.not_principals, &principal)
        && strings(&fields.namespaces, &fields.not_namespaces, &namespace)
        && pair(
            &fields.service_accounts,
            &fields.not_service_accounts,
            account,
        )
        && pair(
            &fields.destination_ips,
            &fields.not_destination_ips,
            |network| is_inside(network, destination),
        )
        && pair(
            &fields.destination_ports,
            &fields.not_destination_ports,
            |wanted| *wanted == port,
        )
}

fn pair<T>(yes: &[T], no: &[T], hit: impl Fn(&T) -> bool) -> bool {
    (yes.is_empty() || yes.iter().any(&hit)) && !no.iter().any(&hit)
}

/// Compares bit by bit.
fn is_inside(network: &IpNet, ip: IpAddr) -> bool {
    let bits = |ip: IpAddr| -> Vec<bool> {
        let octets = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let bits = octets
            .into_iter()
            .flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1));
        bits.collect()
    };
    let (own, other) = (bits(network.addr()), bits(ip));
    let length = usize::from(network.prefix_len());
    own.len() == other.len() && own[..length] == other[..length]
}

fn key(choices: &mut Choices<'_>) -> PolicyKey {
    PolicyKey::new(
        choices.of(&["shop", "bank"]),
        choices.of(&["p0", "p1", "p2"]),
    )
}

fn identity(choices: &mut Choices<'_>) -> Identity {
    let trust_domain = choices.of(&["cluster.local", "other.td"]);
    let (namespace, account) = (choices.of(&["shop", "bank"]), choices.of(&["web", "job"]));
    Identity::new(trust_domain, namespace, account).expect("a valid identity")
}

fn ip(choices: &mut Choices<'_>) -> IpAddr {
    let addresses = [
        "10.0.1.5",
        "10.0.2.7",
        "192.0.2.1",
        "fd00::5",
        "::ffff:10.0.1.5",
    ];
    choices.of(&addresses).parse().expect("a valid address")
}

/// A policy of a small world, in which names and addresses often meet.
pub(super) fn policy(choices: &mut Choices<'_>) -> Authorization {
    Authorization {
        name: choices.of(&["p0", "p1", "p2"]).into(),
        namespace: choices.of(&["shop", "bank"]).into(),
        scope: choices.of(&[Scope::Global, Scope::Namespace, Scope::WorkloadSelector]),
        action: choices.of(&[Action::Allow, Action::Deny]),
        rules: choices.list(3, |choices| Rule {
            clauses: choices.list(3, |choices| Clause {
                matches: choices.list(3, fields),
            }),
        }),
        dry_run: choices.byte() % 8 == 7,
    }
}

/// Zero to two fields are set; more nearly never match.
fn fields(choices: &mut Choices<'_>) -> Match {
    let mut fields = Match::default();
    for _ in 0..choices.below(3) {
        match choices.below(12) {
            0 => fields.namespaces = choices.list(3, string),
            1 => fields.not_namespaces = choices.list(3, string),
            2 => fields.principals = choices.list(3, string),
            3 => fields.not_principals = choices.list(3, string),
            4 => fields.service_accounts = choices.list(3, account),
            5 => fields.not_service_accounts = choices.list(3, account),
            6 => fields.source_ips = choices.list(3, network),
            7 => fields.not_source_ips = choices.list(3, network),
            8 => fields.destination_ips = choices.list(3, network),
            9 => fields.not_destination_ips = choices.list(3, network),
            10 => fields.destination_ports = choices.list(3, |choices| choices.of(&[80, 443])),
            _ => fields.not_destination_ports = choices.list(3, |choices| choices.of(&[80, 443])),
        }
    }
    fields
}

fn string(choices: &mut Choices<'_>) -> StringMatch {
    let texts = [
        "cluster.local/ns/shop/sa/web",
        "shop",
        "cluster.local",
        "web",
        "",
        "sh",
        "ank",
    ];
    let text = choices.of(&texts).to_owned();
    match choices.below(4) {
        0 => StringMatch::Exact(text),
        1 => StringMatch::Prefix(text),
        2 => StringMatch::Suffix(text),
        _ => StringMatch::Presence,
    }
}

fn account(choices: &mut Choices<'_>) -> ServiceAccountMatch {
    ServiceAccountMatch {
        namespace: choices.of(&["shop", "bank", ""]).to_owned(),
        service_account: choices.of(&["web", "job", ""]).to_owned(),
    }
}

fn network(choices: &mut Choices<'_>) -> IpNet {
    let networks = [
        "10.0.1.0/24",
        "10.0.2.7/32",
        "0.0.0.0/0",
        "fd00::/16",
        "::/0",
        "10.0.1.5/8",
    ];
    choices.of(&networks).parse().expect("a valid network")
}
