//! Filters, seen from both ends.

use agent_model::gateway::{
    BackendProtocol, Cors, Filter, Fraction, HeaderChange, HeaderValue, HttpRule, Mirror,
    OriginMatch, PathChange, Redirect, Rewrite, Scheme,
};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;

use super::backend::Backend;
use super::bed::{Bed, route, rule, target, to};

async fn bed(rules: Vec<HttpRule>) -> (Bed, Backend, Backend) {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let mut bed = Bed::start(&[route(rules)]);
    bed.service("one", &[&one]);
    bed.service("two", &[&two]);
    (bed, one, two)
}

fn set(name: &str, value: &str) -> HeaderChange {
    HeaderChange {
        set: vec![HeaderValue {
            name: name.into(),
            value: value.into(),
        }],
        ..HeaderChange::default()
    }
}

#[tokio::test]
async fn headers_host_and_path() {
    let mut rewritten = rule("/strip", "one");
    rewritten.filters = vec![
        Filter::RequestHeaders(set("x-set", "1")),
        Filter::RequestHeaders(HeaderChange {
            remove: vec!["x-remove".into()],
            ..HeaderChange::default()
        }),
        Filter::Rewrite(Rewrite {
            hostname: Some("inner.org".into()),
            path: Some(PathChange::Prefix("/".into())),
        }),
        Filter::ResponseHeaders(set("x-answer", "2")),
        Filter::ResponseHeaders(HeaderChange {
            remove: vec!["x-backend".into()],
            ..HeaderChange::default()
        }),
    ];
    let mut full = rule("/full", "one");
    full.filters = vec![Filter::Rewrite(Rewrite {
        hostname: None,
        path: Some(PathChange::Full("/new".into())),
    })];
    let (bed, one, _two) = bed(vec![rewritten, full]).await;
    let request = Request::get("/strip/a/%7e?q=%2f")
        .header("host", "Outer.org:99")
        .header("x-remove", "x")
        .header("x-set", "client")
        .body(Full::default());
    let response = bed.ask(request.unwrap()).await;
    assert_eq!(response.headers()["x-answer"], "2");
    assert!(!response.headers().contains_key("x-backend"));
    let seen = one.last();
    assert_eq!((&*seen.target, &*seen.host), ("/a/~?q=%2f", "inner.org"));
    assert_eq!(seen.headers["x-set"], "1");
    assert!(!seen.headers.contains_key("x-remove"));
    bed.get("Outer.org:99", "/full/x?y").await;
    let seen = one.last();
    assert_eq!((&*seen.target, &*seen.host), ("/new?y", "outer.org:99"));
}

#[tokio::test]
async fn redirects() {
    let mut redirected = rule("/old", "one");
    redirected.backends.clear();
    redirected.filters = vec![Filter::Redirect(Redirect {
        scheme: Some(Scheme::Https),
        hostname: None,
        path: Some(PathChange::Prefix("/new".into())),
        port: None,
        status: 308,
    })];
    let (bed, one, _two) = bed(vec![redirected]).await;
    let response = bed.get("a.org", "/old/x?y=z").await;
    assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(response.headers()["location"], "https://a.org/new/x?y=z");
    assert_eq!(one.seen().len(), 0);
}

#[tokio::test]
async fn preflights_end_here_and_answers_are_completed() {
    let mut shared = rule("/", "one");
    shared.filters = vec![Filter::Cors(Cors {
        allow_origins: vec![OriginMatch::parse("https://a.org").unwrap()],
        allow_methods: vec!["PUT".into()],
        ..Cors::default()
    })];
    let (bed, one, _two) = bed(vec![shared]).await;
    let ask = |method: Method, origin: &str| {
        let request = Request::builder()
            .method(method)
            .uri("/")
            .header("host", "b.org")
            .header("origin", origin)
            .header("access-control-request-method", "PUT");
        bed.ask(request.body(Full::<Bytes>::default()).unwrap())
    };
    let answer = ask(Method::OPTIONS, "https://a.org").await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(
        answer.headers()["access-control-allow-origin"],
        "https://a.org"
    );
    assert_eq!(answer.headers()["access-control-allow-methods"], "PUT");
    assert_eq!(one.seen().len(), 0);
    let answer = ask(Method::PUT, "https://a.org").await;
    assert_eq!(
        answer.headers()["access-control-allow-origin"],
        "https://a.org"
    );
    let answer = ask(Method::PUT, "https://c.org").await;
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
    assert_eq!(one.seen().len(), 2);
}

#[tokio::test]
async fn shares_with_changes_of_their_own() {
    let mut split = rule("/", "one");
    split.backends = vec![to("one", 1), to("two", 1), to("one", 0)];
    for (backend, name) in split.backends.iter_mut().zip(["one", "two", "never"]) {
        backend.filters = vec![Filter::RequestHeaders(set("x-share", name))];
    }
    let (bed, one, two) = bed(vec![split]).await;
    let mut client = bed.http2().await;
    for _ in 0..200 {
        let request = Request::get("http://a/").body(Full::default()).unwrap();
        client.send_request(request).await.unwrap();
    }
    let counts = [(&one, "one"), (&two, "two")].map(|(backend, name)| {
        let seen = backend.seen();
        assert!(seen.iter().all(|seen| seen.headers["x-share"] == name));
        seen.len()
    });
    assert_eq!(counts.iter().sum::<usize>(), 200);
    // Nine standard deviations: a failure is no accident.
    assert!((36..=164).contains(&counts[0]), "{counts:?}");
}

#[tokio::test]
async fn copies_go_to_mirrors_with_their_bodies() {
    let mut mirrored = rule("/", "one");
    let mirror = |numerator| {
        Filter::Mirror(Mirror {
            backend: target("two", BackendProtocol::Http),
            fraction: Fraction {
                numerator,
                denominator: 1,
            },
        })
    };
    mirrored.filters = vec![
        mirror(1),
        mirror(0),
        Filter::RequestHeaders(set("x-set", "1")),
    ];
    let (bed, one, two) = bed(vec![mirrored]).await;
    let large: Bytes = vec![7; 300_000].into();
    for body in [Bytes::new(), large.clone()] {
        let request = Request::post("/x?y")
            .header("host", "a")
            .body(Full::new(body.clone()));
        let response = bed.ask(request.unwrap()).await;
        assert_eq!(response.headers()["x-backend"], "one");
        assert!(*response.body() == body);
    }
    let copies = two.wait_for(2).await;
    assert_eq!((copies.len(), one.seen().len()), (2, 2));
    assert!(
        copies
            .iter()
            .all(|copy| copy.target == "/x?y" && copy.headers["x-set"] == "1")
    );
    let mut sizes: Vec<_> = copies.iter().map(|copy| copy.body.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [0, 300_000]);
}
