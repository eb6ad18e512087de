use agent_model::gateway::{ClientValidationMode, GatewayKind, ListenerTls, WaypointFor};
use agent_xds::server::Taken;
use agent_xds::{Catalog, ResourceType};
use serde_json::json;

use super::*;
use crate::gateway::{FEATURES, TakenNote};

const HTTP: &str = "listeners: [{name: http, port: 80, protocol: HTTP}]";

#[test]
fn gateway_class_observed_generation_bump() {
    let world = World::of("");
    let status = world.status("GatewayClass culvert");
    assert_eq!(status["conditions"][0]["observedGeneration"], 1);
    let features = status["supportedFeatures"].as_array().unwrap();
    let names: Vec<_> = features.iter().map(|feature| &feature["name"]).collect();
    assert_eq!(names, FEATURES.map(|name| json!(name)).each_ref());
    assert!(FEATURES.is_sorted() && FEATURES.len() <= 64);
}

#[test]
fn gateway_observed_generation_bump() {
    let world = World::of(&gateway(HTTP));
    let status = world.status("Gateway infra/g");
    let own = status["conditions"].as_array().unwrap();
    let of_listener = status["listeners"][0]["conditions"].as_array().unwrap();
    for condition in own.iter().chain(of_listener) {
        assert_eq!(condition["observedGeneration"], 7, "{condition}");
    }
    assert_eq!(
        world.of_object("Gateway infra/g"),
        "Accepted=True/Accepted Programmed=True/Programmed ResolvedRefs=True/ResolvedRefs"
    );
    assert_eq!(world.of_listener("Gateway infra/g", "http"), FINE);
    let addresses = json!([{"type": "IPAddress", "value": "10.0.0.3"}]);
    assert_eq!(status["addresses"], addresses);
}

#[test]
fn gateway_listener_unsupported_protocol() {
    let world = World::of(&gateway(
        "listeners: [{name: bad, port: 80, protocol: SCTP}]",
    ));
    assert_eq!(
        world.of_object("Gateway infra/g"),
        "Accepted=False/ListenersNotValid Programmed=False/Invalid ResolvedRefs=True/ResolvedRefs"
    );
    let of_listener = world.of_listener("Gateway infra/g", "bad");
    assert!(
        of_listener.starts_with("Accepted=False/UnsupportedProtocol"),
        "{of_listener}"
    );
    assert!(world.supported("Gateway infra/g", "bad").is_empty());
    let world = World::of(&gateway(
        "listeners: [{name: bad, port: 80, protocol: SCTP}, {name: http, port: 81, protocol: HTTP}]",
    ));
    assert!(
        world
            .of_object("Gateway infra/g")
            .starts_with("Accepted=True/ListenersNotValid")
    );
    assert_eq!(world.of_listener("Gateway infra/g", "http"), FINE);
    assert_eq!(world.handed("infra/g"), ["http"]);
}

#[test]
fn gateway_invalid_parameters_ref() {
    let reference = "parametersRef: {group: x, kind: Z, name: z}";
    let world = World::of(&gateway(&format!(
        "infrastructure: {{{reference}}}, {HTTP}"
    )));
    assert!(
        world
            .of_object("Gateway infra/g")
            .starts_with("Accepted=False/InvalidParameters Prog"),
    );
    // Nothing is made, and whatever was made before goes on.
    assert!(world.0.deployments.is_empty());
    assert_eq!(world.handed("infra/g"), ["http"]);
}

fn settings(namespace: &str, name: &str, data: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         data: {{{data}}}\n"
    )
}

