//! The flags of `culvert gateway`.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::{ADMIN_SOCKET, CommonFlags};

/// `culvert gateway`.
#[derive(Debug, Args)]
pub(crate) struct GatewayFlags {
    #[command(flatten)]
    pub(crate) common: CommonFlags,
    /// The Gateway object this is. Required.
    #[arg(long, env = "CULVERT_GATEWAY", value_name = "NAMESPACE/NAME")]
    pub(crate) gateway: Option<String>,
    /// Control plane, such as https://culvert-control:15012. Required.
    #[arg(long, env = "CULVERT_XDS_ADDRESS", value_name = "URL")]
    pub(crate) xds_address: Option<String>,
    /// Certificate service. [default: the control plane]
    #[arg(long, env = "CULVERT_CA_ADDRESS", value_name = "URL")]
    pub(crate) ca_address: Option<String>,
    /// PEM file with the roots that the control plane's certificate must chain to. Required.
    #[arg(long, env = "CULVERT_ROOT_CERT", value_name = "FILE")]
    pub(crate) root_cert: Option<PathBuf>,
    /// File with this gateway's bearer token; read again for every use. Required.
    #[arg(long, env = "CULVERT_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Address on which the ports of the listeners are opened.
    #[arg(
        long,
        env = "CULVERT_LISTEN_ADDRESS",
        value_name = "IP",
        default_value = "::"
    )]
    pub(crate) listen_address: IpAddr,
    /// Unix socket of `culvert status`.
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
    /// Network this gateway is in.
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
}
