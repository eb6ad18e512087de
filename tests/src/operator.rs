//! What an operator asks a running program of the product, by its admin socket.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::place::Place;
use crate::programs::Programs;

/// Runs a verb; gives back what it printed.
pub(crate) fn verb(
    programs: &Programs,
    place: &Place,
    socket: &Path,
    words: &[&str],
) -> Result<String> {
    let mut command = Command::new(programs.culvert());
    command.args(words).arg("--admin-socket").arg(socket);
    let output = place.run_command(command, "", Duration::from_secs(30))?;
    ensure!(
        output.ok(),
        "culvert {}: exit {:?}: {}{}",
        words.join(" "),
        output.code,
        output.stdout,
        output.stderr
    );
    Ok(output.stdout)
}

/// What a verb that prints JSON said.
pub(crate) fn json(words: &[&str], text: &str) -> Result<Value> {
    let verb = words.first().unwrap_or(&"culvert");
    serde_json::from_str(text).with_context(|| format!("{verb} is not JSON: {text}"))
}
