//! `cargo xtask bench --l7`: the gateway beside Envoy, in turns, on one core; see `tests::l7`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use tests::l7::{Peer, Settings, measure};
use tests::lab::write_json;
use tests::{Cluster, ClusterSpec, programs, stop};

const RUN: &str = "l7";

/// The gateway against another HTTP router.
#[derive(Parser)]
struct Arguments {
    /// Few and short slots: some four minutes in all.
    #[arg(long)]
    quick: bool,
    /// Only workloads whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    workload: String,
    /// Rounds of one slot for each router.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of a slot.
    #[arg(long)]
    seconds: Option<u64>,
    /// Routes of the workloads with many.
    #[arg(long, default_value_t = 1000)]
    routes: usize,
    /// Edits of a manifest that are timed.
    #[arg(long)]
    edits: Option<usize>,
    /// Envoy's program. [default: below target/envoy, where `cargo xtask bench --l7` puts it]
    #[arg(long, value_name = "FILE")]
    envoy: Option<PathBuf>,
    /// Against Debian's nginx instead.
    #[arg(long, conflicts_with = "envoy")]
    nginx: bool,
    /// Write everything, raw slots included, to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Arguments {
    fn peer(&self) -> Result<Peer> {
        if self.nginx {
            return Ok(Peer::Nginx);
        }
        let envoy = match &self.envoy {
            Some(envoy) => envoy.clone(),
            None => programs::envoy()?,
        };
        ensure!(envoy.exists(), "{} is missing", envoy.display());
        Ok(Peer::Envoy(envoy))
    }

    fn settings(&self) -> Result<Settings> {
        let by_pace = |quick, full| if self.quick { quick } else { full };
        let seconds = self.seconds.unwrap_or(by_pace(2, 5));
        Ok(Settings {
            peer: self.peer()?,
            workload: self.workload.clone(),
            rounds: self.rounds.unwrap_or(by_pace(5, 11) as usize),
            slot: Duration::from_secs(seconds),
            warm_up: Duration::from_secs(1),
            routes: self.routes,
            edits: self.edits.unwrap_or(by_pace(50, 200) as usize),
        })
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let settings = arguments.settings()?;
    stop::on_signal()?;
    let mut spec = ClusterSpec::new(RUN);
    spec.nodes = 1;
    let cluster = Cluster::start(&spec)?;
    let figures = measure(&cluster, &settings, |step| println!("  {step}"))?;
    println!("\n{figures}");
    if let Some(path) = &arguments.json {
        write_json(path, &figures.json())?;
    }
    Ok(ExitCode::SUCCESS)
}
