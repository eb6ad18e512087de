//! Examples of each rule. The differential test is in [`reference`].

mod figures;
mod reference;

use std::net::SocketAddr;

use agent_model::access::{
    Access, AccessRule, AddressAttribute, Condition, Operation, PathMatch, Source, TextAttribute,
};
use agent_model::{Action, Identity, PolicyKey, Reason, ServiceAccountMatch, StringMatch};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::jwt::Token;

fn policy(name: &str, action: Action, rules: Vec<AccessRule>) -> Access {
    Access {
        name: name.into(),
        namespace: "shop".into(),
        targets: vec![],
        action,
        rules,
        dry_run: false,
    }
}

/// A request as plain values.
#[derive(Debug, Clone)]
struct Facts {
    source: Option<Peer>,
    vouched: bool,
    remote: &'static str,
    destination: SocketAddr,
    sni: Option<&'static str>,
    method: &'static str,
    host: &'static str,
    port: Option<u16>,
    path: &'static str,
    headers: HeaderMap,
    token: Option<Token>,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            source: Some(peer("shop", "web")),
            vouched: true,
            remote: "203.0.113.9",
            destination: "10.0.2.7:80".parse().unwrap(),
            sni: None,
            method: "GET",
            host: "shop.example",
            port: Some(8080),
            path: "/orders/7",
            headers: HeaderMap::new(),
            token: None,
        }
    }
}

impl Facts {
    fn request(&self) -> Request<'_> {
        Request {
            source: self.source.as_ref(),
            source_address: Address {
                ip: "10.0.1.5".parse().unwrap(),
                vouched: self.vouched,
            },
            remote_address: Address {
                ip: self.remote.parse().unwrap(),
                vouched: true,
            },
            destination: self.destination,
            sni: self.sni,
            method: self.method,
            host: self.host,
            port: self.port,
            path: self.path,
            headers: &self.headers,
            token: self.token.as_ref(),
        }
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(name, HeaderValue::from_static(value));
        self
    }

    fn token(mut self, claims: &str) -> Self {
        self.token = Some(Token::of_claims(claims));
        self
    }
}

fn peer(namespace: &str, account: &str) -> Peer {
    Peer::new(Identity::new("cluster.local", namespace, account).unwrap())
}

fn allowed(policies: &[Access], facts: &Facts) -> bool {
    let (set, faults) = Ruleset::compile(policies);
    assert_eq!(faults, []);
    set.decide(&facts.request()).is_allowed()
}

/// Whether one rule matches, as an ALLOW and as a DENY. Where nothing is unknown they agree.
fn matches(rule: &AccessRule, facts: &Facts) -> (bool, bool) {
    let one = |action| [policy("p", action, vec![rule.clone()])];
    (
        allowed(&one(Action::Allow), facts),
        !allowed(&one(Action::Deny), facts),
    )
}

const YES: (bool, bool) = (true, true);
const NO: (bool, bool) = (false, false);
/// An ALLOW does not match and a DENY does.
const UNKNOWN: (bool, bool) = (false, true);

fn exact(text: &str) -> Vec<StringMatch> {
    vec![StringMatch::Exact(text.to_owned())]
}

fn present() -> Vec<StringMatch> {
    vec![StringMatch::Presence]
}

fn to(operation: Operation) -> AccessRule {
    AccessRule {
        to: vec![operation],
        ..AccessRule::default()
    }
}

fn from(source: Source) -> AccessRule {
    AccessRule {
        from: vec![source],
        ..AccessRule::default()
    }
}

fn when(attribute: TextAttribute, values: Vec<StringMatch>, not: Vec<StringMatch>) -> AccessRule {
    AccessRule {
        when: vec![Condition::Text {
            attribute,
            values,
            not_values: not,
        }],
        ..AccessRule::default()
    }
}

