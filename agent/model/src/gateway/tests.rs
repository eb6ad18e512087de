use std::cmp::Ordering;

use proptest::prelude::*;

use super::*;

fn name(name: &str) -> Hostname {
    name.parse().unwrap()
}

#[test]
fn a_wildcard_stands_for_one_label_or_more() {
    let wildcard = name("*.example.org");
    for host in ["a.example.org", "a.b.example.org"] {
        assert!(wildcard.matches(host), "{host}");
    }
    for host in [
        "example.org",
        ".example.org",
        "aexample.org",
        "a.example.com",
        "",
    ] {
        assert!(!wildcard.matches(host), "{host}");
    }
    assert!(name("Example.ORG").matches("example.org"));
    assert!(!name("example.org").matches("a.example.org"));
}

#[test]
fn what_is_not_a_name_is_refused() {
    for bad in [
        "", "*", "*.", ".", "a..b", "a.", "-a", "a-", "a.*.b", "**.a", "*a.b", "a_b", "a:80",
        "a/b", "1.2.3.4 ", "*.-a",
    ] {
        assert!(bad.parse::<Hostname>().is_err(), "{bad:?}");
    }
    assert!("a".repeat(64).parse::<Hostname>().is_err());
    assert!("a".repeat(63).parse::<Hostname>().is_ok());
    assert!(["abcdefg"; 32].join(".").parse::<Hostname>().is_err());
}

#[test]
fn the_narrower_name_is_the_intersection() {
    let cases = [
        ("*.org", "*.example.org", Some("*.example.org")),
        ("*.example.org", "a.b.example.org", Some("a.b.example.org")),
        ("*.example.org", "example.org", None),
        ("a.example.org", "a.example.org", Some("a.example.org")),
        ("a.example.org", "b.example.org", None),
        ("*.a.org", "*.b.org", None),
        ("*.xample.org", "*.example.org", None),
    ];
    for (one, other, expected) in cases {
        let (one, other) = (name(one), name(other));
        let found = one.intersection(&other).map(Hostname::as_str);
        assert_eq!(found, expected, "{one} {other}");
        assert_eq!(other.intersection(&one).map(Hostname::as_str), expected);
    }
}

#[test]
fn no_wildcard_then_longer_wins() {
    let ordered = [
        "*.org",
        "*.example.org",
        "*.a.example.org",
        "b.org",
        "a.example.org",
    ];
    for pair in ordered.windows(2) {
        let order = name(pair[0]).by_specificity(&name(pair[1]));
        assert_eq!(order, Ordering::Less, "{pair:?}");
    }
}

fn some_name() -> impl Strategy<Value = Hostname> {
    let label = prop::sample::select(vec!["a", "b", "ab", "c-d"]);
    (any::<bool>(), prop::collection::vec(label, 1..4)).prop_map(|(wildcard, labels)| {
        let star = if wildcard { "*." } else { "" };
        name(&format!("{star}{}", labels.join(".")))
    })
}

proptest! {
    #[test]
    fn an_intersection_matches_what_both_match(one in some_name(), other in some_name(), host in some_name()) {
        prop_assume!(!host.is_wildcard());
        let both = one.matches(host.as_str()) && other.matches(host.as_str());
        let met = one.intersection(&other).is_some_and(|met| met.matches(host.as_str()));
        prop_assert_eq!(both, met);
    }
}

#[test]
fn a_key_is_never_written() {
    let certificate = Certificate {
        chain: "-----BEGIN CERTIFICATE-----".into(),
        key: SecretKey::new("-----BEGIN PRIVATE KEY-----".to_owned()),
    };
    let written = [
        format!("{certificate:?}"),
        serde_json::to_string(&certificate).unwrap(),
    ];
    for text in written {
        assert!(!text.contains("PRIVATE KEY"), "{text}");
        assert!(text.contains(SecretKey::REDACTED), "{text}");
    }
    assert_eq!(certificate.key.expose(), "-----BEGIN PRIVATE KEY-----");
}

#[test]
fn a_fraction_takes_its_share() {
    let half = Fraction {
        numerator: 1,
        denominator: 2,
    };
    assert!(half.takes(0) && half.takes(u64::MAX / 2));
    assert!(!half.takes(u64::MAX / 2 + 1) && !half.takes(u64::MAX));
    assert!(Fraction::ALL.takes(u64::MAX));
    let none = Fraction {
        numerator: 0,
        denominator: 100,
    };
    assert!(!none.takes(0));
}

#[test]
fn origins() {
    let cases = [
        ("*", "https://a.org", true),
        ("https://a.org", "https://a.org", true),
        ("https://A.org", "HTTPS://a.org", true),
        ("https://a.org", "http://a.org", false),
        ("https://a.org", "https://a.org:8443", false),
        ("https://a.org:8443", "https://a.org:8443", true),
        ("https://*.a.org", "https://b.a.org", true),
        ("https://*.a.org", "https://c.b.a.org", true),
        ("https://*.a.org", "https://a.org", false),
        ("https://*.a.org", "https://.a.org", false),
        ("https://*.a.org", "https://b.a.org:1", false),
        ("https://*.a.org", "https://evil.com/b.a.org", false),
        ("https://*.a.org", "null", false),
    ];
    for (pattern, origin, expected) in cases {
        let pattern = OriginMatch::parse(pattern).unwrap();
        assert_eq!(pattern.matches(origin), expected, "{pattern:?} {origin}");
    }
    for bad in [
        "",
        "a.org",
        "https://",
        "://a",
        "https://*",
        "https://*a.org",
        "https://*.*.a",
        "https://a*",
        "https://a/b",
    ] {
        assert_eq!(OriginMatch::parse(bad), None, "{bad}");
    }
}

#[test]
fn a_route_survives_json() {
    let route = Route {
        key: RouteKey::new(RouteKind::Grpc, "shop", "web"),
        created: 7,
        hostnames: vec![name("*.shop.org")],
        parents: vec![Parent::Listener {
            gateway: GatewayKey::new("edge", "public"),
            name: "https".into(),
        }],
        rules: Rules::Http(vec![HttpRule {
            matches: vec![HttpMatch::default()],
            backends: vec![BackendRef {
                weight: 1,
                target: Target::Invalid("BackendNotFound".into()),
                filters: vec![Filter::Rewrite(Rewrite::default())],
            }],
            ..HttpRule::default()
        }]),
    };
    let json = serde_json::to_value(&route).unwrap();
    assert_eq!(json["key"]["kind"], "GRPCRoute");
    assert_eq!(serde_json::from_value::<Route>(json).unwrap(), route);
    assert_eq!(route.key.to_string(), "GRPCRoute/shop/web");
}
