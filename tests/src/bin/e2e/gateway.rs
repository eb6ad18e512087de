//! The L7 gateway, with the control plane in front of it and captured pods behind.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use agent_model::HBONE_PORT;
use anyhow::{Context, Result, ensure};
use tests::apps::Nginx;
use tests::cluster::service_sockets;
use tests::gateway::{self, EDGE, Gateway, with_classes};
use tests::issuer::Issuer;
use tests::manifests::{ServiceSpec, peer_authentication};
use tests::{Cluster, Pod, PodSpec, poll};

use crate::scene::{MESHED, OUTSIDE, PORT, namespaces};
use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[
    shared(
        "gateway: HTTPRoutes by host, path, header and weight, to captured pods",
        routes,
    ),
    shared(
        "gateway: a bad route is its own affair, an edit is in force at once",
        edits,
    ),
    shared(
        "gateway: a service behind a waypoint is reached through it or not at all",
        waypoint,
    ),
    shared(
        "gateway: tokens and policies before requests, keys inline and fetched",
        access,
    ),
];

/// Port of the server of keys.
const KEYS: u16 = 8088;
/// Port of the listener.
const LISTEN: u16 = 8000;

/// A gateway in front of two services whose pods take nothing in the clear.
pub(crate) struct Edge {
    /// The gateway's, that of service a and that of service b.
    pub(crate) cluster_pods: [Pod; 3],
    client: Pod,
    pub(crate) gateway: Gateway,
    _servers: [Nginx; 2],
}

impl Edge {
    pub(crate) fn start(cluster: &Cluster, routes: &str) -> Result<Self> {
        namespaces(cluster)?;
        let strict = peer_authentication(MESHED, "STRICT");
        cluster.manifests().write("mode", &strict)?;
        // A gateway speaks for itself: its pod is not captured.
        let spec = PodSpec::new(MESHED, "edge").label("culvert.dev/mesh", "disabled");
        let edge = cluster.pod(&spec.outside())?;
        let pods = ["a", "b"].map(|name| cluster.pod(&PodSpec::new(MESHED, name).on(2)));
        let [a, b] = pods;
        let (a, b) = (a?, b?);
        let client = cluster.pod(&PodSpec::new(OUTSIDE, "outsider").outside())?;
        for name in ["a", "b"] {
            cluster.service(&ServiceSpec::new(MESHED, name, PORT).port(80, &PORT.to_string()))?;
        }
        cluster.manifests().write("gateway", &with_classes(EDGE))?;
        cluster.manifests().write("routes", routes)?;
        cluster.settle()?;
        let servers = [
            Nginx::start(cluster.run(), a.place(), "gateway-a", PORT)?,
            Nginx::start(cluster.run(), b.place(), "gateway-b", PORT)?,
        ];
        let gateway = Gateway::start(cluster, &edge, "app/edge")?;
        gateway.wait("gateway in force", |status| {
            status["ports"] == serde_json::json!([LISTEN])
                && status["portsMissing"].as_array().is_some_and(Vec::is_empty)
        })?;
        Ok(Self {
            cluster_pods: [edge, a, b],
            client,
            gateway,
            _servers: servers,
        })
    }

    /// Addresses of the listener.
    pub(crate) fn sockets(&self) -> [SocketAddr; 2] {
        self.cluster_pods[0].sockets(LISTEN)
    }

    /// Status and body of a GET by a client outside the mesh.
    pub(crate) fn get(
        &self,
        to: SocketAddr,
        host: &str,
        path: &str,
        more: &[&str],
    ) -> Result<(u16, String)> {
        let host = format!("Host: {host}");
        let url = format!("http://{to}{path}");
        let mut words = vec![
            "curl",
            "--silent",
            "--max-time",
            "10",
            "--write-out",
            "\n%{http_code}",
            "--header",
            &host,
        ];
        words.extend(more);
        words.push(&url);
        let output = self.client.place().check(&words)?;
        let (body, status) = output.trim_end().rsplit_once('\n').unwrap_or(("", &output));
        let status = status.trim().parse();
        let status = status.with_context(|| format!("curl {url} said {output:?}"))?;
        Ok((status, body.to_owned()))
    }

