//! Running a program to its end, with a deadline and its output kept.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::stop;

/// What a finished program left.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Whether it was killed because its time was over.
    pub timed_out: bool,
}

impl Output {
    /// Whether the program ended with code 0 in time.
    pub fn ok(&self) -> bool {
        self.code == Some(0) && !self.timed_out
    }
}

/// Runs a program of the harness itself (`ip`, `umount`), which must succeed, and gives back its
/// standard output.
pub fn check(program: &str, arguments: &[&str]) -> Result<String> {
    check_with_input(program, arguments, "")
}

/// As [`check`], with text on standard input.
pub fn check_with_input(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let _making = stop::making();
    let mut command = Command::new(program);
    command.args(arguments);
    let output = finish(spawn_piped(&mut command)?, input, Duration::from_secs(60))?;
    if !output.ok() {
        bail!(
            "{program} {}: exit {:?}: {}",
            arguments.join(" "),
            output.code,
            output.stderr.trim()
        );
    }
    Ok(output.stdout)
}

/// Starts a program with all three standard streams piped.
pub(crate) fn spawn_piped(command: &mut Command) -> Result<Child> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
        .spawn()
        .with_context(|| format!("starting {:?}", command.get_program()))
}

/// Feeds and awaits a child made by [`spawn_piped`]; kills it when the time is over.
pub(crate) fn finish(mut child: Child, input: &str, limit: Duration) -> Result<Output> {
    let stdin = child.stdin.take();
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let deadline = Instant::now() + limit;
    thread::scope(|scope| {
        scope.spawn(move || {
            if let Some(mut stdin) = stdin {
                // A program that does not read its input closes it: not an error of ours.
                let _ = stdin.write_all(input.as_bytes());
            }
        });
        let stdout = scope.spawn(move || read_all(stdout));
        let stderr = scope.spawn(move || read_all(stderr));
        let mut timed_out = false;
        let status = loop {
            if let Some(status) = child.try_wait().context("waiting for a program")? {
                break status;
            }
            if Instant::now() >= deadline && !timed_out {
                timed_out = true;
                let _ = child.kill();
            }
            thread::sleep(Duration::from_millis(2));
        };
        Ok(Output {
            code: status.code(),
            stdout: stdout.join().unwrap_or_default(),
            stderr: stderr.join().unwrap_or_default(),
            timed_out,
        })
    })
}

fn read_all(stream: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        let _ = stream.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
