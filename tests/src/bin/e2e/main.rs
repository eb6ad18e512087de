//! The end-to-end tests: two nodes, real pods, real eBPF. One program, so that the cluster is
//! started once; every case makes its own pods, and what it used must be given back.

mod capture;
mod control_plane;
mod demo;
mod endpoints;
mod enrolment;
mod failure;
mod gateway;
mod handover;
mod hostile;
mod interop;
mod kubernetes;
mod l7;
mod labels;
mod lifecycle;
mod limits;
mod names;
mod observe;
mod on_demand;
mod parts;
mod policy;
mod privilege;
mod protocol;
mod revocation;
mod scale;
mod scene;
mod services;
mod streams;
mod talk;
mod telemetry;
mod transfer;
mod trust;
mod waypoint;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tests::leak::Baseline;
use tests::{Cluster, ClusterSpec, stop};

const RUN: &str = "e2e";

/// The end-to-end tests. Test ids are explained in tests/README.md.
#[derive(Parser)]
struct Arguments {
    /// Only cases whose name contains this.
    filter: Option<String>,
    /// Print the names of the cases and end.
    #[arg(long)]
    list: bool,
    /// Repeat the cases and watch memory.
    #[arg(long)]
    long: bool,
}

/// One case.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// Name, with the test id it belongs to where there is one.
    name: &'static str,
    run: Kind,
}

/// What a case works on.
#[derive(Clone, Copy)]
enum Kind {
    /// The shared cluster; leaks are looked for afterwards.
    Shared(fn(&Cluster) -> Result<()>),
    /// The same, on a cluster whose control plane reads from an API server.
    OnKubernetes(fn(&Cluster) -> Result<()>),
    /// Everything of its own.
    Alone(fn() -> Result<()>),
    /// The same, with --long only.
    Long(fn() -> Result<()>),
    /// On the shared cluster with an API server, with --long only.
    LongOnKubernetes(fn(&Cluster) -> Result<()>),
}

/// A case on the shared cluster.
pub(crate) const fn shared(name: &'static str, run: fn(&Cluster) -> Result<()>) -> Case {
    Case {
        name,
        run: Kind::Shared(run),
    }
}

/// A case on the shared cluster with an API server.
pub(crate) const fn on_kubernetes(name: &'static str, run: fn(&Cluster) -> Result<()>) -> Case {
    Case {
        name,
        run: Kind::OnKubernetes(run),
    }
}

/// A case that makes what it needs.
pub(crate) const fn alone(name: &'static str, run: fn() -> Result<()>) -> Case {
    Case {
        name,
        run: Kind::Alone(run),
    }
}

/// A case that makes what it needs, and takes minutes.
pub(crate) const fn long(name: &'static str, run: fn() -> Result<()>) -> Case {
    Case {
        name,
        run: Kind::Long(run),
    }
}

/// A case on the shared cluster with an API server, that takes minutes.
pub(crate) const fn long_on_kubernetes(
    name: &'static str,
    run: fn(&Cluster) -> Result<()>,
) -> Case {
    Case {
        name,
        run: Kind::LongOnKubernetes(run),
    }
}

/// What became of a case.
struct Verdict {
    name: &'static str,
    error: Option<anyhow::Error>,
    took: Duration,
    given_back: Duration,
}

