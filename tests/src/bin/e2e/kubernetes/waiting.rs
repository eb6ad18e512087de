//! Pods whose ADD waits, or is under way, when something happens to them.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::server::{Behaviour, Server};
use tests::{Cluster, PodSpec, poll};

use super::sandboxed::Sandboxed;
use super::{LIMIT, serves};
use crate::scene::{MESHED, PORT, Scene};
use crate::{Case, long_on_kubernetes, on_kubernetes};

pub(crate) const CASES: &[Case] = &[
    on_kubernetes(
        "kubernetes: F-54 pods wait for an agent that is not ready, and who goes meanwhile holds up nobody",
        waiting,
    ),
    on_kubernetes(
        "kubernetes: F-54 pods that go at any moment of their ADD",
        |cluster| races(cluster, 8),
    ),
    long_on_kubernetes(
        "kubernetes: F-54 pods that go at any moment of their ADD, a thousand",
        |cluster| races(cluster, 1000),
    ),
];

/// How long a runtime waits for an answer here, at most.
const ANSWER: Duration = Duration::from_secs(30);

fn waiting(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let (control, agent) = (cluster.control()?, cluster.node(1)?.agent()?);
    agent.stop()?;
    control.stop()?;
    // With the mesh from before it would be ready.
    fs::remove_file(agent.settings().directory.join("state/mesh"))?;
    let stays = Sandboxed::prepare(cluster, 1, "stays", None)?;
    let deleted = Sandboxed::prepare(cluster, 1, "deleted", None)?;
    let stopped = Sandboxed::prepare(cluster, 1, "stopped", None)?;
    let lost = Sandboxed::prepare(cluster, 1, "lost", None)?;
    agent.start()?;
    poll::until("the agent answers", LIMIT, || agent.status())?;
    ensure!(agent.wait_ready(Duration::ZERO).is_err(), "it is ready");

    let gone = [&deleted, &stopped, &lost];
    thread::scope(|scope| -> Result<()> {
        let start = Instant::now();
        let added = scope.spawn(|| stays.add());
        let answers = gone.map(|pod| {
            scope.spawn(move || {
                let _either = pod.node.chain().add(&pod.sandbox, |_| Ok(()));
                start.elapsed()
            })
        });
        // Time to get there; who is late waits less, and that is no failure of the case.
        thread::sleep(Duration::from_secs(1));
        ensure!(!added.is_finished(), "it did not wait");
        deleted.forget()?;
        // A runtime that was restarted knows of no ADD.
        stopped.node.chain().delete(&stopped.sandbox)?;
        stopped.forget()?;
        lost.place.delete()?;
        ensure!(agent.wait_ready(Duration::ZERO).is_err(), "it is ready");
        control.start()?;
        let added = added.join().map_err(|_| anyhow!("a runtime panicked"))?;
        added.context("a pod that waited")?;
        println!("  waited {:.1} s", start.elapsed().as_secs_f64());
        for answer in answers {
            let took = answer.join().map_err(|_| anyhow!("a runtime panicked"))?;
            ensure!(took < ANSWER, "the runtime was answered after {took:?}");
        }
        Ok(())
    })?;
    agent.wait_ready(LIMIT)?;
    cluster.wait_connected()?;
    poll::until("the pod that waited is in the mesh", LIMIT, || {
        stays.serves(&scene)
    })?;
    serves(&scene.client, &scene.server, "one that was there before")?;
    for pod in [&deleted, &stopped] {
        pod.stop()?;
    }
    lost.stop_gone()?;
    stays.stop()?;
    stays.forget()
}

/// What happens to a pod while it is added.
const FATES: usize = 4;
/// An ADD takes less here, on a machine with nothing else to do.
const SPREAD: Duration = Duration::from_millis(240);

fn races(cluster: &Cluster, rounds: u32) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let agent = cluster.node(1)?.agent()?;
    let (mut succeeded, mut longest) = (0, Duration::ZERO);
    for round in 0..rounds {
        // Steps of a golden ratio: spread evenly, however many there are.
        let moment = SPREAD.mul_f64(f64::from(round) * 0.618 % 1.0);
        let (is_added, took) =
            race(cluster, round, moment).with_context(|| format!("round {round}, {moment:?}"))?;
        ensure!(took < ANSWER, "round {round}: answered after {took:?}");
        succeeded += u32::from(is_added);
        longest = longest.max(took);
        if round % 8 == 7 {
            agent.wait_ready(LIMIT)?;
            let fine = cluster.pod(&PodSpec::new(MESHED, "fine"))?;
            serves(&fine, &scene.server, "a pod after those that went")?;
        }
    }
    println!("  {succeeded} of {rounds} were added first; longest ADD {longest:?}");
    poll::until("nothing of them is left", LIMIT, || {
        let pods = agent.status()?["pods"].to_string();
        ensure!(!pods.contains("\"race-"), "{pods}");
        Ok(())
    })?;
    serves(&scene.client, &scene.server, "one that was there before")
}

/// Whether it was added, and how long that took.
fn race(cluster: &Cluster, round: u32, moment: Duration) -> Result<(bool, Duration)> {
    let name = format!("race-{}", round % 8);
    let pod = Sandboxed::prepare(cluster, 1, &name, None)?;
    let answer = thread::scope(|scope| -> Result<_> {
        let adding = scope.spawn(|| {
            let start = Instant::now();
            let added = pod.node.chain().add(&pod.sandbox, |_| Ok(()));
            (added.is_ok(), start.elapsed())
        });
        thread::sleep(moment);
        match round as usize % FATES {
            // Deleted by its owner.
            0 => pod.forget()?,
            // Stopped by a runtime that knows of no ADD; the other plugins may mind.
            1 => drop(pod.node.chain().delete(&pod.sandbox)),
            // Its namespace goes.
            2 => pod.place.delete()?,
            // Both, and another of its name is on its way.
            _ => {
                pod.forget()?;
                drop(pod.node.chain().delete(&pod.sandbox));
            }
        }
        adding.join().map_err(|_| anyhow!("the runtime panicked"))
    })?;
    pod.node.chain().delete(&pod.sandbox).context("DEL")?;
    if round as usize % FATES != 2 {
        pod.place.delete()?;
    }
    pod.forget()?;
    Ok(answer)
}
