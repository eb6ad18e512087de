use super::*;
use crate::source::Event;
use crate::source::file::read_text;

fn read(kind: &str, version: &str, rest: &str) -> Object {
    let manifest = format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x, namespace: ns}}\n{rest}\n"
    );
    let mut batch = read_text(&manifest);
    assert_eq!(batch.problems, [], "{manifest}");
    match batch.events.pop() {
        Some(Event::Apply(object)) => object,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_nobody_knows_is_read() {
    let Object::Route(Kind::HTTPRoute, route) = read(
        "HTTPRoute",
        "gateway.networking.k8s.io/v1",
        "spec: {unheard: {of: 1}, rules: [{filters: [{type: Unheard, unheard: {}}], matches: [{path: \
         {type: Unheard, value: x}}]}, {matches: null}]}",
    ) else {
        panic!("another kind");
    };
    assert_eq!(route.spec.rules[0].filters[0].kind, "Unheard");
    assert_eq!(route.spec.rules.len(), 2);
    let Object::Gateway(gateway) = read(
        "Gateway",
        "gateway.networking.k8s.io/v1",
        "spec: {gatewayClassName: c, listeners: [{name: a, port: 1, protocol: example.com/x}]}",
    ) else {
        panic!("another kind");
    };
    assert_eq!(gateway.spec.listeners[0].protocol, "example.com/x");
}

#[test]
fn a_status_says_who_has_written_it() {
    let of = |controller: &str| {
        let status = format!("status: {{parents: [{{controllerName: {controller}}}]}}");
        match read("TCPRoute", "gateway.networking.k8s.io/v1alpha2", &status) {
            Object::Route(Kind::TCPRoute, route) => route.status.is_ours(),
            other => panic!("{other:?}"),
        }
    };
    assert!(of("culvert.dev/gateway-controller"));
    assert!(!of("example.com/other"));
}

#[test]
fn of_a_config_map_only_authorities_are_kept() {
    let Object::ConfigMap(map) = read("ConfigMap", "v1", "data: {a: b, ca.crt: nonsense}") else {
        panic!("another kind");
    };
    assert_eq!(
        map.authorities,
        Err("ca.crt: no certificate in it".to_owned())
    );
    let Object::ConfigMap(map) = read("ConfigMap", "v1", "data: {a: b}") else {
        panic!("another kind");
    };
    assert_eq!(map.authorities, Err("no ca.crt".to_owned()));
}

#[test]
fn a_secret_of_another_form_is_not_repeated() {
    for data in [
        "hunter2",
        "[hunter2]",
        "{tls.crt: [hunter2], tls.key: {a: hunter2}}",
    ] {
        let manifest = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: s, namespace: ns}}\nstringData: {data}\n"
        );
        let batch = read_text(&manifest);
        assert!(!format!("{batch:?}").contains("hunter2"), "{batch:?}");
    }
}

#[test]
fn a_secret_says_what_is_wrong_and_nothing_of_what_is_in_it() {
    let made = rcgen::generate_simple_self_signed(["a.org".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let read = |chain: &str, key: &str| {
        let value = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "ns"},
            "stringData": {"tls.crt": chain, "tls.key": key, "other": "secret"},
        });
        match read_text(&value.to_string()).events.pop() {
            Some(Event::Apply(Object::Secret(secret))) => secret,
            other => panic!("{other:?}"),
        }
    };
    let good = read(&chain, &key);
    assert_eq!(good.pair.as_ref().unwrap().certificate.key.expose(), key);
    assert!(!format!("{good:?}").contains("PRIVATE"));
    for (chain, key, expected) in [
        ("", key.as_str(), "tls.crt: no certificate in it"),
        (&chain, "", "tls.key holds no private key"),
        (&chain, &chain, "tls.key holds no private key"),
    ] {
        assert_eq!(read(chain, key).pair, Err(expected.to_owned()));
    }
}
