use std::time::Duration;

use agent_model::gateway::{
    Cors, Fraction, HeaderChange, HeaderValue as Field, OriginMatch, PathChange, Redirect, Scheme,
};
use http::{HeaderMap, Method};

use super::*;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, value.parse().unwrap());
    }
    map
}

fn fields(pairs: &[(&str, &str)]) -> Vec<Field> {
    let field = |(name, value): &(&str, &str)| Field {
        name: (*name).into(),
        value: (*value).into(),
    };
    pairs.iter().map(field).collect()
}

#[test]
fn headers_are_set_added_and_removed() {
    let edits = HeaderEdits::compile(&HeaderChange {
        set: fields(&[("x-set", "new"), ("x-made", "1")]),
        add: fields(&[("x-add", "b")]),
        remove: vec!["x-gone".into(), "x-absent".into()],
    })
    .unwrap();
    let mut map = headers(&[
        ("x-set", "a"),
        ("x-set", "b"),
        ("x-add", "a"),
        ("x-gone", "1"),
    ]);
    edits.apply(&mut map);
    let expected = [
        ("x-set", "new"),
        ("x-made", "1"),
        ("x-add", "a"),
        ("x-add", "b"),
    ];
    assert_eq!(map, headers(&expected));
}

#[test]
fn framing_cannot_be_edited() {
    for name in [
        "host",
        "Content-Length",
        "transfer-encoding",
        "connection",
        "a b",
        "",
    ] {
        let change = HeaderChange {
            remove: vec![name.into()],
            ..HeaderChange::default()
        };
        let refused = Err(Unusable::HeaderName(name.to_owned()));
        assert_eq!(HeaderEdits::compile(&change), refused);
    }
    let change = HeaderChange {
        set: fields(&[("x-a", "b\r\nx-evil: 1")]),
        ..HeaderChange::default()
    };
    assert!(HeaderEdits::compile(&change).is_err());
}

#[test]
fn prefixes_are_replaced_by_segment() {
    for (path, prefix, replacement, expected) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/bar", "/foo", "/", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/foo", "", "/xyz", "/xyz/foo"),
    ] {
        let change = PathChange::Prefix(replacement.into());
        let found = replaced_path(&change, path, Some(prefix.len()));
        assert_eq!(found, expected, "{path} {prefix} -> {replacement}");
    }
    assert_eq!(
        replaced_path(&PathChange::Full("/x".into()), "/a/b", Some(2)),
        "/x"
    );
}

fn redirect() -> Redirect {
    Redirect {
        scheme: None,
        hostname: None,
        path: None,
        port: None,
        status: 302,
    }
}

fn from(scheme: Scheme, port: u16) -> From<'static> {
    From {
        scheme,
        host: "a.org",
        port,
        path: "/p/q",
        query: Some("x=1"),
        prefix: Some(2),
    }
}

#[test]
fn the_port_of_a_location() {
    use Scheme::{Http, Https};
    let cases = [
        (None, None, Http, 80, "http://a.org/p/q?x=1"),
        (None, None, Http, 8080, "http://a.org:8080/p/q?x=1"),
        (None, None, Https, 443, "https://a.org/p/q?x=1"),
        (Some(Https), None, Http, 80, "https://a.org/p/q?x=1"),
        (Some(Https), None, Http, 8080, "https://a.org/p/q?x=1"),
        (Some(Http), None, Https, 443, "http://a.org/p/q?x=1"),
        (None, Some(80), Http, 8080, "http://a.org/p/q?x=1"),
        (None, Some(8443), Http, 80, "http://a.org:8443/p/q?x=1"),
        (Some(Https), Some(443), Http, 80, "https://a.org/p/q?x=1"),
        (Some(Http), Some(443), Http, 80, "http://a.org:443/p/q?x=1"),
        (
            Some(Https),
            Some(8443),
            Http,
            80,
            "https://a.org:8443/p/q?x=1",
        ),
    ];
    for (scheme, port, client, listener, expected) in cases {
        let redirect = Redirect {
            scheme,
            port,
            ..redirect()
        };
        let found = location(&redirect, &from(client, listener));
        assert_eq!(found, expected, "{redirect:?} {client:?} {listener}");
    }
}

