use super::*;

const LISTENERS: &str = "listeners: [{name: http, port: 80, protocol: HTTP}]";
const FROM_ALL: &str = "listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: \
                        {namespaces: {from: All}}}]";

/// The conditions of a route in `infra` with this backend, and what its rule sends to.
fn backend(kind: &str, reference: &str, more: &str) -> (String, String) {
    let spec = format!("{{parentRefs: [{{name: g}}], rules: [{{backendRefs: [{reference}]}}]}}");
    let listener = match kind {
        "TLSRoute" => "protocol: TLS, tls: {mode: Passthrough}".to_owned(),
        "HTTPRoute" | "GRPCRoute" => "protocol: HTTP".to_owned(),
        kind => format!("protocol: {}", &kind[..3]),
    };
    let manifest = format!(
        "{}{}{more}",
        gateway(&format!("listeners: [{{name: l, port: 80, {listener}}}]")),
        object(kind, "infra", "r", &spec)
    );
    let world = World::of(&manifest);
    let shown = world.parents(&format!("{kind} infra/r")).join(" ");
    let rules = &world.route("r").unwrap().rules;
    (shown, format!("{rules:?}"))
}

const KINDS: [&str; 5] = ["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"];

fn port(kind: &str) -> u16 {
    if kind == "UDPRoute" { 53 } else { 8080 }
}

fn unresolved(kind: &str, reference: &str, more: &str, reason: &str) {
    let (shown, rules) = backend(kind, reference, more);
    let expected = format!("Accepted=True/Accepted ResolvedRefs=False/{reason}");
    assert_eq!(shown, expected, "{kind} {reference}");
    assert!(rules.contains("Invalid"), "{rules}");
}

/// Also `TLSRouteInvalidBackendRefUnknownKind`.
#[test]
fn http_route_invalid_backend_ref_unknown_kind() {
    for kind in KINDS {
        for reference in [
            "{kind: NonExistent, name: web, port: 8080}",
            "{group: x.example.com, kind: Service, name: web, port: 8080}",
        ] {
            unresolved(kind, reference, "", "InvalidKind");
        }
    }
}

/// Also `TLSRouteInvalidBackendRefNonexistent`, `TCPRouteInvalidBackendRefNonexistent` and
/// `UDPRouteInvalidBackendRefNonexistent`.
#[test]
fn http_route_invalid_non_existent_backend_ref() {
    for kind in KINDS {
        unresolved(
            kind,
            "{name: nonexistent, port: 8080}",
            "",
            "BackendNotFound",
        );
        unresolved(kind, "{name: web, port: 9}", "", "BackendNotFound");
        unresolved(kind, "{name: web}", "", "BackendNotFound");
    }
    // A port of another transport is none.
    unresolved("UDPRoute", "{name: web, port: 8080}", "", "BackendNotFound");
}

/// Also `TLSRouteInvalidReferenceGrant`, `TCPRouteInvalidCrossNamespaceBackendRef` and
/// `UDPRouteInvalidCrossNamespaceBackendRef`.
#[test]
fn http_route_invalid_cross_namespace_backend_ref() {
    for kind in KINDS {
        let reference = format!("{{name: web, namespace: apps, port: {}}}", port(kind));
        unresolved(kind, &reference, "", "RefNotPermitted");
    }
}

fn from(kind: &str) -> String {
    format!("{{group: gateway.networking.k8s.io, kind: {kind}, namespace: infra}}")
}

/// Also `TCPRouteReferenceGrant` and `UDPRouteReferenceGrant`, as far as statuses go.
#[test]
fn http_route_reference_grant() {
    for kind in KINDS {
        for to in [
            "{group: '', kind: Service}",
            "{group: '', kind: Service, name: web}",
        ] {
            let grant = grant("apps", "x", &from(kind), to);
            let reference = format!("{{name: web, namespace: apps, port: {}}}", port(kind));
            let (shown, rules) = backend(kind, &reference, &grant);
            assert_eq!(shown, ATTACHED, "{kind} {to}");
            assert!(rules.contains("web.apps.svc.cluster.local"), "{rules}");
        }
    }
}

#[test]
fn http_route_invalid_reference_grant() {
    let own = from("HTTPRoute");
    let service = "{group: '', kind: Service, name: web}";
    let near_misses = [
        grant("infra", "a", &own, service),
        grant("other", "b", &own, service),
        grant("apps", "c", &from("Gateway"), service),
        grant(
            "apps",
            "d",
            &own.replace("gateway.networking.k8s.io", "x"),
            service,
        ),
        grant("apps", "e", &own.replace("infra", "other"), service),
        grant("apps", "f", &own, "{group: x, kind: Service, name: web}"),
        grant("apps", "g", &own, "{group: '', kind: Secret, name: web}"),
        grant(
            "apps",
            "h",
            &own,
            "{group: '', kind: Service, name: another}",
        ),
    ];
    let all = near_misses.concat();
    let reference = "{name: web, namespace: apps, port: 8080}";
    unresolved("HTTPRoute", reference, &all, "RefNotPermitted");
}

