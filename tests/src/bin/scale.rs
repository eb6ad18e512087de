//! How the control plane bears many nodes and pods; see `tests::scale`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tests::lab::write_json;
use tests::scale::{LIMITS, Settings, measure};

/// Many simulated agents on one real control plane.
#[derive(Parser)]
struct Arguments {
    /// Simulated node agents.
    #[arg(long, default_value_t = 200)]
    agents: usize,
    /// Pods in the mesh.
    #[arg(long, default_value_t = 100_000)]
    workloads: usize,
    /// Pods of one namespace.
    #[arg(long, default_value_t = 500)]
    per_namespace: usize,
    /// Changes a second, for 30 s.
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// The program under test. [default: beside this one]
    #[arg(long)]
    culvert: Option<PathBuf>,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let culvert = match arguments.culvert {
        Some(culvert) => culvert,
        None => std::env::current_exe()
            .context("finding this program")?
            .with_file_name("culvert"),
    };
    let directory = std::env::temp_dir().join(format!("culvert-scale-{}", std::process::id()));
    let settings = Settings {
        agents: arguments.agents,
        workloads: arguments.workloads,
        per_namespace: arguments.per_namespace,
        rate: arguments.rate,
        ..Settings::full(culvert, directory.clone())
    };
    let measured = measure(&settings, |step| eprintln!("{step} ..."));
    let figures = measured.with_context(|| format!("files are in {}", directory.display()))?;
    let _ = std::fs::remove_dir_all(&directory);
    print!("{figures}");
    if let Some(path) = &arguments.json {
        write_json(path, &figures.json())?;
    }
    let excesses = figures.excesses(LIMITS);
    for excess in &excesses {
        eprintln!("over the limit: {excess}");
    }
    Ok(if excesses.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
