//! The flags of `culvert gateway`.

use std::net::IpAddr;

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
}
