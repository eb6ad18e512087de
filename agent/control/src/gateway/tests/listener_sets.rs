use super::*;

/// A Gateway with one listener that lets ListenerSets in.
fn host(allowed: &str) -> String {
    gateway(&format!(
        "{allowed}listeners: [{{name: own, port: 80, protocol: HTTP, hostname: own.org}}]"
    ))
}

fn set(namespace: &str, name: &str, listeners: &str) -> String {
    made_set(namespace, name, "2026-01-01T00:00:00Z", listeners)
}

fn made_set(namespace: &str, name: &str, at: &str, listeners: &str) -> String {
    let spec = format!("{{parentRef: {{name: g, namespace: infra}}, listeners: [{listeners}]}}");
    made("ListenerSet", namespace, name, at, &spec)
}

fn listener(name: &str, hostname: &str) -> String {
    format!("{{name: {name}, port: 80, protocol: HTTP, hostname: '{hostname}'}}")
}

const ALL: &str = "allowedListeners: {namespaces: {from: All}}, ";
const REFUSED: &str = "Accepted=False/NotAllowed Programmed=False/NotAllowed";
const IN: &str = "Accepted=True/Accepted Programmed=True/Programmed";

/// The conditions of a set in each namespace, and how many are attached.
fn allowed(allowed: &str) -> ([String; 3], u64) {
    let sets = ["infra", "apps", "other"]
        .map(|namespace| set(namespace, "s", &listener("l", &format!("{namespace}.org"))));
    let world = World::of(&format!("{}{}", host(allowed), sets.concat()));
    let shown = ["infra", "apps", "other"]
        .map(|namespace| world.of_object(&format!("ListenerSet {namespace}/s")));
    let attached = &world.status("Gateway infra/g")["attachedListenerSets"];
    (shown, attached.as_u64().unwrap())
}

fn expected(verdicts: [&str; 3]) -> [String; 3] {
    verdicts.map(str::to_owned)
}

#[test]
fn listener_set_allowed_namespace_none() {
    let (shown, attached) = allowed("allowedListeners: {namespaces: {from: None}}, ");
    assert_eq!((shown, attached), (expected([REFUSED; 3]), 0));
}

#[test]
fn listener_set_default_not_allowed() {
    assert_eq!(allowed(""), (expected([REFUSED; 3]), 0));
}

#[test]
fn listener_set_allowed_namespace_same() {
    let (shown, attached) = allowed("allowedListeners: {namespaces: {from: Same}}, ");
    assert_eq!((shown, attached), (expected([IN, REFUSED, REFUSED]), 1));
}

#[test]
fn listener_set_allowed_namespace_selector() {
    for selector in [
        "{matchLabels: {team: a}}",
        "{matchExpressions: [{key: team, operator: In, values: [a]}]}",
        "{matchExpressions: [{key: team, operator: NotIn, values: [b]}, {key: team, operator: Exists}]}",
        "{matchLabels: {kubernetes.io/metadata.name: apps}}",
    ] {
        let allowing =
            format!("allowedListeners: {{namespaces: {{from: Selector, selector: {selector}}}}}, ");
        let (shown, attached) = allowed(&allowing);
        assert_eq!(
            (shown, attached),
            (expected([REFUSED, IN, REFUSED]), 1),
            "{selector}"
        );
    }
}

