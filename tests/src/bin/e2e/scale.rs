//! The measuring program of large clusters, made small: what it measures must work every day, and
//! a reconnect that costs a full push shows at any size.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::programs::Programs;
use tests::scale::{LIMITS, Limits, Settings, measure};

use crate::{Case, alone, run_name};

pub(crate) const CASES: &[Case] = &[alone(
    "control plane: 8 nodes and 2,000 pods, changes at 50 a second, reconnects without a full push",
    short,
)];

fn short() -> Result<()> {
    let programs = Programs::find()?;
    let name = format!("culvert-scale-{}-{}", run_name(), std::process::id());
    let directory: PathBuf = std::env::temp_dir().join(name);
    let settings = Settings::short(programs.culvert(), directory.clone());
    let figures = measure(&settings, |_| {});
    let figures = figures.with_context(|| format!("files are in {}", directory.display()))?;
    // On a machine that has other work, waiting for a turn is most of the delay.
    let limits = Limits {
        delay: Duration::from_secs(10),
        ..LIMITS
    };
    let excesses = figures.excesses(limits);
    ensure!(excesses.is_empty(), "{}\n{figures}", excesses.join("; "));
    let _ = std::fs::remove_dir_all(&directory);
    Ok(())
}