#[test]
fn parameters_of_a_gateway_come_before_those_of_its_class() {
    let class = "---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: special, generation: 1}
spec:
  controllerName: culvert.dev/gateway-controller
  parametersRef: {group: '', kind: ConfigMap, name: all, namespace: other}
";
    let reference = "infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: own}}";
    let world = |own: &str, all: &str| {
        World::of(&format!(
            "{}{}{}{class}",
            gateway(&format!("{reference}, {HTTP}")).replace("Name: culvert", "Name: special"),
            settings("infra", "own", own),
            settings("other", "all", all),
        ))
    };
    let good = world("replicas: '2'", "replicas: '5', serviceType: NodePort");
    let parameters = &good.0.deployments[0].parameters;
    assert_eq!(parameters.replicas, Some(2));
    assert_eq!(parameters.service_type.as_deref(), Some("NodePort"));
    assert_eq!(
        good.of_object("GatewayClass special"),
        "Accepted=True/Accepted"
    );

    let bad = world("replica: '2'", "");
    let shown = bad.of_object("Gateway infra/g");
    assert!(
        shown.starts_with("Accepted=False/InvalidParameters"),
        "{shown}"
    );
    assert!(bad.0.deployments.is_empty());

    // Of the class: its Gateways are served, and nothing of what they run on is changed.
    let bad = world("", "serviceType: Any");
    let shown = bad.of_object("GatewayClass special");
    assert_eq!(shown, "Accepted=False/InvalidParameters");
    assert_eq!(bad.handed("infra/g"), ["http"]);
    assert!(bad.0.deployments.is_empty());
}

#[test]
fn gateway_invalid_route_kind() {
    let listener = |kinds: &str| {
        gateway(&format!(
            "listeners: [{{name: l, port: 80, protocol: HTTP, allowedRoutes: {{kinds: [{kinds}]}}}}]"
        ))
    };
    let world = World::of(&listener("{kind: InvalidRoute}"));
    assert!(world.supported("Gateway infra/g", "l").is_empty());
    let of_listener = world.of_listener("Gateway infra/g", "l");
    assert!(
        of_listener.contains("ResolvedRefs=False/InvalidRouteKinds"),
        "{of_listener}"
    );
    assert!(
        of_listener.contains("Programmed=False/Invalid"),
        "{of_listener}"
    );
    let world = World::of(&listener("{kind: InvalidRoute}, {kind: HTTPRoute}"));
    assert_eq!(world.supported("Gateway infra/g", "l"), ["HTTPRoute"]);
    let of_listener = world.of_listener("Gateway infra/g", "l");
    assert!(
        of_listener.contains("ResolvedRefs=False/InvalidRouteKinds"),
        "{of_listener}"
    );
}

fn https(reference: &str) -> String {
    gateway(&format!(
        "listeners: [{{name: l, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{reference}]}}}}]"
    ))
}

#[test]
fn gateway_invalid_tls_configuration() {
    let broken = pair("infra", "broken", "foo\n", "bar\n");
    let (one, other) = (secret("infra", "one"), secret("infra", "other"));
    let key = other.split("tls.key: ").nth(1).unwrap();
    let mixed = format!("{}tls.key: {key}", one.split("tls.key: ").next().unwrap());
    let all = format!("{broken}{}", mixed.replace("name: one", "name: mixed"));
    for reference in [
        "{name: missing}",
        "{group: wrong.group, kind: Secret, name: broken}",
        "{kind: Wrong, name: broken}",
        "{name: broken}",
        "{name: mixed}",
        "",
    ] {
        let world = World::of(&format!("{}{all}", https(reference)));
        let of_listener = world.of_listener("Gateway infra/g", "l");
        let expected = "Accepted=True/Accepted ResolvedRefs=False/InvalidCertificateRef \
                        Programmed=False/Invalid";
        assert!(
            of_listener.starts_with(expected),
            "{reference}: {of_listener}"
        );
        let of_gateway = world.of_object("Gateway infra/g");
        assert!(
            of_gateway.contains("ResolvedRefs=False/ListenersNotResolved"),
            "{of_gateway}"
        );
        assert!(world.handed("infra/g").is_empty());
    }
}

#[test]
fn a_certificate_and_its_key_reach_the_gateway_and_no_log() {
    let world = World::of(&format!("{}{}", https("{name: s}"), secret("infra", "s")));
    assert_eq!(world.of_listener("Gateway infra/g", "l"), FINE);
    let listener = &world.gateway("infra/g").listeners[0];
    let Some(ListenerTls::Terminate { certificates, .. }) = &listener.tls else {
        panic!("{listener:?}");
    };
    assert!(certificates[0].key.expose().contains("PRIVATE KEY"));
    assert!(!format!("{:?}", world.0).contains("PRIVATE KEY"));
}

