//! Connections that Kubernetes and those who run it make: probes, forwarded ports, scrapes.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use tests::apps::{Nginx, SMALL_BODY, SMALL_PATH};
use tests::server::{Behaviour, Server};
use tests::traffic::{must_refuse, must_serve};
use tests::{Cluster, Place, http};

use super::LIMIT;
use crate::scene::{MESHED, OUTSIDE, PORT, Scene};
use crate::{Case, on_kubernetes};

pub(crate) const CASES: &[Case] = &[
    on_kubernetes(
        "kubernetes: kubelet probes pass STRICT, with an agent and without",
        probes,
    ),
    on_kubernetes(
        "kubernetes: kubectl port-forward reaches a STRICT pod, with an agent and without",
        port_forward,
    ),
    on_kubernetes(
        "kubernetes: Prometheus outside the mesh: PERMISSIVE port works, STRICT port says why not",
        prometheus,
    ),
];

/// Where the application shows its metrics.
const METRICS: u16 = 9090;

/// HTTP and TCP probes come from the node's own namespace.
fn probes(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _echo = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let _web = Nginx::start(cluster.run(), scene.server.place(), "probed", 80)?;
    let node = cluster.node(2)?;
    let all_pass = |when: &str| -> Result<()> {
        for to in scene.server.sockets(80) {
            get(node.host(), to).with_context(|| format!("HTTP probe {when}"))?;
        }
        for to in scene.server.sockets(PORT) {
            must_serve(node.host(), to).with_context(|| format!("TCP probe {when}"))?;
            must_refuse(&scene.outsider, to)
                .with_context(|| format!("others {when}; the node says {}", why(cluster, to)))?;
            // Another node's kubelet has nothing to probe here.
            must_refuse(cluster.node(1)?.host(), to).with_context(|| format!("n1 {when}"))?;
        }
        Ok(())
    };
    all_pass("with an agent")?;
    let agent = node.agent()?;
    agent.kill9()?;
    all_pass("without an agent")?;
    agent.start_ready()?;
    all_pass("with a new agent")
}

/// What the server's node would do with a connection of the pod outside.
fn why(cluster: &Cluster, to: SocketAddr) -> String {
    let source = format!("{OUTSIDE}/outsider");
    let agent = cluster.node(2).and_then(|node| node.agent());
    let said = agent.and_then(|agent| agent.verb(&["why", &source, &to.to_string()]));
    said.unwrap_or_else(|error| format!("nothing: {error:#}"))
}

fn get(from: &Place, to: SocketAddr) -> Result<()> {
    let answer = http::get(from, to, SMALL_PATH)?;
    ensure!(
        answer.status == 200 && answer.body == SMALL_BODY,
        "{to}: {answer:?}"
    );
    Ok(())
}

/// The runtime enters the pod's network namespace, as a process of the node, and dials the pod's
/// loopback: what listens only there is reached too.
fn port_forward(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _everywhere = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let only_v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT + 1));
    let only_v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, PORT + 1));
    let _v4 = Server::start_at(&scene.server, only_v4, Behaviour::Echo)?;
    let _v6 = Server::start_at(&scene.server, only_v6, Behaviour::Echo)?;
    let everywhere = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, PORT)),
    ];
    // This process is one of the node's: it is in no pod's cgroup.
    let forward = |when: &str| -> Result<()> {
        for to in everywhere.into_iter().chain([only_v4, only_v6]) {
            must_serve(scene.server.place(), to).with_context(|| when.to_owned())?;
        }
        Ok(())
    };
    forward("with an agent")?;
    let agent = cluster.node(2)?.agent()?;
    agent.kill9()?;
    forward("without an agent")?;
    agent.start_ready()?;
    forward("with a new agent")
}

fn prometheus(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _echo = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let _metrics = Nginx::start(cluster.run(), scene.server.place(), "scraped", METRICS)?;
    let open = format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: metrics\n  \
         namespace: {MESHED}\nspec:\n  selector:\n    matchLabels:\n      app: server\n  mtls:\n    \
         mode: STRICT\n  portLevelMtls:\n    {METRICS}:\n      mode: PERMISSIVE\n"
    );
    let agent = cluster.node(2)?.agent()?;
    for to in scene.server.sockets(METRICS) {
        must_refuse(&scene.outsider, to).context("STRICT for every port")?;
        let scraped = format!("dst.addr=\"{to}\"");
        refusal(agent, &scraped)?;
    }
    cluster.apply("metrics", &open)?;
    for to in scene.server.sockets(METRICS) {
        get(&scene.outsider, to).context("a PERMISSIVE port")?;
        get(&scene.client, to).context("from inside the mesh")?;
    }
    for to in scene.server.sockets(PORT) {
        must_refuse(&scene.outsider, to).context("the other ports stay STRICT")?;
        must_serve(&scene.client, to)?;
        refusal(agent, &format!("dst.addr=\"{to}\""))?;
    }
    let refusals = agent.status()?["refusals"].to_string();
    ensure!(
        refusals.contains("policy-denied"),
        "status knows of no refusal: {refusals}"
    );
    Ok(())
}

/// The log says of a refused plaintext connection what refused it.
fn refusal(agent: &tests::agent::Agent, to: &str) -> Result<()> {
    let parts = ["direction=\"inbound\"", "reason=\"policy-denied\"", to];
    let line = agent.wait_log(&parts, LIMIT)?;
    ensure!(
        line.contains("policy=\"") && !line.contains("src.identity"),
        "the log says {line}"
    );
    Ok(())
}
