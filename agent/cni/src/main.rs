//! The `culvert-cni` plugin: a container runtime starts it with CNI's environment and a network
//! configuration on standard input.

use std::io::{Read, Write};
use std::process::ExitCode;

use agent_cni::{MAX_CONFIG, TIMEOUT, ask, read_meshed, run};

fn main() -> ExitCode {
    let mut stdin = Vec::new();
    // One byte more than is accepted, so that what is too long is seen as that.
    let limit = u64::try_from(MAX_CONFIG)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    if let Err(error) = std::io::stdin().lock().take(limit).read_to_end(&mut stdin) {
        // What was read so far is not JSON then, which is the answer the runtime gets.
        eprintln!("culvert-cni: cannot read standard input: {error}");
    }
    let variable = |name: &str| std::env::var(name).ok();
    let outcome = run(
        variable,
        &stdin,
        |socket, question| ask(socket, question, TIMEOUT),
        read_meshed,
    );
    if let Some(note) = &outcome.note {
        eprintln!("culvert-cni: {note}");
    }
    if let Err(error) = std::io::stdout()
        .lock()
        .write_all(outcome.stdout.as_bytes())
    {
        eprintln!("culvert-cni: cannot write standard output: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::from(outcome.exit_code)
}