#[test]
fn deny_comes_first_then_allow_and_the_policy_and_rule_are_named() {
    let everything = || vec![AccessRule::default()];
    let methods = |method: &str| {
        to(Operation {
            methods: exact(method),
            ..Operation::default()
        })
    };
    let deny = policy(
        "deny",
        Action::Deny,
        vec![methods("PUT"), methods("DELETE")],
    );
    let allow = policy(
        "allow",
        Action::Allow,
        vec![methods("GET"), methods("DELETE")],
    );
    let (set, _) = Ruleset::compile([&allow, &deny]);
    let decide = |method| {
        let facts = Facts {
            method,
            ..Facts::default()
        };
        format!("{:?}", set.decide(&facts.request()))
    };
    assert_eq!(
        decide("DELETE"),
        "Deny { reason: PolicyDenied, policy: shop/deny, rule: Some(1) }"
    );
    assert_eq!(
        decide("GET"),
        "Allow(Some(Match { policy: shop/allow, rule: 0 }))"
    );
    assert_eq!(
        decide("POST"),
        "Deny { reason: PolicyNotAllowed, policy: shop/allow, rule: None }"
    );
    let nothing = Ruleset::default();
    assert_eq!(
        nothing.decide(&Facts::default().request()),
        Decision::Allow(None)
    );
    assert!(nothing.is_empty() && !set.is_empty());
    assert!(!allowed(
        &[
            policy("d", Action::Deny, everything()),
            policy("a", Action::Allow, everything())
        ],
        &Facts::default()
    ));
}

#[test]
fn empty_is_not_absent() {
    let facts = Facts::default();
    assert!(!allowed(&[policy("a", Action::Allow, vec![])], &facts));
    assert!(allowed(&[policy("d", Action::Deny, vec![])], &facts));
    assert_eq!(matches(&AccessRule::default(), &facts), YES);
    assert_eq!(matches(&from(Source::default()), &facts), UNKNOWN);
    assert_eq!(matches(&to(Operation::default()), &facts), UNKNOWN);
    let or_a_real_one = AccessRule {
        to: vec![
            Operation::default(),
            Operation {
                ports: vec![80],
                ..Operation::default()
            },
        ],
        ..AccessRule::default()
    };
    assert_eq!(matches(&or_a_real_one, &facts), YES);
}

#[test]
fn a_dry_run_is_reported_and_enforces_nothing() {
    let mut dry = policy("dry", Action::Deny, vec![AccessRule::default()]);
    dry.dry_run = true;
    let (set, _) = Ruleset::compile([&dry]);
    let facts = Facts::default();
    let request = facts.request();
    assert!(set.decide(&request).is_allowed());
    let verdicts: Vec<_> = set.dry_runs(&request).collect();
    let expected = Verdict {
        policy: &PolicyKey::new("shop", "dry"),
        action: Action::Deny,
        rule: Some(0),
        dry_run: true,
    };
    assert_eq!(verdicts, [expected]);
    assert_eq!(set.verdicts(&request).count(), 1);
}

#[test]
fn what_cannot_be_compiled_refuses_everything_unless_it_is_a_dry_run() {
    let path = |template: &str| {
        to(Operation {
            paths: vec![PathMatch::Template(template.to_owned())],
            ..Operation::default()
        })
    };
    let header = |name: &str| when(TextAttribute::Header(name.into()), present(), vec![]);
    let bad = [
        path("/a/{*}b"),
        header(":path"),
        header(""),
        when(TextAttribute::Sni, vec![], vec![]),
        when(TextAttribute::Claim(vec![]), present(), vec![]),
    ];
    for rule in bad {
        for action in [Action::Allow, Action::Deny] {
            let mut access = policy("bad", action, vec![AccessRule::default(), rule.clone()]);
            let (set, faults) = Ruleset::compile([&access]);
            assert_eq!(faults.len(), 1, "{rule:?}");
            assert!(
                faults[0].1.to_string().starts_with("rule 1: "),
                "{}",
                faults[0].1
            );
            let expected = Decision::Deny {
                reason: Reason::PolicyUnknown,
                policy: &access.key(),
                rule: None,
            };
            assert_eq!(set.decide(&Facts::default().request()), expected);
            access.dry_run = true;
            let (set, _) = Ruleset::compile([&access]);
            assert!(set.decide(&Facts::default().request()).is_allowed());
        }
    }
}