#[test]
fn http_route_partially_invalid_via_invalid_reference_grant() {
    let spec = "{parentRefs: [{name: g}], rules: [\
                {matches: [{path: {value: /bad}}], backendRefs: [{name: web, namespace: apps, port: 8080}]}, \
                {backendRefs: [{name: web, port: 8080}]}]}";
    let world = World::of(&format!(
        "{}{}",
        gateway(LISTENERS),
        object("HTTPRoute", "infra", "r", spec)
    ));
    let expected = "Accepted=True/Accepted ResolvedRefs=False/RefNotPermitted";
    assert_eq!(world.parents("HTTPRoute infra/r"), [expected]);
    let rules = format!("{:?}", world.route("r").unwrap().rules);
    assert!(rules.contains("Invalid") && rules.contains("web.infra.svc.cluster.local"));
}

#[test]
fn http_route_cross_namespace() {
    let parents = "{name: g, namespace: infra}";
    let world = World::of(&format!(
        "{}{}",
        gateway(FROM_ALL),
        route("apps", "r", parents, "")
    ));
    assert_eq!(world.parents("HTTPRoute apps/r"), [ATTACHED]);
    assert_eq!(world.told("r"), ["infra/g http"]);
}

#[test]
fn http_route_invalid_cross_namespace_parent_ref() {
    let parents = "{name: g, namespace: infra}";
    let world = World::of(&format!(
        "{}{}",
        gateway(LISTENERS),
        route("apps", "r", parents, "")
    ));
    let expected = "Accepted=False/NotAllowedByListeners ResolvedRefs=True/ResolvedRefs";
    assert_eq!(world.parents("HTTPRoute apps/r"), [expected]);
    assert_eq!(world.attached("Gateway infra/g", "http"), 0);
}

/// The reason why a route with this parent reference is not accepted.
fn refused(listeners: &str, parents: &str, more: &str) -> String {
    let world = World::of(&format!(
        "{}{}",
        gateway(listeners),
        route("infra", "r", parents, more)
    ));
    assert!(world.route("r").is_none());
    let shown = world.parents("HTTPRoute infra/r").join(" ");
    let shown = shown.strip_prefix("Accepted=False/").unwrap();
    shown.split(' ').next().unwrap().to_owned()
}

#[test]
fn http_route_invalid_parent_ref_not_matching_section_name() {
    assert_eq!(
        refused(LISTENERS, "{name: g, sectionName: nope}", ""),
        "NoMatchingParent"
    );
}

#[test]
fn http_route_invalid_parent_ref_not_matching_listener_port() {
    assert_eq!(
        refused(LISTENERS, "{name: g, port: 81}", ""),
        "NoMatchingParent"
    );
}

#[test]
fn http_route_invalid_parent_ref_section_name_not_matching_port() {
    let two =
        "listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, port: 81, protocol: HTTP}]";
    assert_eq!(
        refused(two, "{name: g, sectionName: a, port: 81}", ""),
        "NoMatchingParent"
    );
}

/// Also `TLSRouteInvalidNoMatchingListener`, `TCPRouteInvalidNonTCPListener` and
/// `UDPRouteNotAllowedByListeners`.
#[test]
fn http_route_disallowed_kind() {
    let tls = "listeners: [{name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}}]";
    assert_eq!(refused(tls, "{name: g}", ""), "NotAllowedByListeners");
    for kind in ["TLSRoute", "TCPRoute", "UDPRoute"] {
        let spec = "{parentRefs: [{name: g}], rules: [{backendRefs: [{name: web, port: 8080}]}]}";
        let world = World::of(&format!(
            "{}{}",
            gateway(LISTENERS),
            object(kind, "infra", "r", spec)
        ));
        let shown = world.parents(&format!("{kind} infra/r")).join(" ");
        assert!(
            shown.starts_with("Accepted=False/NotAllowedByListeners"),
            "{kind} {shown}"
        );
        assert_eq!(world.attached("Gateway infra/g", "http"), 0);
        assert_eq!(
            world.supported("Gateway infra/g", "http"),
            ["HTTPRoute", "GRPCRoute"]
        );
    }
}

#[test]
fn http_route_listener_port_matching() {
    let listeners = "listeners: [{name: a, port: 80, protocol: HTTP}, \
                     {name: b, port: 8080, protocol: HTTP, hostname: b.org}, \
                     {name: c, port: 8080, protocol: HTTP}]";
    let world = World::of(&format!(
        "{}{}{}{}",
        gateway(listeners),
        route("infra", "by-port", "{name: g, port: 8080}", ""),
        route(
            "infra",
            "by-both",
            "{name: g, port: 8080, sectionName: b}",
            ""
        ),
        route("infra", "all", "{name: g}", ""),
    ));
    assert_eq!(world.told("by-port"), ["infra/g b", "infra/g c"]);
    assert_eq!(world.told("by-both"), ["infra/g b"]);
    assert_eq!(world.told("all"), ["infra/g a", "infra/g b", "infra/g c"]);
}

