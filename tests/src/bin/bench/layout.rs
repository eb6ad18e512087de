//! Where the programs run: all on one core, or wherever the kernel puts them.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use tests::lab::{Lab, WEB_PORT};
use tests::{http, poll};

use crate::workload::Servers;

/// Placement of every program of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Layout {
    /// Client, both agents and server share one core: the cost in CPU time decides.
    Pinned,
    /// The kernel's scheduler decides, on all cores.
    Free,
}

impl Layout {
    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Free => "free",
        }
    }

    /// Places everything that runs, and this process, whose later children inherit it. Agents are
    /// started anew: they size their pools by the cores they see.
    pub(crate) fn apply(self, lab: &Lab, servers: &Servers) -> Result<()> {
        let cores = match self {
            Self::Pinned => vec![last_core()?],
            Self::Free => (0..core_count()?).collect(),
        };
        let set = set_of(&cores)?;
        for pid in servers.pids(lab).into_iter().chain([std::process::id()]) {
            place_tree(pid, &set)?;
        }
        for node in lab.cluster.nodes() {
            let Some(agent) = node.agent_if_any() else {
                continue;
            };
            agent.stop()?;
            agent.change(|settings| settings.workers = cores.len());
            agent.start_ready()?;
        }
        // Ready is a promise about the node; the first answer proves it for the measured pods.
        for to in lab.web.sockets(WEB_PORT) {
            poll::until("the mesh serves", Duration::from_secs(10), || {
                http::get(&lab.client, to, "/")
            })?;
        }
        thread::sleep(Duration::from_millis(500));
        Ok(())
    }
}

/// The highest core: the lowest one gets most of a machine's interrupts.
fn last_core() -> Result<usize> {
    Ok(core_count()? - 1)
}

fn core_count() -> Result<usize> {
    let text = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
    Ok(text
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count()
        .max(1))
}

fn set_of(cores: &[usize]) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core).context("a core beyond the kernel's set")?;
    }
    Ok(set)
}

/// Places a process, its threads and its children.
fn place_tree(pid: u32, set: &CpuSet) -> Result<()> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Ok(()); // It has ended.
    };
    for thread in threads.flatten() {
        let Some(thread) = thread
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A thread may end between the listing and the call.
        let _ = sched_setaffinity(Pid::from_raw(thread), set);
        let children = fs::read_to_string(format!("/proc/{pid}/task/{thread}/children"));
        for child in children.unwrap_or_default().split_whitespace() {
            place_tree(child.parse().context("a child's pid")?, set)?;
        }
    }
    let main = Pid::from_raw(i32::try_from(pid).context("pid out of range")?);
    let now = sched_getaffinity(main).context("reading an affinity")?;
    anyhow::ensure!(now == *set, "process {pid} did not take its place");
    Ok(())
}