#[test]
fn methods_and_paths_are_exact_and_hosts_have_no_case() {
    let method = |text: &str| {
        to(Operation {
            methods: exact(text),
            ..Operation::default()
        })
    };
    let path = |pattern| {
        to(Operation {
            paths: vec![PathMatch::Text(pattern)],
            ..Operation::default()
        })
    };
    let facts = Facts::default();
    assert_eq!(matches(&method("GET"), &facts), YES);
    assert_eq!(matches(&method("get"), &facts), NO);
    assert_eq!(
        matches(&path(StringMatch::Exact("/orders/7".into())), &facts),
        YES
    );
    assert_eq!(
        matches(&path(StringMatch::Exact("/Orders/7".into())), &facts),
        NO
    );
    assert_eq!(
        matches(&path(StringMatch::Prefix("/orders".into())), &facts),
        YES
    );
    assert_eq!(
        matches(&path(StringMatch::Suffix("/7".into())), &facts),
        YES
    );
    assert_eq!(
        matches(&path(StringMatch::Suffix("/orders/7/".into())), &facts),
        NO
    );
}

#[test]
fn a_host_is_meant_with_and_without_the_port() {
    let host = |pattern: StringMatch| {
        to(Operation {
            hosts: vec![pattern],
            ..Operation::default()
        })
    };
    let not_host = |pattern: StringMatch| {
        to(Operation {
            not_hosts: vec![pattern],
            ..Operation::default()
        })
    };
    let facts = Facts::default();
    for pattern in [
        StringMatch::Exact("Shop.Example".into()),
        StringMatch::Exact("shop.example:8080".into()),
        StringMatch::Prefix("SHOP.".into()),
        StringMatch::Prefix("shop.example:".into()),
        StringMatch::Suffix(".EXAMPLE".into()),
        StringMatch::Presence,
    ] {
        assert_eq!(matches(&host(pattern.clone()), &facts), YES, "{pattern:?}");
        assert_eq!(matches(&not_host(pattern), &facts), NO);
    }
    for other in [
        StringMatch::Exact("shop.example:80".into()),
        StringMatch::Suffix("a-suffix-longer-than-the-host.shop.example".into()),
        StringMatch::Prefix("a-prefix-longer-than-the-host.shop.example".into()),
    ] {
        assert_eq!(matches(&host(other.clone()), &facts), NO, "{other:?}");
        assert_eq!(matches(&not_host(other), &facts), YES);
    }
    let without = Facts {
        host: "",
        port: None,
        ..facts
    };
    assert_eq!(matches(&host(StringMatch::Presence), &without), UNKNOWN);
    assert_eq!(matches(&not_host(StringMatch::Presence), &without), UNKNOWN);
}

/// Another authority's word counts for what names its trust domain, and settles nothing of the mesh.
#[test]
fn who_sends_it_from_outside() {
    let partner = Identity::new("partner.example", "shop", "web").unwrap();
    let facts = Facts {
        source: Some(Peer::outside(partner)),
        ..Facts::default()
    };
    let principal = |pattern: StringMatch| Source {
        principals: vec![pattern],
        ..Source::default()
    };
    let of_shop = |namespace: &str| Source {
        namespaces: exact(namespace),
        ..Source::default()
    };
    let account = |namespace: &str| Source {
        service_accounts: vec![ServiceAccountMatch {
            namespace: namespace.into(),
            service_account: "web".into(),
        }],
        ..Source::default()
    };
    let not_of_shop = Source {
        not_namespaces: exact("shop"),
        ..Source::default()
    };
    let text = str::to_owned;
    for (source, expected) in [
        (
            principal(StringMatch::Exact(text("partner.example/ns/shop/sa/web"))),
            YES,
        ),
        (
            principal(StringMatch::Prefix(text("partner.example/"))),
            YES,
        ),
        (
            principal(StringMatch::Exact(text("cluster.local/ns/shop/sa/web"))),
            NO,
        ),
        (principal(StringMatch::Prefix(text("cluster.local/"))), NO),
        (principal(StringMatch::Prefix(text("partner"))), UNKNOWN),
        (
            principal(StringMatch::Suffix(text("/ns/shop/sa/web"))),
            UNKNOWN,
        ),
        (principal(StringMatch::Suffix(text("/ns/shop/sa/till"))), NO),
        (principal(StringMatch::Presence), UNKNOWN),
        (of_shop("shop"), UNKNOWN),
        (of_shop("bank"), NO),
        (account("shop"), UNKNOWN),
        (account("bank"), NO),
        (not_of_shop, UNKNOWN),
    ] {
        assert_eq!(
            matches(&from(source.clone()), &facts),
            expected,
            "{source:?}"
        );
    }
}

