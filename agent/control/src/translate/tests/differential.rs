//! Policies written at random, decided twice: by translation and `agent-policy`, and by a small
//! evaluator that reads the manifest as its author does. Nothing is known of HTTP at a node, so
//! the evaluator takes what needs a request for "does not match" in ALLOW and "matches" in DENY.

use std::net::{IpAddr, SocketAddr};

use agent_model::Identity;
use agent_policy::{Connection, PolicySet, Target, decide};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::from_folder;

/// A peer as the evaluator sees it.
#[derive(Debug, Clone)]
struct Peer {
    identity: Option<(String, String)>,
    ip: IpAddr,
    port: u16,
}

impl Peer {
    fn principal(&self) -> String {
        let (namespace, account) = self.identity.as_ref().unwrap();
        format!("cluster.local/ns/{namespace}/sa/{account}")
    }
}

fn strings(value: Option<&Value>) -> Vec<&str> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).collect()
}

/// One attribute against one written value.
fn holds(attribute: &str, written: &str, peer: &Peer) -> bool {
    let glob = |text: &str| match (
        written,
        written.strip_prefix('*'),
        written.strip_suffix('*'),
    ) {
        ("*", ..) => !text.is_empty(),
        (_, Some(suffix), _) => text.ends_with(suffix),
        (_, _, Some(prefix)) => text.starts_with(prefix),
        _ => text == written,
    };
    let in_block = |ip: IpAddr| match written.split_once('/') {
        Some((base, bits)) => {
            let bits: u32 = bits.parse().unwrap();
            let number = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => u32::from(ip),
                IpAddr::V6(_) => unreachable!(),
            };
            let base: IpAddr = base.parse().unwrap();
            bits == 0 || (number(ip) ^ number(base)) >> (32 - bits) == 0
        }
        None => written.parse::<IpAddr>().unwrap() == ip,
    };
    match attribute {
        "principals" => peer.identity.is_some() && glob(&peer.principal()),
        "namespaces" => peer
            .identity
            .as_ref()
            .is_some_and(|(namespace, _)| glob(namespace)),
        "serviceAccounts" => {
            peer.identity.as_ref().is_some_and(|(namespace, account)| {
                match written.split_once('/') {
                    Some(pair) => pair == (namespace, account),
                    None => namespace == "shop" && account == written,
                }
            })
        }
        "ipBlocks" => in_block(peer.ip),
        "ports" => written == peer.port.to_string(),
        other => panic!("{other}"),
    }
}

const L4: [&str; 5] = [
    "principals",
    "namespaces",
    "serviceAccounts",
    "ipBlocks",
    "ports",
];

/// A `source`, an `operation` or a condition: all its fields must hold.
fn part_holds(part: &Value, deny: bool, peer: &Peer) -> bool {
    part.as_object().unwrap().iter().all(|(field, values)| {
        let is_not = field.starts_with("not");
        let name = field
            .strip_prefix("not")
            .map_or(field.clone(), |rest| rest[..1].to_lowercase() + &rest[1..]);
        if !L4.contains(&name.as_str()) {
            return deny;
        }
        let any = strings(Some(values))
            .iter()
            .any(|written| holds(&name, written, peer));
        any != is_not
    })
}

fn rule_holds(rule: &Value, deny: bool, peer: &Peer) -> bool {
    let needs_request = |part: &Value| {
        part.as_object()
            .unwrap()
            .keys()
            .any(|field| ["methods", "notPaths", "requestPrincipals"].contains(&field.as_str()))
    };
    let alternatives = |list: &str, inner: &str| -> Vec<Value> {
        let items = rule
            .get(list)
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        items.map(|item| item[inner].clone()).collect()
    };
    let (from, to) = (
        alternatives("from", "source"),
        alternatives("to", "operation"),
    );
    let when: Vec<&Value> = rule
        .get("when")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .collect();
    let is_l7 = from.iter().chain(&to).any(needs_request)
        || when.iter().any(|when| when["key"] == "request.headers[x]");
    if is_l7 && !deny {
        return false;
    }
    let any =
        |parts: &[Value]| parts.is_empty() || parts.iter().any(|part| part_holds(part, deny, peer));
    any(&from)
        && any(&to)
        && when.iter().all(|when| {
            let attribute = match when["key"].as_str().unwrap() {
                "source.ip" => "ipBlocks",
                "source.namespace" => "namespaces",
                "source.principal" => "principals",
                "source.serviceAccount" => "serviceAccounts",
                "destination.port" => "ports",
                _ => return deny,
            };
            let positive = strings(when.get("values"));
            let negative = strings(when.get("notValues"));
            (positive.is_empty() || positive.iter().any(|value| holds(attribute, value, peer)))
                && !negative.iter().any(|value| holds(attribute, value, peer))
        })
}

