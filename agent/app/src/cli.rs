//! The command line as typed. Every flag is also an environment variable `CULVERT_<FLAG>` and a
//! key of the configuration file; the flag wins over the variable, the variable over the file.

mod control;
mod data_plane;
mod gateway;
mod node;
mod verbs;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config_file::{self, FileError};

pub(crate) use control::ControlFlags;
pub(crate) use data_plane::DataPlaneFlags;
pub(crate) use gateway::GatewayFlags;
pub(crate) use node::{Enrolment, NodeFlags};
pub(crate) use verbs::{AdminFlags, CheckFlags, InstallFlags, StatusFlags, WhyFlags};

/// Culvert: a node-level, eBPF-assisted ambient service mesh.
///
/// Every flag of `node`, `control` and `gateway` may also be given as an environment variable (shown in
/// brackets) or as a key of the YAML file that --config names, such as `node-name: n1`.
#[derive(Debug, Parser)]
#[command(name = "culvert", version, propagate_version = true)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Roles and operator's verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Runs the node agent: captures, encrypts and authorizes the traffic of this node's pods.
    Node(Box<NodeFlags>),
    /// Runs the control plane and the certificate authority.
    Control(Box<ControlFlags>),
    /// Runs one Gateway object: routes HTTP requests from its listeners to services.
    Gateway(Box<GatewayFlags>),
    /// Shows what a node agent is doing: pods, certificates, control-plane sync, refusals. With
    /// the control plane's socket: manifests that are not in force, nodes, certificates. With a
    /// gateway's: ports, routes, what cannot be used.
    Status(StatusFlags),
    /// Shows what a gateway does with requests: listeners, rules with their backends, requests,
    /// success rate and latency of each rule, endpoints and those that are out.
    Routes(StatusFlags),
    /// Prints the node agent's view of the mesh as JSON, with the keys istioctl knows.
    ConfigDump(AdminFlags),
    /// Explains what the node agent would do with a connection: identity, route, endpoint and
    /// each policy's verdict. Run it on the node of the source or of the destination.
    Why(WhyFlags),
    /// Says what is wrong with manifests before they are applied, or with a cluster as it is: what
    /// cannot be read, names nobody, selects nothing or never matters. Exits with 1 when there are
    /// errors, and with 2 when it could not look.
    Check(CheckFlags),
    /// Prints the Kubernetes manifests of this release: `culvert install --render | kubectl apply
    /// -f -`. Nothing is applied, and no cluster is asked.
    Install(InstallFlags),
}

/// Flags that every long-running role has.
#[derive(Debug, Args)]
pub(crate) struct CommonFlags {
    /// YAML file with any of these flags as keys.
    #[arg(long, env = "CULVERT_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Which log lines to write, in the syntax of RUST_LOG. [default: $RUST_LOG, else "info"]
    #[arg(long, env = "CULVERT_LOG_FILTER", value_name = "FILTER")]
    pub(crate) log_filter: Option<String>,
    /// Write log lines as JSON.
    #[arg(long, env = "CULVERT_LOG_JSON")]
    pub(crate) log_json: bool,
    /// How long live connections may go on after SIGTERM, and after a successor has taken over.
    #[arg(long, env = "CULVERT_DRAIN_DEADLINE", value_name = "DURATION",
          default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) drain_deadline: Duration,
    /// Trust domain of every identity of this mesh.
    #[arg(
        long,
        env = "CULVERT_TRUST_DOMAIN",
        value_name = "DOMAIN",
        default_value = "cluster.local"
    )]
    pub(crate) trust_domain: String,
    /// Name of this cluster.
    #[arg(
        long,
        env = "CULVERT_CLUSTER_ID",
        value_name = "ID",
        default_value = "Kubernetes"
    )]
    pub(crate) cluster_id: String,
}

const ADMIN_SOCKET: &str = "/run/culvert/admin.sock";

/// Why the command line could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// Flags or variables; also carries `--help` and `--version`.
    #[error(transparent)]
    Flags(#[from] clap::Error),
    /// The configuration file.
    #[error(transparent)]
    File(#[from] FileError),
}

impl CliError {
    /// Prints it and says how to exit.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Flags(error) => {
                // The terminal may be gone; there is nobody else to tell.
                let _ = error.print();
                u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
            }
            Self::File(error) => {
                eprintln!("culvert: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

/// Parses the command line, with the values of the configuration file as defaults where it names
/// one.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, CliError> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let command = config_file::apply(Arguments::command(), &arguments)?;
    let matches = command.try_get_matches_from(arguments)?;
    Ok(Arguments::from_arg_matches(&matches)?)
}

#[cfg(test)]
mod tests;
