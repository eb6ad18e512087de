//! The gateway beside another HTTP router: the same core, the same backend, the same requests, in
//! turns. Only neighbours in time are compared, so that a noisy machine hurts both.

mod cores;
mod edits;
mod figures;
mod load;
mod peer;
mod scene;
mod token;
mod workload;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::Cluster;
use scene::{Scene, Stage};

pub use edits::Edits;
pub use figures::{Cell, Figures, Memory, Round};
pub use load::Slot;
pub use peer::Peer;
pub use token::TokenCosts;
pub use workload::{Kind, Protocol, WORKLOADS, Workload};

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the gateway is compared with.
    pub peer: Peer,
    /// Only workloads whose name contains this.
    pub workload: String,
    /// Rounds of one slot for each arm and workload.
    pub rounds: usize,
    /// Length of a slot, in whole seconds.
    pub slot: Duration,
    /// Length of the slots before the first round, whose figures are not kept; none when zero.
    pub warm_up: Duration,
    /// Routes of the workloads with many.
    pub routes: usize,
    /// Edits of a manifest whose way to the gateway is timed.
    pub edits: usize,
}

impl Settings {
    fn workloads(&self) -> Vec<&'static Workload> {
        let named = |one: &&Workload| one.name.contains(&self.workload);
        WORKLOADS.iter().filter(named).collect()
    }

    fn kinds(&self) -> Vec<Kind> {
        let workloads = self.workloads();
        let used = |kind: &Kind| workloads.iter().any(|one| one.kind == *kind);
        Kind::ALL.into_iter().filter(used).collect()
    }
}

/// Runs everything on a cluster with a control plane. `tell` hears of each step.
pub fn measure(cluster: &Cluster, settings: &Settings, tell: impl Fn(&str)) -> Result<Figures> {
    let begun = Instant::now();
    let workloads = settings.workloads();
    ensure!(!workloads.is_empty(), "no workload is named like that");
    let stage = Stage::set(cluster)?;
    let mut scenes = Vec::new();
    for kind in settings.kinds() {
        tell(&format!("starting both routers for {}", kind.name()));
        let scene = Scene::start(cluster, &stage, kind, settings);
        scenes.push(scene.with_context(|| format!("scene {}", kind.name()))?);
    }
    let memory = scenes.iter().map(Memory::of).collect::<Result<_>>()?;
    let edits = match settings.edits {
        0 => None,
        count => Some(Edits::measure(cluster, &stage, &scenes[0], count)?),
    };
    let uses_tokens = settings.kinds().contains(&Kind::Jwt);
    let tokens = uses_tokens.then(|| TokenCosts::measure(&stage.token));
    let mut cells: Vec<Cell> = workloads.into_iter().map(Cell::new).collect();
    let warmed = match settings.warm_up {
        Duration::ZERO => &[],
        _ => &cells[..],
    };
    for cell in warmed {
        let scene = scene_of(&scenes, cell.workload)?;
        round(&stage, scene, cell.workload, settings.warm_up, true)
            .with_context(|| format!("warming up {}", cell.workload.name))?;
    }
    for number in 0..settings.rounds {
        for cell in &mut cells {
            let scene = scene_of(&scenes, cell.workload)?;
            let done = round(&stage, scene, cell.workload, settings.slot, number % 2 == 0)
                .with_context(|| cell.workload.name)?;
            tell(&format!(
                "{}/{} {}",
                number + 1,
                settings.rounds,
                done.line(cell.workload)
            ));
            cell.rounds.push(done);
        }
    }
    Ok(Figures {
        peer: settings.peer.name(),
        routes: settings.routes,
        cells,
        memory,
        edits,
        tokens: tokens.transpose()?,
        slot: settings.slot,
        took: begun.elapsed(),
    })
}

fn scene_of<'a>(scenes: &'a [Scene], workload: &Workload) -> Result<&'a Scene> {
    let found = scenes.iter().find(|scene| scene.kind == workload.kind);
    found.context("a workload without its scene")
}

/// A slot of each arm; of ours alone where the other has no such feature.
fn round(
    stage: &Stage,
    scene: &Scene,
    workload: &Workload,
    length: Duration,
    ours_first: bool,
) -> Result<Round> {
    let ours = || load::run(stage, scene, workload, scene.ours(), length).context("culvert");
    let peers = || -> Result<Option<Slot>> {
        let port = scene.peers(workload.protocol);
        port.map(|port| load::run(stage, scene, workload, port, length))
            .transpose()
            .context("the other router")
    };
    let (ours, peer) = match ours_first {
        true => {
            let ours = ours()?;
            (ours, peers()?)
        }
        false => {
            let peer = peers()?;
            (ours()?, peer)
        }
    };
    Ok(Round { ours, peer })
}
