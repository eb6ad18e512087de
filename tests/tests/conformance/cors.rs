//! Requests of scripts from elsewhere.

use crate::bed::Bed;
use crate::client::{Answer, get};
use crate::manifests::{http_route, to};

fn route(name: &str, path: &str, cors: &str) -> String {
    let rules = format!(
        "rules: [{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], \
         filters: [{{type: CORS, cors: {{{cors}}}}}], {}}}]",
        to("infra-v1")
    );
    http_route(name, "same", &rules)
}

/// A preflight request.
async fn preflight(bed: &Bed, path: &str, origin: &str, method: &str, headers: &str) -> Answer {
    let mut asked = get("h", path)
        .method("OPTIONS")
        .header("origin", origin)
        .header("access-control-request-method", method);
    if !headers.is_empty() {
        asked = asked.header("access-control-request-headers", headers);
    }
    bed.expect(("same", 80), &asked, 200, "").await
}

async fn simple(bed: &Bed, path: &str, origin: &str) -> Answer {
    let asked = get("h", path).header("origin", origin);
    bed.expect(("same", 80), &asked, 200, "infra-v1").await
}

fn has(answer: &Answer, expected: &[(&str, Option<&str>)]) {
    for (name, value) in expected {
        let name = format!("access-control-{name}");
        assert_eq!(answer.header(&name), *value, "{name}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_cors() {
    let manifest = route(
        "several",
        "/cors-1",
        "allowOrigins: [\"https://www.foo.com\", \"https://*.bar.com\"], \
         allowMethods: [GET, OPTIONS], allowHeaders: [x-header-1, x-header-2], \
         exposeHeaders: [x-header-3, x-header-4], allowCredentials: true, maxAge: 3600",
    ) + &route(
        "methods",
        "/cors-2",
        "allowOrigins: [\"https://www.foo.com\"], allowMethods: [\"*\"]",
    ) + &route(
        "origins",
        "/cors-wildcard-origin",
        "allowOrigins: [\"*\"], allowMethods: [PUT]",
    ) + &route(
        "all",
        "/cors-wildcard-methods-headers",
        "allowOrigins: [\"*\"], allowMethods: [\"*\"], allowHeaders: [\"*\"], \
         exposeHeaders: [\"*\"], allowCredentials: true",
    ) + &route(
        "all-unauth",
        "/cors-wildcard-methods-headers-unauth",
        "allowOrigins: [\"https://other.foo.com\"], allowMethods: [\"*\"], allowHeaders: [\"*\"]",
    );
    let bed = Bed::start(&["same"], &manifest).await;
    let wanted = "x-header-1, x-header-2";
    for origin in [
        "https://www.foo.com",
        "https://www.bar.com",
        // A wildcard is for any number of labels.
        "https://xpto.www.bar.com",
    ] {
        let answer = preflight(&bed, "/cors-1", origin, "GET", wanted).await;
        has(
            &answer,
            &[
                ("allow-origin", Some(origin)),
                ("allow-methods", Some("GET, OPTIONS")),
                ("allow-headers", Some(wanted)),
                ("expose-headers", Some("x-header-3, x-header-4")),
                ("max-age", Some("3600")),
                ("allow-credentials", Some("true")),
            ],
        );
        has(
            &simple(&bed, "/cors-1", origin).await,
            &[("allow-origin", Some(origin))],
        );
    }
    for origin in [
        "https://foobar.com",
        "http://www.foo.com",
        "https://bar.com",
    ] {
        let answer = preflight(&bed, "/cors-1", origin, "GET", "").await;
        has(&answer, &[("allow-origin", None)]);
        has(
            &simple(&bed, "/cors-1", origin).await,
            &[("allow-origin", None)],
        );
    }
    let answer = preflight(&bed, "/cors-2", "https://www.foo.com", "POST", "").await;
    has(
        &answer,
        &[
            ("allow-origin", Some("https://www.foo.com")),
            ("allow-methods", Some("POST")),
            ("allow-credentials", None),
        ],
    );
    for origin in ["https://foobar.com", "https://foobar.com:12345"] {
        let answer = preflight(&bed, "/cors-wildcard-origin", origin, "PUT", "").await;
        has(
            &answer,
            &[
                ("allow-origin", Some("*")),
                ("allow-methods", Some("PUT")),
                ("allow-credentials", None),
            ],
        );
        has(
            &simple(&bed, "/cors-wildcard-origin", origin).await,
            &[("allow-origin", Some("*")), ("allow-credentials", None)],
        );
    }
    let origin = "https://other.foo.com";
    let answer = preflight(
        &bed,
        "/cors-wildcard-methods-headers",
        origin,
        "PUT",
        wanted,
    )
    .await;
    has(
        &answer,
        &[
            ("allow-origin", Some(origin)),
            ("allow-methods", Some("PUT")),
            ("allow-headers", Some(wanted)),
            ("allow-credentials", Some("true")),
        ],
    );
    has(
        &simple(&bed, "/cors-wildcard-methods-headers", origin).await,
        &[
            ("allow-origin", Some(origin)),
            ("allow-credentials", Some("true")),
        ],
    );
    let path = "/cors-wildcard-methods-headers-unauth";
    let answer = preflight(&bed, path, origin, "PUT", wanted).await;
    has(
        &answer,
        &[
            ("allow-origin", Some(origin)),
            ("allow-methods", Some("PUT")),
            ("allow-headers", Some(wanted)),
            ("allow-credentials", None),
        ],
    );
    has(
        &simple(&bed, path, origin).await,
        &[("allow-origin", Some(origin)), ("allow-credentials", None)],
    );
}
