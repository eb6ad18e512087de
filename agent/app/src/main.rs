//! The `culvert` binary: one file per role and per operator's verb, and what only a binary may
//! do: read arguments, environment and files, start runtimes, choose the allocator.
//!
//! Walk: [`cli`] (as typed) -> [`config`] (validated) -> the role. A role serves its operator
//! through [`admin`] and [`listen`], on a thread that never carries pod traffic.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agent_net::lookup::{Lookup, Outcome};
use anyhow::Context;

mod admin;
mod check;
mod cli;
mod config;
mod config_file;
mod control;
mod gateway;
mod http;
mod install;
mod listen;
mod node;
mod readiness;
mod secrecy;
mod shutdown;
mod verbs;
mod why;

/// The data path frees what other threads allocated and keeps many small buffers; jemalloc keeps
/// the resident set flat under that.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn main() -> ExitCode {
    let arguments = match cli::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => return error.report(),
    };
    if let cli::Verb::Check(flags) = &arguments.verb {
        return check::run(flags);
    }
    match run(arguments.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("culvert: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: cli::Verb) -> anyhow::Result<()> {
    match verb {
        cli::Verb::Node(flags) => match config::node(*flags)? {
            config::Node::Release(config) => node::release(&config),
            config::Node::Run(config) => node::run(*config),
        },
        cli::Verb::Control(flags) => control::run(config::control(*flags)?),
        cli::Verb::Gateway(flags) => gateway::run(config::gateway(*flags)?),
        cli::Verb::Status(flags) => verbs::status(&flags),
        cli::Verb::Routes(flags) => verbs::routes(&flags),
        cli::Verb::ConfigDump(flags) => verbs::config_dump(&flags),
        cli::Verb::Why(flags) => verbs::why(&flags),
        // It has exit codes of its own.
        cli::Verb::Check(_) => Ok(()),
        cli::Verb::Install(flags) => verbs::install(&flags),
    }
}

/// Where everything runs that is not on the data path.
fn control_runtime(threads: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("control")
        .enable_all()
        .build()
        .context("control runtime")
}

/// Makes lines the log had to drop visible to a scrape.
fn sample_log_drops(metrics: &agent_telemetry::Metrics, dropped: Arc<AtomicU64>) {
    metrics.sample_with(move |samples| {
        samples.counter(
            "culvert_log_lines_dropped",
            "Log lines dropped because nobody read the log fast enough",
            &[],
            dropped.load(Ordering::Relaxed),
        );
    });
}

/// What came of looking up names of endpoints, by node and gateway alike.
fn sample_lookups(samples: &mut agent_telemetry::Samples, lookup: &Lookup) {
    for outcome in Outcome::ALL {
        let help = "Names of endpoints that were needed, by how their addresses were found";
        let labels = [("outcome", outcome.as_str())];
        let count = lookup.count(outcome);
        samples.counter("culvert_dns_lookups", help, &labels, count);
    }
}
