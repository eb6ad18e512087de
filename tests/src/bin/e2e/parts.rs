//! Parts of a TrafficPolicy, from its manifest to what clients and operators see. Those that other
//! cases show are not here: limits, retries, ejection, sessions.

use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::process::Process;
use tests::{Cluster, peer, poll};

use crate::gateway::Edge;
use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[shared(
    "gateway: parts of a TrafficPolicy do what its manifest says, a wrong one is refused by its field",
    parts,
)];

/// Port of a gRPC server beside nginx.
const TALK: u16 = 8081;
/// What a change may take to be in force.
const PATIENCE: Duration = Duration::from_secs(20);

fn parts(cluster: &Cluster) -> Result<()> {
    let edge = Edge::start(cluster, ROUTES)?;
    let backend = edge.cluster_pods[2].place();
    let mut command = Command::new(peer::PYTHON);
    let port = TALK.to_string();
    command.arg(peer::script("talk.py"));
    command.args(["grpc-serve", &port]);
    let talk = Process::spawn(cluster.run(), backend, "parts-talk", command)?;
    poll::until("the gRPC server", PATIENCE, || {
        talk.must_run()?;
        Ok(backend.connect(([127, 0, 0, 1], TALK).into(), PATIENCE)?)
    })?;
    answers(cluster, &edge)?;
    faults(cluster, &edge)?;
    circuit(cluster, &edge)?;
    checks(cluster, &edge)?;
    refused(cluster, &edge)
}

/// Puts a policy with these parts in force, in the place of the one before.
fn policy(cluster: &Cluster, kind: &str, name: &str, parts: &str) -> Result<()> {
    let group = match kind {
        "Service" => "''",
        _ => "gateway.networking.k8s.io",
    };
    let yaml = format!(
        "apiVersion: culvert.dev/v1alpha1\nkind: TrafficPolicy\n\
         metadata: {{name: parts-{name}, namespace: app}}\nspec:\n  \
         targetRefs: [{{group: {group}, kind: {kind}, name: {name}}}]\n  {parts}\n"
    );
    cluster.manifests().write(&format!("parts-{name}"), &yaml)
}

/// Compression, header changes and limits of bodies.
fn answers(cluster: &Cluster, edge: &Edge) -> Result<()> {
    let parts = "compression: {codings: [gzip], contentTypes: [text/html], minLength: '1'}
  headers: {response: {set: [{name: x-policy, value: parts}], remove: [server]}}
  bodyLimits: {request: 1Ki}";
    policy(cluster, "HTTPRoute", "a", parts)?;
    let [to, _] = edge.sockets();
    let told = poll::until("the policy", PATIENCE, || {
        let (status, told) = edge.get(to, "a.example", "/", &["--include", "--compressed"])?;
        let told = told.to_ascii_lowercase();
        ensure!(status == 200 && told.contains("x-policy: parts"), "{told}");
        Ok(told)
    })?;
    ensure!(told.contains("content-encoding: gzip"), "{told}");
    ensure!(!told.contains("server:"), "{told}");
    ensure!(told.contains("hello from gateway-a"), "{told}");
    let (_, plain) = edge.get(to, "a.example", "/", &["--include"])?;
    let plain = plain.to_ascii_lowercase();
    ensure!(!plain.contains("content-encoding"), "not asked: {plain}");
    // nginx takes no POST for a file; a body that is too long does not get there.
    for (size, want) in [(1024, 405), (1025, 413)] {
        let body = "x".repeat(size);
        let (status, _) = edge.get(to, "a.example", "/", &["--data", &body])?;
        ensure!(status == want, "{size} bytes: {status}");
    }
    let (status, other) = edge.get(to, "b.example", "/", &["--include"])?;
    ensure!(
        status == 200 && !other.to_ascii_lowercase().contains("x-policy"),
        "another route: {other}"
    );
    Ok(())
}

