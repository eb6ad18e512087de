//! Gateways, their listeners and the routes that attach to them, as the control plane hands them
//! to `culvert gateway`.
//!
//! The control plane has resolved every reference: what a route names here exists, is permitted,
//! or is [`Target::Invalid`] with the reason. The words are those of the Kubernetes Gateway API;
//! HTTPRoute and GRPCRoute share their rules, and so do TLSRoute, TCPRoute and UDPRoute.

mod backend;
mod filter;
mod hostname;
mod listener;
mod route;
mod rule;
mod secret;
mod target;
pub mod traffic;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use backend::{Backend, BackendTls, SubjectAltName, TrustedRoots, VerifiedTls};
pub use filter::{
    Cors, Filter, Fraction, HeaderChange, HeaderValue, Mirror, OriginMatch, PathChange, Redirect,
    Rewrite, Scheme,
};
pub use hostname::{Hostname, InvalidHostname};
pub use listener::{
    Certificate, ClientValidation, ClientValidationMode, Listener, ListenerTls, Protocol,
};
pub use route::{Parent, Route, RouteKey, RouteKind, Rules};
pub use rule::{
    BackendRef, HttpMatch, HttpRule, L4Rule, NamedMatch, PathMatch, Persistence, Retry,
    SessionPersistence, Timeouts, ValueMatch,
};
pub use secret::SecretKey;
pub use target::{BackendProtocol, Target, WeightedTarget};

/// `namespace/name` of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayKey {
    /// Namespace of the Gateway object.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl GatewayKey {
    /// Makes a key of its two parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for GatewayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One gateway: what it is for and where it listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// Its key.
    pub key: GatewayKey,
    /// Border of the mesh, or inside it.
    pub kind: GatewayKind,
    /// Listeners that are accepted and whose references resolve, in the order in which they win a
    /// conflict: those of the Gateway itself, then those of its ListenerSets.
    pub listeners: Vec<Listener>,
    /// Certificate the gateway shows to backends that ask for one.
    pub backend_client_certificate: Option<Certificate>,
}

impl Gateway {
    /// The listener of that name.
    pub fn listener(&self, name: &str) -> Option<&Listener> {
        self.listeners
            .iter()
            .find(|listener| *listener.name == *name)
    }
}

/// What a gateway is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GatewayKind {
    /// Ingress and egress: clients outside the mesh, or destinations outside it.
    Edge,
    /// L7 policy for destinations in the mesh, reached over HBONE.
    Waypoint(WaypointFor),
}

/// Which traffic a waypoint takes (label `istio.io/waypoint-for`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WaypointFor {
    /// Traffic addressed to services.
    #[default]
    Service,
    /// Traffic addressed to pods.
    Workload,
    /// Both.
    All,
    /// None of it.
    None,
}

#[cfg(test)]
mod tests;
