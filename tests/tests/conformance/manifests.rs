//! What every test has, in the manner of the suite's base: namespaces, backends and Gateways.

use std::fmt::Write as _;
use std::sync::LazyLock;

use rcgen::{CertificateParams, KeyPair};
use tests::gateway::with_classes;

use crate::echo;

/// Of every test: a class, namespaces, the Gateways `same`, `all` and `some`, and Services.
pub(crate) static BASE: LazyLock<String> = LazyLock::new(|| {
    let mut text = with_classes(NAMESPACES_AND_GATEWAYS);
    for (name, namespace, pods) in [
        ("infra-v1", "infra", &[1, 2][..]),
        ("infra-v2", "infra", &[3, 4]),
        ("infra-v3", "infra", &[5, 6]),
        ("app-v1", "app", &[7]),
        ("app-v2", "app", &[8]),
        ("web", "web", &[9]),
    ] {
        text.push_str(&service(namespace, name, pods));
    }
    text
});

const NAMESPACES_AND_GATEWAYS: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: infra, labels: {gateway-conformance: infra}}
---
apiVersion: v1
kind: Namespace
metadata: {name: app, labels: {gateway-conformance: backend}}
---
apiVersion: v1
kind: Namespace
metadata: {name: web, labels: {gateway-conformance: backend}}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: Gateway
metadata: {name: same, namespace: infra}
spec:
  gatewayClassName: culvert
  listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Same}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: all, namespace: infra}
spec:
  gatewayClassName: culvert
  listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: some, namespace: infra}
spec:
  gatewayClassName: culvert
  listeners:
  - name: http
    port: 80
    protocol: HTTP
    allowedRoutes:
      namespaces: {from: Selector, selector: {matchLabels: {gateway-conformance: backend}}}
";

/// A Service of these pods: 8080 is HTTP, 8081 h2c, 8082 WebSocket, 443 TLS, 9000 TCP, 53 UDP, and
/// 9009 closes connections.
pub(crate) fn service(namespace: &str, name: &str, pods: &[u8]) -> String {
    let mut text = format!(
        "
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  ports:
  - {{name: http, port: 8080, targetPort: {http}}}
  - {{name: h2c, port: 8081, targetPort: {h2c}, appProtocol: kubernetes.io/h2c}}
  - {{name: ws, port: 8082, targetPort: {http}, appProtocol: kubernetes.io/ws}}
  - {{name: https, port: 443, targetPort: {tls}}}
  - {{name: tcp, port: 9000, targetPort: {tcp}}}
  - {{name: reset, port: 9009, targetPort: {reset}}}
  - {{name: udp, port: 53, protocol: UDP, targetPort: {udp}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports:
- {{name: http, port: {http}}}
- {{name: h2c, port: {h2c}}}
- {{name: ws, port: {http}}}
- {{name: https, port: {tls}}}
- {{name: tcp, port: {tcp}}}
- {{name: reset, port: {reset}}}
- {{name: udp, port: {udp}, protocol: UDP}}
endpoints:
",
        http = echo::HTTP,
        h2c = echo::H2C,
        tls = echo::TLS,
        tcp = echo::TCP,
        udp = echo::UDP,
        reset = echo::RESET,
    );
    for pod in pods {
        let _ = writeln!(text, "- {{addresses: [10.77.0.{pod}]}}");
    }
    text
}

/// An object of `infra` of a kind of the Gateway API.
pub(crate) fn object(kind: &str, name: &str, spec: &str) -> String {
    object_in("infra", kind, name, spec)
}

pub(crate) fn object_in(namespace: &str, kind: &str, name: &str, spec: &str) -> String {
    format!(
        "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

/// A Gateway of `infra` with these listeners.
pub(crate) fn gateway(name: &str, listeners: &str) -> String {
    let spec = format!("{{gatewayClassName: culvert, listeners: [{listeners}]}}");
    object("Gateway", name, &spec)
}

/// An HTTPRoute of `infra`; `parents` are names of Gateways or whole references.
pub(crate) fn http_route(name: &str, parents: &str, more: &str) -> String {
    route("HTTPRoute", name, parents, more)
}

pub(crate) fn route(kind: &str, name: &str, parents: &str, more: &str) -> String {
    let parents = if parents.starts_with('{') {
        parents.to_owned()
    } else {
        format!("{{name: {parents}}}")
    };
    object(kind, name, &format!("{{parentRefs: [{parents}], {more}}}"))
}

/// `backendRefs` with one Service of `infra` at its port for HTTP.
pub(crate) fn to(service: &str) -> String {
    format!("backendRefs: [{{name: {service}, port: 8080}}]")
}

/// A Secret of `infra` with a certificate for these names.
pub(crate) fn certificate(name: &str, hosts: &[&str]) -> String {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(hosts).unwrap();
    let made = params.self_signed(&key).unwrap();
    let indented = |pem: &str| pem.replace('\n', "\n    ");
    format!(
        "\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: infra}}\n\
         type: kubernetes.io/tls\nstringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
        indented(&made.pem()),
        indented(&key.serialize_pem())
    )
}

/// A ConfigMap of `infra` with the certificate of an authority.
pub(crate) fn authority(name: &str, pem: &str) -> String {
    let pem = pem.replace('\n', "\n    ");
    format!(
        "\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: infra}}\n\
         data:\n  ca.crt: |\n    {pem}\n"
    )
}

/// A ReferenceGrant of a namespace for routes of `infra`.
pub(crate) fn grant(namespace: &str, from: &str) -> String {
    let group = "gateway.networking.k8s.io";
    let spec = format!(
        "{{from: [{{group: {group}, kind: {from}, namespace: infra}}], \
         to: [{{group: \"\", kind: Service}}]}}"
    );
    object_in(namespace, "ReferenceGrant", "grant", &spec)
        .replace("k8s.io/v1\nkind: Ref", "k8s.io/v1beta1\nkind: Ref")
}
