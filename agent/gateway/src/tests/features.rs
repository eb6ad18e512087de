//! Features of the Gateway API that the other tests show in part only; the names are those of the
//! official conformance suite.

use agent_model::gateway::{
    BackendProtocol, Filter, Fraction, GatewayKey, Listener, Mirror, Parent, Redirect, Route,
};

use super::backend::Backend;
use super::bed::{Bed, get, listener, route, rule, target};

fn mirror(to: &str, numerator: u32, denominator: u32) -> Filter {
    Filter::Mirror(Mirror {
        backend: target(to, BackendProtocol::Http),
        fraction: Fraction {
            numerator,
            denominator,
        },
    })
}

#[tokio::test]
async fn http_route_request_multiple_mirrors() {
    let [one, two, three] = ["one", "two", "three"].map(Backend::start);
    let (one, two, three) = (one.await, two.await, three.await);
    let mut mirrored = rule("/", "one");
    mirrored.filters = vec![mirror("two", 1, 1), mirror("three", 1, 1)];
    let mut bed = Bed::start(&[route(vec![mirrored])]);
    for (name, backend) in [("one", &one), ("two", &two), ("three", &three)] {
        bed.service(name, &[backend]);
    }
    assert_eq!(bed.get("a", "/x").await.headers()["x-backend"], "one");
    for shadow in [&two, &three] {
        assert_eq!(shadow.wait_for(1).await[0].target, "/x");
    }
}

#[tokio::test]
async fn http_route_request_percentage_mirror() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let mut mirrored = rule("/", "one");
    mirrored.filters = vec![mirror("two", 50, 100)];
    let mut bed = Bed::start(&[route(vec![mirrored])]);
    bed.service("one", &[&one]);
    bed.service("two", &[&two]);
    let mut client = bed.http1().await;
    for _ in 0..200 {
        let response = client.send_request(get("a", "/")).await.unwrap();
        super::bed::whole(response).await;
        client.ready().await.unwrap();
    }
    // Nine standard deviations on either side.
    two.wait_for(36).await;
    assert!(two.seen().len() <= 164, "{}", two.seen().len());
}

/// `HTTPRouteRedirectHostAndStatus` and those of 303, 307 and 308.
#[tokio::test]
async fn http_route_redirect_host_and_status() {
    let statuses = [301, 302, 303, 307, 308];
    let rules = statuses.map(|status| {
        let mut redirected = rule(&format!("/{status}"), "one");
        redirected.backends.clear();
        redirected.filters = vec![Filter::Redirect(Redirect {
            scheme: None,
            hostname: Some("other.org".into()),
            path: None,
            port: None,
            status,
        })];
        redirected
    });
    let bed = Bed::start(&[route(rules.to_vec())]);
    let port = bed.address.port();
    for status in statuses {
        let response = bed.get("a.org", &format!("/{status}?x=y")).await;
        assert_eq!(response.status().as_u16(), status);
        let location = format!("http://other.org:{port}/{status}?x=y");
        assert_eq!(response.headers()["location"], &*location);
    }
}

/// A request belongs to the most specific listener for its host, whatever routes that one has.
#[tokio::test]
async fn gateway_http_listener_isolation() {
    let one = Backend::start("one").await;
    let mut bed = Bed::start(&[]);
    bed.service("one", &[&one]);
    let port = bed.address.port();
    let listeners = [
        ("any", None),
        ("wild", Some("*.example.com")),
        ("foo", Some("*.foo.example.com")),
        ("abc", Some("abc.foo.example.com")),
    ];
    let routes = listeners.map(|(name, _)| on(name));
    let listeners = listeners.map(|(name, hostname)| Listener {
        hostname: hostname.map(|name| name.parse().unwrap()),
        ..listener(name, port)
    });
    assert_eq!(bed.apply_with(listeners.to_vec(), &routes), []);
    for (host, owner) in [
        ("bar.com", "any"),
        ("bar.example.com", "wild"),
        ("bar.foo.example.com", "foo"),
        ("abc.foo.example.com", "abc"),
    ] {
        for path in ["any", "wild", "foo", "abc"] {
            let status = bed.get(host, &format!("/{path}")).await.status().as_u16();
            let expected = if path == owner { 200 } else { 404 };
            assert_eq!(status, expected, "{host}/{path}");
        }
    }
}

/// A route of one listener for a path of its name.
fn on(name: &str) -> Route {
    let mut of_listener = route(vec![rule(&format!("/{name}"), "one")]);
    of_listener.key.name = name.into();
    of_listener.parents = vec![Parent::Listener {
        gateway: GatewayKey::new("ns", "edge"),
        name: name.into(),
    }];
    of_listener
}
