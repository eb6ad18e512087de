//! Where a rule sends traffic.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::NamespacedHostname;

/// Where traffic goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// A service.
    #[serde(rename_all = "camelCase")]
    Service {
        /// The service.
        service: NamespacedHostname,
        /// Its port, as clients dial it.
        port: u16,
        /// What its endpoints speak.
        protocol: BackendProtocol,
    },
    /// The reference is missing, of a wrong kind or not permitted, for this reason: its share of
    /// the requests gets 500, its share of the connections is closed.
    Invalid(Arc<str>),
}

/// What endpoints speak (`appProtocol` of the service port).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BackendProtocol {
    /// HTTP/1.1, with upgrades (`http`, `kubernetes.io/ws`, nothing).
    #[default]
    Http,
    /// HTTP/2 with prior knowledge (`kubernetes.io/h2c`, `grpc`, and every GRPCRoute).
    H2c,
}

/// A share of connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WeightedTarget {
    /// Share, in proportion to the sum of the rule's weights.
    pub weight: u32,
    /// Where it goes.
    pub target: Target,
}