    fn must(&self, to: SocketAddr, host: &str, path: &str, want: (u16, &str)) -> Result<()> {
        let (status, body) = self.get(to, host, path, &[])?;
        ensure!(
            status == want.0 && body.contains(want.1),
            "{host}{path} at {to}: {status} {body:?} instead of {want:?}"
        );
        Ok(())
    }
}

fn routes(cluster: &Cluster) -> Result<()> {
    let edge = Edge::start(cluster, ROUTES)?;
    for to in edge.sockets() {
        edge.must(to, "shop.example", "/", (200, "hello from gateway-a"))?;
        edge.must(
            to,
            "shop.example:8000",
            "/b/",
            (200, "hello from gateway-b"),
        )?;
        edge.must(to, "shop.example", "/bb", (404, ""))?;
        edge.must(to, "other.example", "/", (404, ""))?;
        let version = ["--header", "x-version: b"];
        let (status, body) = edge.get(to, "shop.example", "/", &version)?;
        ensure!(
            status == 200 && body.contains("gateway-b"),
            "by header: {status} {body:?}"
        );
        let (status, _) = edge.get(to, "old.example", "/x?y=z", &["--include"])?;
        ensure!(status == 301, "a redirect is {status}");
        share(&edge, to)?;
    }
    poll::until("the access log", Duration::from_secs(10), || {
        let log = edge.gateway.process().log();
        let is_told = log.lines().any(|line| {
            let parts = [
                "request complete",
                "method=\"GET\"",
                "status=200",
                "HTTPRoute/app/shop",
            ];
            parts.iter().all(|part| line.contains(part))
        });
        ensure!(is_told, "no access-log line:\n{log}");
        Ok(())
    })?;
    // That the pods took nothing in the clear is PeerAuthentication's doing: the direct way fails.
    let direct = edge.cluster_pods[1].sockets(PORT)[0];
    let refused = edge.client.place().connect(direct, Duration::from_secs(2));
    let refused = refused.and_then(|stream| {
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        std::io::Read::read(&mut { stream }, &mut [0])
    });
    ensure!(
        !matches!(refused, Ok(1..)),
        "a pod of the mesh answers plaintext"
    );
    Ok(())
}

/// Three in four requests go to one backend.
fn share(edge: &Edge, to: SocketAddr) -> Result<()> {
    const REQUESTS: usize = 200;
    let url = format!("http://{to}/share/[1-{REQUESTS}]");
    let words = [
        "curl",
        "--silent",
        "--max-time",
        "30",
        "--header",
        "Host: canary.example",
        &url,
    ];
    let bodies = edge.client.place().check(&words)?;
    let count = |name: &str| bodies.matches(name).count();
    let (a, b) = (count("hello from gateway-a"), count("hello from gateway-b"));
    ensure!(a + b == REQUESTS, "{a} + {b} of {REQUESTS} were answered");
    // Six standard deviations: one run in half a milliard is outside.
    ensure!((113..=187).contains(&a), "{a} of {REQUESTS} instead of 150");
    Ok(())
}

fn edits(cluster: &Cluster) -> Result<()> {
    let edge = Edge::start(cluster, ROUTES)?;
    let [to, _] = edge.sockets();
    edge.must(to, "shop.example", "/", (200, "gateway-a"))?;
    let to_nowhere = route("bad", "bad.example", "nobody");
    cluster.manifests().write("bad", &to_nowhere)?;
    poll::until("the bad route", Duration::from_secs(10), || {
        edge.must(to, "bad.example", "/", (500, ""))
    })?;
    edge.must(to, "shop.example", "/", (200, "gateway-a"))?;
    for (backend, answer) in [("a", "gateway-a"), ("b", "gateway-b"), ("a", "gateway-a")] {
        let edited = Instant::now();
        cluster
            .manifests()
            .write("bad", &route("bad", "bad.example", backend))?;
        poll::until("the edit", Duration::from_secs(10), || {
            edge.must(to, "bad.example", "/", (200, answer))
        })?;
        println!(
            "  in force {} ms after the edit",
            edited.elapsed().as_millis()
        );
    }
    cluster.manifests().remove("bad")?;
    poll::until("the route gone", Duration::from_secs(10), || {
        edge.must(to, "bad.example", "/", (404, ""))
    })?;
    cluster.manifests().remove("gateway")?;
    edge.gateway.wait("nothing to serve", |status| {
        status["ports"] == serde_json::json!([])
    })?;
    let closed = edge.client.place().connect(to, Duration::from_secs(2));
    ensure!(
        closed.is_err(),
        "the port of a Gateway that is gone is open"
    );
    Ok(())
}

