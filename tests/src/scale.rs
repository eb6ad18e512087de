//! How the control plane bears a large cluster: real discovery clients of many nodes, a real
//! `culvert control` in a process of its own, and the API server fixture in between to be changed.
//!
//! The clients are the agent's own ([`agent_xds::client::run`]) over TLS on loopback, without data
//! path. Everything runs on one machine, so the clients' work counts against the figures too.

mod agents;
mod forward;
mod objects;
mod replica;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::runtime::Runtime;

pub use self::report::{Figures, LIMITS, Limits};

use self::agents::Agents;
use self::forward::Forward;
use self::replica::Replica;
use crate::apiserver::{ApiServer, Options};

/// What is measured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The program under test.
    pub culvert: PathBuf,
    /// Where files go; emptied before.
    pub directory: PathBuf,
    /// Simulated node agents.
    pub agents: usize,
    /// Pods, all in the mesh.
    pub workloads: usize,
    /// Pods of one namespace.
    pub per_namespace: usize,
    /// Changes a second.
    pub rate: u32,
    /// How long there are changes.
    pub changes: Duration,
    /// How long agents may take to know everything.
    pub patience: Duration,
}

impl Settings {
    /// The size that Culvert promises to bear.
    pub fn full(culvert: PathBuf, directory: PathBuf) -> Self {
        Self {
            culvert,
            directory,
            agents: 200,
            workloads: 100_000,
            per_namespace: 500,
            rate: 50,
            changes: Duration::from_secs(30),
            patience: Duration::from_secs(900),
        }
    }

    /// Small enough for every test run.
    pub fn short(culvert: PathBuf, directory: PathBuf) -> Self {
        Self {
            agents: 8,
            workloads: 2_000,
            changes: Duration::from_secs(4),
            patience: Duration::from_secs(60),
            ..Self::full(culvert, directory)
        }
    }
}

/// Measures. `say` is told how far it is.
pub fn measure(settings: &Settings, say: impl Fn(&str)) -> Result<Figures> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the clients' runtime")?;
    let mut figures = Figures::new(settings);
    say("filling the API server");
    let server = ApiServer::start_with(&Options {
        // As a cluster is: its lists are long, and so is its memory.
        history: 100_000,
        ..Options::default()
    })?;
    objects::fill(&server, settings)?;
    let replica = Replica::start(settings, &server, "first")?;
    say("the control plane reads the cluster");
    figures.reading = replica.wait_serving(settings.patience)?;
    let mut agents = Agents::new(&runtime, settings, &server)?;
    // One of them behind a counter of bytes.
    let counted = Forward::start(&runtime, replica.address())?;
    agents.start(0, counted.address());
    agents.wait_synced(1, settings.patience)?;
    figures.full_push = counted.take();
    say("every node connects");
    let started = Instant::now();
    (1..settings.agents).for_each(|index| agents.start(index, replica.address()));
    agents.wait_synced(settings.agents, settings.patience)?;
    figures.syncing = started.elapsed();
    counted.take();
    say("changes");
    change(settings, &server, &replica, &agents, &mut figures)?;
    say("reconnects");
    reconnect(&agents, &counted, &mut figures.reconnect)?;
    let second = Replica::start(settings, &server, "second")?;
    second.wait_serving(settings.patience)?;
    counted.point_to(second.address());
    reconnect(&agents, &counted, &mut figures.other_replica)?;
    figures.memory_peak = replica.memory("VmHWM")?;
    agents.stop(&runtime);
    end(runtime);
    Ok(figures)
}

/// Changes at the rate asked for, each to another pod, and the time until every agent has it.
fn change(
    settings: &Settings,
    server: &ApiServer,
    replica: &Replica,
    agents: &Agents,
    figures: &mut Figures,
) -> Result<()> {
    let count = settings.rate * u32::try_from(settings.changes.as_secs())?;
    ensure!(
        count as usize <= settings.workloads,
        "more changes than pods"
    );
    let cpu = replica.cpu()?;
    let started = Instant::now();
    for number in 0..count {
        let due = started + Duration::from_secs(1) * number / settings.rate;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        agents.sent(number);
        objects::change(server, settings, number)?;
    }
    agents.wait_changes(count, Duration::from_secs(60))?;
    figures.cpu = replica.cpu()?.saturating_sub(cpu);
    figures.changing = started.elapsed();
    figures.delays = agents.delays();
    let conditions = replica.conditions(settings.patience)?;
    let millis = conditions["reviewMillis"].as_u64();
    figures.review = Duration::from_millis(millis.context("the time of a review")?);
    figures.with_conditions = conditions["objects"].as_u64().context("objects")?;
    figures.memory = replica.memory("VmRSS")?;
    Ok(())
}

/// Cuts the counted agent's connection; the bytes it is sent until it is in sync again.
fn reconnect(agents: &Agents, counted: &Forward, bytes: &mut u64) -> Result<()> {
    let before = agents.messages(0);
    counted.take();
    counted.cut();
    agents.wait_messages(0, before + 2, Duration::from_secs(60))?;
    // What follows the answers would be a push; give it the time to come.
    std::thread::sleep(Duration::from_secs(1));
    *bytes = counted.take();
    Ok(())
}

fn end(runtime: Runtime) {
    runtime.shutdown_timeout(Duration::from_secs(10));
}
