//! Shows a stranger that it works: one line per fact, with its evidence, then a table.

mod cluster;
mod facts;
mod gateway;
mod load;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use serde_json::{Value, json};
use tests::lab::{Lab, write_json};
use tests::{ClusterSpec, stop};

const RUN: &str = "demo";
/// Short, so that certificates rotate while one watches.
const CERTIFICATE_TTL: Duration = Duration::from_secs(20);

/// Two nodes, real pods, one mesh: what it does, shown in under 90 seconds.
#[derive(Parser)]
struct Arguments {
    /// Also write the lines and the table to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The control plane reads from an API server (the tests' fixture), not from a folder.
    #[arg(long)]
    kubernetes: bool,
}

/// One shown fact.
struct Line {
    fact: &'static str,
    evidence: Result<String>,
    seconds: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    stop::on_signal()?;
    let start = Instant::now();
    let mut spec = ClusterSpec::new(RUN).certificate_ttl(CERTIFICATE_TTL);
    spec.kubernetes = arguments.kubernetes;
    let lab = Lab::start(&spec)?;
    introduce(&lab, start.elapsed());
    let more = if arguments.kubernetes {
        cluster::ALL
    } else {
        &[]
    };
    let mut lines: Vec<Line> = facts::ALL
        .iter()
        .chain(more)
        .map(|(fact, show)| line(fact, || show(&lab)))
        .collect();
    lines.extend(second_act(&lab));
    let table = load::table(&lab);
    match &table {
        Ok(rows) => load::print(rows),
        Err(error) => println!("  \u{2717} the table could not be measured: {error:#}"),
    }
    let good = table.is_ok() && lines.iter().all(|line| line.evidence.is_ok());
    if let Some(path) = &arguments.json {
        let rows = table
            .as_ref()
            .map(|rows| load::json(rows))
            .unwrap_or_default();
        write_json(path, &report(&lines, rows, good))?;
    }
    if !good {
        lab.cluster.keep_logs();
    }
    drop(lab);
    println!(
        "\n{} in {:.0} s",
        verdict(good),
        start.elapsed().as_secs_f64()
    );
    std::process::exit(i32::from(!good))
}

fn introduce(lab: &Lab, took: Duration) {
    println!(
        "\nTwo nodes, six pods, one mesh; up in {:.1} s.\n",
        took.as_secs_f64()
    );
    for pod in lab.pods() {
        let manifest = pod.manifest();
        println!(
            "    {:<12} node {}  {:<12} {:<14} {}",
            manifest.name,
            manifest.node,
            if manifest.namespace == tests::lab::MESHED {
                "meshed"
            } else {
                "not meshed"
            },
            pod.addresses().v4,
            pod.addresses().v6
        );
    }
    println!();
}

/// What happens to HTTP.
fn second_act(lab: &Lab) -> Vec<Line> {
    println!("\n  The second act: HTTP, through a gateway.\n");
    let edge = match gateway::start(lab) {
        Ok(edge) => edge,
        Err(error) => return vec![line("a gateway serves", || Err(error))],
    };
    let facts = gateway::ALL.iter();
    facts
        .map(|(fact, show)| line(fact, || show(&edge)))
        .collect()
}

fn line(fact: &'static str, show: impl FnOnce() -> Result<String>) -> Line {
    let start = Instant::now();
    let evidence = show();
    let seconds = start.elapsed().as_secs_f64();
    match &evidence {
        Ok(evidence) => println!("  \u{2713} {fact}\n      {evidence}"),
        Err(error) => println!("  \u{2717} {fact}\n      {error:#}"),
    }
    Line {
        fact,
        evidence,
        seconds,
    }
}

fn report(lines: &[Line], table: Value, good: bool) -> Value {
    let lines: Vec<Value> = lines
        .iter()
        .map(|line| {
            let evidence = match &line.evidence {
                Ok(evidence) => evidence.clone(),
                Err(error) => format!("{error:#}"),
            };
            json!({
                "fact": line.fact,
                "true": line.evidence.is_ok(),
                "evidence": evidence,
                "seconds": line.seconds,
            })
        })
        .collect();
    json!({ "schema": 1, "good": good, "lines": lines, "table": table })
}

fn verdict(good: bool) -> &'static str {
    if good {
        "Every line is true;"
    } else {
        "NOT every line is true;"
    }
}