fn access(cluster: &Cluster) -> Result<()> {
    let edge = Edge::start(cluster, ROUTES)?;
    let (inline, fetched) = (
        Issuer::new("https://inline")?,
        Issuer::new("https://fetched")?,
    );
    let keys = Nginx::start(cluster.run(), edge.client.place(), "gateway-keys", KEYS)?;
    fs::write(keys.root().join("keys.json"), fetched.key_set())?;
    let key_server = edge.client.sockets(KEYS)[0];
    let policies = ACCESS
        .replace("INLINE", &inline.key_set())
        .replace("REMOTE", &format!("http://{key_server}/keys.json"));
    cluster.manifests().write("access", &policies)?;
    let to = edge.sockets();
    let status = |to: SocketAddr, more: &[&str]| -> Result<u16> {
        Ok(edge.get(to, "shop.example", "/", more)?.0)
    };
    poll::until("policies in force", Duration::from_secs(10), || {
        let found = status(to[0], &[])?;
        ensure!(found == 401, "without a token: {found}");
        Ok(())
    })?;
    // A policy can be in force before the keys that it names are there.
    edge.gateway
        .wait("fetched keys", |status| status["keys"][0]["keys"] == 1)?;
    let bearer = |token: String| format!("Authorization: Bearer {token}");
    let good = bearer(inline.token(60)?);
    let forged = bearer(Issuer::new("https://inline")?.token(60)?);
    for (what, header, want) in [
        ("accepted", good.clone(), 200),
        ("expired", bearer(inline.token(-3600)?), 401),
        ("forged", forged, 401),
        ("accepted by fetched keys", bearer(fetched.token(60)?), 200),
        (
            "expired, by fetched keys",
            bearer(fetched.token(-3600)?),
            401,
        ),
    ] {
        for to in to {
            let found = status(to, &["--header", &header])?;
            ensure!(
                found == want,
                "{what} at {to}: {found} instead of {want}; keys {}",
                edge.gateway.status()?["keys"]
            );
        }
    }
    let robot = status(to[0], &["--header", &good, "--header", "x-robot: yes"])?;
    ensure!(robot == 403, "DENY by header: {robot}");
    let post = status(to[0], &["--header", &good, "--request", "POST"])?;
    ensure!(post == 403, "a method that no ALLOW names: {post}");
    let (path, _) = edge.get(to[0], "shop.example", "/b/", &["--header", &good])?;
    ensure!(path == 403, "a path that no ALLOW names: {path}");
    Ok(())
}

