//! A second evaluator, written from the words of [`agent_model::access`] in another style: values
//! are looked up as lists of texts, answers are lists of possible worlds.

use agent_model::access::*;
use agent_model::{Action, StringMatch};
use proptest::prelude::*;

use super::*;
use crate::jwt::Claim;

/// What may be true of something: a set of truth values, never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Possible {
    yes: bool,
    no: bool,
}

const EITHER: Possible = Possible {
    yes: true,
    no: true,
};

/// Of an entry that says nothing nobody knows what it means.
fn said(is_said: bool) -> Possible {
    if is_said { sure(true) } else { EITHER }
}

fn sure(truth: bool) -> Possible {
    Possible {
        yes: truth,
        no: !truth,
    }
}

fn reference_allows(policies: &[Access], facts: &Facts) -> bool {
    let enforced = |action| {
        let live = policies.iter().filter(move |p| !p.dry_run);
        live.filter(move |p| p.action == action)
    };
    let hit = |p: &Access| p.rules.iter().any(|rule| rule_hits(rule, p.action, facts));
    if enforced(Action::Deny).any(hit) {
        return false;
    }
    enforced(Action::Allow).count() == 0 || enforced(Action::Allow).any(hit)
}

fn rule_hits(rule: &AccessRule, action: Action, facts: &Facts) -> bool {
    // A refusing policy takes the worst for granted.
    let holds = |list: Vec<Possible>| {
        list.iter().all(|p| match action {
            Action::Deny => p.yes,
            Action::Allow => p.yes && !p.no,
        })
    };
    let from = rule.from.is_empty() || rule.from.iter().any(|s| holds(source(s, facts)));
    let to = rule.to.is_empty() || rule.to.iter().any(|o| holds(operation(o, facts)));
    from && to && holds(rule.when.iter().map(|c| condition(c, facts)).collect())
}

fn operation(o: &Operation, facts: &Facts) -> Vec<Possible> {
    let path = |p: &PathMatch| match p {
        PathMatch::Text(text) => is(text, facts.path, false),
        PathMatch::Template(text) => template(text, facts.path),
    };
    let authority = match facts.port {
        Some(port) => format!("{}:{port}", facts.host),
        None => facts.host.to_owned(),
    };
    let host = |p: &StringMatch| is(p, facts.host, true) || is(p, &authority, true);
    let hosts = if o.hosts.is_empty() && o.not_hosts.is_empty() {
        sure(true)
    } else if facts.host.is_empty() {
        EITHER
    } else {
        sure(pair(&o.hosts, &o.not_hosts, host))
    };
    let port = facts.destination.port();
    vec![
        said(*o != Operation::default()),
        hosts,
        sure(pair(&o.ports, &o.not_ports, |p| *p == port)),
        sure(pair(&o.methods, &o.not_methods, |p| {
            is(p, facts.method, false)
        })),
        sure(pair(&o.paths, &o.not_paths, path)),
    ]
}

fn source(s: &Source, facts: &Facts) -> Vec<Possible> {
    let principal = facts.source.as_ref().map(|p| p.principal().to_owned());
    let words: Vec<_> = principal.iter().flat_map(|p| p.split('/')).collect();
    let account = |a: &ServiceAccountMatch| {
        words.get(2) == Some(&a.namespace.as_str())
            && words.get(4) == Some(&a.service_account.as_str())
    };
    vec![
        said(*s != Source::default()),
        text(&s.principals, &s.not_principals, &principal),
        text(
            &s.namespaces,
            &s.not_namespaces,
            &words.get(2).map(|w| (*w).to_owned()),
        ),
        sure(pair(&s.service_accounts, &s.not_service_accounts, account)),
        network(&s.ip_blocks, &s.not_ip_blocks, "10.0.1.5", facts.vouched),
        network(
            &s.remote_ip_blocks,
            &s.not_remote_ip_blocks,
            facts.remote,
            true,
        ),
        token(
            &s.request_principals,
            &s.not_request_principals,
            facts,
            |token| token.principal().map(|p| Claim::Text(p.into())),
        ),
    ]
}