fn allowed(policies: &[Value], peer: &Peer) -> bool {
    let matches = |policy: &Value, deny: bool| {
        let rules = policy["rules"].as_array().unwrap();
        rules.iter().any(|rule| rule_holds(rule, deny, peer))
    };
    let of = |action: &'static str| {
        policies
            .iter()
            .filter(move |policy| policy["action"] == action)
    };
    if of("DENY").any(|policy| matches(policy, true)) {
        return false;
    }
    of("ALLOW").count() == 0 || of("ALLOW").any(|policy| matches(policy, false))
}

fn values(attribute: &str) -> Vec<&'static str> {
    match attribute {
        "principals" => vec![
            "*",
            "*/sa/web",
            "cluster.local/ns/shop/*",
            "cluster.local/ns/shop/sa/web",
            "cluster.local/ns/bank/sa/web",
        ],
        "namespaces" => vec!["*", "shop", "ba*", "*op"],
        "serviceAccounts" => vec!["web", "shop/web", "bank/web", "job"],
        "ipBlocks" => vec![
            "10.0.0.0/24",
            "10.0.0.1",
            "10.0.0.0/8",
            "192.0.2.0/24",
            "0.0.0.0/0",
        ],
        "ports" => vec!["80", "443", "8080"],
        _ => vec!["x"],
    }
}

fn list(attribute: &'static str) -> impl Strategy<Value = Value> {
    proptest::sample::subsequence(values(attribute), 1..=2.min(values(attribute).len()))
        .prop_map(|values| json!(values))
}

/// An object with some of these fields, at least one.
fn part(fields: &'static [(&'static str, &'static str)]) -> impl Strategy<Value = Value> {
    proptest::sample::subsequence(fields.to_vec(), 1..=2).prop_flat_map(|chosen| {
        let fields = chosen
            .into_iter()
            .map(|(field, attribute)| (Just(field), list(attribute)));
        fields.collect::<Vec<_>>().prop_map(|fields| {
            let fields = fields
                .into_iter()
                .map(|(field, values)| (field.to_owned(), values));
            Value::Object(fields.collect())
        })
    })
}

const SOURCE: &[(&str, &str)] = &[
    ("principals", "principals"),
    ("notPrincipals", "principals"),
    ("namespaces", "namespaces"),
    ("notNamespaces", "namespaces"),
    ("ipBlocks", "ipBlocks"),
    ("notIpBlocks", "ipBlocks"),
    ("requestPrincipals", "l7"),
];
const ACCOUNTS: &[(&str, &str)] = &[
    ("serviceAccounts", "serviceAccounts"),
    ("notServiceAccounts", "serviceAccounts"),
    ("ipBlocks", "ipBlocks"),
];
const OPERATION: &[(&str, &str)] = &[
    ("ports", "ports"),
    ("notPorts", "ports"),
    ("methods", "l7"),
    ("notPaths", "l7"),
];

fn condition() -> impl Strategy<Value = Value> {
    let keys = vec![
        ("source.ip", "ipBlocks"),
        ("source.namespace", "namespaces"),
        ("source.principal", "principals"),
        ("source.serviceAccount", "serviceAccounts"),
        ("destination.port", "ports"),
        ("request.headers[x]", "l7"),
    ];
    (proptest::sample::select(keys), 0..3).prop_flat_map(|((key, attribute), sides)| {
        (list(attribute), list(attribute)).prop_map(move |(positive, negative)| match sides {
            0 => json!({"key": key, "values": positive}),
            1 => json!({"key": key, "notValues": negative}),
            _ => json!({"key": key, "values": positive, "notValues": negative}),
        })
    })
}