#[test]
fn listener_set_hostname_conflict() {
    let world = World::of(&format!(
        "{}{}{}{}",
        host(ALL),
        // The younger one comes first in every other order.
        made_set(
            "apps",
            "a",
            "2026-02-01T00:00:00Z",
            &format!(
                "{}, {}",
                listener("x", "shared.org"),
                listener("z", "a.org")
            )
        ),
        made_set(
            "apps",
            "b",
            "2026-01-01T00:00:00Z",
            &listener("x", "shared.org")
        ),
        made_set(
            "apps",
            "c",
            "2026-03-01T00:00:00Z",
            &listener("x", "OWN.org")
        ),
    ));
    let loser = "Accepted=False/HostnameConflict ResolvedRefs=True/ResolvedRefs \
                 Programmed=False/HostnameConflict Conflicted=True/HostnameConflict";
    assert_eq!(world.of_listener("Gateway infra/g", "own"), FINE);
    assert_eq!(world.of_listener("ListenerSet apps/b", "x"), FINE);
    assert_eq!(world.of_listener("ListenerSet apps/a", "x"), loser);
    assert_eq!(world.of_listener("ListenerSet apps/a", "z"), FINE);
    assert_eq!(world.of_listener("ListenerSet apps/c", "x"), loser);
    assert!(
        world
            .of_object("ListenerSet apps/a")
            .starts_with("Accepted=True/ListenersNotValid P")
    );
    assert_eq!(
        world.of_object("ListenerSet apps/c"),
        "Accepted=False/ListenersNotValid Programmed=False/ListenersNotValid"
    );
    assert_eq!(world.status("Gateway infra/g")["attachedListenerSets"], 2);
    assert_eq!(world.handed("infra/g"), ["own", "apps/b/x", "apps/a/z"]);
}

#[test]
fn listener_set_protocol_conflict() {
    let tcp = "{name: x, port: 80, protocol: TCP}";
    let world = World::of(&format!("{}{}", host(ALL), set("apps", "s", tcp)));
    assert_eq!(
        world.of_listener("ListenerSet apps/s", "x"),
        "Accepted=False/ProtocolConflict ResolvedRefs=True/ResolvedRefs \
         Programmed=False/ProtocolConflict Conflicted=True/ProtocolConflict"
    );
    assert_eq!(world.of_listener("Gateway infra/g", "own"), FINE);
}

#[test]
fn listener_set_reference_grant() {
    let tls = "{name: x, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: s, namespace: other}]}}";
    let from = |kind: &str| {
        let from = format!("{{group: gateway.networking.k8s.io, kind: {kind}, namespace: apps}}");
        let grant = grant("other", "x", &from, "{group: '', kind: Secret}");
        World::of(&format!(
            "{}{}{}{grant}",
            host(ALL),
            set("apps", "s", tls),
            secret("other", "s")
        ))
    };
    let world = from("ListenerSet");
    assert_eq!(world.of_listener("ListenerSet apps/s", "x"), FINE);
    assert_eq!(world.of_object("ListenerSet apps/s"), IN);
    let world = from("Gateway");
    let shown = world.of_listener("ListenerSet apps/s", "x");
    assert!(
        shown.contains("ResolvedRefs=False/RefNotPermitted"),
        "{shown}"
    );
    assert_eq!(
        world.of_object("ListenerSet apps/s"),
        "Accepted=False/ListenersNotValid Programmed=False/ListenersNotValid"
    );
}

#[test]
fn listener_set_allowed_routes_supported_kinds() {
    let of = |kinds: &str| {
        format!(
            "port: 443, protocol: TLS, tls: {{mode: Passthrough}}, allowedRoutes: {{kinds: [{kinds}]}}"
        )
    };
    let listeners = format!(
        "{{name: good, hostname: a.org, {}}}, {{name: mixed, hostname: b.org, {}}}, {{name: bad, hostname: c.org, {}}}",
        of("{kind: TLSRoute}"),
        of("{kind: TLSRoute}, {kind: Other}"),
        of("{kind: HTTPRoute}")
    );
    let world = World::of(&format!("{}{}", host(ALL), set("apps", "s", &listeners)));
    assert_eq!(world.of_listener("ListenerSet apps/s", "good"), FINE);
    assert_eq!(world.supported("ListenerSet apps/s", "mixed"), ["TLSRoute"]);
    assert!(world.supported("ListenerSet apps/s", "bad").is_empty());
    for name in ["mixed", "bad"] {
        let shown = world.of_listener("ListenerSet apps/s", name);
        assert!(
            shown.contains("ResolvedRefs=False/InvalidRouteKinds"),
            "{shown}"
        );
    }
}

fn parent(section: &str) -> String {
    format!(
        "{{group: gateway.networking.k8s.io, kind: ListenerSet, name: s, namespace: apps{section}}}"
    )
}

