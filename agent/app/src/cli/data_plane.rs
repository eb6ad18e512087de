//! The flags of whoever is told by a control plane what to do: node agents and gateways.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::ADMIN_SOCKET;

/// What `culvert node` and `culvert gateway` have in common.
#[derive(Debug, Args)]
pub(crate) struct DataPlaneFlags {
    /// Control plane, such as https://culvert-control:15012. Required.
    #[arg(long, env = "CULVERT_XDS_ADDRESS", value_name = "URL")]
    pub(crate) xds_address: Option<String>,
    /// Certificate service. [default: the control plane]
    #[arg(long, env = "CULVERT_CA_ADDRESS", value_name = "URL")]
    pub(crate) ca_address: Option<String>,
    /// PEM file with the roots that the control plane's certificate must chain to. Required.
    #[arg(long, env = "CULVERT_ROOT_CERT", value_name = "FILE")]
    pub(crate) root_cert: Option<PathBuf>,
    /// File with the bearer token of this node or gateway; read again for every use. Required.
    #[arg(long, env = "CULVERT_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Unix socket of `culvert status` and, for a node agent, of `why` and `config-dump`.
    #[arg(long, env = "CULVERT_ADMIN_SOCKET", value_name = "PATH", default_value = ADMIN_SOCKET)]
    pub(crate) admin_socket: PathBuf,
    /// Where /metrics is served.
    #[arg(
        long,
        env = "CULVERT_METRICS_LISTEN",
        value_name = "ADDR",
        default_value = "[::]:15020"
    )]
    pub(crate) metrics_listen: SocketAddr,
    /// Where /healthz/ready is served.
    #[arg(
        long,
        env = "CULVERT_READY_LISTEN",
        value_name = "ADDR",
        default_value = "[::]:15021"
    )]
    pub(crate) ready_listen: SocketAddr,
    /// Network this node's pods, or this gateway, are in.
    #[arg(
        long,
        env = "CULVERT_NETWORK",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) network: String,
    /// Data-path threads. [default: one per CPU]
    #[arg(long, env = "CULVERT_WORKERS", value_name = "N")]
    pub(crate) workers: Option<NonZeroUsize>,
    /// Names the servers that are asked for endpoints with a host name and no address.
    #[arg(
        long,
        env = "CULVERT_RESOLV_CONF",
        value_name = "FILE",
        default_value = "/etc/resolv.conf"
    )]
    pub(crate) resolv_conf: PathBuf,
}
