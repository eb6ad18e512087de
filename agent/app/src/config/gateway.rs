//! Settings of the gateway.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use agent_model::Identity;
use agent_model::gateway::GatewayKey;

use super::{
    ConfigError, LogConfig, Upstream, log, name, required, trust_domain, upstream, workers,
};
use crate::cli::GatewayFlags;

/// Settings of traces.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TracingConfig {
    /// `http://host:port` or `https://host:port` of an OTLP/gRPC receiver.
    pub(crate) endpoint: String,
    /// Roots of its certificate.
    pub(crate) root_cert: Option<PathBuf>,
    /// The share of requests, 0 to 1, where callers do not decide.
    pub(crate) share: f64,
}

/// Settings of `culvert gateway`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GatewayConfig {
    /// Logging.
    pub(crate) log: LogConfig,
    /// The Gateway object this is.
    pub(crate) gateway: GatewayKey,
    /// `https://host:port` of the control plane.
    pub(crate) xds_address: String,
    /// `https://host:port` of the certificate service.
    pub(crate) ca_address: String,
    /// Who the gateway is: the service account of its name.
    pub(crate) identity: Identity,
    /// Roots of the control plane's certificate.
    pub(crate) root_cert: PathBuf,
    /// This gateway's bearer token.
    pub(crate) token_file: PathBuf,
    /// Where the ports of the listeners are opened.
    pub(crate) listen_address: IpAddr,
    /// Keys of token issuers may come from addresses of this host.
    pub(crate) jwks_loopback: bool,
    /// Answers of its own say why in a header.
    pub(crate) reason_header: bool,
    /// Backends are told in a header who their clients proved to be.
    pub(crate) client_cert_header: bool,
    /// Where spans go.
    pub(crate) tracing: Option<TracingConfig>,
    /// Socket of `culvert status`.
    pub(crate) admin_socket: PathBuf,
    /// Metrics listener.
    pub(crate) metrics_listen: SocketAddr,
    /// Readiness listener.
    pub(crate) ready_listen: SocketAddr,
    /// Cluster name.
    pub(crate) cluster_id: String,
    /// Network of the gateway (`""` is the default network).
    pub(crate) network: String,
    /// Name servers that the gateway asks.
    pub(crate) resolv_conf: PathBuf,
    /// Data-path threads.
    pub(crate) workers: usize,
    /// How long requests may go on after SIGTERM.
    pub(crate) drain_deadline: Duration,
}

/// Validates the flags of `culvert gateway`.
pub(crate) fn gateway(flags: GatewayFlags) -> Result<GatewayConfig, ConfigError> {
    let gateway = required("gateway", flags.gateway)?;
    let Upstream {
        xds_address,
        ca_address,
        root_cert,
        token_file,
    } = upstream(&flags.data_plane)?;
    let log = log(&flags.common);
    let tracing = tracing(
        flags.trace_endpoint,
        flags.trace_root_cert,
        flags.trace_sampling,
    )?;
    let (gateway, identity) = key(gateway, &trust_domain(flags.common.trust_domain)?)?;
    Ok(GatewayConfig {
        log,
        gateway,
        identity,
        xds_address,
        ca_address,
        root_cert,
        token_file,
        listen_address: flags.listen_address,
        jwks_loopback: flags.jwks_loopback,
        reason_header: flags.reason_header,
        client_cert_header: flags.client_cert_header,
        tracing,
        admin_socket: flags.data_plane.admin_socket,
        metrics_listen: flags.data_plane.metrics_listen,
        ready_listen: flags.data_plane.ready_listen,
        cluster_id: name("cluster-id", flags.common.cluster_id)?,
        network: flags.data_plane.network,
        resolv_conf: flags.data_plane.resolv_conf,
        workers: workers(flags.data_plane.workers)?,
        drain_deadline: flags.common.drain_deadline,
    })
}

fn tracing(
    endpoint: Option<String>,
    root_cert: Option<PathBuf>,
    percent: f64,
) -> Result<Option<TracingConfig>, ConfigError> {
    if !(0.0..=100.0).contains(&percent) {
        return Err(ConfigError::Invalid {
            flag: "trace-sampling",
            value: percent.to_string(),
            problem: "expected a number from 0 to 100",
        });
    }
    Ok(endpoint.map(|endpoint| TracingConfig {
        endpoint,
        root_cert,
        share: percent / 100.0,
    }))
}

/// The object, and the identity of the service account of its name.
fn key(value: String, trust_domain: &str) -> Result<(GatewayKey, Identity), ConfigError> {
    let parts = value.split_once('/');
    let named = parts.and_then(|(namespace, object)| {
        let namespace = name("gateway", namespace.to_owned()).ok()?;
        let object = name("gateway", object.to_owned()).ok()?;
        let identity = Identity::new(trust_domain, &namespace, &object).ok()?;
        Some((GatewayKey::new(&namespace, &object), identity))
    });
    named.ok_or(ConfigError::Invalid {
        flag: "gateway",
        value,
        problem: "expected NAMESPACE/NAME of a Gateway",
    })
}
