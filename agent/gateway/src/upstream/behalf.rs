//! For whom a waypoint connects.

use std::net::SocketAddr;
use std::sync::Arc;

use agent_hbone::headers::{Authority, ConnectRequest, Forwarded};
use agent_model::Identity;

/// A client of the mesh that a waypoint connects for. The destination's node believes the waypoint
/// and decides by it, so one connection is for one client.
#[derive(Debug, Clone)]
pub(crate) struct Behalf {
    /// What its certificate proved.
    pub(crate) identity: Identity,
    /// Its socket.
    pub(crate) address: SocketAddr,
}

impl Behalf {
    /// The CONNECT request for its connection.
    pub(super) fn request(
        of: Option<&Arc<Self>>,
        authority: SocketAddr,
        host: &str,
    ) -> ConnectRequest {
        let request = ConnectRequest::to(Authority::Ip(authority));
        match of {
            None => request,
            Some(behalf) => ConnectRequest {
                forwarded: Forwarded {
                    client: Some(behalf.address),
                    host: host.to_owned(),
                },
                source: Some(behalf.identity.clone()),
                ..request
            },
        }
    }
}

/// True when requests of both may share a connection: nobody looks at the port.
pub(super) fn are_alike(a: Option<&Arc<Behalf>>, b: Option<&Arc<Behalf>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.identity == b.identity && a.address.ip() == b.address.ip(),
        _ => false,
    }
}