fn crossing(grants: &str) -> String {
    let secret = secret("other", "s");
    let world = World::of(&format!(
        "{}{secret}{grants}",
        https("{name: s, namespace: other}")
    ));
    world.of_listener("Gateway infra/g", "l")
}

const FROM_GATEWAY: &str = "{group: gateway.networking.k8s.io, kind: Gateway, namespace: infra}";

#[test]
fn gateway_secret_missing_reference_grant() {
    assert!(crossing("").contains("ResolvedRefs=False/RefNotPermitted"));
}

#[test]
fn gateway_secret_invalid_reference_grant() {
    let to = "{group: '', kind: Secret, name: another}";
    let shown = crossing(&grant("other", "x", FROM_GATEWAY, to));
    assert!(
        shown.contains("ResolvedRefs=False/RefNotPermitted"),
        "{shown}"
    );
}

#[test]
fn gateway_secret_reference_grant_all_in_namespace() {
    let to = "{group: '', kind: Secret}";
    assert_eq!(crossing(&grant("other", "x", FROM_GATEWAY, to)), FINE);
}

#[test]
fn gateway_secret_reference_grant_specific() {
    let to = "{group: '', kind: Secret, name: s}";
    assert_eq!(crossing(&grant("other", "x", FROM_GATEWAY, to)), FINE);
}

#[test]
fn gateway_modify_listeners() {
    let two = "listeners: [{name: a, port: 80, protocol: HTTP, hostname: a.org}, \
               {name: b, port: 80, protocol: HTTP, hostname: b.org}]";
    let world = World::of(&format!(
        "{}{}",
        gateway(two),
        route("infra", "r", "{name: g}", "")
    ));
    for name in ["a", "b"] {
        assert_eq!(world.of_listener("Gateway infra/g", name), FINE);
        assert_eq!(world.attached("Gateway infra/g", name), 1);
    }
    let one = "listeners: [{name: a, port: 80, protocol: HTTP, hostname: a.org}]";
    let world = World::of(&format!(
        "{}{}",
        gateway(one),
        route("infra", "r", "{name: g}", "")
    ));
    let status = world.status("Gateway infra/g");
    assert_eq!(status["listeners"].as_array().unwrap().len(), 1);
    assert_eq!(world.attached("Gateway infra/g", "a"), 1);
}

#[test]
fn gateway_static_addresses() {
    let at = |addresses: &str| World::of(&gateway(&format!("addresses: [{addresses}], {HTTP}")));
    let (bad, off, good) = (
        "{type: test/fake-type, value: not-an-address}",
        "{value: 10.9.9.9}",
        "{type: IPAddress, value: 10.0.0.3}",
    );
    let world = at(&format!("{bad}, {off}, {good}"));
    assert!(
        world
            .of_object("Gateway infra/g")
            .starts_with("Accepted=False/UnsupportedAddress")
    );
    let world = at(&format!("{off}, {good}"));
    assert!(
        world
            .of_object("Gateway infra/g")
            .starts_with("Accepted=True/Accepted Programmed=False/AddressNotUsable")
    );
    let world = at(good);
    assert!(
        world
            .of_object("Gateway infra/g")
            .starts_with("Accepted=True/Accepted Programmed=True/P")
    );
    let expected = json!([{"type": "IPAddress", "value": "10.0.0.3"}]);
    assert_eq!(world.status("Gateway infra/g")["addresses"], expected);
    assert_eq!(world.0.deployments[0].addresses, ["10.0.0.3"]);
}

#[test]
fn gateway_optional_address_value() {
    let world = World::of(&gateway(&format!(
        "addresses: [{{type: IPAddress}}], {HTTP}"
    )));
    let status = world.status("Gateway infra/g");
    assert_eq!(
        status["addresses"],
        json!([{"type": "IPAddress", "value": "10.0.0.3"}])
    );
    assert!(world.0.deployments[0].addresses.is_empty());
}

#[test]
fn a_gateway_without_anything_at_an_address_is_not_programmed() {
    let spec = format!("{{gatewayClassName: culvert, {HTTP}}}");
    let world = World::of(&object("Gateway", "infra", "h", &spec));
    assert!(
        world
            .of_object("Gateway infra/h")
            .starts_with("Accepted=True/Accepted Programmed=False/AddressNotAssigned")
    );
    let of_listener = world.of_listener("Gateway infra/h", "http");
    assert!(
        of_listener.contains("Programmed=False/Pending"),
        "{of_listener}"
    );
}