#[test]
fn who_sends_it() {
    let facts = Facts::default();
    let plaintext = Facts {
        source: None,
        ..Facts::default()
    };
    let by_principal = |principal: &str| {
        from(Source {
            principals: exact(principal),
            ..Source::default()
        })
    };
    assert_eq!(
        matches(&by_principal("cluster.local/ns/shop/sa/web"), &facts),
        YES
    );
    assert_eq!(
        matches(&by_principal("cluster.local/ns/shop/sa/Web"), &facts),
        NO
    );
    assert_eq!(matches(&by_principal(""), &plaintext), NO);
    let anybody = from(Source {
        principals: present(),
        ..Source::default()
    });
    assert_eq!(matches(&anybody, &facts), YES);
    assert_eq!(matches(&anybody, &plaintext), NO);
    // As on L4: this is how STRICT is written.
    let nobody = from(Source {
        not_principals: present(),
        ..Source::default()
    });
    assert_eq!(matches(&nobody, &facts), NO);
    assert_eq!(matches(&nobody, &plaintext), YES);
    let both = from(Source {
        namespaces: exact("shop"),
        service_accounts: vec![ServiceAccountMatch {
            namespace: "shop".into(),
            service_account: "web".into(),
        }],
        not_namespaces: exact("bank"),
        ..Source::default()
    });
    assert_eq!(matches(&both, &facts), YES);
    assert_eq!(matches(&both, &plaintext), NO);
    // A dot in a name is a dot (CVE-2026-39350).
    let dotted = Facts {
        source: Some(peer("shop", "webXfront")),
        ..Facts::default()
    };
    let account = from(Source {
        service_accounts: vec![ServiceAccountMatch {
            namespace: "shop".into(),
            service_account: "web.front".into(),
        }],
        ..Source::default()
    });
    assert_eq!(matches(&account, &dotted), NO);
}

#[test]
fn addresses_and_ports() {
    let facts = Facts::default();
    let doubtful = Facts {
        vouched: false,
        ..Facts::default()
    };
    let source = |network: &str| {
        from(Source {
            ip_blocks: vec![network.parse().unwrap()],
            ..Source::default()
        })
    };
    assert_eq!(matches(&source("10.0.1.0/24"), &facts), YES);
    assert_eq!(matches(&source("10.0.2.0/24"), &facts), NO);
    assert_eq!(matches(&source("10.0.1.0/24"), &doubtful), UNKNOWN);
    let not_remote = from(Source {
        not_remote_ip_blocks: vec!["203.0.113.0/24".parse().unwrap()],
        ..Source::default()
    });
    assert_eq!(matches(&not_remote, &doubtful), NO);
    let condition = |attribute, network: &str| AccessRule {
        when: vec![Condition::Address {
            attribute,
            values: vec![network.parse().unwrap()],
            not_values: vec![],
        }],
        ..AccessRule::default()
    };
    let by = |attribute, network| matches(&condition(attribute, network), &facts);
    assert_eq!(by(AddressAttribute::Source, "10.0.1.5/32"), YES);
    assert_eq!(by(AddressAttribute::Remote, "203.0.113.9/32"), YES);
    assert_eq!(by(AddressAttribute::Destination, "10.0.2.7/32"), YES);
    assert_eq!(by(AddressAttribute::Destination, "10.0.1.5/32"), NO);
    let port = |values: &[u16], not_values: &[u16]| AccessRule {
        when: vec![Condition::DestinationPort {
            values: values.to_vec(),
            not_values: not_values.to_vec(),
        }],
        ..AccessRule::default()
    };
    assert_eq!(matches(&port(&[80, 443], &[]), &facts), YES);
    assert_eq!(matches(&port(&[], &[80]), &facts), NO);
    assert_eq!(matches(&port(&[443], &[8080]), &facts), NO);
}

