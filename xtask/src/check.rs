//! `cargo xtask check`: everything that can be said about the code without running it.

mod circles;
mod crates;
mod layers;
mod lints;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::program::{cargo, output, succeed};
use crate::steps::Steps;
use crate::workspace::Workspace;

/// Runs every check, also after one failed, so that one run tells everything.
pub(crate) fn run(workspace: &Workspace, steps: &mut Steps) -> Result<()> {
    crate::setup::rustup_components(workspace, steps)?;
    let members = members(workspace)?;
    let outcomes = [
        steps.step("check: format (mend with `cargo fmt --all`)", || {
            run_cargo(workspace, &["fmt", "--all", "--check"])
        }),
        steps.step("check: layers", || report(layers::faults(&members))),
        steps.step("check: every crate inherits the workspace lints", || {
            report(lints::faults(&members)?)
        }),
        steps.step("check: no import circles", || {
            report(circles::faults(&members)?)
        }),
        steps.step("check: licences and doubled crates", || {
            report(crates::faults(workspace)?)
        }),
        steps.step("check: clippy, warnings denied", || {
            run_cargo(
                workspace,
                &[
                    "clippy",
                    "--workspace",
                    "--exclude",
                    "ebpf-programs",
                    "--all-targets",
                    "--features",
                    "agent-datapath/failpoints",
                    "--",
                    "-D",
                    "warnings",
                ],
            )
        }),
    ];
    steps.print_table();
    let failures: Vec<String> = outcomes
        .into_iter()
        .filter_map(Result::err)
        .map(|error| format!("{error:#}"))
        .collect();
    if failures.is_empty() {
        Ok(())
    } else {
        bail!("{}", failures.join("\n"))
    }
}

fn run_cargo(workspace: &Workspace, arguments: &[&str]) -> Result<()> {
    succeed(cargo(workspace.root()).args(arguments))
}

fn report(faults: Vec<String>) -> Result<()> {
    if faults.is_empty() {
        Ok(())
    } else {
        bail!("{}", faults.join("\n"))
    }
}

/// A crate of the workspace.
#[derive(Debug, Clone)]
struct Member {
    name: String,
    folder: PathBuf,
    /// Names of the packages it depends on, for whatever purpose.
    dependencies: Vec<String>,
}

fn members(workspace: &Workspace) -> Result<Vec<Member>> {
    let metadata = metadata(workspace, &["--no-deps"])?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    packages.iter().map(member).collect()
}

fn member(package: &Value) -> Result<Member> {
    let manifest = PathBuf::from(text(package, "manifest_path")?);
    let dependencies = package["dependencies"]
        .as_array()
        .context("a package without a list")?;
    Ok(Member {
        name: text(package, "name")?,
        folder: manifest
            .parent()
            .context("a manifest in no folder")?
            .to_path_buf(),
        dependencies: dependencies
            .iter()
            .map(|one| text(one, "name"))
            .collect::<Result<_>>()?,
    })
}

fn metadata(workspace: &Workspace, arguments: &[&str]) -> Result<Value> {
    let mut command = cargo(workspace.root());
    command
        .args(["metadata", "--format-version", "1"])
        .args(arguments);
    serde_json::from_str(&output(&mut command)?).context("cargo metadata printed no JSON")
}

fn text(value: &Value, key: &str) -> Result<String> {
    let found = value[key].as_str();
    Ok(found
        .with_context(|| format!("cargo metadata lacks `{key}`"))?
        .to_owned())
}
