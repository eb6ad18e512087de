//! Pods that go at the wrong moment, and those that come twice.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::agent::Agent;
use tests::server::{Behaviour, Server};
use tests::stopwatch::Stopwatch;
use tests::traffic::{echo_on, wait_closed};
use tests::{Cluster, PodSpec, poll};

use super::sandboxed::Sandboxed;
use super::{LIMIT, serves};
use crate::scene::{MESHED, PORT, Scene};
use crate::{Case, on_kubernetes};

pub(crate) const CASES: &[Case] = &[
    on_kubernetes(
        "kubernetes: F-53 a network namespace goes while its pod is connected",
        namespace_gone,
    ),
    on_kubernetes(
        "kubernetes: F-54 pods that go too early, or come twice, hold up nobody",
        untimely,
    ),
];

const SECOND: Duration = Duration::from_secs(1);

fn namespace_gone(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    for family in [0, 1] {
        let doomed = Sandboxed::start(cluster, 1, "doomed", None)?;
        let to = scene.server.sockets(PORT)[family];
        let mut near = doomed.place.connect(to, LIMIT)?;
        near.set_read_timeout(Some(LIMIT))?;
        echo_on(&mut near, b"before")?;
        let mut far = server.last().context("the server has no connection")?;
        // Its name goes, then the runtime cleans up what it no longer finds.
        doomed.place.delete()?;
        doomed.stop_gone()?;
        let watch = Stopwatch::start();
        wait_closed(&mut near, LIMIT).context("the near end")?;
        let took = watch.took();
        ensure!(took < SECOND, "the near end was open for {took:?}");
        wait_closed(&mut far, LIMIT).context("the far end")?;
        let took = watch.took();
        ensure!(took < SECOND, "the far end was open for {took:?}");
    }
    for family in [0, 1] {
        let doomed = Sandboxed::start(cluster, 2, "doomed", None)?;
        let _echo = Server::start(&doomed.place, PORT, Behaviour::Echo)?;
        let to = doomed.sockets(PORT)[family];
        let mut stream = poll::until("the doomed pod serves", LIMIT, || {
            let mut stream = scene.client.connect(to, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            echo_on(&mut stream, b"before")?;
            Ok(stream)
        })?;
        doomed.place.delete()?;
        doomed.stop_gone()?;
        let watch = Stopwatch::start();
        wait_closed(&mut stream, LIMIT).context("the server's pod is gone")?;
        let took = watch.took();
        ensure!(took < SECOND, "open for {took:?}");
    }
    serves(&scene.client, &scene.server, "others")
}

fn untimely(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    thread::scope(|scope| -> Result<()> {
        let ghost = scope.spawn(|| deleted_during_add(cluster));
        for number in 0..3 {
            let pod = cluster.pod(&PodSpec::new(MESHED, &format!("fine-{number}")))?;
            serves(&pod, &scene.server, "a pod beside one that is gone")?;
        }
        cluster.node(1)?.agent()?.wait_ready(LIMIT)?;
        ghost.join().map_err(|_| anyhow!("the runtime panicked"))?
    })
    .context("deleted while the runtime adds it")?;
    dead_in_the_list(cluster, &scene).context("dead in the agent's own list")?;
    same_uid_again(cluster, &scene).context("a UID used again")
}

/// The pod is deleted between the plugins of its chain. The runtime is answered either way, in
/// the time it gives, and takes back what it made.
fn deleted_during_add(cluster: &Cluster) -> Result<()> {
    let ghost = Sandboxed::prepare(cluster, 1, "ghost", None)?;
    let start = Instant::now();
    let added = ghost.node.chain().add(&ghost.sandbox, |_| ghost.forget());
    let took = start.elapsed();
    ensure!(
        took < Duration::from_secs(30),
        "the runtime waited {took:?}"
    );
    println!("  ADD of a deleted pod: {:?} after {took:?}", added.is_ok());
    ghost.node.chain().delete(&ghost.sandbox)?;
    ghost.place.delete()
}

/// The agent is away when a pod's namespace goes without a word.
fn dead_in_the_list(cluster: &Cluster, scene: &Scene) -> Result<()> {
    let lost = Sandboxed::start(cluster, 1, "lost", None)?;
    let agent = cluster.node(1)?.agent()?;
    knows(agent, "lost", true)?;
    agent.kill9()?;
    lost.place.ip(&["link del eth0"])?;
    lost.place.delete()?;
    lost.forget()?;
    agent.start_ready().context("with a dead pod in its list")?;
    serves(&scene.client, &scene.server, "those that live")?;
    lost.stop_gone()?;
    poll::until("the dead pod forgotten", LIMIT, || {
        knows(agent, "lost", false)
    })
}

fn knows(agent: &Agent, name: &str, expected: bool) -> Result<()> {
    let status = agent.status()?;
    let mut pods = status["pods"].as_array().into_iter().flatten();
    let found = pods.any(|pod| pod["name"] == name);
    ensure!(found == expected, "{name}: {}", status["pods"]);
    Ok(())
}

/// A static pod keeps its UID from sandbox to sandbox, and a new sandbox may come before the old
/// one's DEL.
fn same_uid_again(cluster: &Cluster, scene: &Scene) -> Result<()> {
    let first = Sandboxed::start(cluster, 1, "static", None)?;
    first.serves(scene)?;
    let uid = first.sandbox.uid.clone();
    let second = Sandboxed::start(cluster, 1, "static", Some(&uid))?;
    second.serves(scene)?;
    first.stop()?;
    second.serves(scene).context("after the first one's DEL")?;
    let agent = cluster.node(1)?.agent()?;
    knows(agent, "static", true)?;
    second.stop()?;
    second.forget()
}