fn condition(condition: &Condition, facts: &Facts) -> Possible {
    match condition {
        Condition::DestinationPort { values, not_values } => {
            let port = facts.destination.port();
            sure(pair(values, not_values, |p| *p == port))
        }
        Condition::Address {
            attribute,
            values,
            not_values,
        } => match attribute {
            AddressAttribute::Source => network(values, not_values, "10.0.1.5", facts.vouched),
            AddressAttribute::Remote => network(values, not_values, facts.remote, true),
            AddressAttribute::Destination => network(
                values,
                not_values,
                &facts.destination.ip().to_string(),
                true,
            ),
        },
        Condition::Text {
            attribute,
            values,
            not_values,
        } => {
            let (v, n) = (values, not_values);
            let principal = facts.source.as_ref().map(|p| p.principal().to_owned());
            let claim = |path: &[&str]| token(v, n, facts, |t| t.claim(path).cloned());
            match attribute {
                TextAttribute::Header(name) => headers(v, n, name, facts),
                TextAttribute::SourcePrincipal => text(v, n, &principal),
                TextAttribute::SourceNamespace => {
                    let namespace = principal.as_deref().and_then(|p| p.split('/').nth(2));
                    text(v, n, &namespace.map(str::to_owned))
                }
                TextAttribute::Sni => text(v, n, &facts.sni.map(str::to_owned)),
                TextAttribute::RequestPrincipal => token(v, n, facts, |t| {
                    t.principal().map(|p| Claim::Text(p.into()))
                }),
                TextAttribute::RequestAudiences => claim(&["aud"]),
                TextAttribute::RequestPresenter => claim(&["azp"]),
                TextAttribute::Claim(path) => {
                    claim(&path.iter().map(String::as_str).collect::<Vec<_>>())
                }
            }
        }
    }
}

fn pair<T>(any: &[T], none: &[T], hit: impl Fn(&T) -> bool) -> bool {
    (any.is_empty() || any.iter().any(&hit)) && !none.iter().any(&hit)
}

fn text(any: &[StringMatch], none: &[StringMatch], value: &Option<String>) -> Possible {
    let hit = |p: &StringMatch| value.as_ref().is_some_and(|v| is(p, v, false));
    sure(pair(any, none, hit))
}

/// Each line may be the one that counts.
fn headers(any: &[StringMatch], none: &[StringMatch], name: &str, facts: &Facts) -> Possible {
    let lines: Vec<_> = facts.headers.get_all(name).iter().collect();
    let all_worlds = |patterns: &[StringMatch]| -> Vec<bool> {
        if lines.is_empty() {
            return vec![false];
        }
        let of_line = |line: &&HeaderValue| {
            let line = line.to_str().unwrap();
            patterns.iter().any(|p| is(p, line, false))
        };
        lines.iter().map(of_line).collect()
    };
    let positive = if any.is_empty() {
        vec![true]
    } else {
        all_worlds(any)
    };
    let negative = if none.is_empty() {
        vec![false]
    } else {
        all_worlds(none)
    };
    let both = |p: bool, n: bool| p && !n;
    let worlds = positive
        .iter()
        .flat_map(|p| negative.iter().map(move |n| both(*p, *n)));
    let worlds: Vec<bool> = worlds.collect();
    Possible {
        yes: worlds.contains(&true),
        no: worlds.contains(&false),
    }
}

fn token(
    any: &[StringMatch],
    none: &[StringMatch],
    facts: &Facts,
    value: impl Fn(&Token) -> Option<Claim>,
) -> Possible {
    if any.is_empty() && none.is_empty() {
        return sure(true);
    }
    let Some(token) = &facts.token else {
        return match (any.is_empty(), none.contains(&StringMatch::Presence)) {
            (false, _) => sure(false),
            (true, true) => sure(true),
            (true, false) => EITHER,
        };
    };
    let value = value(token);
    let hits = |patterns: &[StringMatch]| -> Possible {
        let Some(value) = &value else {
            return sure(false);
        };
        if patterns.contains(&StringMatch::Presence) {
            return sure(true);
        }
        let items = match value {
            Claim::List(items) => items.clone(),
            other => vec![other.clone()],
        };
        let text_hits =
            |c: &Claim| matches!(c, Claim::Text(t) if patterns.iter().any(|p| is(p, t, false)));
        let comparable = items.iter().all(|c| matches!(c, Claim::Text(_)));
        let hit = items.iter().any(text_hits);
        Possible {
            yes: hit || !comparable,
            no: !hit,
        }
    };
    let positive = if any.is_empty() {
        sure(true)
    } else {
        hits(any)
    };
    let unwanted = if none.is_empty() {
        sure(false)
    } else {
        hits(none)
    };
    Possible {
        yes: positive.yes && unwanted.no,
        no: positive.no || unwanted.yes,
    }
}

