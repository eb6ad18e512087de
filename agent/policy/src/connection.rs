//! What is decided about, and for whom.

use std::net::{IpAddr, SocketAddr};

use agent_model::{Identity, PolicyKey};

/// What is known of a connection at the destination.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    /// Identity of whoever connects: that of the peer's certificate, or whom a waypoint that is
    /// believed connects for; `None` for plaintext.
    pub source: Option<&'a Identity>,
    /// Identity of the peer's certificate itself: who passed a waypoint comes from it.
    pub peer: Option<&'a Identity>,
    /// Address of whoever connects.
    pub source_ip: IpAddr,
    /// False when the address is evidence of nothing: a plaintext peer that uses the address of a
    /// mesh workload. ALLOW policies then never match by address, DENY policies still do.
    pub source_ip_vouched: bool,
    /// Pod address and port of the application, after service ports are resolved.
    pub destination: SocketAddr,
}

/// The workload a connection is for, as far as policy needs to know it.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Keys of the selector-scoped policies that apply to it.
    pub policies: &'a [PolicyKey],
}