#[test]
fn headers_are_judged_line_by_line_and_have_to_agree() {
    let header = |values, not| when(TextAttribute::Header("X-Role".into()), values, not);
    let absent = Facts::default();
    let one = Facts::default().header("x-role", "admin");
    let twice = one.clone().header("X-Role", "admin");
    let mixed = one.clone().header("x-role", "guest");
    let other = Facts::default().header("x-role", "guest");
    let joined = Facts::default().header("x-role", "guest, admin");
    let empty = Facts::default().header("x-role", "");
    let is = header(exact("admin"), vec![]);
    let is_not = header(vec![], exact("admin"));
    for (facts, positive, negative) in [
        (&absent, NO, YES),
        (&one, YES, NO),
        (&twice, YES, NO),
        // CVE-2026-26308: joined by commas it would be neither.
        (&mixed, UNKNOWN, UNKNOWN),
        (&other, NO, YES),
        (&joined, NO, YES),
        (&empty, NO, YES),
    ] {
        assert_eq!(matches(&is, facts), positive, "{facts:?}");
        assert_eq!(matches(&is_not, facts), negative, "{facts:?}");
    }
    assert_eq!(matches(&header(present(), vec![]), &empty), YES);
    assert_eq!(matches(&header(vec![], present()), &empty), NO);
    assert_eq!(matches(&header(vec![], present()), &absent), YES);
    let suffix = header(vec![StringMatch::Suffix("min".into())], vec![]);
    assert_eq!(matches(&suffix, &one), YES);
    // Values are bytes, and compared as such.
    let mut latin = Facts::default();
    let value = HeaderValue::from_bytes(b"adm\xefn").unwrap();
    latin
        .headers
        .append(HeaderName::from_static("x-role"), value);
    assert_eq!(matches(&is_not, &latin), YES);
}