#[test]
fn a_load_balancer_is_reached_at_its_own_addresses() {
    let labels = "labels: {gateway.networking.k8s.io/gateway-name: h}";
    let pod = format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: h-1, namespace: infra, {labels}}}\nspec: \
         {{nodeName: n1, containers: [{{name: gateway, image: x}}]}}\nstatus: {{phase: Running, podIP: \
         10.1.0.1, conditions: [{{type: Ready, status: 'True'}}]}}\n"
    );
    let service = |status: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: lb, namespace: infra, {labels}}}\nspec: \
             {{type: LoadBalancer, clusterIP: 10.0.0.9, ports: [{{port: 80}}]}}\nstatus: {status}\n"
        )
    };
    let spec = format!("{{gatewayClassName: culvert, {HTTP}}}");
    let at = |more: &str| {
        let gateway = object("Gateway", "infra", "h", &spec);
        World::of(&format!("{gateway}{more}"))
    };
    let world = at(&(pod.clone()
        + &service("{loadBalancer: {ingress: [{ip: 192.0.2.1}, {hostname: lb.example.org}]}}")));
    let expected = json!([
        {"type": "IPAddress", "value": "192.0.2.1"},
        {"type": "Hostname", "value": "lb.example.org"},
    ]);
    assert_eq!(world.status("Gateway infra/h")["addresses"], expected);
    // While the cloud has yet to make it, its pods are nowhere for anybody outside.
    let world = at(&(pod.clone() + &service("{loadBalancer: {}}")));
    assert_eq!(world.status("Gateway infra/h")["addresses"], json!([]));
    assert!(
        world
            .of_object("Gateway infra/h")
            .starts_with("Accepted=True/Accepted Programmed=False/AddressNotAssigned")
    );
    let world = at(&pod);
    let expected = json!([{"type": "IPAddress", "value": "10.1.0.1"}]);
    assert_eq!(world.status("Gateway infra/h")["addresses"], expected);
}

#[test]
fn gateway_infrastructure() {
    let spec = format!("infrastructure: {{labels: {{a: b}}, annotations: {{c: d}}}}, {HTTP}");
    let world = World::of(&gateway(&spec));
    let deployment = &world.0.deployments[0];
    assert_eq!(deployment.labels.get("a").unwrap(), "b");
    assert_eq!(deployment.annotations.get("c").unwrap(), "d");
    assert_eq!(deployment.ports, [(80, false)]);
    assert!(!deployment.tells_clients);
    for key in [
        "culvert.dev/client-cert-header",
        "ambient.istio.io/xfcc-include-client-identity",
    ] {
        let annotated = format!("namespace: infra, annotations: {{{key}: 'true'}},");
        let world = World::of(&gateway(&spec).replace("namespace: infra,", &annotated));
        assert!(world.0.deployments[0].tells_clients, "{key}");
    }
}

/// What was made for a Gateway is of use when a pod of it has taken its configuration.
#[test]
fn a_gateway_is_programmed_when_a_pod_of_what_was_made_for_it_is_ready() {
    let labels = "labels: {gateway.networking.k8s.io/gateway-name: h}";
    let service = format!(
        "apiVersion: v1
kind: Service
metadata:
  name: h
  namespace: infra
  {labels}
  ownerReferences: [{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, name: h, uid: u}}]
spec: {{clusterIP: 10.0.0.9, ports: [{{name: http, port: 80}}]}}
---
"
    );
    let gateway = gateway(HTTP).replace("name: g,", "name: h,");
    let pod = |ready: &str| {
        format!(
            "
---
apiVersion: v1
kind: Pod
metadata: {{name: h-1, namespace: infra, {labels}}}
spec: {{nodeName: n1, containers: [{{name: gateway, image: x}}]}}
status: {{phase: Running, podIP: 10.1.0.1, conditions: [{{type: Ready, status: '{ready}'}}]}}
"
        )
    };
    let programmed = |more: &str| {
        let world = World::of(&format!("{service}{gateway}{more}"));
        let conditions = world.of_object("Gateway infra/h");
        let mut words = conditions.split(' ');
        words
            .find(|word| word.starts_with("Programmed"))
            .unwrap()
            .to_owned()
    };
    assert_eq!(programmed(""), "Programmed=False/Pending");
    assert_eq!(programmed(&pod("False")), "Programmed=False/Pending");
    assert_eq!(programmed(&pod("True")), "Programmed=True/Programmed");
}

