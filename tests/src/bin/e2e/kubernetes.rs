//! The control plane on an API server (the fixture): objects come by list and watch, agents prove
//! themselves with their pods' tokens, pods are bound before their sandbox and have addresses
//! after it.

pub(crate) mod churn;
pub(crate) mod gateways;
pub(crate) mod outage;
pub(crate) mod paths;
pub(crate) mod replicas;
mod sandboxed;
pub(crate) mod soak;
pub(crate) mod uninstall;
pub(crate) mod untimely;
pub(crate) mod waiting;
pub(crate) mod watches;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::apiserver::ApiServer;
use tests::cluster::service_sockets;
use tests::manifests::{ServiceSpec, authorization_policy, peer_authentication};
use tests::poll;
use tests::server::{Behaviour, Server};
use tests::traffic::{must_refuse, must_serve};
use tests::{Cluster, Pod, PodSpec};

use crate::scene::{MESHED, OUTSIDE, PORT, Scene};
use crate::{Case, on_kubernetes};

pub(crate) const CASES: &[Case] = &[
    on_kubernetes(
        "kubernetes: pods, Services and policies of an API server are in force",
        in_force,
    ),
    on_kubernetes(
        "kubernetes: F-15 without an API server traffic goes on, and what was missed is made up for",
        api_server_gone,
    ),
];

const LIMIT: Duration = Duration::from_secs(30);
const DENY_CLIENT: &str = "[{from: [{source: {principals: [cluster.local/ns/app/sa/client]}}]}]";

/// The API server of the shared cluster.
pub(crate) fn api_server(cluster: &Cluster) -> Result<&ApiServer> {
    Ok(cluster.manifests().server().context("no API server")?)
}

fn in_force(cluster: &Cluster) -> Result<()> {
    let server = api_server(cluster)?;
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let service = cluster.service(&ServiceSpec::new(MESHED, "server", PORT))?;
    cluster.settle()?;
    let all: Vec<SocketAddr> = scene
        .server
        .sockets(PORT)
        .into_iter()
        .chain(service_sockets(service, PORT))
        .collect();
    for to in &all {
        must_serve(&scene.client, *to).with_context(|| format!("client to {to}"))?;
    }
    for to in scene.server.sockets(PORT) {
        must_refuse(&scene.outsider, to).context("plaintext under STRICT")?;
    }
    let deny = authorization_policy(MESHED, "deny", "DENY", Some("server"), DENY_CLIENT);
    cluster.apply("deny", &deny)?;
    for to in &all {
        must_refuse(&scene.client, *to).with_context(|| format!("denied, to {to}"))?;
    }
    cluster.unapply("deny")?;
    for to in &all {
        must_serve(&scene.client, *to).with_context(|| format!("after DENY, to {to}"))?;
    }
    let reviews = server.count("create", "tokenreviews.authentication.k8s.io");
    ensure!(reviews > 0, "no agent's token was reviewed");
    poll::until("the bundle of roots in a namespace", LIMIT, || {
        let bundle = server.get("configmaps", MESHED, "culvert-ca-root-cert");
        bundle.context("no ConfigMap of that name").map(|_| ())
    })?;
    // The fixture refuses what the installation's rules do not allow.
    let log = cluster.control()?.log();
    let refused = log
        .lines()
        .find(|line| line.to_lowercase().contains("forbidden"));
    ensure!(
        refused.is_none(),
        "the control plane was refused: {refused:?}"
    );
    Ok(())
}

fn api_server_gone(cluster: &Cluster) -> Result<()> {
    let server = api_server(cluster)?;
    let scene = Scene::permissive(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    serves(&scene.client, &scene.server, "before")?;
    server.down()?;
    serves(&scene.client, &scene.server, "while it is down")?;
    // What happens meanwhile is never told by a watch: its versions are gone.
    let strict = peer_authentication(MESHED, "STRICT");
    cluster.manifests().write("mode", &strict)?;
    server.compact();
    serves(
        &scene.outsider,
        &scene.server,
        "a change nobody has heard of",
    )?;
    server.up()?;
    poll::until("STRICT in force", LIMIT, || {
        scene
            .server
            .sockets(PORT)
            .into_iter()
            .try_for_each(|to| must_refuse(&scene.outsider, to))
    })?;
    serves(&scene.client, &scene.server, "after it is back")?;
    // A watch that is silent for ever is no reason to stop.
    server.stall_watches(true);
    serves(&scene.client, &scene.server, "with silent watches")?;
    server.stall_watches(false);
    let late = cluster.pod(&PodSpec::new(OUTSIDE, "late").outside())?;
    cluster.settle()?;
    for to in scene.server.sockets(PORT) {
        must_refuse(&late, to).context("a pod that came after")?;
    }
    Ok(())
}

fn serves(client: &Pod, server: &Pod, when: &str) -> Result<()> {
    server
        .sockets(PORT)
        .into_iter()
        .try_for_each(|to| must_serve(client, to))
        .with_context(|| when.to_owned())
}