fn waypoint(cluster: &Cluster) -> Result<()> {
    namespaces(cluster)?;
    let strict = peer_authentication(MESHED, "STRICT");
    cluster.manifests().write("mode", &strict)?;
    let spec = PodSpec::new(MESHED, "way")
        .label("culvert.dev/mesh", "disabled")
        .label("gateway.networking.k8s.io/gateway-name", "way");
    let way = cluster.pod(&spec.outside())?;
    let client = cluster.pod(&PodSpec::new(MESHED, "client"))?;
    let a = cluster.pod(&PodSpec::new(MESHED, "a").on(2))?;
    let b = cluster.pod(&PodSpec::new(MESHED, "b").on(2))?;
    let servers = [
        Nginx::start(cluster.run(), a.place(), "waypoint-a", PORT)?,
        Nginx::start(cluster.run(), b.place(), "waypoint-b", PORT)?,
    ];
    cluster.service(&ServiceSpec::new(MESHED, "way", HBONE_PORT))?;
    cluster.service(&ServiceSpec::new(MESHED, "b", PORT).port(80, &PORT.to_string()))?;
    let spec = ServiceSpec::new(MESHED, "a", PORT).port(80, &PORT.to_string());
    let addresses = cluster.service(&spec)?;
    cluster
        .manifests()
        .write("gateway", &with_classes(&gateway::waypoint(MESHED, "way")))?;
    cluster.settle()?;
    let get = |to: SocketAddr, header: &str| {
        let url = format!("http://{to}/");
        let words = [
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            "--header",
            header,
            &url,
        ];
        client.place().run(&words, Duration::from_secs(15))
    };
    let must = |to: SocketAddr, header: &str, want: &str| -> Result<()> {
        let output = get(to, header)?;
        ensure!(
            output.ok() && output.stdout.contains(want),
            "{to} {header}: {} {} instead of {want}",
            output.stdout,
            output.stderr
        );
        Ok(())
    };
    let vips = service_sockets(addresses, 80);
    for to in vips {
        must(to, "x-version: b", "hello from waypoint-a")?;
    }
    // From now on the waypoint is in front of it, and it does not run yet.
    let bound = spec.yaml(addresses).replace(
        "metadata:\n",
        "metadata:\n  labels: {culvert.dev/use-waypoint: way}\n",
    );
    cluster.manifests().write("service-app-a", &bound)?;
    cluster.manifests().write("routes", MESH_ROUTE)?;
    cluster.settle()?;
    for to in vips {
        let output = get(to, "x-version: b")?;
        ensure!(!output.ok(), "{to} without its waypoint: {}", output.stdout);
    }
    let gateway = Gateway::start(cluster, &way, "app/way")?;
    gateway.wait("waypoint in force", |status| {
        status["ports"] == serde_json::json!([HBONE_PORT]) && status["routes"][0].is_string()
    })?;
    for to in vips {
        poll::until("through the waypoint", Duration::from_secs(20), || {
            must(to, "x-version: a", "hello from waypoint-a")?;
            must(to, "x-version: b", "hello from waypoint-b")
        })?;
    }
    // The route is of the service, not of its pods.
    for to in a.sockets(PORT) {
        must(to, "x-version: b", "hello from waypoint-a")?;
    }
    cluster.manifests().remove("routes")?;
    poll::until("without routes", Duration::from_secs(10), || {
        must(vips[0], "x-version: b", "hello from waypoint-a")
    })?;
    drop(servers);
    Ok(())
}

fn route(name: &str, host: &str, backend: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: app}}
spec:
  parentRefs: [{{name: edge}}]
  hostnames: [{host}]
  rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]
"
    )
}

const ACCESS: &str = "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: app}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  jwtRules:
  - {issuer: 'https://inline', jwks: 'INLINE'}
  - {issuer: 'https://fetched', jwksUri: 'REMOTE'}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: known, namespace: app}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  rules:
  - from: [{source: {requestPrincipals: ['https://inline/*', 'https://fetched/alice']}}]
    to: [{operation: {methods: [GET], paths: [/]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: robots, namespace: app}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  action: DENY
  rules: [{when: [{key: 'request.headers[x-robot]', values: ['yes']}]}]
";

const MESH_ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: versions, namespace: app}
spec:
  parentRefs: [{group: '', kind: Service, name: a}]
  rules:
  - matches: [{headers: [{name: x-version, value: b}]}]
    backendRefs: [{name: b, port: 80}]
  - backendRefs: [{name: a, port: 80}]
";

const ROUTES: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: app}
spec:
  parentRefs: [{name: edge}]
  hostnames: [shop.example]
  rules:
  - matches: [{path: {type: Exact, value: /}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {value: /b}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: b, port: 80}]
  - matches: [{path: {type: Exact, value: /}, headers: [{name: x-version, value: b}]}]
    backendRefs: [{name: b, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: old, namespace: app}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  hostnames: [old.example]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: shop.example, statusCode: 301}}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary, namespace: app}
spec:
  parentRefs: [{name: edge}]
  hostnames: [canary.example]
  rules:
  - filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /}}}]
    backendRefs: [{name: a, port: 80, weight: 3}, {name: b, port: 80, weight: 1}]
";
