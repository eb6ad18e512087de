//! How a gateway talks to the endpoints of a service.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::NamespacedHostname;

/// Settings for the endpoints of one service, or of one of its ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// The service.
    pub service: NamespacedHostname,
    /// One of its ports; `None` for those without settings of their own.
    pub port: Option<u16>,
    /// TLS to the endpoints (BackendTLSPolicy); `None` leaves them as the mesh reaches them.
    pub tls: Option<BackendTls>,
}

/// TLS from the gateway to endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BackendTls {
    /// The endpoint has to prove who it is.
    Verified(VerifiedTls),
    /// The policy cannot be used, for this reason: no request goes out, in the clear or otherwise.
    Invalid(Arc<str>),
}

/// What an endpoint's certificate has to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedTls {
    /// SNI to send; also the name the certificate must carry when `subject_alt_names` is empty.
    pub hostname: Arc<str>,
    /// Who may have issued it.
    pub roots: TrustedRoots,
    /// The certificate must carry one of them; they replace the check of `hostname`.
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// Roots that certificates of endpoints are checked against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TrustedRoots {
    /// Those of the gateway's system.
    System,
    /// These, in PEM.
    Certificates(Arc<str>),
}

/// A name a certificate must carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SubjectAltName {
    /// A DNS name.
    Hostname(Arc<str>),
    /// A URI, such as a SPIFFE identity; byte-equal.
    Uri(Arc<str>),
}
