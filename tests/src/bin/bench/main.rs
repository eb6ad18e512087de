//! Plain TCP against the mesh, side by side in one run: the same two nodes, the same link, the
//! same servers with the same configuration, the same congestion control. Slots of both arms
//! alternate, and only neighbours in time are compared, so that a noisy machine hurts both.

mod layout;
mod report;
mod workload;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tests::lab::{Lab, write_json};
use tests::{ClusterSpec, Place, Pod, stop};

use crate::layout::Layout;
use crate::report::{Cell, Floors, Memory, Report, Round};
use crate::workload::{Servers, WORKLOADS, Workload};

const RUN: &str = "bench";
const CONGESTION: &str = "net/ipv4/tcp_congestion_control";

/// Plain against cross-node mesh, interleaved; prints a table and checks floors.
#[derive(Parser)]
struct Arguments {
    /// Few and short slots: at most five minutes in all.
    #[arg(long)]
    quick: bool,
    /// Only workloads whose name contains this.
    #[arg(long, value_name = "TEXT")]
    workload: Option<String>,
    /// Only this layout.
    #[arg(long, value_name = "pinned|free")]
    layout: Option<Layout>,
    /// Rounds of one slot for each arm.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of a slot.
    #[arg(long)]
    seconds: Option<u64>,
    /// Congestion control of every pod and agent, in both arms; the machine's own unless given.
    #[arg(long)]
    congestion: Option<String>,
    /// Write everything, raw slots included, to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fail when a figure is below the floors in this file (as tests/bench-floors.json).
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// No mesh in either arm: shows how far from 1 the ratios of this machine are by themselves.
    #[arg(long)]
    noise: bool,
}

impl Arguments {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 5 } else { 20 })
    }

    fn slot(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(if self.quick { 2 } else { 3 }))
    }

    fn workloads(&self) -> Vec<&'static Workload> {
        let filter = self.workload.as_deref().unwrap_or_default();
        WORKLOADS
            .iter()
            .filter(|workload| workload.name.contains(filter))
            .collect()
    }

    fn layouts(&self) -> Vec<Layout> {
        match self.layout {
            Some(layout) => vec![layout],
            None => vec![Layout::Pinned, Layout::Free],
        }
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let floors = arguments
        .check
        .as_deref()
        .map_or_else(|| Ok(Floors::of_the_issue()), Floors::read)?;
    ensure!(!arguments.workloads().is_empty(), "no such workload");
    stop::on_signal()?;
    let report = measure(&arguments)?;
    report.print();
    let verdicts = floors.judge(&report);
    report::print_verdicts(&verdicts);
    if let Some(path) = &arguments.json {
        write_json(path, &report.json(&verdicts))?;
    }
    let failed = verdicts.iter().any(|verdict| !verdict.good);
    if failed && arguments.check.is_some() {
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(arguments: &Arguments) -> Result<Report> {
    let start = Instant::now();
    let spec = ClusterSpec::new(RUN);
    let lab = Lab::start(&if arguments.noise { spec.bare() } else { spec })?;
    let congestion = same_network(&lab, arguments.congestion.as_deref())?;
    let servers = Servers::start(&lab)?;
    println!("two nodes up after {:.1} s", start.elapsed().as_secs_f64());
    // What starting took goes back to the system first.
    thread::sleep(Duration::from_secs(2));
    let mut cells = Vec::new();
    let mut memory = vec![Memory::of(&lab, "idle")?];
    for layout in arguments.layouts() {
        layout.apply(&lab, &servers)?;
        warm_up(&lab, &arguments.workloads())?;
        for workload in arguments.workloads() {
            cells.push(cell(&lab, arguments, layout, workload)?);
        }
        memory.push(Memory::of(&lab, layout.name())?);
    }
    Ok(Report {
        cells,
        memory,
        congestion,
        quick: arguments.quick,
        noise: arguments.noise,
        slot: arguments.slot(),
        took: start.elapsed(),
    })
}

/// The ends of an arm: who sends and who serves.
fn arms(lab: &Lab) -> [(&Pod, &Pod); 2] {
    [(&lab.outsider, &lab.outside_web), (&lab.client, &lab.web)]
}

/// One workload in one layout: rounds of a plain and a mesh slot, in alternating order.
fn cell(
    lab: &Lab,
    arguments: &Arguments,
    layout: Layout,
    workload: &'static Workload,
) -> Result<Cell> {
    let [plain, mesh] = arms(lab);
    let mut rounds = Vec::new();
    for number in 0..arguments.rounds() {
        let plain_first = number % 2 == 0;
        let slot = |ends| workload.slot(lab, ends, arguments.slot());
        let round = if plain_first {
            let plain = slot(plain)?;
            Round {
                plain_first,
                plain,
                mesh: slot(mesh)?,
            }
        } else {
            let mesh = slot(mesh)?;
            Round {
                plain_first,
                mesh,
                plain: slot(plain)?,
            }
        };
        println!(
            "  {:<7}{:<24} {}/{}  plain {:>9}  mesh {:>9} {}  ratio {:.3}",
            layout.name(),
            workload.name,
            number + 1,
            arguments.rounds(),
            report::figure(round.plain.value),
            report::figure(round.mesh.value),
            workload.unit,
            round.ratio()
        );
        rounds.push(round);
    }
    Ok(Cell {
        layout,
        workload,
        rounds,
    })
}

/// First connections, first tunnels and first pages are not measured.
fn warm_up(lab: &Lab, workloads: &[&Workload]) -> Result<()> {
    for workload in workloads {
        for ends in arms(lab) {
            workload
                .slot(lab, ends, Duration::from_secs(1))
                .with_context(|| format!("warming up {}", workload.name))?;
        }
    }
    Ok(())
}

/// The same settings in every namespace a measured socket lives in; gives the congestion control.
/// Thousands of connections a second from one address need all ports, and those in TIME-WAIT again.
fn same_network(lab: &Lab, congestion: Option<&str>) -> Result<String> {
    let pods = lab.pods().into_iter().map(Pod::place);
    let agents = lab
        .cluster
        .nodes()
        .iter()
        .filter_map(|node| node.agent_if_any());
    let places: Vec<&Place> = pods.chain(agents.map(tests::agent::Agent::place)).collect();
    let mut found = BTreeSet::new();
    for place in places {
        if let Some(wanted) = congestion {
            place.sysctl(CONGESTION, wanted).with_context(|| {
                format!("namespaces may use {wanted:?} only when it is available and listed in net.ipv4.tcp_allowed_congestion_control")
            })?;
        }
        place.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        place.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        let file = Path::new("/proc/sys").join(CONGESTION);
        let used = place.within(|| fs::read_to_string(file))?;
        found.insert(
            used.context("reading the congestion control")?
                .trim()
                .to_owned(),
        );
    }
    ensure!(found.len() == 1, "congestion control differs: {found:?}");
    found.pop_first().context("no place")
}
