use super::*;

/// Both kinds, each with its port of `web`.
const KINDS: [(&str, &str, u16); 2] = [("TCPRoute", "TCP", 8080), ("UDPRoute", "UDP", 53)];

fn l4(kind: &str, name: &str, at: &str, parents: &str, port: u16) -> String {
    let spec = format!(
        "{{parentRefs: [{parents}], rules: [{{backendRefs: [{{name: web, port: {port}}}]}}]}}"
    );
    made(kind, "infra", name, at, &spec)
}

const EARLY: &str = "2026-01-01T00:00:00Z";
const LATE: &str = "2026-01-01T00:00:01Z";

/// Also `UDPRouteMultipleRoutesAttachment`.
#[test]
fn tcp_route_multiple_routes_attachment() {
    for (kind, protocol, port) in KINDS {
        let world = World::of(&format!(
            "{}{}{}",
            gateway(&format!(
                "listeners: [{{name: l, port: 80, protocol: {protocol}}}]"
            )),
            l4(kind, "a", LATE, "{name: g}", port),
            l4(kind, "b", EARLY, "{name: g}", port),
        ));
        for name in ["a", "b"] {
            assert_eq!(world.parents(&format!("{kind} infra/{name}")), [ATTACHED]);
        }
        assert_eq!(world.attached("Gateway infra/g", "l"), 2);
        // The oldest has it.
        assert_eq!(world.told("b"), ["infra/g l"]);
        assert!(world.route("a").is_none());
        assert_eq!(world.route("b").unwrap().created, 1_767_225_600);
    }
}

/// Also `UDPRouteParentRefAttachAllListeners`.
#[test]
fn tcp_route_parent_ref_attach_all() {
    for (kind, protocol, port) in KINDS {
        let listeners = format!(
            "listeners: [{{name: a, port: 80, protocol: {protocol}}}, {{name: b, port: 81, \
             protocol: {protocol}}}, {{name: http, port: 82, protocol: HTTP}}]"
        );
        let world = World::of(&format!(
            "{}{}",
            gateway(&listeners),
            l4(kind, "r", EARLY, "{name: g}", port)
        ));
        assert_eq!(world.told("r"), ["infra/g a", "infra/g b"]);
        let attached = ["a", "b", "http"].map(|name| world.attached("Gateway infra/g", name));
        assert_eq!(attached, [1, 1, 0]);
    }
}

/// Also `UDPRouteParentRefPortAndSectionName`.
#[test]
fn tcp_route_parent_ref_port_and_section_name() {
    for (kind, protocol, port) in KINDS {
        let listeners = format!(
            "listeners: [{{name: a, port: 80, protocol: {protocol}}}, {{name: b, port: 81, \
             protocol: {protocol}}}, {{name: c, port: 82, protocol: {protocol}}}]"
        );
        let world = World::of(&format!(
            "{}{}{}{}{}",
            gateway(&listeners),
            l4(kind, "by-port", EARLY, "{name: g, port: 80}", port),
            l4(kind, "by-name", EARLY, "{name: g, sectionName: b}", port),
            l4(
                kind,
                "by-both",
                EARLY,
                "{name: g, sectionName: c, port: 82}",
                port
            ),
            l4(
                kind,
                "neither",
                EARLY,
                "{name: g, sectionName: c, port: 80}",
                port
            ),
        ));
        let told =
            ["by-port", "by-name", "by-both", "neither"].map(|name| world.told(name).join(""));
        assert_eq!(told, ["infra/g a", "infra/g b", "infra/g c", ""]);
    }
}

/// Also `TLSRouteListenerTerminateSupportedKinds`.
#[test]
fn tls_route_listener_passthrough_supported_kinds() {
    let world = World::of(&format!(
        "{}{}",
        gateway(
            "listeners: [{name: pass, port: 443, protocol: TLS, hostname: a.org, tls: {mode: \
             Passthrough}}, {name: end, port: 443, protocol: TLS, hostname: b.org, tls: {mode: \
             Terminate, certificateRefs: [{name: s}]}}]"
        ),
        secret("infra", "s")
    ));
    for name in ["pass", "end"] {
        assert_eq!(world.supported("Gateway infra/g", name), ["TLSRoute"]);
        assert_eq!(world.of_listener("Gateway infra/g", name), FINE);
    }
}

/// Both modes on one port, told apart by SNI.
#[test]
fn tls_route_mixed_termination_same_namespace() {
    let of = |name: &str, hostname: &str| {
        let spec = format!(
            "{{parentRefs: [{{name: g}}], hostnames: [{hostname}], rules: [{{backendRefs: [{{name: \
             web, port: 8080}}]}}]}}"
        );
        object("TLSRoute", "infra", name, &spec)
    };
    let world = World::of(&format!(
        "{}{}{}{}",
        gateway(
            "listeners: [{name: pass, port: 443, protocol: TLS, hostname: '*.a.org', tls: {mode: \
             Passthrough}}, {name: end, port: 443, protocol: TLS, hostname: '*.b.org', tls: \
             {certificateRefs: [{name: s}]}}]"
        ),
        secret("infra", "s"),
        of("one", "x.a.org"),
        of("two", "x.b.org"),
    ));
    assert_eq!(world.told("one"), ["infra/g pass"]);
    assert_eq!(world.told("two"), ["infra/g end"]);
}
