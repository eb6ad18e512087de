//! What is decided about.

use std::net::{IpAddr, SocketAddr};

use agent_model::Identity;
use http::HeaderMap;

use crate::jwt::Token;

/// What a gateway knows of a request when it judges it. Everything is as it will be forwarded:
/// what is judged is what is sent.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Who sent it, as mTLS proved; `None` for plaintext.
    pub source: Option<&'a Peer>,
    /// The peer of the connection.
    pub source_address: Address,
    /// The client, as trusted proxies in front say; without any it is the peer.
    pub remote_address: Address,
    /// Where the client sent it: the service's address at a waypoint, the listener's at an edge.
    pub destination: SocketAddr,
    /// Server name of the client's TLS handshake.
    pub sni: Option<&'a str>,
    /// As it was sent; methods are case-sensitive.
    pub method: &'a str,
    /// Normalised host without port; empty when the request has none.
    pub host: &'a str,
    /// The port the client wrote after it, if any.
    pub port: Option<u16>,
    /// Normalised path without query.
    pub path: &'a str,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The token that was verified; `None` when there was none.
    pub token: Option<&'a Token>,
}

/// An address, and whether it is evidence of anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// False for the plaintext peer that uses the address of a mesh workload, and for what an
    /// untrusted client wrote.
    pub vouched: bool,
}

/// An identity with the text that policies compare. Made once per connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    identity: Identity,
    principal: String,
    is_outside: bool,
}

impl Peer {
    /// Of this identity, as the mesh's own authority says.
    pub fn new(identity: Identity) -> Self {
        let principal = identity.principal();
        Self {
            identity,
            principal,
            is_outside: false,
        }
    }

    /// Of this identity, as an authority says that is not the mesh's. Only a trust domain that is not
    /// the mesh's may be given: its own are not for others to tell.
    pub fn outside(identity: Identity) -> Self {
        Self {
            is_outside: true,
            ..Self::new(identity)
        }
    }

    /// True when it is not the mesh's authority that says so.
    pub fn is_outside(&self) -> bool {
        self.is_outside
    }

    /// The identity.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// `TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    pub fn principal(&self) -> &str {
        &self.principal
    }
}