#[test]
fn a_request_without_a_token_is_nobody_in_particular() {
    let by = |any, none| {
        from(Source {
            request_principals: any,
            not_request_principals: none,
            ..Source::default()
        })
    };
    let nobody = Facts::default();
    let mallory = Facts::default().token(r#"{"iss":"https://iss","sub":"mallory"}"#);
    let alice = Facts::default().token(r#"{"iss":"https://iss","sub":"alice"}"#);
    let nameless = Facts::default().token(r#"{"iss":"https://iss"}"#);
    let is_mallory = by(exact("https://iss/mallory"), vec![]);
    let is_not_mallory = by(vec![], exact("https://iss/mallory"));
    assert_eq!(matches(&is_mallory, &mallory), YES);
    assert_eq!(matches(&is_mallory, &alice), NO);
    assert_eq!(matches(&is_mallory, &nobody), NO);
    assert_eq!(matches(&is_not_mallory, &mallory), NO);
    assert_eq!(matches(&is_not_mallory, &alice), YES);
    // Istio says yes to both, and lets the tokenless in by an ALLOW.
    assert_eq!(matches(&is_not_mallory, &nobody), UNKNOWN);
    // The rule by which tokens are demanded: DENY notRequestPrincipals "*".
    let without_token = by(vec![], present());
    assert_eq!(matches(&without_token, &nobody), YES);
    assert_eq!(matches(&without_token, &alice), NO);
    assert_eq!(matches(&without_token, &nameless), YES);
    assert_eq!(matches(&by(present(), vec![]), &nobody), NO);
    assert_eq!(matches(&by(present(), vec![]), &nameless), NO);
}

#[test]
fn claims() {
    let claim = |path: &[&str], any, none| {
        let path = path.iter().map(|name| (*name).to_owned()).collect();
        when(TextAttribute::Claim(path), any, none)
    };
    let facts = Facts::default().token(
        r#"{"iss":"i","sub":"s","aud":["a","b"],"azp":"app","group":["dev","ops"],"level":3,
            "admin":true,"realm":{"roles":["r1"],"x.y":"dotted"},"ratio":0.5,"nothing":null,
            "odd":["dev",{"a":1}],"empty":[]}"#,
    );
    let is = |path: &[&str], value: &str| matches(&claim(path, exact(value), vec![]), &facts);
    let is_not = |path: &[&str], value: &str| matches(&claim(path, vec![], exact(value)), &facts);
    assert_eq!(is(&["group"], "ops"), YES);
    assert_eq!(is_not(&["group"], "ops"), NO);
    assert_eq!(is(&["group"], "dev,ops"), NO);
    assert_eq!(is(&["level"], "3"), YES);
    assert_eq!(is(&["admin"], "true"), YES);
    assert_eq!(is(&["realm", "roles"], "r1"), YES);
    assert_eq!(is(&["realm", "x.y"], "dotted"), YES);
    assert_eq!(is(&["realm.roles"], "r1"), NO);
    assert_eq!(is(&["realm", "none"], "r1"), NO);
    assert_eq!(is(&["group", "0"], "dev"), NO);
    // A claim that is not there is the issuer's word.
    assert_eq!(is_not(&["missing"], "x"), YES);
    assert_eq!(is(&["missing"], "x"), NO);
    // What cannot be compared may be anything.
    for path in [&["realm"][..], &["ratio"], &["nothing"]] {
        assert_eq!(is(path, "x"), UNKNOWN, "{path:?}");
        assert_eq!(is_not(path, "x"), UNKNOWN, "{path:?}");
        assert_eq!(matches(&claim(path, present(), vec![]), &facts), YES);
    }
    assert_eq!(is(&["odd"], "dev"), YES);
    assert_eq!(is(&["odd"], "ops"), UNKNOWN);
    assert_eq!(is(&["empty"], "x"), NO);
    let audience = |text| when(TextAttribute::RequestAudiences, exact(text), vec![]);
    assert_eq!(matches(&audience("b"), &facts), YES);
    assert_eq!(matches(&audience("c"), &facts), NO);
    let presenter = when(TextAttribute::RequestPresenter, exact("app"), vec![]);
    assert_eq!(matches(&presenter, &facts), YES);
    let nobody = Facts::default();
    assert_eq!(
        matches(&claim(&["group"], exact("ops"), vec![]), &nobody),
        NO
    );
    assert_eq!(
        matches(&claim(&["group"], vec![], exact("ops")), &nobody),
        UNKNOWN
    );
    assert_eq!(matches(&claim(&["group"], vec![], present()), &nobody), YES);
}

#[test]
fn sni_and_source_conditions() {
    let facts = Facts {
        sni: Some("edge.example"),
        ..Facts::default()
    };
    let sni = when(TextAttribute::Sni, exact("EDGE.example"), vec![]);
    assert_eq!(matches(&sni, &facts), YES);
    assert_eq!(matches(&sni, &Facts::default()), NO);
    let namespace = when(TextAttribute::SourceNamespace, exact("shop"), vec![]);
    assert_eq!(matches(&namespace, &facts), YES);
    let principal = when(
        TextAttribute::SourcePrincipal,
        vec![],
        vec![StringMatch::Prefix("cluster.local/".into())],
    );
    assert_eq!(matches(&principal, &facts), NO);
}

#[test]
fn templates() {
    let matches = |template: &str, path: &str| {
        let template = PathTemplate::parse(template);
        template.unwrap_or_else(|e| panic!("{e}")).matches(path)
    };
    for (template, path) in [
        ("/foo/{*}", "/foo/bar"),
        ("/foo/{**}", "/foo/"),
        ("/foo/{**}", "/foo/a/b"),
        ("/foo/{**}/", "/foo/bar/"),
        ("/foo/{**}/", "/foo//"),
        ("/foo/{*}/bar/{**}", "/foo/buzz/bar/"),
        ("/foo/{*}/bar/{**}", "/foo/buzz/bar/baz"),
        ("/{**}/x/y", "/a/b/x/y"),
        ("/{**}/x", "/x/x"),
        ("/{**}", "/"),
        ("/{*}/{*}", "/a/b"),
    ] {
        assert!(matches(template, path), "{template} {path}");
    }
    for (template, path) in [
        ("/foo/{*}", "/foo/bar/baz"),
        ("/foo/{*}", "/foo/"),
        ("/foo/{*}", "/foo"),
        ("/foo/{**}", "/foo"),
        ("/foo/{**}", "/food"),
        ("/foo/{**}/", "/foo/bar"),
        ("/foo/{**}/", "/foo/"),
        ("/{**}/x", "/x"),
        ("/a/{**}/a", "/a/a"),
        ("/{**}", "*"),
    ] {
        assert!(!matches(template, path), "{template} {path}");
    }
    let fault = |template: &str| PathTemplate::parse(template).map(|_| ());
    assert_eq!(fault("/*/baz/{*}"), Err(TemplateError::Stray));
    assert_eq!(fault("/**/baz/{*}"), Err(TemplateError::Stray));
    assert_eq!(fault("/foo/{*}.txt"), Err(TemplateError::Stray));
    assert_eq!(fault("/foo/{name}"), Err(TemplateError::Stray));
    assert_eq!(fault("/{**}/foo/{*}"), Err(TemplateError::NotLast));
    assert_eq!(fault("/{**}/{**}"), Err(TemplateError::NotLast));
    assert_eq!(fault("{*}"), Err(TemplateError::Relative));
    assert!(PathTemplate::is_meant("/a/{**}") && !PathTemplate::is_meant("/a/*"));
}