const GROUPS: &[&[Case]] = &[
    capture::CASES,
    transfer::CASES,
    services::CASES,
    policy::CASES,
    enrolment::CASES,
    lifecycle::CASES,
    observe::CASES,
    protocol::CASES,
    gateway::CASES,
    l7::CASES,
    waypoint::CASES,
    endpoints::CASES,
    limits::CASES,
    parts::CASES,
    streams::CASES,
    hostile::CASES,
    talk::CASES,
    telemetry::CASES,
    control_plane::CASES,
    names::CASES,
    on_demand::CASES,
    failure::CASES,
    handover::CASES,
    kubernetes::CASES,
    labels::CASES,
    interop::CASES,
    kubernetes::watches::CASES,
    kubernetes::replicas::CASES,
    kubernetes::gateways::CASES,
    kubernetes::outage::CASES,
    kubernetes::paths::CASES,
    kubernetes::soak::CASES,
    kubernetes::churn::CASES,
    kubernetes::untimely::CASES,
    kubernetes::waiting::CASES,
    kubernetes::uninstall::CASES,
    privilege::CASES,
    trust::CASES,
    revocation::CASES,
    scale::CASES,
    demo::CASES,
];

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let filter = arguments.filter.as_deref().unwrap_or_default();
    let cases: Vec<&Case> = GROUPS
        .iter()
        .flat_map(|group| group.iter())
        .filter(|case| case.name.contains(filter))
        .collect();
    if arguments.list {
        cases.iter().for_each(|case| println!("{}", case.name));
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(!cases.is_empty(), "no case is named like {filter:?}");
    stop::on_signal()?;
    let mut verdicts = run_shared(&shared_cases(&cases), start_cluster)?;
    let on_kubernetes = kubernetes_cases(&cases, arguments.long);
    verdicts.extend(run_shared(&on_kubernetes, start_kubernetes)?);
    verdicts.extend(run_alone(&cases, arguments.long));
    if arguments.long {
        verdicts.extend(repeat(&shared_cases(&cases), start_cluster)?);
        verdicts.extend(repeat(&kubernetes_cases(&cases, false), start_kubernetes)?);
    }
    Ok(report(&verdicts))
}

