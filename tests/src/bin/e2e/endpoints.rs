//! From a rule of a gateway to one of several endpoints, as a TrafficPolicy says.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::apps::Nginx;
use tests::gateway::{EDGE, Gateway, with_classes};
use tests::manifests::{ServiceSpec, peer_authentication};
use tests::{Cluster, Pod, PodSpec, poll};

use crate::scene::{MESHED, OUTSIDE, PORT, namespaces};
use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[shared(
    "gateway: an endpoint that fails is hidden, ejected and comes back; clients stay with theirs",
    endpoints,
)];

/// Port of the listener.
const LISTEN: u16 = 8000;
/// What a change may take to be seen.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests of one look.
const REQUESTS: usize = 20;

fn endpoints(cluster: &Cluster) -> Result<()> {
    namespaces(cluster)?;
    let strict = peer_authentication(MESHED, "STRICT");
    cluster.manifests().write("mode", &strict)?;
    let spec = PodSpec::new(MESHED, "edge").label("culvert.dev/mesh", "disabled");
    let edge = cluster.pod(&spec.outside())?;
    let first = cluster.pod(&PodSpec::new(MESHED, "first").app("pair").on(2))?;
    let second = cluster.pod(&PodSpec::new(MESHED, "second").app("pair"))?;
    let client = cluster.pod(&PodSpec::new(OUTSIDE, "outsider").outside())?;
    cluster.service(&ServiceSpec::new(MESHED, "pair", PORT).port(80, &PORT.to_string()))?;
    let spec = ServiceSpec::new(MESHED, "sticky", PORT).port(80, &PORT.to_string());
    cluster.service(&spec.selecting("pair"))?;
    cluster
        .manifests()
        .write("gateway", &with_classes(&format!("{EDGE}---\n{ROUTES}")))?;
    cluster.settle()?;
    let _first = Nginx::start(cluster.run(), first.place(), "pair-1", PORT)?;
    let failing = Nginx::start(cluster.run(), second.place(), "pair-2", PORT)?;
    let gateway = Gateway::start(cluster, &edge, "app/edge")?;
    gateway.wait("gateway in force", |status| {
        status["ports"] == serde_json::json!([LISTEN])
            && status["routes"]
                .as_array()
                .is_some_and(|routes| routes.len() == 3)
    })?;
    let to = edge.sockets(LISTEN)[0];
    poll::until("both in turn", PATIENCE, || {
        let counts = counts(&client, to)?;
        ensure!(counts == [REQUESTS / 2; 2], "{counts:?}");
        Ok(())
    })?;
    stays(&client, to, "stay.example")?;
    stays(&client, to, "stick.example")?;

    drop(failing);
    // Nobody notices, and soon it is not asked any more.
    let hidden = counts(&client, to)?;
    ensure!(hidden == [REQUESTS, 0], "{hidden:?} of {REQUESTS}");
    // It may have come back before all was looked at; then it is ejected again.
    poll::until("ejected", PATIENCE, || {
        counts(&client, to)?;
        let status = gateway.status()?;
        let pair = &status["backends"][0];
        ensure!(
            pair["ejections"].as_u64() >= Some(1) && out(pair) == 1,
            "{pair}"
        );
        for (verb, said) in [("routes", "ejected ("), ("status", "ejected for ")] {
            let text = gateway.say(&[verb])?;
            ensure!(text.contains(said), "culvert {verb}:\n{text}");
        }
        Ok(())
    })?;
    let _back = Nginx::start(cluster.run(), second.place(), "pair-2", PORT)?;
    poll::until("back from ejection", PATIENCE, || {
        let counts = counts(&client, to)?;
        ensure!(counts == [REQUESTS / 2; 2], "{counts:?}");
        Ok(())
    })?;
    gateway.wait("nobody out", |status| out(&status["backends"][0]) == 0)
}

/// Ejected endpoints.
fn out(backend: &Value) -> usize {
    let endpoints = backend["endpoints"].as_array().into_iter().flatten();
    endpoints.filter(|one| one["ejected"].is_object()).count()
}

/// How many requests each of the two has answered.
fn counts(client: &Pod, to: SocketAddr) -> Result<[usize; 2]> {
    let url = format!("http://{to}/?[1-{REQUESTS}]");
    let bodies = curl(client, &["--header", "Host: turns.example", &url])?;
    Ok(["pair-1", "pair-2"].map(|name| bodies.matches(name).count()))
}

/// A client with a cookie stays where it is, one without does not.
fn stays(client: &Pod, to: SocketAddr, host: &str) -> Result<()> {
    let url = format!("http://{to}/");
    let host = &format!("Host: {host}");
    let answer = curl(client, &["--include", "--header", host, &url])?;
    let given = answer.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let is_cookie = name.eq_ignore_ascii_case("set-cookie");
        is_cookie.then(|| value.split(';').next().unwrap_or_default().to_owned())
    });
    let given = given.with_context(|| format!("no cookie in {answer}"))?;
    let cookie = format!("Cookie: {given}");
    let place = if answer.contains("pair-1") {
        "pair-1"
    } else {
        "pair-2"
    };
    let url = format!("{url}?[1-{REQUESTS}]");
    let stayed = curl(client, &["--header", host, "--header", &cookie, &url])?;
    let count = stayed.matches(place).count();
    ensure!(
        count == REQUESTS,
        "{count} of {REQUESTS} stayed with {place}"
    );
    Ok(())
}

fn curl(client: &Pod, more: &[&str]) -> Result<String> {
    let words = ["curl", "--silent", "--show-error", "--max-time", "20"];
    client.place().check(&[&words[..], more].concat())
}

const ROUTES: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: turns, namespace: app}
spec:
  parentRefs: [{name: edge}]
  hostnames: [turns.example]
  rules: [{backendRefs: [{name: pair, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: stay, namespace: app}
spec:
  parentRefs: [{name: edge}]
  hostnames: [stay.example]
  rules:
  - sessionPersistence: {sessionName: stay, type: Cookie}
    backendRefs: [{name: pair, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: stick, namespace: app}
spec:
  parentRefs: [{name: edge}]
  hostnames: [stick.example]
  rules: [{backendRefs: [{name: sticky, port: 80}]}]
---
apiVersion: culvert.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: sticky, namespace: app}
spec:
  targetRefs: [{group: '', kind: Service, name: sticky}]
  loadBalancing: {algorithm: consistentHash, hashBy: {cookie: {name: stick, ttl: 1m}}}
---
apiVersion: culvert.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: pair, namespace: app}
spec:
  targetRefs: [{group: '', kind: Service, name: pair}]
  loadBalancing: {algorithm: roundRobin}
  retry: {codes: [502, 503], attempts: 2}
  outlierDetection: {consecutiveErrors: 2, ejection: 2s, maxEjection: 4s}
";