fn network(any: &[ipnet::IpNet], none: &[ipnet::IpNet], ip: &str, vouched: bool) -> Possible {
    if any.is_empty() && none.is_empty() {
        return sure(true);
    }
    if !vouched {
        return EITHER;
    }
    let ip: std::net::IpAddr = ip.parse().unwrap();
    sure(pair(any, none, |n| n.contains(&ip)))
}

fn is(pattern: &StringMatch, value: &str, fold: bool) -> bool {
    let low = |s: &str| {
        if fold {
            s.to_ascii_lowercase()
        } else {
            s.to_owned()
        }
    };
    let value = low(value);
    match pattern {
        StringMatch::Exact(text) => value == low(text),
        StringMatch::Prefix(text) => value.starts_with(&low(text)),
        StringMatch::Suffix(text) => value.ends_with(&low(text)),
        StringMatch::Presence => true,
    }
}

/// As the regular expression that a template stands for, matched by trying every cut.
fn template(template: &str, path: &str) -> bool {
    fn go(template: &str, path: &str) -> bool {
        if let Some(rest) = template.strip_prefix("{**}") {
            return path
                .char_indices()
                .map(|(i, _)| i)
                .chain([path.len()])
                .any(|i| go(rest, &path[i..]));
        }
        if let Some(rest) = template.strip_prefix("{*}") {
            let end = path.find('/').unwrap_or(path.len());
            return end > 0 && go(rest, &path[end..]);
        }
        match (template.chars().next(), path.chars().next()) {
            (None, None) => true,
            (Some(a), Some(b)) if a == b => go(&template[a.len_utf8()..], &path[b.len_utf8()..]),
            _ => false,
        }
    }
    go(template, path)
}

// --- generators --------------------------------------------------------------------------------

fn some<T: Clone + std::fmt::Debug + 'static>(values: &[T]) -> BoxedStrategy<Vec<T>> {
    let one = prop::sample::select(values.to_vec());
    // Mostly nothing: full random fields nearly never match.
    prop_oneof![4 => Just(vec![]), 2 => prop::collection::vec(one, 1..3)].boxed()
}

fn patterns(texts: &[&str]) -> BoxedStrategy<Vec<StringMatch>> {
    let mut all = vec![StringMatch::Presence];
    for text in texts {
        let cut = text.len() / 2;
        all.push(StringMatch::Exact((*text).to_owned()));
        all.push(StringMatch::Exact((*text).to_owned()));
        all.push(StringMatch::Prefix(text[..cut].to_owned()));
        all.push(StringMatch::Suffix(text[cut..].to_owned()));
    }
    some(&all)
}

fn networks() -> BoxedStrategy<Vec<ipnet::IpNet>> {
    some(&["10.0.1.0/24", "10.0.0.0/8", "203.0.113.9/32", "::/0"].map(|n| n.parse().unwrap()))
}

const PRINCIPALS: [&str; 2] = [
    "cluster.local/ns/shop/sa/web",
    "cluster.local/ns/bank/sa/job",
];
const HOSTS: [&str; 3] = ["shop.example", "SHOP.example:8080", "bank.example"];
const PATHS: [&str; 4] = ["/", "/orders/7", "/orders/", "/admin"];
const SUBJECTS: [&str; 2] = ["i/alice", "i/bob"];
const CLAIMS: [&str; 3] = ["dev", "ops", "true"];

fn paths() -> BoxedStrategy<Vec<PathMatch>> {
    let templates = ["/orders/{*}", "/{**}", "/{*}/7", "/orders/{**}", "/{**}/7"];
    let template = prop::sample::select(templates.to_vec());
    let template = template.prop_map(|t| vec![PathMatch::Template(t.to_owned())]);
    let text = patterns(&PATHS);
    let text = text.prop_map(|t| t.into_iter().map(PathMatch::Text).collect::<Vec<_>>());
    prop_oneof![3 => text, 1 => template].boxed()
}