/// A note counts as soon as there is one; a pod without one is believed that it is ready.
#[test]
fn programmed_is_what_a_pod_has_acknowledged() {
    let gateway = gateway(HTTP);
    let version =
        |manifest: &str| Catalog::version_of_gateway(World::of(manifest).gateway("infra/g"));
    let (now, before) = (
        version(&gateway),
        version(&gateway.replace("port: 80", "port: 81")),
    );
    assert_ne!(now, before);
    let note = |version: &str, refused: &[(ResourceType, &str)]| {
        let refused = refused.iter();
        TakenNote::of(&Taken {
            gateway: Some(version.to_owned()),
            refused: refused
                .map(|(kind, name)| ((*kind, (*name).to_owned()), "too many".to_owned()))
                .collect(),
        })
        .unwrap()
    };
    let pod = |name: &str, ready: &str, note: Option<TakenNote>| {
        let note = note.map(|note| format!("culvert.dev/configuration: {:?}", note.text()));
        format!(
            "
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: infra
  labels: {{gateway.networking.k8s.io/gateway-name: g}}
  annotations: {{{}}}
spec: {{nodeName: n1, containers: [{{name: gateway, image: x}}]}}
status: {{phase: Running, podIP: 10.1.0.1, conditions: [{{type: Ready, status: '{ready}'}}]}}
",
            note.unwrap_or_default()
        )
    };
    let programmed = |pods: &[String]| {
        let world = World::of(&format!("{gateway}{}", pods.concat()));
        let status = world.status("Gateway infra/g");
        let mut conditions = status["conditions"].as_array().unwrap().iter();
        let found = conditions.find(|of| of["type"] == "Programmed").unwrap();
        let part = |field: &str| found[field].as_str().unwrap().to_owned();
        let shown = format!("{} {}", part("reason"), part("message"));
        let listener = world.of_listener("Gateway infra/g", "http");
        assert_eq!(
            listener.contains("Programmed=True"),
            part("status") == "True",
            "{listener}"
        );
        shown
    };
    let listens = "Programmed it listens at its addresses";
    let waits = "Pending no pod of it has acknowledged the last change yet";
    let (taken, late) = (note(&now, &[]), note(&before, &[]));
    let listeners = (ResourceType::Gateway, "infra/g");
    let route = (ResourceType::Route, "infra/g|HTTPRoute/infra/r");
    let unread = pod("a", "True", None).replace("{}", "{culvert.dev/configuration: soon}");
    for (case, pods, expected) in [
        ("no note", vec![pod("a", "True", None)], listens.to_owned()),
        ("not ours", vec![unread], listens.to_owned()),
        (
            "taken",
            vec![pod("a", "True", Some(taken.clone()))],
            listens.to_owned(),
        ),
        (
            "late",
            vec![pod("a", "True", Some(late.clone()))],
            waits.to_owned(),
        ),
        (
            "late and not ready",
            vec![pod("a", "False", Some(late.clone()))],
            listens.to_owned(),
        ),
        (
            "one of two",
            vec![pod("a", "True", Some(late)), pod("b", "True", Some(taken))],
            listens.to_owned(),
        ),
        (
            "refused",
            vec![pod("a", "True", Some(note(&before, &[listeners])))],
            "Invalid pod a refuses its listeners: too many".to_owned(),
        ),
        (
            "a route refused",
            vec![pod("a", "True", Some(note(&now, &[route])))],
            format!("{listens}; pod a refuses HTTPRoute infra/r: too many"),
        ),
    ] {
        assert_eq!(programmed(&pods), expected, "{case}");
    }

    // Of a stream whose pod nobody knows it is heard.
    let mut collection = World::collection(&gateway);
    let mut heard = |note: TakenNote| {
        let key = agent_model::gateway::GatewayKey::new("infra", "g");
        let is_news = collection.hear([(key, vec![note])].into());
        collection.settle();
        let world = World(Arc::clone(collection.gateways()));
        (
            is_news,
            world
                .of_object("Gateway infra/g")
                .contains("Programmed=True"),
        )
    };
    assert_eq!(heard(note(&before, &[])), (true, false));
    assert_eq!(heard(note(&now, &[])), (true, true));
    assert_eq!(heard(note(&now, &[])), (false, true));
}

