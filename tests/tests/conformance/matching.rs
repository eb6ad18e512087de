//! Which rule takes a request, and what it gets where the rule leads nowhere.

use crate::bed::Bed;
use crate::client::get;
use crate::manifests::{grant, http_route, object_in, to};

const SAME: (&str, u16) = ("same", 80);

/// An HTTPRoute at `same` of rules `match -> backend`.
fn rules(rules: &[(&str, &str)]) -> String {
    let rules = rules
        .iter()
        .map(|(matches, service)| format!("{{matches: [{matches}], {}}}", to(service)));
    let rules: Vec<String> = rules.collect();
    http_route("r", "same", &format!("rules: [{}]", rules.join(", ")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_simple_same_namespace() {
    let route = http_route("r", "same", &format!("rules: [{{{}}}]", to("infra-v1")));
    let bed = Bed::start(&["same"], &route).await;
    bed.expect_all(SAME, &[("anything", "/", "infra-v1")]).await;
    assert_eq!(
        bed.parents("HTTPRoute", "r"),
        ["Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_cross_namespace() {
    let spec = "{parentRefs: [{name: some, namespace: infra}], \
                rules: [{backendRefs: [{name: web, port: 8080}]}]}";
    let bed = Bed::start(&["some"], &object_in("web", "HTTPRoute", "r", spec)).await;
    bed.expect_all(("some", 80), &[("h", "/", "web")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_exact_path_matching() {
    let route = rules(&[
        ("{path: {type: Exact, value: /one}}", "infra-v1"),
        ("{path: {type: Exact, value: /two}}", "infra-v2"),
    ]);
    let bed = Bed::start(&["same"], &route).await;
    let cases = [
        ("h", "/one", "infra-v1"),
        ("h", "/two", "infra-v2"),
        ("h", "/", "404"),
        ("h", "/one/example", "404"),
        ("h", "/two/", "404"),
        ("h", "/Two", "404"),
    ];
    bed.expect_all(SAME, &cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_matching() {
    let route = rules(&[
        (
            "{path: {type: PathPrefix, value: /}}, {headers: [{name: version, value: one}]}",
            "infra-v1",
        ),
        (
            "{path: {type: PathPrefix, value: /v2}}, {headers: [{name: version, value: two}]}",
            "infra-v2",
        ),
    ]);
    let bed = Bed::start(&["same"], &route).await;
    let cases = [
        ("h", "/", "infra-v1"),
        ("h", "/example", "infra-v1"),
        ("h", "/v2", "infra-v2"),
        ("h", "/v2/", "infra-v2"),
        ("h", "/v2/example", "infra-v2"),
        // By segments.
        ("h", "/v2example", "infra-v1"),
        ("h", "/foo/v2/example", "infra-v1"),
    ];
    bed.expect_all(SAME, &cases).await;
    for (version, to) in [("one", "infra-v1"), ("two", "infra-v2")] {
        let asked = get("h", "/").header("Version", version);
        bed.expect_one(SAME, &asked, to).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_matching_across_routes() {
    let one = http_route(
        "one",
        "same",
        &format!(
            "hostnames: [example.com, example.net], rules: [{{matches: [\
             {{path: {{type: PathPrefix, value: /}}}}, \
             {{headers: [{{name: version, value: one}}]}}], {}}}]",
            to("infra-v1")
        ),
    );
    let two = http_route(
        "two",
        "same",
        &format!(
            "hostnames: [example.com], rules: [{{matches: [\
             {{path: {{type: PathPrefix, value: /v2}}}}, \
             {{headers: [{{name: version, value: two}}]}}], {}}}]",
            to("infra-v2")
        ),
    );
    let bed = Bed::start(&["same"], &(one + &two)).await;
    let cases = [
        ("example.com", "/", "infra-v1"),
        ("example.com", "/example", "infra-v1"),
        ("example.net", "/example", "infra-v1"),
        ("example.com", "/v2", "infra-v2"),
        // The longer prefix is another host's.
        ("example.net", "/v2", "infra-v1"),
        ("example.com", "/v2/example", "infra-v2"),
    ];
    bed.expect_all(SAME, &cases).await;
    let asked = get("example.com", "/example").header("version", "one");
    bed.expect_one(SAME, &asked, "infra-v1").await;
    let asked = get("example.com", "/").header("version", "two");
    bed.expect_one(SAME, &asked, "infra-v2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_path_match_order() {
    let route = rules(&[
        (
            "{path: {type: Exact, value: /match/exact/one}}, {path: {type: Exact, value: /match/exact}}",
            "infra-v3",
        ),
        (
            "{path: {type: PathPrefix, value: /match/prefix/one}}",
            "infra-v2",
        ),
        (
            "{path: {type: PathPrefix, value: /match/prefix/}}",
            "infra-v1",
        ),
        (
            "{path: {type: PathPrefix, value: /match/exact}}",
            "infra-v2",
        ),
        ("{path: {type: PathPrefix, value: /match}}", "infra-v3"),
    ]);
    let bed = Bed::start(&["same"], &route).await;
    let cases = [
        ("h", "/match/exact/one", "infra-v3"),
        ("h", "/match/exact", "infra-v3"),
        ("h", "/match/exact/two", "infra-v2"),
        ("h", "/match", "infra-v3"),
        ("h", "/match/prefix/one/any", "infra-v2"),
        ("h", "/match/prefix/any", "infra-v1"),
        ("h", "/match/any", "infra-v3"),
    ];
    bed.expect_all(SAME, &cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_header_matching() {
    let header = |name: &str, value: &str| format!("{{name: {name}, value: {value}}}");
    let route = rules(&[
        (
            &format!("{{headers: [{}]}}", header("version", "one")),
            "infra-v1",
        ),
        (
            &format!("{{headers: [{}]}}", header("version", "two")),
            "infra-v2",
        ),
        (
            &format!(
                "{{headers: [{}, {}]}}",
                header("version", "two"),
                header("color", "orange")
            ),
            "infra-v1",
        ),
        (
            &format!(
                "{{headers: [{}]}}, {{headers: [{}]}}",
                header("color", "blue"),
                header("color", "green")
            ),
            "infra-v1",
        ),
        (
            &format!(
                "{{headers: [{}]}}, {{headers: [{}]}}",
                header("color", "red"),
                header("color", "yellow")
            ),
            "infra-v2",
        ),
    ]);
    let bed = Bed::start(&["same"], &route).await;
    for (headers, to) in [
        (&[("version", "one")][..], "infra-v1"),
        (&[("VERSION", "two")], "infra-v2"),
        (&[("version", "two"), ("color", "orange")], "infra-v1"),
        (&[("version", "two"), ("color", "purple")], "infra-v2"),
        (&[("version", "three")], "404"),
        (&[], "404"),
        (&[("color", "blue")], "infra-v1"),
        (&[("color", "green")], "infra-v1"),
        (&[("color", "red")], "infra-v2"),
        (&[("color", "yellow")], "infra-v2"),
        (&[("color", "purple")], "404"),
        (&[("version", "One")], "404"),
    ] {
        let mut asked = get("h", "/");
        for (name, value) in headers {
            asked = asked.header(name, value);
        }
        bed.expect_one(SAME, &asked, to).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_method_matching() {
    let route = rules(&[
        ("{method: POST}", "infra-v1"),
        ("{method: GET}", "infra-v2"),
        (
            "{path: {type: PathPrefix, value: /path1}, method: GET}",
            "infra-v1",
        ),
        (
            "{headers: [{name: version, value: one}], method: PUT}",
            "infra-v2",
        ),
        (
            "{path: {type: PathPrefix, value: /path2}, method: POST, \
             headers: [{name: version, value: two}]}",
            "infra-v3",
        ),
        // A path is more than a method, and a method is more than headers.
        ("{path: {type: PathPrefix, value: /path3}}", "infra-v1"),
        ("{method: PATCH}", "infra-v2"),
        ("{headers: [{name: version, value: four}]}", "infra-v3"),
        (
            "{headers: [{name: version, value: four}, {name: color, value: blue}]}",
            "infra-v1",
        ),
    ]);
    let bed = Bed::start(&["same"], &route).await;
    for (method, path, version, to) in [
        ("POST", "/", "", "infra-v1"),
        ("GET", "/", "", "infra-v2"),
        ("HEAD", "/", "", "404"),
        ("GET", "/path1", "", "infra-v1"),
        ("PUT", "/", "one", "infra-v2"),
        ("PUT", "/", "", "404"),
        ("POST", "/path2", "two", "infra-v3"),
        ("POST", "/path2", "", "infra-v1"),
        ("PATCH", "/path3", "four", "infra-v1"),
        ("PATCH", "/path4", "four", "infra-v2"),
        ("DELETE", "/path4", "four", "infra-v3"),
    ] {
        let mut asked = get("h", path).method(method);
        if !version.is_empty() {
            asked = asked.header("version", version);
        }
        bed.expect_one(SAME, &asked, to).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_query_param_matching() {
    let query = |name: &str, value: &str| format!("{{name: {name}, value: {value}}}");
    let one = |matches: String| format!("{{queryParams: [{matches}]}}");
    let route = rules(&[
        (&one(query("animal", "whale")), "infra-v1"),
        (&one(query("animal", "dolphin")), "infra-v2"),
        (
            &one(query("animal", "dolphin") + ", " + &query("color", "blue")),
            "infra-v3",
        ),
        (
            &(one(query("ANIMAL", "Whale")) + ", " + &one(query("animal", "shark"))),
            "infra-v3",
        ),
        (
            "{path: {type: PathPrefix, value: /path1}, queryParams: [{name: animal, value: whale}]}",
            "infra-v1",
        ),
        (
            "{headers: [{name: version, value: one}], queryParams: [{name: animal, value: whale}]}",
            "infra-v2",
        ),
        ("{path: {type: PathPrefix, value: /path5}}", "infra-v1"),
        (
            "{path: {type: PathPrefix, value: /path5}, queryParams: [{name: animal, value: whale}]}",
            "infra-v2",
        ),
    ]);
    let bed = Bed::start(&["same"], &route).await;
    let cases = [
        ("h", "/?animal=whale", "infra-v1"),
        ("h", "/?animal=dolphin", "infra-v2"),
        ("h", "/?animal=dolphin&color=blue", "infra-v3"),
        ("h", "/?color=blue&animal=dolphin", "infra-v3"),
        ("h", "/?animal=dolphin&color=red", "infra-v2"),
        ("h", "/?ANIMAL=Whale", "infra-v3"),
        ("h", "/?animal=shark", "infra-v3"),
        ("h", "/path1?animal=whale", "infra-v1"),
        ("h", "/path5?animal=whale", "infra-v2"),
        ("h", "/path5?animal=none", "infra-v1"),
        ("h", "/", "404"),
        ("h", "/?animal=none", "404"),
        ("h", "/?Animal=whale", "404"),
    ];
    bed.expect_all(SAME, &cases).await;
    let asked = get("h", "/?animal=whale").header("version", "one");
    bed.expect_one(SAME, &asked, "infra-v2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_named_rule() {
    let rules = format!(
        "rules: [{{name: named, matches: [{{path: {{type: PathPrefix, value: /named}}}}], {}}}, \
         {{matches: [{{path: {{type: PathPrefix, value: /unnamed}}}}], {}}}]",
        to("infra-v1"),
        to("infra-v2")
    );
    let bed = Bed::start(&["same"], &http_route("r", "same", &rules)).await;
    let cases = [("h", "/named", "infra-v1"), ("h", "/unnamed", "infra-v2")];
    bed.expect_all(SAME, &cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_weight() {
    let rules = "rules: [{backendRefs: [{name: infra-v1, port: 8080, weight: 70}, \
                 {name: infra-v2, port: 8080, weight: 30}, \
                 {name: infra-v3, port: 8080, weight: 0}]}]";
    let bed = Bed::start(&["same"], &http_route("r", "same", rules)).await;
    let at = bed.tcp("same", 80).await;
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..500 {
        let answer = crate::client::ask(at, &get("h", "/")).await.unwrap();
        assert_eq!(answer.status, 200);
        *counts.entry(answer.backend().to_owned()).or_insert(0) += 1;
    }
    // Four standard deviations; the suite wants 25, and tries ten times.
    let first = counts["infra-v1"];
    assert!((309..=391).contains(&first), "{counts:?}");
    assert_eq!(counts.len(), 2, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_multiple_gateways() {
    let of = |name: &str, parents: &str, path: &str, service: &str| {
        let matches = format!("matches: [{{path: {{type: PathPrefix, value: {path}}}}}]");
        http_route(
            name,
            parents,
            &format!("rules: [{{{matches}, {}}}]", to(service)),
        )
    };
    let manifest = of("both", "{name: same}, {name: all}", "/shared", "infra-v1")
        + &of("one", "same", "/one", "infra-v2")
        + &of("other", "all", "/other", "infra-v3");
    let bed = Bed::start(&["same", "all"], &manifest).await;
    for (gateway, own, others) in [("same", "/one", "/other"), ("all", "/other", "/one")] {
        let at = (gateway, 80);
        let to = if gateway == "same" {
            "infra-v2"
        } else {
            "infra-v3"
        };
        let cases = [
            ("h", "/shared", "infra-v1"),
            ("h", own, to),
            ("h", others, "404"),
        ];
        bed.expect_all(at, &cases).await;
    }
}

/// `HTTPRouteNoBackendRefs` and the tests of references that lead nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_no_backend_refs() {
    let mut manifest = String::new();
    let backends = [
        ("omitted", ""),
        ("empty", ", backendRefs: []"),
        ("nulled", ", backendRefs: null"),
        ("missing", ", backendRefs: [{name: nowhere, port: 8080}]"),
        (
            "kind",
            ", backendRefs: [{group: nobody.org, kind: Thing, name: infra-v1, port: 8080}]",
        ),
        (
            "crossing",
            ", backendRefs: [{name: web, namespace: web, port: 8080}]",
        ),
        (
            "half",
            ", backendRefs: [{name: web, namespace: web, port: 8080, weight: 0}, \
             {name: infra-v1, port: 8080}]",
        ),
    ];
    for (name, backends) in backends {
        let matches = format!("matches: [{{path: {{type: PathPrefix, value: /{name}}}}}]");
        manifest += &http_route(name, "same", &format!("rules: [{{{matches}{backends}}}]"));
    }
    let bed = Bed::start(&["same"], &manifest).await;
    for (name, reason) in [
        ("omitted", "True/ResolvedRefs"),
        ("empty", "True/ResolvedRefs"),
        ("nulled", "True/ResolvedRefs"),
        ("missing", "False/BackendNotFound"),
        ("kind", "False/InvalidKind"),
        ("crossing", "False/RefNotPermitted"),
    ] {
        bed.expect_all(SAME, &[("h", &format!("/{name}"), "500")])
            .await;
        let expected = format!("Accepted=True/Accepted ResolvedRefs={reason}");
        assert_eq!(bed.parents("HTTPRoute", name), [expected]);
    }
    bed.expect_all(SAME, &[("h", "/half", "infra-v1")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_reference_grant() {
    let route = http_route(
        "r",
        "same",
        "rules: [{backendRefs: [{name: web, namespace: web, port: 8080}]}]",
    );
    let manifest = route + &grant("web", "HTTPRoute");
    let mut bed = Bed::start(&["same"], &manifest).await;
    bed.expect_all(SAME, &[("h", "/", "web")]).await;
    bed.edit(
        "kind: HTTPRoute, namespace: infra",
        "kind: HTTPRoute, namespace: other",
    );
    bed.expect_all(SAME, &[("h", "/", "500")]).await;
    bed.edit("namespace: other", "namespace: infra");
    bed.expect_all(SAME, &[("h", "/", "web")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_partially_invalid_via_invalid_reference_grant() {
    let rule = |path: &str, namespace: &str, service: &str| {
        format!(
            "{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], backendRefs: \
             [{{name: {service}, namespace: {namespace}, port: 8080}}]}}"
        )
    };
    let rules = format!(
        "rules: [{}, {}]",
        rule("/v2", "app", "app-v2"),
        rule("/", "infra", "infra-v1")
    );
    let bed = Bed::start(&["same"], &http_route("r", "same", &rules)).await;
    let cases = [("h", "/v2", "500"), ("h", "/", "infra-v1")];
    bed.expect_all(SAME, &cases).await;
    assert_eq!(
        bed.parents("HTTPRoute", "r"),
        ["Accepted=True/Accepted ResolvedRefs=False/RefNotPermitted"]
    );
}

/// Endpoints that somebody has written down, and a Service without an address of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_service_types() {
    let headless = "
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: infra}
spec: {clusterIP: None, ports: [{name: http, port: 8080, targetPort: 3000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: headless-v4, namespace: infra, labels: {kubernetes.io/service-name: headless}}
addressType: IPv4
ports: [{name: http, port: 3000}]
endpoints: [{addresses: [10.77.0.5], conditions: {ready: true}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: headless-v6, namespace: infra, labels: {kubernetes.io/service-name: headless}}
addressType: IPv6
ports: [{name: http, port: 3000}]
endpoints: []
---
apiVersion: v1
kind: Pod
metadata: {name: picked, namespace: infra, labels: {app: picked}}
spec: {nodeName: n1, containers: [{name: c, ports: [{name: web, containerPort: 3000}]}]}
status: {podIP: 10.77.0.3, phase: Running, conditions: [{type: Ready, status: \"True\"}]}
---
apiVersion: v1
kind: Service
metadata: {name: picking, namespace: infra}
spec: {selector: {app: picked}, ports: [{name: http, port: 8080, targetPort: web}]}
";
    let rule = |path: &str, service: &str| {
        let matches = format!("matches: [{{path: {{type: PathPrefix, value: {path}}}}}]");
        format!("{{{matches}, {}}}", to(service))
    };
    let rules = format!(
        "rules: [{}, {}]",
        rule("/headless", "headless"),
        rule("/picking", "picking")
    );
    let manifest = http_route("r", "same", &rules) + headless;
    let bed = Bed::start(&["same"], &manifest).await;
    let cases = [
        ("h", "/headless", "infra-v3"),
        ("h", "/picking", "infra-v2"),
    ];
    bed.expect_all(SAME, &cases).await;
}
