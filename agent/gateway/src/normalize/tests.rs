use std::borrow::Cow;

use http::HeaderMap;
use http::HeaderValue;
use http::header::HeaderName;
use proptest::prelude::*;

use super::*;

fn normal(raw: &str) -> Result<String, Malformed> {
    path(raw, PathRules::default()).map(Cow::into_owned)
}

#[test]
fn paths_take_one_form() {
    for (raw, expected) in [
        ("/", "/"),
        ("/a/b.c/d-e_f~g", "/a/b.c/d-e_f~g"),
        ("/a//b///c/", "/a/b/c/"),
        ("//a", "/a"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/a/../", "/"),
        ("/%61%2Db", "/a-b"),
        ("/%2e%2E/", "traversal"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/café", "/caf%C3%A9"),
        ("/a b", "/a%20b"),
        ("/a%20b", "/a%20b"),
        ("/a;v=1/b", "/a;v=1/b"),
        ("/a{b}", "/a%7Bb%7D"),
        ("/...", "/..."),
        ("/.well-known", "/.well-known"),
        ("/a/..b", "/a/..b"),
        ("/%25", "/%25"),
        ("/%252e%252e/", "/%252e%252e/"),
    ] {
        let expected = match expected {
            "traversal" => Err(Malformed::Traversal),
            expected => Ok(expected.to_owned()),
        };
        assert_eq!(normal(raw), expected, "{raw}");
    }
}

#[test]
fn paths_that_mean_two_things_are_refused() {
    for (raw, why) in [
        ("", Malformed::NotAPath),
        ("*", Malformed::NotAPath),
        ("a/b", Malformed::NotAPath),
        ("/..", Malformed::Traversal),
        ("/a/../../b", Malformed::Traversal),
        ("/a/..;/b", Malformed::Traversal),
        ("/a/..;x=1/b", Malformed::Traversal),
        ("/a/.;/b", Malformed::Traversal),
        ("/a/%2e%2e;/b", Malformed::Traversal),
        ("/a\\b", Malformed::Separator),
        ("/a%5cb", Malformed::Separator),
        ("/a%2fb", Malformed::Separator),
        ("/a%2Fb", Malformed::Separator),
        ("/a%00", Malformed::Escape),
        ("/a%0a", Malformed::Escape),
        ("/a%7f", Malformed::Escape),
        ("/a%", Malformed::Escape),
        ("/a%4", Malformed::Escape),
        ("/a%zz", Malformed::Escape),
        ("/a%+1", Malformed::Escape),
    ] {
        assert_eq!(normal(raw), Err(why), "{raw}");
    }
}

#[test]
fn escaped_slashes_may_be_kept_and_hide_nothing() {
    let rules = PathRules {
        escaped_slashes: EscapedSlashes::Keep,
        ..PathRules::default()
    };
    assert_eq!(path("/a%2fb%5Cc", rules).unwrap(), "/a%2Fb%5Cc");
    for raw in [
        "/a/..%2fb",
        "/a%2f..",
        "/a%2f..%2fb",
        "/a/..%5cb",
        "/a%2f.;x",
    ] {
        assert_eq!(path(raw, rules), Err(Malformed::Traversal), "{raw}");
    }
}

#[test]
fn slashes_may_be_kept() {
    let rules = PathRules {
        merge_slashes: false,
        ..PathRules::default()
    };
    assert_eq!(path("/a//b/./c", rules).unwrap(), "/a//b/c");
}

#[test]
fn what_is_normal_already_is_borrowed() {
    for raw in ["/", "/a/b", "/a.b/c", "/a/b/"] {
        assert!(
            matches!(path(raw, PathRules::default()), Ok(Cow::Borrowed(_))),
            "{raw}"
        );
    }
}

proptest! {
    /// Normalising twice changes nothing, and no form is left that another server would resolve.
    #[test]
    fn the_normal_form_is_final(raw in r"/([a-c./;%\\]|%2[eEfF]|%5c|%41|\.\.|é){0,12}") {
        if let Ok(once) = normal(&raw) {
            prop_assert_eq!(normal(&once), Ok(once.clone()));
            prop_assert!(once.starts_with('/') && !once.contains("//") && !once.contains('\\'));
            prop_assert!(once.is_ascii());
            let mut segments = once.split('/');
            prop_assert!(!segments.any(|s| s == "." || s == ".." || s.starts_with("..;")), "{}", once);
        }
    }
}

#[test]
fn hosts_take_one_form() {
    for (raw, name, port) in [
        ("example.org", "example.org", None),
        ("Example.ORG:8080", "example.org", Some(8080)),
        ("example.org.", "example.org", None),
        ("example.org.:80", "example.org", Some(80)),
        ("10.0.0.1:80", "10.0.0.1", Some(80)),
        ("[::1]", "[::1]", None),
        ("[FD00::1]:443", "[fd00::1]", Some(443)),
        ("my_svc", "my_svc", None),
    ] {
        let found = host(raw).unwrap();
        assert_eq!((&*found.name, found.port), (name, port), "{raw}");
    }
    for raw in [
        "", ".", ":80", "a:", "a:x", "a:99999", "a:+1", "a:1:2", "user@a", "a b", "a/b", "a..b",
        ".a", "a%2eb", "b\u{e4}r", "[::1", "[::1]x", "[a]", "::1", "a,b", "a\\b",
    ] {
        assert_eq!(host(raw), Err(Malformed::BadHost), "{raw}");
    }
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
    };
    pairs.iter().map(pair).collect()
}

#[test]
fn what_is_for_one_connection_is_taken_off() {
    let mut map = headers(&[
        ("connection", "close, X-Secret, host"),
        ("x-secret", "1"),
        ("host", "a"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("proxy-connection", "keep-alive"),
        ("te", "gzip, trailers;q=0.5"),
        ("upgrade", "websocket"),
        ("x-kept", "1"),
    ]);
    assert_eq!(clean(&mut map), Ok(None));
    assert_eq!(
        map,
        headers(&[("host", "a"), ("te", "trailers"), ("x-kept", "1")])
    );
}

#[test]
fn an_upgrade_is_told() {
    let mut map = headers(&[
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
    ]);
    assert_eq!(clean(&mut map), Ok(Some("websocket".parse().unwrap())));
    assert!(map.is_empty());
}

#[test]
fn thousands_of_names_with_underscores_take_no_time() {
    let names = (0..4000).map(|number| format!("a_{number}"));
    let mut map: HeaderMap = names
        .map(|name| (name.parse().unwrap(), HeaderValue::from_static("1")))
        .collect();
    let began = std::time::Instant::now();
    assert_eq!(clean(&mut map), Ok(None));
    // By pairs it would take seconds.
    assert!(began.elapsed() < std::time::Duration::from_millis(500));
}

#[test]
fn what_looks_like_the_gateways_own_words_is_taken_off() {
    let mut map = headers(&[("x_role", "admin"), ("x_other", "1"), ("x-kept", "1")]);
    let own = [
        HeaderName::from_static("x-role"),
        HeaderName::from_static("x-kept"),
    ];
    drop_shadows(&mut map, own.iter());
    assert_eq!(map, headers(&[("x_other", "1"), ("x-kept", "1")]));
}

#[test]
fn policies_name_paths_as_people_write_them() {
    for (written, compared) in [
        ("/admin", "/admin"),
        ("/gr\u{fc}\u{df}e", "/gr%C3%BC%C3%9Fe"),
        ("/a b/", "/a%20b/"),
        ("/a%2fb", "/a%2Fb"),
        ("/%61dmin", "/admin"),
        ("/50%", "/50%"),
    ] {
        assert_eq!(pattern(written), compared, "{written}");
    }
}

#[test]
fn twins_are_refused() {
    for (names, expected) in [
        (["x-user", "x_user"], Err(Malformed::Twins)),
        (["x_a-b", "x-a_b"], Err(Malformed::Twins)),
        (["x_user", "y-user"], Ok(None)),
    ] {
        let mut map = headers(&names.map(|name| (name, "1")));
        assert_eq!(clean(&mut map), expected, "{names:?}");
    }
}