#[test]
fn gateway_with_attached_routes() {
    let listener = "listeners: [{name: http, port: 80, protocol: HTTP, hostname: a.org}]";
    let world = World::of(&format!(
        "{}{}{}{}",
        gateway(listener),
        route("infra", "one", "{name: g}", ""),
        route(
            "infra",
            "two",
            "{name: g}, {name: g, sectionName: http}",
            ""
        ),
        route("infra", "miss", "{name: g}", "hostnames: [b.org], "),
    ));
    assert_eq!(world.attached("Gateway infra/g", "http"), 2);
    let off = "Accepted=False/NoMatchingListenerHostname ResolvedRefs=True/ResolvedRefs";
    assert_eq!(world.parents("HTTPRoute infra/miss"), [off]);
    // It counts at a listener that does not work, too.
    let world = World::of(&format!(
        "{}{}",
        https("{name: nope}"),
        route("infra", "r", "{name: g}", "")
    ));
    assert_eq!(world.attached("Gateway infra/g", "l"), 1);
    assert_eq!(world.parents("HTTPRoute infra/r"), [ATTACHED]);
    assert!(
        world
            .of_listener("Gateway infra/g", "l")
            .contains("Programmed=False")
    );
    assert!(world.route("r").is_none(), "and goes nowhere");
}

#[test]
fn gateway_with_attached_routes_with_port_8080() {
    let listeners = "listeners: [{name: miss, port: 8080, protocol: HTTP}, \
                     {name: http, port: 80, protocol: HTTP}]";
    let by_name = route("infra", "r", "{name: g, sectionName: http}", "");
    let world = World::of(&format!("{}{by_name}", gateway(listeners)));
    let attached = ["miss", "http"].map(|name| world.attached("Gateway infra/g", name));
    assert_eq!(attached, [0, 1]);
}

/// Two HTTPS listeners, of which the second has its own settings.
fn frontend(default: &str, of_port: &str) -> String {
    let listener = |name: &str, port: u16| {
        format!(
            "{{name: {name}, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: s}}]}}}}"
        )
    };
    let settings = format!(
        "tls: {{frontend: {{default: {{validation: {default}}}, perPort: [{{port: 8443, tls: \
         {{validation: {of_port}}}}}]}}}}"
    );
    format!(
        "{}{}{}{}",
        gateway(&format!(
            "{settings}, listeners: [{}, {}, {{name: http, port: 80, protocol: HTTP}}]",
            listener("a", 443),
            listener("b", 8443)
        )),
        secret("infra", "s"),
        authority("infra", "ca"),
        authority("other", "far")
    )
}

const GOOD: &str = "{caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}";

#[test]
fn gateway_frontend_client_certificate_validation() {
    let insecure = "{mode: AllowInsecureFallback, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}";
    let world = World::of(&frontend(GOOD, GOOD));
    assert_eq!(world.of_listener("Gateway infra/g", "b"), FINE);
    assert!(!world.of_object("Gateway infra/g").contains("Insecure"));
    let world = World::of(&frontend(GOOD, insecure));
    let modes: Vec<_> = world.gateway("infra/g").listeners[..2]
        .iter()
        .map(|listener| match &listener.tls {
            Some(ListenerTls::Terminate {
                client_validation, ..
            }) => client_validation.as_ref().unwrap().mode,
            other => panic!("{other:?}"),
        })
        .collect();
    let [valid, fallback] = [
        ClientValidationMode::AllowValidOnly,
        ClientValidationMode::AllowInsecureFallback,
    ];
    assert_eq!(modes, [valid, fallback]);
}