/// A fault that ends by itself.
fn faults(cluster: &Cluster, edge: &Edge) -> Result<()> {
    let [to, _] = edge.sockets();
    let expires = SystemTime::now() + Duration::from_secs(6);
    let expires = humantime::format_rfc3339_seconds(expires);
    let fault = format!("fault: {{abort: {{status: 418}}, expires: '{expires}'}}");
    policy(cluster, "HTTPRoute", "a", &fault)?;
    for (what, want) in [("the fault", 418), ("its end", 200)] {
        poll::until(what, PATIENCE, || {
            let (status, _) = edge.get(to, "a.example", "/", &[])?;
            ensure!(status == want, "{status}");
            Ok(())
        })?;
    }
    Ok(())
}

/// The backend of service b, as the status has it.
fn shown(status: &Value) -> Option<&Value> {
    let mut backends = status["backends"].as_array()?.iter();
    backends.find(|backend| backend["service"] == "app/b.app.svc.cluster.local")
}

fn circuit(cluster: &Cluster, edge: &Edge) -> Result<()> {
    policy(cluster, "Service", "b", "circuitBreaker: {requests: 7}")?;
    edge.gateway.wait("the circuit's limit", |status| {
        let circuit = shown(status).and_then(|backend| backend["circuit"].as_array());
        let mut limits = circuit.into_iter().flatten();
        limits.any(|limit| limit["kind"] == "requests" && limit["limit"] == 7)
    })
}

/// Health checks of every kind, of an endpoint that is well, and that is not.
fn checks(cluster: &Cluster, edge: &Edge) -> Result<()> {
    let probes = [
        ("http: {path: /nowhere}", false),
        ("http: {path: /small}", true),
        ("grpc: {service: nobody}, port: 8081", false),
        ("grpc: {}, port: 8081", true),
        ("tcp: {}, port: 9", false),
        ("tcp: {}", true),
        // nginx is no gRPC server.
        ("grpc: {}", false),
    ];
    for (probe, well) in probes {
        let check =
            format!("healthCheck: {{{probe}, interval: 300ms, timeout: 300ms, unhealthy: 1}}");
        policy(cluster, "Service", "b", &check)?;
        let waited = edge.gateway.wait("what the check finds", |status| {
            shown(status).is_some_and(|backend| backend["endpoints"][0]["healthy"] == well)
        });
        waited.with_context(|| format!("{probe} finds it well: {well}"))?;
    }
    // The only one there is: that it is ill is not believed.
    let (status, _) = edge.get(edge.sockets()[0], "b.example", "/", &[])?;
    ensure!(status == 200, "with all endpoints unhealthy: {status}");
    Ok(())
}

/// What makes no sense is named by its field, and what held before holds.
fn refused(cluster: &Cluster, edge: &Edge) -> Result<()> {
    policy(cluster, "Service", "b", "circuitBreaker: {requests: 9}")?;
    let holds = |status: &Value| {
        let circuit = shown(status).map_or_else(String::new, |one| one["circuit"].to_string());
        circuit.contains("\"limit\":9")
    };
    edge.gateway.wait("the last good one", holds)?;
    let control = cluster.control()?;
    for (parts, field) in [
        ("retry: {grpcCodes: [17]}", "spec.retry.grpcCodes[0]"),
        (
            "circuitBreaker: {connections: 0}",
            "spec.circuitBreaker.connections",
        ),
        ("timeouts: {requests: 1s}", "spec.timeouts.requests"),
    ] {
        let skip = control.log().len();
        policy(cluster, "Service", "b", parts)?;
        control
            .wait_log(skip, &["parts-b.yaml", field], PATIENCE)
            .with_context(|| parts.to_owned())?;
    }
    ensure!(holds(&edge.gateway.status()?), "the last good one is gone");
    Ok(())
}

const ROUTES: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a, namespace: app}
spec:
  parentRefs: [{name: edge}]
  hostnames: [a.example]
  rules: [{backendRefs: [{name: a, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: b, namespace: app}
spec:
  parentRefs: [{name: edge}]
  hostnames: [b.example]
  rules: [{backendRefs: [{name: b, port: 80}]}]
";
