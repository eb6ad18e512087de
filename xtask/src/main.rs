//! `cargo xtask`: sets up a machine, builds, checks, and starts tests, demo, lab and bench.
//!
//! It holds no logic of the product: it starts programs, shows which one runs and for how long,
//! and says what to do when one fails. It depends on nothing that needs a C compiler, so that it
//! builds on a machine where nothing is set up yet.

mod build;
mod check;
mod chroot;
mod clean;
mod image;
mod program;
mod room;
mod setup;
mod steps;
mod suite;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::steps::Steps;
use crate::workspace::Workspace;

/// Of `bench`: a program of its own.
const SCALE: &str = "--scale";
/// Of `bench`: another program of its own.
const L7: &str = "--l7";

const USAGE: &str = "\
cargo xtask <command>

  setup [--check] [--long]  install what the other commands need (Debian 12, root);
                            --check only tells what is missing
  demo [--json FILE] ...    show that it works: two nodes, real pods, one mesh
  test [--long] [--json FILE] [FILTER]
                            every test; --long adds soak repeats, fuzzing and a run in
                            a fresh chroot
  lab [--json FILE] [--down]
                            bring the demo's topology and a gateway up and leave them running
  bench [--quick] ...       plain against mesh, side by side
  bench --scale ...         one control plane with 200 simulated nodes and 100,000 pods
  bench --l7 ...            the gateway beside Envoy on one core, in turns
  fresh [COMMAND ...]       run both commands, or these, in a fresh Debian 12 chroot
  check                     format, clippy, layers, lints, import circles, licences
  build                     culvert, culvert-cni, the eBPF object and the test programs
  build-ebpf                only the eBPF object
  image [--profile dev] [--output DIR] [--try] [--root DIR]
                            the image as an OCI layout, without a container engine; --try
                            runs every role in a chroot; --root writes only its file system
  codegen                   regenerate proto/src/gen from the .proto files, and the resource
                            definitions in deploy/kubernetes from the types that read them
  clean [--all]             remove what killed runs left; --all also ends running labs
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut steps = Steps::new();
    match run(&arguments, &mut steps) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String], steps: &mut Steps) -> Result<ExitCode> {
    let Some((command, rest)) = arguments.split_first() else {
        bail!("no command given\n\n{USAGE}");
    };
    let workspace = Workspace::find()?;
    match command.as_str() {
        "setup" => setup::run(&workspace, steps, rest)?,
        "build" => build::everything(&workspace, steps)?,
        "build-ebpf" => build::ebpf(&workspace, steps)?,
        "image" => image::run(&workspace, steps, rest)?,
        "codegen" => build::codegen(&workspace, steps)?,
        "check" => check::run(&workspace, steps)?,
        "fresh" => {
            let commands: Vec<&str> = rest.iter().map(String::as_str).collect();
            let commands = if commands.is_empty() {
                &chroot::BOTH[..]
            } else {
                &commands
            };
            setup::install(&workspace, steps, true)?;
            chroot::run_fresh(&workspace, commands)?;
        }
        "clean" => clean::run(steps, rest.iter().any(|word| word == "--all"))?,
        "test" => return suite::test(&workspace, steps, rest),
        "bench" if rest.iter().any(|word| word == SCALE) => {
            let others = rest.iter().filter(|word| *word != SCALE).cloned();
            return suite::start(&workspace, steps, "scale", &others.collect::<Vec<_>>());
        }
        "bench" if rest.iter().any(|word| word == L7) => {
            let others: Vec<String> = rest.iter().filter(|word| *word != L7).cloned().collect();
            let own = ["--nginx", "--envoy", "--help", "-h"];
            if !others.iter().any(|word| own.contains(&word.as_str())) {
                setup::envoy(&workspace, steps)?;
            }
            return suite::start(&workspace, steps, "l7", &others);
        }
        "demo" | "lab" | "bench" => return suite::start(&workspace, steps, command, rest),
        "help" | "--help" | "-h" => print!("{USAGE}"),
        other => bail!("unknown command `{other}`\n\n{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}