#[test]
fn host_and_path_of_a_location() {
    let redirect = Redirect {
        hostname: Some("b.org".into()),
        path: Some(PathChange::Prefix("/new".into())),
        ..redirect()
    };
    let found = location(&redirect, &from(Scheme::Http, 80));
    assert_eq!(found, "http://b.org/new/q?x=1");
}

#[test]
fn shares_follow_the_weights() {
    let split = Split::new([(70, "a"), (30, "b"), (0, "c")]);
    let step = u64::MAX / 1000;
    let taken = |wanted| {
        let points = (0..1000_u64).map(|point| point * step + step / 2);
        points
            .filter(|point| split.choose(*point) == Some(&wanted))
            .count()
    };
    assert_eq!((taken("a"), taken("b"), taken("c")), (700, 300, 0));
    assert_eq!(split.choose(0), Some(&"a"));
    assert_eq!(split.choose(u64::MAX), Some(&"b"));
    let none: Split<&str> = Split::new([(0, "a")]);
    assert_eq!(none.choose(7), None);
    let third = Fraction {
        numerator: 1,
        denominator: 3,
    };
    let taken = (0..999_u64).map(|point| (u64::MAX / 999) * point + 1_000_000);
    assert_eq!(taken.filter(|random| third.takes(*random)).count(), 333);
}

fn cors() -> Cors {
    Cors {
        allow_origins: vec![
            OriginMatch::parse("https://www.foo.com").unwrap(),
            OriginMatch::parse("https://*.bar.com").unwrap(),
        ],
        allow_credentials: true,
        allow_methods: vec!["GET".into(), "OPTIONS".into()],
        allow_headers: vec!["x-header-1".into(), "x-header-2".into()],
        expose_headers: vec!["x-header-3".into()],
        max_age: Some(Duration::from_secs(3600)),
    }
}

fn preflight(origin: &str) -> HeaderMap {
    headers(&[
        ("origin", origin),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-asked"),
    ])
}

fn answer(cors: &Cors, origin: &str) -> HeaderMap {
    let rules = CorsRules::compile(cors).unwrap();
    let asked = preflight(origin);
    assert!(CorsRules::is_preflight(&Method::OPTIONS, &asked));
    let granted = rules.grant(&asked).unwrap();
    rules.answer(&granted, &asked)
}

#[test]
fn preflight_requests_are_answered() {
    for origin in ["https://www.foo.com", "https://a.b.bar.com"] {
        let expected = headers(&[
            ("vary", "origin"),
            ("access-control-allow-origin", origin),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "GET, OPTIONS"),
            ("access-control-allow-headers", "x-header-1, x-header-2"),
            ("access-control-expose-headers", "x-header-3"),
            ("access-control-max-age", "3600"),
        ]);
        assert_eq!(answer(&cors(), origin), expected);
    }
    let refused = headers(&[("vary", "origin")]);
    assert_eq!(answer(&cors(), "https://foobar.com"), refused);
}

#[test]
fn wildcards_answer_what_was_asked() {
    let wild = Cors {
        allow_origins: vec![OriginMatch::Any],
        allow_methods: vec!["*".into()],
        allow_headers: vec!["*".into()],
        expose_headers: vec!["*".into()],
        allow_credentials: false,
        max_age: None,
    };
    let expected = headers(&[
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", "PUT"),
        ("access-control-allow-headers", "x-asked"),
        ("access-control-expose-headers", "*"),
    ]);
    assert_eq!(answer(&wild, "https://x.org:12345"), expected);
    let credentials = Cors {
        allow_credentials: true,
        ..wild
    };
    let expected = headers(&[
        ("vary", "origin"),
        ("access-control-allow-origin", "https://x.org"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "PUT"),
        ("access-control-allow-headers", "x-asked"),
    ]);
    assert_eq!(answer(&credentials, "https://x.org"), expected);
}

#[test]
fn what_the_backend_says_of_cors_does_not_count() {
    let rules = CorsRules::compile(&cors()).unwrap();
    let granted = rules
        .grant(&headers(&[("origin", "https://evil.com")]))
        .unwrap();
    let mut response = headers(&[("access-control-allow-origin", "*"), ("x-kept", "1")]);
    rules.finish(&granted, &mut response);
    assert_eq!(response, headers(&[("x-kept", "1"), ("vary", "origin")]));
    assert_eq!(rules.grant(&HeaderMap::new()), None);
}