fn rule() -> impl Strategy<Value = Value> {
    let source = prop_oneof![part(SOURCE), part(ACCOUNTS)];
    let lists = (
        proptest::collection::vec(source, 0..3),
        proptest::collection::vec(part(OPERATION), 0..3),
        proptest::collection::vec(condition(), 0..3),
    );
    lists.prop_map(|(from, to, when)| {
        let mut rule = serde_json::Map::new();
        let wrap = |inner: &str, parts: Vec<Value>| -> Vec<Value> {
            parts.into_iter().map(|part| json!({inner: part})).collect()
        };
        for (name, list) in [
            ("from", wrap("source", from)),
            ("to", wrap("operation", to)),
            ("when", when),
        ] {
            if !list.is_empty() {
                rule.insert(name.to_owned(), Value::Array(list));
            }
        }
        Value::Object(rule)
    })
}

fn policy() -> impl Strategy<Value = Value> {
    let action = proptest::sample::select(vec!["ALLOW", "DENY"]);
    let rules = proptest::collection::vec(rule(), 0..3);
    (action, rules).prop_map(|(action, rules)| json!({"action": action, "rules": rules}))
}

fn peer() -> impl Strategy<Value = Peer> {
    let identity = (
        proptest::sample::select(vec!["shop", "bank"]),
        proptest::sample::select(vec!["web", "job"]),
    );
    let identity =
        identity.prop_map(|(namespace, account)| (namespace.to_owned(), account.to_owned()));
    let ips = vec![
        "10.0.0.1",
        "10.0.0.2",
        "10.9.9.9",
        "192.0.2.5",
        "203.0.113.1",
    ];
    let parts = (
        proptest::option::weighted(0.8, identity),
        proptest::sample::select(ips),
        proptest::sample::select(vec![80u16, 443, 9999]),
    );
    parts.prop_map(|(identity, ip, port)| Peer {
        identity,
        ip: ip.parse().unwrap(),
        port,
    })
}

const POD: &str = "apiVersion: v1\nkind: Pod\n\
                   metadata: {name: web, namespace: shop, labels: {app: web}}\nstatus: {podIP: 10.0.0.1}\n";

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn translation_and_evaluation_agree_with_the_manifest(
        policies in proptest::collection::vec((policy(), 0..3usize), 0..4),
        peers in proptest::collection::vec(peer(), 8),
    ) {
        let mut manifest = POD.to_owned();
        for (index, (spec, scope)) in policies.iter().enumerate() {
            let mut spec = spec.clone();
            let namespace = if *scope == 2 { "culvert-system" } else { "shop" };
            if *scope == 1 {
                spec["selector"] = json!({"matchLabels": {"app": "web"}});
            }
            // An unqualified account is one of the policy's own namespace.
            let spec = spec.to_string();
            let spec = if *scope == 2 {
                spec.replace("[\"web\"", "[\"shop/web\"").replace("\"job\"", "\"shop/job\"")
                    .replace(",\"web\"", ",\"shop/web\"")
            } else {
                spec
            };
            manifest += &format!(
                "---\n{{\"apiVersion\": \"security.istio.io/v1\", \"kind\": \"AuthorizationPolicy\", \
                 \"metadata\": {{\"name\": \"p{index}\", \"namespace\": \"{namespace}\"}}, \"spec\": {spec}}}\n"
            );
        }
        let collection = from_folder(&manifest);
        let workload = &collection.translated("shop").unwrap().workloads[0];
        let mut set = PolicySet::default();
        for namespace in ["shop", "culvert-system"] {
            let translated = collection.translated(namespace).into_iter();
            translated.flat_map(|translated| &translated.policies).for_each(|policy| set.insert(policy));
        }
        let specs: Vec<Value> = policies.into_iter().map(|(spec, _)| spec).collect();
        for peer in peers {
            let identity = peer.identity.as_ref().map(|(namespace, account)| {
                Identity::new("cluster.local", namespace, account).unwrap()
            });
            let target = Target { namespace: "shop", policies: &workload.authorization_policies };
            let connection = Connection {
                source: identity.as_ref(),
                peer: identity.as_ref(),
                source_ip: peer.ip,
                source_ip_vouched: true,
                destination: SocketAddr::new("10.0.0.1".parse().unwrap(), peer.port),
            };
            let decision = decide(&set, &target, &connection);
            prop_assert_eq!(decision.is_allowed(), allowed(&specs, &peer), "{:?} {:?}\n{}", peer, decision, manifest);
        }
    }
}
