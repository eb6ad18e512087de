//! Routes: which requests and connections go where.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{GatewayKey, Hostname, HttpRule, L4Rule};
use crate::NamespacedHostname;

/// Kind, namespace and name of a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteKey {
    /// Kind of the object.
    pub kind: RouteKind,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl RouteKey {
    /// Makes a key of its parts.
    pub fn new(kind: RouteKind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            namespace,
            name,
        } = self;
        write!(f, "{}/{namespace}/{name}", kind.as_str())
    }
}

/// Kind of a route object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "kinds of the Gateway API")]
pub enum RouteKind {
    #[serde(rename = "HTTPRoute")]
    Http,
    #[serde(rename = "GRPCRoute")]
    Grpc,
    #[serde(rename = "TLSRoute")]
    Tls,
    #[serde(rename = "TCPRoute")]
    Tcp,
    #[serde(rename = "UDPRoute")]
    Udp,
}

impl RouteKind {
    /// The kind as manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
            Self::Udp => "UDPRoute",
        }
    }
}

/// A route with the parents that accepted it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Its key.
    pub key: RouteKey,
    /// When the object was made, in seconds since 1970: among equal matches the oldest route wins.
    pub created: u64,
    /// Host names it is for; none means every one its listener takes. Parents that are services do
    /// not look at them.
    pub hostnames: Vec<Hostname>,
    /// Where it applies.
    pub parents: Vec<Parent>,
    /// What it does.
    pub rules: Rules,
}

/// Something a route attaches to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Parent {
    /// A listener of a gateway.
    Listener {
        /// The gateway.
        gateway: GatewayKey,
        /// Name of the listener.
        name: Arc<str>,
    },
    /// A service of the mesh, as its waypoint serves it.
    Service {
        /// The service.
        service: NamespacedHostname,
        /// One of its ports; `None` for all.
        port: Option<u16>,
        /// Only requests from this namespace: a consumer route. Those replace the routes without
        /// it for clients of that namespace.
        consumer_namespace: Option<Arc<str>>,
    },
}

/// The rules of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Rules {
    /// Of an HTTPRoute or a GRPCRoute.
    Http(Vec<HttpRule>),
    /// Of a TLSRoute, a TCPRoute or a UDPRoute.
    L4(Vec<L4Rule>),
}