#[test]
fn gateway_frontend_client_certificate_validation_insecure_fallback() {
    let insecure = "{mode: AllowInsecureFallback, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}";
    let world = World::of(&frontend(insecure, GOOD));
    let shown = world.of_object("Gateway infra/g");
    let expected = "InsecureFrontendValidationMode=True/ConfigurationChanged";
    assert!(shown.ends_with(expected), "{shown}");
}

#[test]
fn gateway_invalid_frontend_client_certificate_validation() {
    for (reference, reason) in [
        (
            "{group: '', kind: ConfigMap, name: nope}",
            "InvalidCACertificateRef",
        ),
        (
            "{group: '', kind: Other, name: ca}",
            "InvalidCACertificateKind",
        ),
        (
            "{group: '', kind: ConfigMap, name: far, namespace: other}",
            "RefNotPermitted",
        ),
    ] {
        let of_port = format!("{{caCertificateRefs: [{reference}]}}");
        let world = World::of(&frontend(GOOD, &of_port));
        let shown = world.of_listener("Gateway infra/g", "b");
        let expected = format!(
            "Accepted=False/NoValidCACertificate ResolvedRefs=False/{reason} Programmed=False/Invalid"
        );
        assert!(shown.starts_with(&expected), "{shown}");
        assert_eq!(world.of_listener("Gateway infra/g", "a"), FINE);
        assert_eq!(world.handed("infra/g"), ["a", "http"]);
    }
}

#[test]
fn gateway_frontend_invalid_default_client_certificate_validation() {
    let missing = "{caCertificateRefs: [{group: '', kind: ConfigMap, name: nope}]}";
    let world = World::of(&frontend(missing, GOOD));
    let shown = world.of_listener("Gateway infra/g", "a");
    let expected = "Accepted=False/NoValidCACertificate ResolvedRefs=False/InvalidCACertificateRef";
    assert!(shown.starts_with(expected), "{shown}");
    assert_eq!(world.of_listener("Gateway infra/g", "b"), FINE);
    assert_eq!(world.of_listener("Gateway infra/g", "http"), FINE);
}

#[test]
fn gateway_invalid_tls_backend_configuration() {
    let with = |reference: &str| {
        let manifest = format!(
            "{}{}{}{}",
            gateway(&format!(
                "tls: {{backend: {{clientCertificateRef: {reference}}}}}, {HTTP}"
            )),
            secret("infra", "good"),
            secret("other", "far"),
            pair("infra", "broken", "foo\n", "bar\n")
        );
        World::of(&manifest)
    };
    for (reference, reason) in [
        ("{name: nope}", "InvalidClientCertificateRef"),
        (
            "{group: x, kind: Secret, name: good}",
            "InvalidClientCertificateRef",
        ),
        ("{kind: Other, name: good}", "InvalidClientCertificateRef"),
        ("{name: broken}", "InvalidClientCertificateRef"),
        ("{name: far, namespace: other}", "RefNotPermitted"),
    ] {
        let world = with(reference);
        let shown = world.of_object("Gateway infra/g");
        assert!(
            shown.starts_with("Accepted=True/Accepted Programmed=True"),
            "{shown}"
        );
        assert!(
            shown.ends_with(&format!("ResolvedRefs=False/{reason}")),
            "{shown}"
        );
        assert_eq!(world.gateway("infra/g").backend_client_certificate, None);
    }
    let world = with("{name: good}");
    assert!(
        world
            .gateway("infra/g")
            .backend_client_certificate
            .is_some()
    );
}

#[test]
fn gateway_http_listener_isolation() {
    let world = World::of(&gateway(
        "listeners: [{name: any, port: 80, protocol: HTTP}, \
         {name: wild, port: 80, protocol: HTTP, hostname: '*.example.com'}, \
         {name: one, port: 80, protocol: HTTP, hostname: a.example.com}]",
    ));
    for name in ["any", "wild", "one"] {
        assert_eq!(world.of_listener("Gateway infra/g", name), FINE, "{name}");
    }
}