#[test]
fn http_route_hostname_intersection() {
    let listeners = "listeners: [{name: one, port: 80, protocol: HTTP, hostname: very.specific.com}, \
                     {name: wild, port: 80, protocol: HTTP, hostname: '*.wildcard.io'}, \
                     {name: any, port: 81, protocol: HTTP}]";
    for (hostnames, expected) in [
        ("very.specific.com", &["one"][..]),
        ("'*.specific.com'", &["one"]),
        ("non.matching.com", &[]),
        ("'*.nonmatchingwildcard.io'", &[]),
        ("foo.bar.wildcard.io, non.matching.com", &["wild"]),
        ("'*.anotherwildcard.io', '*.wildcard.io'", &["wild"]),
        ("wildcard.io", &[]),
        ("'*.io'", &["wild"]),
        ("very.specific.com, foo.wildcard.io", &["one", "wild"]),
    ] {
        let world = World::of(&format!(
            "{}{}",
            gateway(listeners),
            route(
                "infra",
                "r",
                "{name: g, port: 80}",
                &format!("hostnames: [{hostnames}], ")
            )
        ));
        let names = expected.iter().map(|name| format!("infra/g {name}"));
        assert_eq!(world.told("r"), names.collect::<Vec<_>>(), "{hostnames}");
        let shown = world.parents("HTTPRoute infra/r").join(" ");
        let refused = "Accepted=False/NoMatchingListenerHostname";
        assert_eq!(shown.starts_with(refused), expected.is_empty(), "{shown}");
    }
}

#[test]
fn http_route_multiple_gateways() {
    let other = object(
        "Gateway",
        "infra",
        "h",
        &format!("{{gatewayClassName: culvert, {LISTENERS}}}"),
    );
    let world = World::of(&format!(
        "{}{other}{}{}",
        gateway(LISTENERS),
        route("infra", "both", "{name: g}, {name: h}", ""),
        route("infra", "one", "{name: h}", ""),
    ));
    assert_eq!(world.told("both"), ["infra/g http", "infra/h http"]);
    assert_eq!(world.told("one"), ["infra/h http"]);
    assert_eq!(world.parents("HTTPRoute infra/both"), [ATTACHED, ATTACHED]);
}

#[test]
fn http_route_observed_generation_bump() {
    let world = World::of(&format!(
        "{}{}",
        gateway(LISTENERS),
        route("infra", "r", "{name: g}", "")
    ));
    let status = world.status("HTTPRoute infra/r");
    for condition in status["parents"][0]["conditions"].as_array().unwrap() {
        assert_eq!(condition["observedGeneration"], 7);
    }
    assert_eq!(
        status["parents"][0]["controllerName"],
        "culvert.dev/gateway-controller"
    );
    // As it was written, without what was left out.
    assert_eq!(
        status["parents"][0]["parentRef"],
        serde_json::json!({"name": "g"})
    );
}

#[test]
fn http_route_no_backend_refs() {
    for rule in ["{}", "{backendRefs: []}", "{backendRefs: null}"] {
        let spec = format!("{{parentRefs: [{{name: g}}], rules: [{rule}]}}");
        let world = World::of(&format!(
            "{}{}",
            gateway(LISTENERS),
            object("HTTPRoute", "infra", "r", &spec)
        ));
        assert_eq!(world.parents("HTTPRoute infra/r"), [ATTACHED], "{rule}");
        assert!(format!("{:?}", world.route("r").unwrap().rules).contains("backends: []"));
    }
}

/// Also `TLSRouteHostnameIntersection` and `TLSRouteInvalidNoMatchingListenerHostname`.
#[test]
fn tls_route_hostname_intersection() {
    let listeners = "listeners: [{name: wild, port: 443, protocol: TLS, hostname: '*.org', tls: \
                     {mode: Passthrough}}]";
    for (hostname, fits) in [("a.b.org", true), ("'*.b.org'", true), ("a.com", false)] {
        let spec = format!(
            "{{parentRefs: [{{name: g}}], hostnames: [{hostname}], rules: [{{backendRefs: \
             [{{name: web, port: 8080}}]}}]}}"
        );
        let world = World::of(&format!(
            "{}{}",
            gateway(listeners),
            object("TLSRoute", "infra", "r", &spec)
        ));
        let shown = world.parents("TLSRoute infra/r").join(" ");
        let refused = shown.starts_with("Accepted=False/NoMatchingListenerHostname");
        assert_eq!(refused, !fits, "{hostname} {shown}");
        assert_eq!(world.route("r").is_some(), fits);
    }
}
