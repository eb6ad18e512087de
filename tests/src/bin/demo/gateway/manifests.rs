//! What the second act applies.

use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tests::gateway::with_classes;

/// Gateway, routes, and a Secret with a new certificate, whose issuer is written to `root`.
pub(super) fn edge(root: &Path) -> Result<String> {
    let key = rcgen::generate_simple_self_signed(["secure.example".to_owned()])?;
    let certificate = key.cert.pem();
    std::fs::write(root, &certificate).context("writing the root certificate")?;
    let (certificate, key) = (
        encoded(&certificate),
        encoded(&key.signing_key.serialize_pem()),
    );
    let secret = format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: secure, namespace: demo}}
type: kubernetes.io/tls
data: {{tls.crt: {certificate}, tls.key: {key}}}
---
"
    );
    Ok(secret + &with_classes(GATEWAY) + ROUTES)
}

/// A TrafficPolicy for one object.
pub(super) fn policy(name: &str, kind: &str, target: &str, part: &str) -> String {
    let group = match kind {
        "Service" => "''",
        _ => "gateway.networking.k8s.io",
    };
    format!(
        "apiVersion: culvert.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: {name}, namespace: demo}}
spec:
  targetRefs: [{{group: {group}, kind: {kind}, name: {target}}}]
  {part}
"
    )
}

/// Requests for one host need a token of this issuer.
pub(super) fn tokens(issuer: &str, keys: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: demo}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: edge}}]
  jwtRules: [{{issuer: '{issuer}', jwks: '{keys}'}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: tokens, namespace: demo}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: edge}}]
  action: DENY
  rules:
  - from: [{{source: {{notRequestPrincipals: ['*']}}}}]
    to: [{{operation: {{hosts: [token.example]}}}}]
"
    )
}

fn encoded(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: demo}
spec:
  gatewayClassName: culvert
  listeners:
  - {name: http, port: 8000, protocol: HTTP}
  - name: https
    port: 8443
    protocol: HTTPS
    hostname: secure.example
    tls: {certificateRefs: [{name: secure}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: second, namespace: demo}
spec:
  gatewayClassName: culvert
  listeners: [{name: http, port: 8000, protocol: HTTP}]
---
";

const ROUTES: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: demo}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  hostnames: [shop.example]
  rules:
  - matches: [{headers: [{name: x-group, value: b}]}]
    backendRefs: [{name: v2, port: 80}]
  - backendRefs: [{name: v1, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary, namespace: demo}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  hostnames: [canary.example]
  rules:
  - backendRefs:
    - {name: v1, port: 80, weight: 90}
    - {name: v2, port: 80, weight: 10}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: mirror, namespace: demo}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  hostnames: [mirror.example]
  rules:
  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}}}]
    backendRefs: [{name: v1, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: to-https, namespace: demo}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  hostnames: [secure.example]
  rules:
  - filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 8443, statusCode: 301}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: secure, namespace: demo}
spec:
  parentRefs: [{name: edge, sectionName: https}]
  hostnames: [secure.example]
  rules:
  - matches: [{path: {value: /old}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
    backendRefs: [{name: v2, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: talk, namespace: demo}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  hostnames: [grpc.example]
  rules:
  - matches: [{method: {service: culvert.demo.Echo}}]
    backendRefs: [{name: talk, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: websocket, namespace: demo}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  hostnames: [talk.example]
  rules:
  - backendRefs: [{name: talk, port: 81}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: flaky, namespace: demo}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  hostnames: [flaky.example]
  rules: [{backendRefs: [{name: flaky, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: token, namespace: demo}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  hostnames: [token.example]
  rules: [{backendRefs: [{name: v1, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: limited, namespace: demo}
spec:
  parentRefs: [{name: edge, sectionName: http}, {name: second}]
  hostnames: [limited.example]
  rules: [{backendRefs: [{name: v1, port: 80}]}]
";
