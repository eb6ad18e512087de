//! The flags of `culvert gateway`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::{CommonFlags, DataPlaneFlags};

/// `culvert gateway`.
#[derive(Debug, Args)]
pub(crate) struct GatewayFlags {
    #[command(flatten)]
    pub(crate) common: CommonFlags,
    /// The Gateway object this is. Required.
    #[arg(long, env = "CULVERT_GATEWAY", value_name = "NAMESPACE/NAME")]
    pub(crate) gateway: Option<String>,
    #[command(flatten)]
    pub(crate) data_plane: DataPlaneFlags,
    /// Address on which the ports of the listeners are opened.
    #[arg(
        long,
        env = "CULVERT_LISTEN_ADDRESS",
        value_name = "IP",
        default_value = "::"
    )]
    pub(crate) listen_address: IpAddr,
    /// Keys of token issuers may be fetched from addresses of this host, too. Without it a policy
    /// cannot make the gateway ask what listens on loopback only.
    #[arg(long, env = "CULVERT_JWKS_LOOPBACK")]
    pub(crate) jwks_loopback: bool,
    /// Answers of the gateway's own carry their Reason in `x-culvert-reason`.
    #[arg(long, env = "CULVERT_REASON_HEADER")]
    pub(crate) reason_header: bool,
    /// Backends learn from `x-forwarded-client-cert` (`By=...;URI=...`) which identity a client
    /// proved. What clients say there themselves is taken off, with or without this.
    #[arg(long, env = "CULVERT_CLIENT_CERT_HEADER")]
    pub(crate) client_cert_header: bool,
    /// OTLP/gRPC receiver that spans of requests are sent to, such as http://collector:4317. Without
    /// it there is no tracing, and the headers of callers pass as they are.
    #[arg(long, env = "CULVERT_TRACE_ENDPOINT", value_name = "URL")]
    pub(crate) trace_endpoint: Option<String>,
    /// PEM file with the roots that the receiver's certificate must chain to, for https.
    #[arg(long, env = "CULVERT_TRACE_ROOT_CERT", value_name = "FILE")]
    pub(crate) trace_root_cert: Option<PathBuf>,
    /// Requests of a hundred that are traced where their callers do not decide.
    #[arg(
        long,
        env = "CULVERT_TRACE_SAMPLING",
        value_name = "PERCENT",
        default_value_t = 1.0
    )]
    pub(crate) trace_sampling: f64,
}
