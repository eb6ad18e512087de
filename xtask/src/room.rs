//! Room on the disk, looked at before it is used up in the middle of a run.

use anyhow::{Context, Result, ensure};

use crate::program::{output, program};
use crate::workspace::Workspace;

/// What a build with every test takes below the target directory, in GiB.
const WHOLE_RUN: u64 = 6;
const GIB: u64 = 1 << 30;

/// Fails when what is free, and what earlier builds left to be used again, are not enough for a
/// whole run.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let target = workspace.target();
    std::fs::create_dir_all(target).context("creating the target directory")?;
    let free = number(
        program("df", target).args(["--output=avail", "--block-size=1", "."]),
        "df",
    )?;
    if free >= WHOLE_RUN * GIB {
        return Ok(());
    }
    let held = number(
        program("du", target).args(["--summarize", "--block-size=1", "."]),
        "du",
    )?;
    judge(free, held)
}

fn judge(free: u64, held: u64) -> Result<()> {
    ensure!(
        free + held >= WHOLE_RUN * GIB,
        "a whole run takes {WHOLE_RUN} GiB below the target directory: {:.1} GiB are free, {:.1} GiB \
         are held by earlier builds. Make room, or set CARGO_TARGET_DIR to a larger disk",
        free as f64 / GIB as f64,
        held as f64 / GIB as f64,
    );
    Ok(())
}

/// The last line that begins with a number.
fn number(command: &mut std::process::Command, name: &str) -> Result<u64> {
    let text = output(command)?;
    let mut words = text
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    words
        .rfind(|word| word.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("{name} says {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_counts_as_room() {
        assert!(judge(WHOLE_RUN * GIB, 0).is_ok());
        assert!(judge(GIB, (WHOLE_RUN - 1) * GIB).is_ok());
        let error = judge(GIB, GIB).expect_err("too little").to_string();
        assert!(error.contains("1.0 GiB are free"), "{error}");
    }

    #[test]
    fn the_disk_is_read() {
        let workspace = Workspace::find().expect("a workspace");
        let mut df = program("df", workspace.root());
        let free = number(df.args(["--output=avail", "--block-size=1", "."]), "df");
        assert!(free.is_ok(), "{free:?}");
    }
}
