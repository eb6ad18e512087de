//! Validated settings of the roles. Rooms see these values, never flags, variables or files.

mod control;
mod gateway;
mod node;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use agent_model::Identity;
use agent_telemetry::LogFormat;

use crate::cli::{CommonFlags, DataPlaneFlags};

pub(crate) use control::{ControlConfig, control};
pub(crate) use gateway::{GatewayConfig, gateway};
pub(crate) use node::{KernelConfig, Node, NodeConfig, ReleaseConfig, node};

/// Data-path threads at most; more than any node has use for.
const MAX_WORKERS: usize = 256;

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A required setting is missing.
    #[error("--{flag} is required (or {variable}, or the key {flag:?} of the --config file)",
            variable = format!("CULVERT_{}", flag.replace('-', "_").to_uppercase()))]
    Missing {
        /// The flag.
        flag: &'static str,
    },
    /// A setting has a value that makes no sense.
    #[error("--{flag} {value:?}: {problem}")]
    Invalid {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// Log settings of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogConfig {
    /// In the syntax of `RUST_LOG`.
    pub(crate) filter: String,
    /// Text or JSON.
    pub(crate) format: LogFormat,
}

/// Where the control plane and the certificate service are, and what is shown to them.
struct Upstream {
    xds_address: String,
    ca_address: String,
    root_cert: PathBuf,
    token_file: PathBuf,
}

fn upstream(flags: &DataPlaneFlags) -> Result<Upstream, ConfigError> {
    let xds_address = required("xds-address", flags.xds_address.clone())?;
    let xds_address = https("xds-address", xds_address)?;
    let ca_address = match flags.ca_address.clone() {
        Some(address) => https("ca-address", address)?,
        None => xds_address.clone(),
    };
    Ok(Upstream {
        xds_address,
        ca_address,
        root_cert: required("root-cert", flags.root_cert.clone())?,
        token_file: required("token-file", flags.token_file.clone())?,
    })
}

fn log(flags: &CommonFlags) -> LogConfig {
    let filter = flags
        .log_filter
        .clone()
        .or_else(|| std::env::var("RUST_LOG").ok())
        .filter(|filter| !filter.is_empty());
    LogConfig {
        filter: filter.unwrap_or_else(|| "info".to_owned()),
        format: if flags.log_json {
            LogFormat::Json
        } else {
            LogFormat::Text
        },
    }
}

fn required<T>(flag: &'static str, value: Option<T>) -> Result<T, ConfigError> {
    value.ok_or(ConfigError::Missing { flag })
}

/// A URL without path whose scheme is https; without a scheme https is meant. A token is never
/// sent in the clear.
fn https(flag: &'static str, value: String) -> Result<String, ConfigError> {
    let invalid = |value: &str, problem| ConfigError::Invalid {
        flag,
        value: value.to_owned(),
        problem,
    };
    let url = if value.contains("://") {
        value
    } else {
        format!("https://{value}")
    };
    let parsed: http::Uri = url.parse().map_err(|_| invalid(&url, "not a URL"))?;
    if parsed.scheme_str() != Some("https") {
        return Err(invalid(&url, "only https is spoken here"));
    }
    if parsed.port_u16().is_none() {
        return Err(invalid(&url, "the port is missing"));
    }
    if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() {
        return Err(invalid(&url, "a path makes no sense here"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// A non-empty name that is safe in metadata, labels and file names.
fn name(flag: &'static str, value: String) -> Result<String, ConfigError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if value.is_empty() || value.len() > 253 || !value.bytes().all(allowed) {
        return Err(ConfigError::Invalid {
            flag,
            value,
            problem: "expected 1 to 253 letters, digits, dots, dashes and underscores",
        });
    }
    Ok(value)
}

/// A trust domain is one that an identity can be made of.
fn trust_domain(value: String) -> Result<String, ConfigError> {
    if Identity::new(&value, "n", "a").is_err() {
        return Err(ConfigError::Invalid {
            flag: "trust-domain",
            value,
            problem: "not a SPIFFE trust domain",
        });
    }
    Ok(value)
}

fn workers(value: Option<NonZeroUsize>) -> Result<usize, ConfigError> {
    let cpus = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let workers = value.map_or_else(cpus, NonZeroUsize::get);
    if value.is_some() && workers > MAX_WORKERS {
        return Err(ConfigError::Invalid {
            flag: "workers",
            value: workers.to_string(),
            problem: "more than 256",
        });
    }
    Ok(workers.min(MAX_WORKERS))
}

#[cfg(test)]
mod tests;
