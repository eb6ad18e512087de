//! Who may send requests, and which tokens count.

use agent_model::access::{
    Access, AccessRule, AddressAttribute, Condition, Operation, PathMatch as PathTest,
    PolicyTarget, Source, TextAttribute,
};
use agent_model::authentication::{Authentication, ClaimToHeader, JwtRule, KeySource, TokenHeader};
use agent_model::{Action, ServiceAccountMatch, StringMatch};

use super::*;

fn strings() -> Vec<StringMatch> {
    vec![
        StringMatch::Exact("a".to_owned()),
        StringMatch::Prefix("b".to_owned()),
        StringMatch::Suffix(String::new()),
        StringMatch::Presence,
    ]
}

fn accounts() -> Vec<ServiceAccountMatch> {
    vec![ServiceAccountMatch {
        namespace: "shop".to_owned(),
        service_account: "web".to_owned(),
    }]
}

fn conditions() -> Vec<Condition> {
    let texts = [
        TextAttribute::Header("x-a".to_owned()),
        TextAttribute::SourceNamespace,
        TextAttribute::SourcePrincipal,
        TextAttribute::RequestPrincipal,
        TextAttribute::RequestAudiences,
        TextAttribute::RequestPresenter,
        TextAttribute::Claim(vec!["a".to_owned(), "b".to_owned()]),
        TextAttribute::Sni,
    ];
    let addresses = [
        AddressAttribute::Source,
        AddressAttribute::Remote,
        AddressAttribute::Destination,
    ];
    let texts = texts.map(|attribute| Condition::Text {
        attribute,
        values: strings(),
        not_values: Vec::new(),
    });
    let addresses = addresses.map(|attribute| Condition::Address {
        attribute,
        values: vec!["10.0.0.0/8".parse().unwrap()],
        not_values: vec!["fd00::1/128".parse().unwrap()],
    });
    let port = Condition::DestinationPort {
        values: vec![80],
        not_values: vec![443],
    };
    texts.into_iter().chain(addresses).chain([port]).collect()
}

fn access(action: Action) -> Access {
    let block = || vec!["192.0.2.0/24".parse().unwrap()];
    let source = Source {
        principals: strings(),
        not_principals: strings(),
        request_principals: strings(),
        not_request_principals: strings(),
        namespaces: strings(),
        not_namespaces: strings(),
        service_accounts: accounts(),
        not_service_accounts: accounts(),
        ip_blocks: block(),
        not_ip_blocks: block(),
        remote_ip_blocks: block(),
        not_remote_ip_blocks: block(),
    };
    let paths = || {
        let texts = strings().into_iter().map(PathTest::Text);
        texts
            .chain([PathTest::Template("/a/{*}".to_owned())])
            .collect::<Vec<_>>()
    };
    let operation = Operation {
        hosts: strings(),
        not_hosts: strings(),
        ports: vec![80],
        not_ports: vec![0],
        methods: strings(),
        not_methods: strings(),
        paths: paths(),
        not_paths: paths(),
    };
    Access {
        name: "p".into(),
        namespace: "shop".into(),
        targets: vec![
            PolicyTarget::Gateway("shop/edge".into()),
            PolicyTarget::Service(service()),
        ],
        action,
        rules: vec![
            AccessRule::default(),
            AccessRule {
                from: vec![source, Source::default()],
                to: vec![operation, Operation::default()],
                when: conditions(),
            },
        ],
        dry_run: true,
    }
}

fn authentication(keys: KeySource) -> Authentication {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    Authentication {
        name: "p".into(),
        namespace: "shop".into(),
        targets: vec![PolicyTarget::Service(service())],
        rules: vec![JwtRule {
            issuer: "https://issuer".to_owned(),
            audiences: words(&["a", "b"]),
            keys,
            from_headers: vec![TokenHeader {
                name: "x-token".to_owned(),
                prefix: "Bearer ".to_owned(),
            }],
            from_params: words(&["token"]),
            from_cookies: words(&["session"]),
            output_payload_to_header: Some("x-payload".to_owned()),
            output_claim_to_headers: vec![ClaimToHeader {
                header: "x-sub".to_owned(),
                claim: words(&["sub"]),
            }],
            forward_original_token: true,
            space_delimited_claims: words(&["groups"]),
        }],
    }
}

#[test]
fn policies_arrive_as_they_were_sent() {
    for action in [Action::Allow, Action::Deny] {
        let policy = access(action);
        let sent = encode_access(&key(), &policy);
        assert_eq!(decode_access(&sent.value).unwrap(), (key(), policy));
    }
    for keys in [
        KeySource::Inline("{\"keys\":[]}".into()),
        KeySource::Remote("https://issuer/keys".into()),
    ] {
        let policy = authentication(keys);
        let sent = encode_authentication(&key(), &policy);
        assert_eq!(decode_authentication(&sent.value).unwrap(), (key(), policy));
    }
    let named = access(Action::Deny).key();
    assert_eq!(policy_name(&key(), &named), "shop/edge|shop/p");
}

/// A damage to the message of a policy, and the words of the error.
type Damage = (fn(&mut wire::Access), &'static str);

#[test]
fn what_is_not_known_never_widens_a_policy() {
    let cases: [Damage; 8] = [
        (|it| it.action = 0, "unknown enum: action 0"),
        (|it| it.action = 9, "unknown enum: action 9"),
        (|it| it.targets[0].target = None, "target is missing"),
        (
            |it| it.rules[1].from[0].principals[0].r#match = None,
            "match is missing",
        ),
        (
            |it| it.rules[1].from[0].not_ip_blocks[0] = "10.0.0.0/33".to_owned(),
            "no block of addresses",
        ),
        (
            |it| it.rules[1].to[0].paths[0].test = None,
            "path is missing",
        ),
        (
            |it| it.rules[1].when[0].condition = None,
            "condition is missing",
        ),
        (
            |it| it.rules[1].to[0].not_ports[0] = 70_000,
            "70000 is not a port",
        ),
    ];
    for (damage, expected) in cases {
        let sent = encode_access(&key(), &access(Action::Deny));
        let mut message = wire::Access::decode(&*sent.value).unwrap();
        damage(&mut message);
        let error = decode_access(&message.encode_to_vec()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}
