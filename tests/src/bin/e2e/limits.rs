//! Rate limits that several gateways count together, with a real Redis.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::apps::Nginx;
use tests::gateway::{EDGE, Gateway, with_classes};
use tests::manifests::ServiceSpec;
use tests::process::Process;
use tests::{Cluster, Pod, PodSpec, poll};

use crate::scene::{MESHED, OUTSIDE, PORT, namespaces};
use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[shared(
    "gateway: two processes share one global rate limit; Redis gone, the policy decides",
    global_limit,
)];

/// Port of the listeners.
const LISTEN: u16 = 8000;
/// Port of the Redis.
const REDIS: u16 = 6379;
/// Requests that pass in an hour.
const LIMIT: usize = 6;
/// What a change may take to be in force.
const PATIENCE: Duration = Duration::from_secs(20);

fn global_limit(cluster: &Cluster) -> Result<()> {
    namespaces(cluster)?;
    let names = ["edge", "ledge"];
    let pods = names.map(|name| {
        let spec = PodSpec::new(MESHED, name).label("culvert.dev/mesh", "disabled");
        cluster.pod(&spec.outside())
    });
    let [edge, ledge] = pods;
    let pods = [edge?, ledge?];
    let backend = cluster.pod(&PodSpec::new(MESHED, "a").on(2))?;
    let client = cluster.pod(&PodSpec::new(OUTSIDE, "outsider").outside())?;
    let counter = cluster.pod(&PodSpec::new(OUTSIDE, "redis").outside())?;
    cluster.service(&ServiceSpec::new(MESHED, "a", PORT).port(80, &PORT.to_string()))?;
    cluster
        .manifests()
        .write("gateways", &with_classes(&format!("{EDGE}---\n{LEDGE}")))?;
    let redis = start_redis(cluster, &counter)?;
    let at = counter.sockets(REDIS)[0];
    cluster.manifests().write("limit", &policy(at, "open"))?;
    cluster.settle()?;
    let _server = Nginx::start(cluster.run(), backend.place(), "limited", PORT)?;
    let mut gateways = Vec::new();
    for (pod, name) in pods.iter().zip(names) {
        let gateway = Gateway::start(cluster, pod, &format!("{MESHED}/{name}"))?;
        gateway.wait("gateway in force", |status| {
            status["ports"] == serde_json::json!([LISTEN])
        })?;
        gateways.push(gateway);
    }
    let sockets = [0, 1].map(|at: usize| pods[at].sockets(LISTEN)[0]);
    let ask = |at: usize| ask(&client, sockets[at % sockets.len()]);

    let statuses: Vec<u16> = (0..LIMIT + 4).map(&ask).collect::<Result<_>>()?;
    let passed = statuses.iter().filter(|status| **status == 200).count();
    let refused = statuses.iter().filter(|status| **status == 429).count();
    ensure!(
        (passed, refused) == (LIMIT, 4),
        "of one limit of {LIMIT} at two gateways: {statuses:?}"
    );

    redis.kill9()?;
    for at in 0..LIMIT {
        let status = ask(at)?;
        ensure!(
            status == 200,
            "{status} with Redis gone and the policy open"
        );
    }
    cluster.manifests().write("limit", &policy(at, "closed"))?;
    for at in 0..2 {
        poll::until("closed", PATIENCE, || {
            let status = ask(at)?;
            ensure!(
                status == 429,
                "{status} with Redis gone and the policy closed"
            );
            Ok(())
        })?;
    }

    let redis = start_redis(cluster, &counter)?;
    for at in 0..2 {
        poll::until("counted again", PATIENCE, || {
            let status = ask(at)?;
            ensure!(status == 200, "{status} with Redis back");
            Ok(())
        })?;
    }
    redis.kill9()
}

fn start_redis(cluster: &Cluster, pod: &Pod) -> Result<Process> {
    let port = REDIS.to_string();
    let directory = cluster.run().path("redis");
    std::fs::create_dir_all(&directory).context("creating a folder for Redis")?;
    let directory = directory.to_str().context("an odd path")?;
    let redis = pod.spawn(
        "redis",
        &[
            "redis-server",
            "--port",
            &port,
            "--save",
            "",
            "--protected-mode",
            "no",
            "--dir",
            directory,
        ],
    )?;
    poll::until("Redis", PATIENCE, || {
        let pong = pod.place().check(&["redis-cli", "-p", &port, "ping"])?;
        ensure!(pong.trim() == "PONG", "{pong:?}");
        Ok(())
    })?;
    Ok(redis)
}

fn ask(client: &Pod, to: SocketAddr) -> Result<u16> {
    let url = format!("http://{to}/");
    let words = [
        "curl",
        "--silent",
        "--max-time",
        "10",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}",
        &url,
    ];
    let status = client.place().check(&words)?;
    let status = status.trim().parse();
    status.with_context(|| format!("no status from {to}"))
}

fn policy(redis: SocketAddr, when_unavailable: &str) -> String {
    format!(
        "apiVersion: culvert.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: shared, namespace: app}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}}]
  rateLimit:
    global:
      requests: {LIMIT}
      per: 1h
      redis: {{address: \"{redis}\", timeout: 1s}}
      whenUnavailable: {when_unavailable}
"
    )
}

const LEDGE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: ledge, namespace: app}
spec:
  gatewayClassName: culvert
  listeners: [{name: http, port: 8000, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: app}
spec:
  parentRefs: [{name: edge}, {name: ledge}]
  rules: [{backendRefs: [{name: a, port: 80}]}]
";