/// Name and script of a case on a shared cluster.
type SharedCase = (&'static str, fn(&Cluster) -> Result<()>);

fn shared_cases(cases: &[&Case]) -> Vec<SharedCase> {
    let shared = |case: &&Case| match case.run {
        Kind::Shared(run) => Some((case.name, run)),
        _ => None,
    };
    cases.iter().filter_map(shared).collect()
}

fn kubernetes_cases(cases: &[&Case], with_long: bool) -> Vec<SharedCase> {
    let shared = |case: &&Case| match case.run {
        Kind::OnKubernetes(run) => Some((case.name, run)),
        Kind::LongOnKubernetes(run) if with_long => Some((case.name, run)),
        _ => None,
    };
    cases.iter().filter_map(shared).collect()
}

fn run_shared(cases: &[SharedCase], start: fn() -> Result<Cluster>) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    let mut cluster = None;
    for (name, run) in cases {
        let running = match cluster.take() {
            Some(running) => running,
            None => start()?,
        };
        let verdict = judge(name, &running, *run);
        if verdict.error.is_some() {
            // The next case must not suffer from this one.
            save_logs(&running, name);
        } else {
            cluster = Some(running);
        }
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

fn start_cluster() -> Result<Cluster> {
    // Two runs side by side need two names: the later one of a name removes the earlier.
    Cluster::start(&ClusterSpec::new(&run_name())).context("starting the cluster")
}

fn start_kubernetes() -> Result<Cluster> {
    let run = format!("{}k", run_name());
    let spec = ClusterSpec::new(&run).kubernetes();
    Cluster::start(&spec).context("starting the cluster with an API server")
}

/// Name of this run.
pub(crate) fn run_name() -> String {
    std::env::var("CULVERT_E2E_RUN").unwrap_or_else(|_| RUN.to_owned())
}

fn judge(name: &'static str, cluster: &Cluster, run: fn(&Cluster) -> Result<()>) -> Verdict {
    println!("{name} ...");
    for agent in cluster
        .nodes()
        .iter()
        .filter_map(|node| node.agent_if_any())
    {
        agent.forget_log();
    }
    let start = Instant::now();
    let baseline = cluster
        .wait_connected()
        .and_then(|()| Baseline::take(cluster));
    let (took, result) = match baseline {
        Ok(baseline) => {
            let result = run(cluster);
            let took = start.elapsed();
            let gate = || cluster.clear().and_then(|()| baseline.wait(cluster));
            (took, result.and_then(|()| gate()))
        }
        Err(error) => (start.elapsed(), Err(error)),
    };
    verdict(name, result, took, start.elapsed().saturating_sub(took))
}

fn run_alone(cases: &[&Case], with_long: bool) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for case in cases {
        let run = match case.run {
            Kind::Alone(run) => run,
            Kind::Long(run) if with_long => run,
            _ => continue,
        };
        println!("{} ...", case.name);
        let start = Instant::now();
        let result = run();
        verdicts.push(verdict(case.name, result, start.elapsed(), Duration::ZERO));
    }
    verdicts
}

fn verdict(
    name: &'static str,
    result: Result<()>,
    took: Duration,
    given_back: Duration,
) -> Verdict {
    match &result {
        Ok(()) => println!("  ok, {:.1} s", took.as_secs_f64()),
        Err(error) => println!("  FAILED after {:.1} s: {error:#}", took.as_secs_f64()),
    }
    Verdict {
        name,
        error: result.err(),
        took,
        given_back,
    }
}

/// `--long`: all cases 20 times on one cluster; memory must stop growing.
fn repeat(cases: &[SharedCase], start: fn() -> Result<Cluster>) -> Result<Vec<Verdict>> {
    const REPEATS: usize = 20;
    /// What an allocator may keep for itself.
    const SLACK: u64 = 8 << 20;
    let mut verdicts = Vec::new();
    if cases.is_empty() {
        return Ok(verdicts);
    }
    let cluster = start()?;
    let mut after_warm_up = Vec::new();
    for round in 0..REPEATS {
        for (name, run) in cases {
            verdicts.push(judge(name, &cluster, *run));
        }
        let memory = resident(&cluster)?;
        println!("round {round}: resident {memory:?}");
        if round == REPEATS / 4 {
            after_warm_up = memory;
        } else if round + 1 == REPEATS {
            let grew = memory
                .iter()
                .zip(&after_warm_up)
                .any(|(now, then)| *now > then + SLACK);
            let result = if grew {
                Err(anyhow::anyhow!(
                    "agents grew from {after_warm_up:?} to {memory:?} bytes"
                ))
            } else {
                Ok(())
            };
            verdicts.push(verdict(
                "memory over 20 repeats",
                result,
                Duration::ZERO,
                Duration::ZERO,
            ));
        }
    }
    Ok(verdicts)
}

fn resident(cluster: &Cluster) -> Result<Vec<u64>> {
    let agents = cluster
        .nodes()
        .iter()
        .filter_map(|node| node.agent_if_any());
    agents.map(tests::agent::Agent::rss).collect()
}

/// Copies the logs away, because the next cluster of the same name removes them.
fn save_logs(cluster: &Cluster, case: &str) {
    keep_logs(&cluster.run().path("logs"), case);
}

/// Copies a folder of logs to where the case's are looked for.
pub(crate) fn keep_logs(logs: &Path, case: &str) {
    let name: String = case
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let target = std::env::temp_dir().join(format!("culvert-e2e-{name}"));
    let _ = std::fs::remove_dir_all(&target);
    if std::fs::create_dir_all(&target).is_err() {
        return;
    }
    let Ok(logs) = std::fs::read_dir(logs) else {
        return;
    };
    for log in logs.flatten() {
        let _ = std::fs::copy(log.path(), target.join(log.file_name()));
        show_warnings(&log.path());
    }
    println!("  logs: {}", target.display());
}

/// The last warnings of a log: of a run elsewhere the printed lines may be all there is.
fn show_warnings(log: &Path) {
    const LINES: usize = 4;
    const WIDTH: usize = 240;
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let is_warning = |line: &&str| line.contains("\twarn\t") || line.contains("\terror\t");
    let mut last: Vec<_> = text.lines().rev().filter(is_warning).take(LINES).collect();
    last.reverse();
    let name = log.file_name().unwrap_or_default().display();
    for line in last {
        let line: String = line.chars().take(WIDTH).collect();
        println!("  {name}: {line}");
    }
}

fn report(verdicts: &[Verdict]) -> ExitCode {
    println!("\n{:>8}{:>8}  case", "seconds", "gate");
    for verdict in verdicts {
        println!(
            "{:>8.1}{:>8.1}  {}{}",
            verdict.took.as_secs_f64(),
            verdict.given_back.as_secs_f64(),
            verdict.name,
            if verdict.error.is_some() {
                "  FAILED"
            } else {
                ""
            }
        );
    }
    let failed = verdicts.iter().filter(|verdict| verdict.error.is_some());
    let mut count = 0;
    for verdict in failed {
        count += 1;
        if let Some(error) = &verdict.error {
            eprintln!("\nfailed: {}\n  {error:#}", verdict.name);
        }
    }
    println!(
        "\n{} passed, {count} failed, 0 skipped",
        verdicts.len() - count
    );
    if count == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