#[test]
fn overlapping_names_of_https_listeners_are_said() {
    let listener = |name: &str, hostname: &str| {
        format!(
            "{{name: {name}, port: 443, protocol: HTTPS, hostname: '{hostname}', tls: \
             {{certificateRefs: [{{name: s}}]}}}}"
        )
    };
    let listeners = [
        listener("wild", "*.example.org"),
        listener("one", "a.example.org"),
        listener("miss", "a.example.com"),
    ];
    let spec = format!("listeners: [{}]", listeners.join(", "));
    let world = World::of(&format!("{}{}", gateway(&spec), secret("infra", "s")));
    let overlaps = ["wild", "one", "miss"].map(|name| {
        let shown = world.of_listener("Gateway infra/g", name);
        shown.contains("OverlappingTLSConfig=True/OverlappingHostnames")
    });
    assert_eq!(overlaps, [true, true, false]);
    assert_eq!(world.handed("infra/g").len(), 3);
}

/// A certificate for names of another listener: clients may use one connection for both.
#[test]
fn overlapping_certificates_of_https_listeners_are_said() {
    let listener = |name: &str, hostname: &str| {
        format!(
            "{{name: {name}, port: 443, protocol: HTTPS, hostname: '{hostname}', tls: \
             {{certificateRefs: [{{name: {name}}}]}}}}"
        )
    };
    let listeners = [
        listener("one", "a.example.org"),
        listener("two", "b.example.org"),
        listener("three", "example.com"),
    ];
    let spec = format!("listeners: [{}]", listeners.join(", "));
    let secrets = secret_for("infra", "one", "*.example.org")
        + &secret_for("infra", "two", "b.example.org")
        + &secret_for("infra", "three", "*.example.com");
    let world = World::of(&format!("{}{secrets}", gateway(&spec)));
    let expected = format!("{FINE} OverlappingTLSConfig=True/OverlappingCertificates");
    for name in ["one", "two"] {
        assert_eq!(world.of_listener("Gateway infra/g", name), expected);
    }
    assert_eq!(world.of_listener("Gateway infra/g", "three"), FINE);
}

#[test]
fn conflicts_are_the_later_listeners() {
    let world = World::of(&format!(
        "{}{}",
        gateway(
            "listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: TCP}, \
             {name: c, port: 80, protocol: HTTP}, {name: d, port: 80, protocol: UDP}, \
             {name: e, port: 15008, protocol: TCP}, \
             {name: f, port: 81, protocol: HTTP, hostname: 'a..b'}]",
        ),
        route("infra", "r", "{name: g, sectionName: c}", "")
    ));
    let shown = |name: &str| world.of_listener("Gateway infra/g", name);
    assert_eq!(shown("a"), FINE);
    assert!(
        shown("b").starts_with("Accepted=False/ProtocolConflict"),
        "{}",
        shown("b")
    );
    assert!(shown("b").ends_with("Conflicted=True/ProtocolConflict"));
    assert!(shown("c").ends_with("Conflicted=True/HostnameConflict"));
    assert_eq!(shown("d"), FINE);
    assert!(shown("e").starts_with("Accepted=False/PortUnavailable"));
    assert!(shown("f").starts_with("Accepted=False/UnsupportedValue"));
    assert_eq!(world.handed("infra/g"), ["a", "d"]);
    assert!(world.parents("HTTPRoute infra/r")[0].starts_with("Accepted=False/NotAllowedByL"));
}

#[test]
fn a_waypoint_listens_for_tunnels_only() {
    let spec = "{gatewayClassName: culvert-waypoint, listeners: [{name: mesh, port: 15008, \
                protocol: HBONE}, {name: http, port: 80, protocol: HTTP}]}";
    let labelled = object("Gateway", "apps", "wp", spec).replace(
        "name: wp,",
        "name: wp, labels: {istio.io/waypoint-for: all},",
    );
    let world = World::of(&labelled);
    assert_eq!(
        world.gateway("apps/wp").kind,
        GatewayKind::Waypoint(WaypointFor::All)
    );
    assert_eq!(world.handed("apps/wp"), ["mesh"]);
    let shown = world.of_listener("Gateway apps/wp", "http");
    assert!(
        shown.starts_with("Accepted=False/UnsupportedProtocol"),
        "{shown}"
    );
    let world = World::of(&gateway(
        "listeners: [{name: a, port: 15008, protocol: HBONE}]",
    ));
    let shown = world.of_listener("Gateway infra/g", "a");
    assert!(
        shown.starts_with("Accepted=False/UnsupportedProtocol"),
        "{shown}"
    );
}
