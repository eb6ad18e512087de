//! Redirects: status and Location, with the port left out where the scheme has it.

use crate::bed::{Bed, until};
use crate::client::{ask, ask_tls, get};
use crate::manifests::{certificate, gateway, http_route};

/// A rule of a path with one redirect.
fn rule(path: &str, redirect: &str) -> String {
    format!(
        "{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], \
         filters: [{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}]}}"
    )
}

fn route(parents: &str, rules: &[String]) -> String {
    http_route("r", parents, &format!("rules: [{}]", rules.join(", ")))
}

/// Asks `same` for each path, and compares status and Location.
async fn redirected(manifest: &str, cases: &[(&str, u16, &str)]) {
    let bed = Bed::start(&["same"], manifest).await;
    for (path, status, location) in cases {
        let asked = get("example.org", path);
        let answer = bed.expect(("same", 80), &asked, *status, "");
        let answer = answer.await;
        assert_eq!(answer.header("location"), Some(*location), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_redirect_host_and_status() {
    let rules = [
        rule("/hostname-redirect", "hostname: other.org"),
        rule("/host-and-status", "hostname: other.org, statusCode: 301"),
    ];
    let cases = [
        (
            "/hostname-redirect",
            302,
            "http://other.org/hostname-redirect",
        ),
        ("/host-and-status", 301, "http://other.org/host-and-status"),
    ];
    redirected(&route("same", &rules), &cases).await;
}

/// `HTTPRoute303Redirect`, `HTTPRoute307Redirect` and `HTTPRoute308Redirect`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_303_307_and_308_redirect() {
    let statuses = [303_u16, 307, 308];
    let rules = statuses.map(|status| {
        rule(
            &format!("/{status}"),
            &format!("scheme: https, statusCode: {status}"),
        )
    });
    let manifest = route("same", &rules);
    let bed = Bed::start(&["same"], &manifest).await;
    for status in statuses {
        let asked = get("example.org", &format!("/{status}"));
        let answer = bed.expect(("same", 80), &asked, status, "").await;
        let location = format!("https://example.org/{status}");
        assert_eq!(answer.header("location"), Some(&*location));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_redirect_path() {
    let prefix = |to: &str| format!("path: {{type: ReplacePrefixMatch, replacePrefixMatch: {to}}}");
    let full = |to: &str| format!("path: {{type: ReplaceFullPath, replaceFullPath: {to}}}");
    let rules = [
        rule("/original-prefix", &prefix("/replacement-prefix")),
        rule("/full", &full("/full-path-replacement")),
        rule(
            "/host",
            &format!("hostname: other.org, {}", prefix("/replacement")),
        ),
        rule(
            "/status",
            &format!("{}, statusCode: 301", prefix("/replacement")),
        ),
        rule(
            "/both",
            &format!("hostname: other.org, {}, statusCode: 301", full("/new")),
        ),
        rule("/to-root", &prefix("/")),
    ];
    let cases = [
        (
            "/original-prefix/lemon",
            302,
            "http://example.org/replacement-prefix/lemon",
        ),
        (
            "/original-prefix",
            302,
            "http://example.org/replacement-prefix",
        ),
        (
            "/full/path/original",
            302,
            "http://example.org/full-path-replacement",
        ),
        ("/host/lemon", 302, "http://other.org/replacement/lemon"),
        ("/status/lemon", 301, "http://example.org/replacement/lemon"),
        ("/both/lemon", 301, "http://other.org/new"),
        ("/to-root/lemon", 302, "http://example.org/lemon"),
        ("/to-root", 302, "http://example.org/"),
    ];
    redirected(&route("same", &rules), &cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_redirect_port() {
    let rules = [
        rule("/port", "port: 8083"),
        rule("/port-and-host", "port: 8083, hostname: other.org"),
        rule("/port-and-status", "port: 8083, statusCode: 301"),
        rule("/all", "port: 8083, hostname: other.org, statusCode: 301"),
        rule("/own", "port: 80"),
    ];
    let cases = [
        ("/port", 302, "http://example.org:8083/port"),
        ("/port-and-host", 302, "http://other.org:8083/port-and-host"),
        (
            "/port-and-status",
            301,
            "http://example.org:8083/port-and-status",
        ),
        ("/all", 301, "http://other.org:8083/all"),
        ("/own", 302, "http://example.org/own"),
    ];
    redirected(&route("same", &rules), &cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_redirect_scheme() {
    let rules = [
        rule("/scheme", "scheme: https"),
        rule("/scheme-and-host", "scheme: https, hostname: other.org"),
        rule("/scheme-and-status", "scheme: https, statusCode: 301"),
        rule(
            "/all",
            "scheme: https, hostname: other.org, statusCode: 301",
        ),
    ];
    let cases = [
        ("/scheme", 302, "https://example.org/scheme"),
        ("/scheme-and-host", 302, "https://other.org/scheme-and-host"),
        (
            "/scheme-and-status",
            301,
            "https://example.org/scheme-and-status",
        ),
        ("/all", 301, "https://other.org/all"),
    ];
    redirected(&route("same", &rules), &cases).await;
}

/// On listeners of 80, 8080 and 443: the redirect's port, else its scheme's, else the listener's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_redirect_port_and_scheme() {
    let rules = [
        rule("/scheme-nil-and-port-nil", "hostname: example.org"),
        rule("/scheme-nil-and-port-80", "hostname: example.org, port: 80"),
        rule(
            "/scheme-nil-and-port-443",
            "hostname: example.org, port: 443",
        ),
        rule(
            "/scheme-nil-and-port-8080",
            "hostname: example.org, port: 8080",
        ),
        rule(
            "/scheme-http-and-port-nil",
            "hostname: example.org, scheme: http",
        ),
        rule(
            "/scheme-http-and-port-80",
            "hostname: example.org, scheme: http, port: 80",
        ),
        rule(
            "/scheme-http-and-port-8080",
            "hostname: example.org, scheme: http, port: 8080",
        ),
        rule(
            "/scheme-https-and-port-nil",
            "hostname: example.org, scheme: https",
        ),
        rule(
            "/scheme-https-and-port-443",
            "hostname: example.org, scheme: https, port: 443",
        ),
        rule(
            "/scheme-https-and-port-8443",
            "hostname: example.org, scheme: https, port: 8443",
        ),
    ];
    let listeners = "{name: http, port: 80, protocol: HTTP}, \
                     {name: http-8080, port: 8080, protocol: HTTP}, \
                     {name: https, port: 443, protocol: HTTPS, \
                     tls: {certificateRefs: [{name: cert}]}}";
    let manifest =
        gateway("g", listeners) + &route("g", &rules) + &certificate("cert", &["example.org"]);
    let bed = Bed::start(&["g"], &manifest).await;
    let asked = |path: &str| get("example.org", path);
    for (port, path, location) in [
        (80, "/scheme-nil-and-port-nil", "http://example.org"),
        (80, "/scheme-nil-and-port-80", "http://example.org"),
        (80, "/scheme-nil-and-port-8080", "http://example.org:8080"),
        (80, "/scheme-https-and-port-nil", "https://example.org"),
        (80, "/scheme-https-and-port-443", "https://example.org"),
        (
            80,
            "/scheme-https-and-port-8443",
            "https://example.org:8443",
        ),
        (8080, "/scheme-nil-and-port-nil", "http://example.org:8080"),
        (8080, "/scheme-nil-and-port-80", "http://example.org"),
        (8080, "/scheme-https-and-port-nil", "https://example.org"),
        (443, "/scheme-nil-and-port-nil", "https://example.org"),
        (443, "/scheme-nil-and-port-443", "https://example.org"),
        (443, "/scheme-nil-and-port-8080", "https://example.org:8080"),
        (443, "/scheme-http-and-port-nil", "http://example.org"),
        (443, "/scheme-http-and-port-80", "http://example.org"),
        (443, "/scheme-http-and-port-8080", "http://example.org:8080"),
    ] {
        let at = bed.tcp("g", port).await;
        let answer = until(async || {
            let answer = match port {
                443 => ask_tls(at, "example.org", &None, &asked(path)).await,
                _ => ask(at, &asked(path)).await,
            };
            let answer = answer.map_err(|error| error.to_string())?;
            (answer.status == 302)
                .then_some(())
                .ok_or(format!("{port}{path}: {answer:?}"))?;
            Ok(answer)
        })
        .await;
        let location = format!("{location}{path}");
        assert_eq!(answer.header("location"), Some(&*location), "{port}");
    }
}
