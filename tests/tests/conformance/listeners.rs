//! Which listener a request belongs to.

use crate::bed::Bed;
use crate::client::get;
use crate::manifests::{gateway, http_route, object, object_in, to};

fn listener(name: &str, port: u16, hostname: &str) -> String {
    let hostname = match hostname {
        "" => String::new(),
        hostname => format!(", hostname: \"{hostname}\""),
    };
    format!("{{name: {name}, port: {port}, protocol: HTTP{hostname}}}")
}

fn at(gateway: &str, section: &str) -> String {
    format!("{{name: {gateway}, sectionName: {section}}}")
}

fn all(service: &str) -> String {
    format!("rules: [{{{}}}]", to(service))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_hostname_intersection() {
    let listeners = [
        listener("specific", 80, "very.specific.com"),
        listener("wild", 80, "*.wildcard.io"),
        listener("any", 80, "*.anotherwildcard.io"),
    ];
    let hosts = |hosts: &str, path: &str, service: &str| {
        let matches = format!("matches: [{{path: {{type: PathPrefix, value: {path}}}}}]");
        format!(
            "hostnames: [{hosts}], rules: [{{{matches}, {}}}]",
            to(service)
        )
    };
    let manifest = gateway("g", &listeners.join(", "))
        + &http_route(
            "specific",
            "g",
            &hosts(
                "non.matching.com, \"*.nonmatchingwildcard.io\", very.specific.com",
                "/s1",
                "infra-v1",
            ),
        )
        + &http_route(
            "to-wild",
            "g",
            &hosts(
                "non.matching.com, wildcard.io, foo.wildcard.io, bar.wildcard.io, foo.bar.wildcard.io",
                "/s2",
                "infra-v2",
            ),
        )
        + &http_route(
            "wild-to-specific",
            "g",
            &hosts("\"*.specific.com\"", "/s3", "infra-v3"),
        )
        + &http_route(
            "wild-to-wild",
            "g",
            &hosts("\"*.anotherwildcard.io\"", "/s4", "infra-v1"),
        )
        + &http_route(
            "none",
            "g",
            &hosts("specific.but.wrong.com, wildcard.io", "/s5", "infra-v2"),
        );
    let bed = Bed::start(&["g"], &manifest).await;
    let cases = [
        ("very.specific.com", "/s1", "infra-v1"),
        ("very.specific.com:1234", "/s1", "infra-v1"),
        ("non.matching.com", "/s1", "404"),
        ("foo.nonmatchingwildcard.io", "/s1", "404"),
        ("very.specific.com", "/non-matching", "404"),
        ("foo.wildcard.io", "/s2", "infra-v2"),
        ("bar.wildcard.io", "/s2", "infra-v2"),
        ("foo.bar.wildcard.io", "/s2", "infra-v2"),
        ("foo.bar.wildcard.io:80", "/s2", "infra-v2"),
        ("non.matching.com", "/s2", "404"),
        ("wildcard.io", "/s2", "404"),
        ("very.specific.com", "/s2", "404"),
        ("very.specific.com", "/s3", "infra-v3"),
        ("non.matching.com", "/s3", "404"),
        ("foo.specific.com", "/s3", "404"),
        ("foo.wildcard.io", "/s3", "404"),
        ("one.anotherwildcard.io", "/s4", "infra-v1"),
        ("one.two.three.anotherwildcard.io", "/s4", "infra-v1"),
        ("anotherwildcard.io", "/s4", "404"),
        ("foo.wildcard.io", "/s4", "404"),
        ("specific.but.wrong.com", "/s5", "404"),
        ("wildcard.io", "/s5", "404"),
    ];
    bed.expect_all(("g", 80), &cases).await;
    let refused = bed.parents("HTTPRoute", "none");
    assert!(
        refused[0].starts_with("Accepted=False/NoMatchingListenerHostname"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_listener_hostname_matching() {
    let listeners = [
        listener("one", 80, "bar.com"),
        listener("two", 80, "foo.bar.com"),
        listener("three", 80, "*.bar.com"),
        listener("four", 80, "*.foo.com"),
    ];
    let both = format!("{}, {}", at("g", "three"), at("g", "four"));
    let manifest = gateway("g", &listeners.join(", "))
        + &http_route("one", &at("g", "one"), &all("infra-v1"))
        + &http_route("two", &at("g", "two"), &all("infra-v2"))
        + &http_route("three", &both, &all("infra-v3"));
    let bed = Bed::start(&["g"], &manifest).await;
    let cases = [
        ("bar.com", "/", "infra-v1"),
        ("foo.bar.com", "/", "infra-v2"),
        ("baz.bar.com", "/", "infra-v3"),
        ("boo.bar.com", "/", "infra-v3"),
        ("multiple.prefixes.bar.com", "/", "infra-v3"),
        ("multiple.prefixes.foo.com", "/", "infra-v3"),
        ("foo.com", "/", "404"),
        ("no.matching.host", "/", "404"),
    ];
    bed.expect_all(("g", 80), &cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_listener_port_matching() {
    let listeners = [
        listener("one", 80, ""),
        listener("two", 8080, "foo.com"),
        listener("three", 8090, "foo.com"),
    ];
    let manifest = gateway("g", &listeners.join(", "))
        + &http_route("one", &at("g", "one"), &all("infra-v1"))
        + &http_route("two", "{name: g, port: 8080}", &all("infra-v2"))
        + &http_route(
            "three",
            "{name: g, port: 8090, sectionName: three}",
            &all("infra-v3"),
        );
    let bed = Bed::start(&["g"], &manifest).await;
    for (port, host, to) in [
        (80, "foo.com", "infra-v1"),
        (80, "bar.com", "infra-v1"),
        (8080, "foo.com", "infra-v2"),
        (8080, "bar.com", "404"),
        (8090, "foo.com:8090", "infra-v3"),
    ] {
        bed.expect_all(("g", port), &[(host, "/", to)]).await;
    }
}

/// Four listeners whose names contain each other: each request is the most specific one's, with
/// routes that name a listener and with routes that name hosts themselves.
async fn isolation(hosts: bool) {
    let names = [
        ("empty", ""),
        ("wild", "*.example.com"),
        ("foo", "*.foo.example.com"),
        ("abc", "abc.foo.example.com"),
    ];
    let listeners = names.map(|(name, hostname)| listener(name, 80, hostname));
    let mut manifest = gateway("g", &listeners.join(", "));
    for (name, _) in names {
        let matches = format!("matches: [{{path: {{type: PathPrefix, value: /{name}}}}}]");
        let hostnames = if hosts {
            "hostnames: [bar.com, \"*.example.com\", \"*.foo.example.com\", abc.foo.example.com], "
        } else {
            ""
        };
        let rules = format!("{hostnames}rules: [{{{matches}, {}}}]", to("infra-v1"));
        manifest += &http_route(name, &at("g", name), &rules);
    }
    let bed = Bed::start(&["g"], &manifest).await;
    for (host, owner) in [
        ("bar.com", "empty"),
        ("bar.example.com", "wild"),
        ("bar.foo.example.com", "foo"),
        ("abc.foo.example.com", "abc"),
    ] {
        for (name, _) in names {
            let to = if name == owner { "infra-v1" } else { "404" };
            bed.expect_all(("g", 80), &[(host, &format!("/{name}"), to)])
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_http_listener_isolation() {
    isolation(false).await;
    isolation(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_modify_listeners() {
    let manifest =
        gateway("g", &listener("one", 80, "one.org")) + &http_route("r", "g", &all("infra-v1"));
    let mut bed = Bed::start(&["g"], &manifest).await;
    bed.expect_all(("g", 80), &[("one.org", "/", "infra-v1")])
        .await;
    let one = listener("one", 80, "one.org");
    let two = format!("{one}, {}", listener("two", 8080, ""));
    bed.edit(&one, &two);
    bed.expect_all(("g", 8080), &[("two.org", "/", "infra-v1")])
        .await;
    bed.edit(&two, &listener("one", 80, "other.org"));
    let cases = [("one.org", "/", "404"), ("other.org", "/", "infra-v1")];
    bed.expect_all(("g", 80), &cases).await;
}

/// `ListenerSetHTTPRouting` and those of sets whose routes come from elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listener_set_http_routing() {
    let host = "{gatewayClassName: culvert, allowedListeners: {namespaces: {from: All}}, \
                listeners: [{name: own, port: 80, protocol: HTTP, hostname: own.org}]}";
    let set = |namespace: &str, name: &str, listeners: &str| {
        let spec =
            format!("{{parentRef: {{name: g, namespace: infra}}, listeners: [{listeners}]}}");
        object_in(namespace, "ListenerSet", name, &spec)
    };
    let in_set = |set: &str, section: &str| {
        let section = match section {
            "" => String::new(),
            section => format!(", sectionName: {section}"),
        };
        format!("{{group: gateway.networking.k8s.io, kind: ListenerSet, name: {set}{section}}}")
    };
    let elsewhere = "{parentRefs: [{kind: ListenerSet, group: gateway.networking.k8s.io, name: s, \
                     namespace: infra}], rules: [{backendRefs: [{name: web, port: 8080}]}]}";
    let theirs = format!(
        "{{parentRefs: [{}], rules: [{{backendRefs: [{{name: app-v1, port: 8080}}]}}]}}",
        in_set("t", "")
    );
    let manifest = object("Gateway", "g", host)
        + &set(
            "infra",
            "s",
            &[listener("one", 80, "one.org"), listener("two", 80, "two.org")].join(", "),
        )
        + &set("app", "t", &listener("three", 8080, "three.org"))
        // A later set for a place that is taken.
        + &set("infra", "u", &listener("taken", 80, "one.org"))
        + &http_route("own", "g", &all("infra-v1"))
        + &http_route("one", &in_set("s", "one"), &all("infra-v2"))
        + &http_route("two", &in_set("s", ""), &format!(
            "rules: [{{matches: [{{path: {{type: PathPrefix, value: /set}}}}], {}}}]",
            to("infra-v3")
        ))
        + &object_in("web", "HTTPRoute", "not-theirs", elsewhere)
        + &object_in("app", "HTTPRoute", "theirs", &theirs)
        // A listener of a set is not one of the Gateway.
        + &http_route("lost", &at("g", "one"), &all("infra-v3"));
    let bed = Bed::start(&["g"], &manifest).await;
    let cases = [
        ("own.org", "/", "infra-v1"),
        ("own.org", "/set", "infra-v1"),
        ("one.org", "/", "infra-v2"),
        ("one.org", "/set", "infra-v3"),
        ("two.org", "/set", "infra-v3"),
        ("two.org", "/", "404"),
        ("three.org", "/", "404"),
    ];
    bed.expect_all(("g", 80), &cases).await;
    let cases = [("three.org", "/", "app-v1"), ("own.org", "/", "404")];
    bed.expect_all(("g", 8080), &cases).await;
    let lost = bed.parents("HTTPRoute", "lost");
    assert!(
        lost[0].starts_with("Accepted=False/NoMatchingParent"),
        "{lost:?}"
    );
    let status = bed.status("Gateway", "g");
    assert_eq!(status["attachedListenerSets"], 2, "{status}");
}

/// A name that no label can hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_name_maximum_length() {
    let name = "g".repeat(253);
    let manifest =
        gateway(&name, &listener("one", 80, "")) + &http_route("r", &name, &all("infra-v1"));
    let bed = Bed::start(&[], &manifest).await;
    let attached = bed.parents("HTTPRoute", "r");
    assert_eq!(
        attached,
        ["Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs"]
    );
    assert_ne!(bed.status("Gateway", &name), serde_json::Value::Null);
}

/// A route says which host it takes, and which of two it prefers does not depend on the listener.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_of_hosts_that_contain_each_other() {
    let manifest = gateway("g", &listener("one", 80, "*.example.org"))
        + &http_route(
            "all",
            "g",
            &format!("hostnames: [\"*.example.org\"], {}", all("infra-v1")),
        )
        + &http_route(
            "a",
            "g",
            &format!("hostnames: [a.example.org], {}", all("infra-v2")),
        );
    let bed = Bed::start(&["g"], &manifest).await;
    let cases = [
        ("a.example.org", "/", "infra-v2"),
        ("b.example.org", "/", "infra-v1"),
        ("A.EXAMPLE.org", "/", "infra-v2"),
    ];
    bed.expect_all(("g", 80), &cases).await;
    bed.expect_one(("g", 80), &get("a.b.example.org:80", "/"), "infra-v1")
        .await;
}