fn accounts() -> BoxedStrategy<Vec<ServiceAccountMatch>> {
    let account = |(namespace, account): (&str, &str)| ServiceAccountMatch {
        namespace: namespace.to_owned(),
        service_account: account.to_owned(),
    };
    some(&[("shop", "web"), ("bank", "job"), ("shop", "job")].map(account))
}

fn sources() -> impl Strategy<Value = Source> {
    let identity = (
        patterns(&PRINCIPALS),
        patterns(&PRINCIPALS),
        patterns(&["shop", "bank"]),
        patterns(&["shop", "bank"]),
        accounts(),
        accounts(),
    );
    let rest = (
        networks(),
        networks(),
        networks(),
        networks(),
        patterns(&SUBJECTS),
        patterns(&SUBJECTS),
    );
    (identity, rest, any::<u16>()).prop_map(|(i, r, keep)| {
        let mut source = Source::default();
        let on = |bit: u16| keep >> bit & 1 == 1 && keep >> ((bit + 5) % 16) & 1 == 1;
        if on(0) {
            (source.principals, source.not_principals) = (i.0, i.1);
        }
        if on(1) {
            (source.namespaces, source.not_namespaces) = (i.2, i.3);
        }
        if on(2) {
            (source.service_accounts, source.not_service_accounts) = (i.4, i.5);
        }
        if on(3) {
            (source.ip_blocks, source.not_ip_blocks) = (r.0, r.1);
        }
        if on(4) {
            (source.remote_ip_blocks, source.not_remote_ip_blocks) = (r.2, r.3);
        }
        if on(5) {
            (source.request_principals, source.not_request_principals) = (r.4, r.5);
        }
        source
    })
}

fn operations() -> impl Strategy<Value = Operation> {
    let fields = (
        patterns(&HOSTS),
        patterns(&HOSTS),
        some(&[80u16, 443]),
        some(&[80u16, 443]),
        patterns(&["GET", "POST", "get"]),
        patterns(&["GET", "POST"]),
        paths(),
        paths(),
    );
    (fields, any::<u8>()).prop_map(|(f, keep)| {
        let mut operation = Operation::default();
        if keep & 3 == 3 {
            (operation.hosts, operation.not_hosts) = (f.0, f.1);
        }
        if keep & 12 == 12 {
            (operation.ports, operation.not_ports) = (f.2, f.3);
        }
        if keep & 48 == 48 {
            (operation.methods, operation.not_methods) = (f.4, f.5);
        }
        if keep & 64 == 64 {
            (operation.paths, operation.not_paths) = (f.6, f.7);
        }
        operation
    })
}

fn conditions() -> impl Strategy<Value = Condition> {
    let path = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned());
        TextAttribute::Claim(names.collect())
    };
    let attributes = vec![
        TextAttribute::Header("x-role".into()),
        TextAttribute::Header("X-Role".into()),
        TextAttribute::SourceNamespace,
        TextAttribute::SourcePrincipal,
        TextAttribute::RequestPrincipal,
        TextAttribute::RequestAudiences,
        TextAttribute::RequestPresenter,
        path(&["group"]),
        path(&["realm", "roles"]),
        TextAttribute::Sni,
    ];
    let texts = [&CLAIMS[..], &["shop", "i/alice", "admin", PRINCIPALS[0]]].concat();
    let text = (
        prop::sample::select(attributes),
        patterns(&texts),
        patterns(&texts),
    );
    let text = text.prop_map(|(attribute, values, not_values)| Condition::Text {
        attribute,
        values,
        not_values,
    });
    let addresses = vec![
        AddressAttribute::Source,
        AddressAttribute::Remote,
        AddressAttribute::Destination,
    ];
    let address = (prop::sample::select(addresses), networks(), networks());
    let address = address.prop_map(|(attribute, values, not_values)| Condition::Address {
        attribute,
        values,
        not_values,
    });
    let port = (some(&[80u16, 443]), some(&[80u16, 443]));
    let port =
        port.prop_map(|(values, not_values)| Condition::DestinationPort { values, not_values });
    let is_said = |condition: &Condition| match condition {
        Condition::Text {
            values, not_values, ..
        } => values.len() + not_values.len() > 0,
        Condition::Address {
            values, not_values, ..
        } => values.len() + not_values.len() > 0,
        Condition::DestinationPort { values, not_values } => values.len() + not_values.len() > 0,
    };
    prop_oneof![6 => text, 1 => address, 1 => port].prop_map(move |condition| {
        if is_said(&condition) {
            return condition;
        }
        Condition::DestinationPort {
            values: vec![80],
            not_values: vec![],
        }
    })
}

