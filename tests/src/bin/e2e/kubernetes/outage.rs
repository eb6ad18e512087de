//! Agents that are replaced or restarted while the control plane is away.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::agent::Agent;
use tests::manifests::authorization_policy;
use tests::server::{Behaviour, Server};
use tests::traffic::{echo_on, must_refuse, must_serve};
use tests::{Cluster, poll};

use super::{DENY_CLIENT, LIMIT, serves};
use crate::scene::{MESHED, PORT, Scene};
use crate::{Case, on_kubernetes};

pub(crate) const CASES: &[Case] = &[
    on_kubernetes(
        "kubernetes: F-15 agents restarted while the control plane is away go by what they wrote down",
        restarted_in_outage,
    ),
    on_kubernetes(
        "kubernetes: F-15 an update while the control plane is away waits, and nobody notices",
        update_in_outage,
    ),
];

/// Where agents look for a control plane that is away.
const NOWHERE: u16 = 15013;
/// Of the control plane.
const SERVED: u16 = 15012;

/// Discovery is away, certificates are to be had: the agents hold nothing in memory, not even who
/// their pods' peers are.
fn restarted_in_outage(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let deny = authorization_policy(MESHED, "late", "DENY", Some("server"), DENY_LATE);
    cluster.apply("late", &deny)?;
    serves(&scene.client, &scene.server, "before")?;
    let before = agents(cluster)?.map(Agent::settings);
    let result = in_outage(cluster, &scene);
    cluster.control()?.forward(NOWHERE, &[])?;
    for (agent, settings) in agents(cluster)?.iter().zip(before) {
        agent.change(|changed| *changed = settings);
        agent.stop()?;
        agent.start_ready()?;
    }
    result
}

const DENY_LATE: &str = "[{from: [{source: {principals: [cluster.local/ns/app/sa/late]}}]}]";

fn agents(cluster: &Cluster) -> Result<[&Agent; 2]> {
    let first = cluster.node(1)?.agent()?;
    Ok([first, cluster.node(2)?.agent()?])
}

fn in_outage(cluster: &Cluster, scene: &Scene) -> Result<()> {
    let url = cluster.control()?.url();
    let away = url.replace(&SERVED.to_string(), &NOWHERE.to_string());
    ensure!(away != url, "the control plane's address is {url}");
    for agent in agents(cluster)? {
        agent.change(|settings| {
            settings.ca = Some(url.clone());
            settings.control.clone_from(&away);
        });
        agent.stop()?;
        agent.start()?;
        poll::until("its pods captured, by a mesh of before", LIMIT, || {
            let status = agent.status()?;
            let told = &status["controlPlane"];
            ensure!(told["connected"] == false, "connected: {told}");
            ensure!(told["stateOf"].is_string(), "of no time: {told}");
            let pods = status["pods"].as_array().into_iter().flatten();
            let captured = pods.filter(|pod| pod["verified"] == true).count();
            ensure!(captured > 0, "no pod: {}", status["pods"]);
            Ok(())
        })?;
        // Which pods of the node are wanted is not in it: those that come now wait.
        let (status, pending) = agent.readiness()?;
        ensure!(
            status != 200 && pending.contains("pods"),
            "{status} {pending}"
        );
        let age = agent.metrics()?.sum("culvert_xds_state_age_seconds", &[]);
        ensure!(age < 60.0, "a state {age} s old");
    }
    // Ready means captured, but certificates come with the first connections.
    poll::until("the mesh as before", LIMIT, || {
        serves(&scene.client, &scene.server, "restarted in an outage")
    })?;
    for to in scene.server.sockets(PORT) {
        must_refuse(&scene.outsider, to).context("STRICT, as written down")?;
    }
    let deny = authorization_policy(MESHED, "new", "DENY", Some("server"), DENY_CLIENT);
    cluster.manifests().write("new", &deny)?;
    serves(&scene.client, &scene.server, "a change nobody has heard of")?;
    for agent in agents(cluster)? {
        let policies = agent.config_dump()?["policies"].to_string();
        ensure!(policies.contains("late"), "a policy is lost: {policies}");
    }

    cluster.control()?.forward(NOWHERE, &[SERVED])?;
    // The longest pause between two attempts is 14.4 s.
    poll::until("what changed meanwhile", LIMIT, || {
        let mut to = scene.server.sockets(PORT).into_iter();
        to.try_for_each(|to| must_refuse(&scene.client, to))
    })?;
    for agent in agents(cluster)? {
        poll::until("the control plane's own word", LIMIT, || {
            let told = agent.status()?["controlPlane"].clone();
            ensure!(
                told["connected"] == true && told["stateOf"].is_null(),
                "{told}"
            );
            Ok(())
        })?;
    }
    cluster.manifests().remove("new")?;
    poll::until("the policy gone", LIMIT, || {
        serves(&scene.client, &scene.server, "after the outage")
    })
}

/// Everything is away. What is on the disk is older than what the running agents know, so their
/// successors leave everything to them until the control plane is back.
fn update_in_outage(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    serves(&scene.client, &scene.server, "before")?;
    let control = cluster.control()?;
    control.stop()?;
    let result = update(cluster, &scene);
    if !control.running() {
        control.start()?;
    }
    result?;
    cluster.wait_connected()?;
    cluster.settle()?;
    serves(&scene.client, &scene.server, "after the outage")
}

fn update(cluster: &Cluster, scene: &Scene) -> Result<()> {
    let mut kept = Vec::new();
    for to in scene.server.sockets(PORT) {
        let mut stream = scene.client.connect(to, LIMIT)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        echo_on(&mut stream, b"before")?;
        kept.push(stream);
    }
    let agents = agents(cluster)?;
    let mut before = Vec::new();
    let mut firsts = Vec::new();
    for agent in agents {
        before.push(agent.generation()?);
        firsts.push(agent.replace()?);
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        in_force(scene, &mut kept).context("in the outage")?;
    }
    for (agent, before) in agents.iter().zip(&before) {
        ensure!(agent.generation()? == *before, "it did not wait");
    }
    cluster.control()?.start()?;
    for (agent, before) in agents.iter().zip(&before) {
        // The longest pause between two attempts is 14.4 s.
        poll::until("the successor serves", LIMIT, || {
            in_force(scene, &mut kept)?;
            let now = agent.generation()?;
            ensure!(now > *before, "still generation {now}");
            Ok(())
        })?;
        agent.wait_ready(LIMIT)?;
    }
    in_force(scene, &mut kept).context("by the successors")?;
    drop(kept);
    for first in firsts {
        let status = first.wait_end(Duration::from_secs(12))?;
        ensure!(status.success(), "a predecessor ended with {status}");
    }
    Ok(())
}

/// The client is served, on old connections and on new ones; the outsider is not.
fn in_force(scene: &Scene, kept: &mut [TcpStream]) -> Result<()> {
    for stream in kept {
        echo_on(stream, b"kept").context("opened before")?;
    }
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.client, to)?;
        must_refuse(&scene.outsider, to)?;
    }
    Ok(())
}