#[test]
fn listener_set_allowed_routes_namespaces() {
    // Same is the namespace of the set.
    let listeners = format!(
        "{}, {{name: all, port: 80, protocol: HTTP, hostname: b.org, allowedRoutes: {{namespaces: {{from: All}}}}}}",
        listener("same", "a.org")
    );
    let world = World::of(&format!(
        "{}{}{}{}{}",
        host(ALL),
        set("apps", "s", &listeners),
        route("apps", "one", &parent(", sectionName: same"), ""),
        route("infra", "two", &parent(", sectionName: same"), ""),
        route("infra", "three", &parent(", sectionName: all"), ""),
    ));
    assert_eq!(world.parents("HTTPRoute apps/one"), [ATTACHED]);
    assert!(world.parents("HTTPRoute infra/two")[0].starts_with("Accepted=False/NotAllowedByL"));
    assert_eq!(world.parents("HTTPRoute infra/three"), [ATTACHED]);
}

#[test]
fn listener_set_dual_parent_ref_independence() {
    let parents = format!(
        "{}, {{name: g, namespace: infra}}",
        parent(", sectionName: nope")
    );
    let world = World::of(&format!(
        "{}{}{}",
        gateway(&format!(
            "{ALL}listeners: [{{name: own, port: 80, protocol: HTTP, allowedRoutes: {{namespaces: {{from: All}}}}}}]"
        )),
        set("apps", "s", &listener("l", "a.org")),
        route("apps", "r", &parents, ""),
    ));
    let missing = "Accepted=False/NoMatchingParent ResolvedRefs=True/ResolvedRefs";
    assert_eq!(world.parents("HTTPRoute apps/r"), [missing, ATTACHED]);
    assert_eq!(world.told("r"), ["infra/g own"]);
}

#[test]
fn listener_set_gateway_parent_section_name_not_found() {
    let world = World::of(&format!(
        "{}{}{}",
        host(ALL),
        set("infra", "s", &listener("of-set", "a.org")),
        route("infra", "r", "{name: g, sectionName: of-set}", ""),
    ));
    assert!(world.parents("HTTPRoute infra/r")[0].starts_with("Accepted=False/NoMatchingParent"));
    assert_eq!(world.attached("ListenerSet infra/s", "of-set"), 0);
}

#[test]
fn listener_set_http_routing() {
    let world = World::of(&format!(
        "{}{}{}{}",
        host(ALL),
        set(
            "apps",
            "s",
            &format!("{}, {}", listener("x", "x.org"), listener("z", "y.org"))
        ),
        route("apps", "all", &parent(""), ""),
        route("apps", "one", &parent(", sectionName: z"), ""),
    ));
    assert_eq!(world.told("all"), ["infra/g apps/s/x", "infra/g apps/s/z"]);
    assert_eq!(world.told("one"), ["infra/g apps/s/z"]);
    let attached = ["x", "z"].map(|name| world.attached("ListenerSet apps/s", name));
    assert_eq!(attached, [1, 2]);
    assert_eq!(world.attached("Gateway infra/g", "own"), 0);
}

#[test]
fn listener_set_route_status_scoped_to_parent_ref() {
    let world = World::of(&format!(
        "{}{}{}",
        host(ALL),
        set("apps", "s", &listener("l", "a.org")),
        route("apps", "r", &parent(""), ""),
    ));
    let status = world.status("HTTPRoute apps/r");
    let parents = status["parents"].as_array().unwrap();
    assert_eq!(parents.len(), 1);
    assert_eq!(parents[0]["parentRef"]["kind"], "ListenerSet");
}

#[test]
fn a_set_waits_for_its_gateway() {
    let unsupported = "addresses: [{type: Hostname, value: a.org}], ";
    let manifest = format!(
        "{}{}",
        host(&format!("{ALL}{unsupported}")),
        set("apps", "s", &listener("l", "a.org"))
    );
    let world = World::of(&manifest);
    let refused = "Accepted=False/ParentNotAccepted Programmed=False/ParentNotAccepted";
    assert_eq!(world.of_object("ListenerSet apps/s"), refused);
}