fn accesses() -> impl Strategy<Value = Vec<Access>> {
    let rule = (
        prop::collection::vec(sources(), 0..3),
        prop::collection::vec(operations(), 0..3),
        prop::collection::vec(conditions(), 0..3),
    );
    let rule = rule.prop_map(|(from, to, when)| AccessRule { from, to, when });
    let action = prop::sample::select(vec![Action::Allow, Action::Deny]);
    let one = (
        action,
        prop::collection::vec(rule, 0..3),
        prop::bool::weighted(0.1),
    );
    let one = one.prop_map(|(action, rules, dry_run)| Access {
        dry_run,
        ..policy("p", action, rules)
    });
    prop::collection::vec(one, 0..4)
}

fn facts() -> impl Strategy<Value = Facts> {
    let source = prop::sample::select(vec![None, Some(("shop", "web")), Some(("bank", "job"))]);
    let host = prop::sample::select(vec![
        ("shop.example", None),
        ("shop.example", Some(8080)),
        ("bank.example", None),
        ("", None),
    ]);
    let lines = prop::collection::vec(prop::sample::select(vec!["admin", "dev", "", "ops"]), 0..3);
    let token = prop::sample::select(vec![
        None,
        Some(r#"{"iss":"i","sub":"alice","aud":"dev","group":["dev","ops"]}"#),
        Some(r#"{"iss":"i","sub":"bob","azp":"ops","realm":{"roles":["ops",{"x":1}]}}"#),
        Some(r#"{"iss":"i","group":true,"aud":["dev","ops"],"realm":{"roles":0.5}}"#),
    ]);
    let place = (
        prop::sample::select(vec!["GET", "POST"]),
        prop::sample::select(vec!["/", "/orders/7", "/orders/", "/admin", "/orders/7/7"]),
        prop::sample::select(vec!["203.0.113.9", "10.0.1.9", "fd00::1"]),
        prop::sample::select(vec!["10.0.2.7:80", "[fd00::7]:443"]),
        prop::sample::select(vec![None, Some("shop")]),
        any::<bool>(),
    );
    (source, host, lines, token, place).prop_map(|(source, host, lines, token, place)| {
        let mut facts = Facts {
            source: source.map(|(namespace, account)| peer(namespace, account)),
            vouched: place.5,
            remote: place.2,
            destination: place.3.parse().unwrap(),
            sni: place.4,
            method: place.0,
            host: host.0,
            port: host.1,
            path: place.1,
            token: token.map(Token::of_claims),
            ..Facts::default()
        };
        for line in lines {
            facts = facts.header("x-role", line);
        }
        facts
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn agrees_with_the_reference_evaluator(policies in accesses(), facts in facts()) {
        prop_assert_eq!(allowed(&policies, &facts), reference_allows(&policies, &facts));
    }

    /// Leaving a token away opens nothing that an ALLOW asks of one, whatever else it says.
    #[test]
    fn less_evidence_opens_nothing(
        subjects in (patterns(&SUBJECTS), patterns(&SUBJECTS)),
        others in prop::collection::vec(conditions(), 0..2),
        facts in facts(),
    ) {
        let (values, mut not_values) = subjects;
        not_values.retain(|pattern| *pattern != StringMatch::Presence);
        not_values.push(StringMatch::Exact("i/mallory".to_owned()));
        let mut rule = when(TextAttribute::RequestPrincipal, values, not_values);
        rule.when.extend(others);
        let tokenless = Facts { token: None, ..facts };
        prop_assert!(!allowed(&[policy("p", Action::Allow, vec![rule])], &tokenless));
    }
}
