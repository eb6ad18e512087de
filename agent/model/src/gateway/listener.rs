//! Listeners of a gateway.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Hostname, SecretKey};

/// A place where a gateway accepts traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Unique within the gateway: the section name, or `<namespace>/<set>/<section>` for a
    /// listener of a ListenerSet.
    pub name: Arc<str>,
    /// Port it listens on; listeners that share one are told apart by host name.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Host names it takes (SNI, then Host); `None` takes every one.
    pub hostname: Option<Hostname>,
    /// What happens to TLS; always there for `HTTPS` and `TLS`.
    pub tls: Option<ListenerTls>,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// HTTP/1.1 and HTTP/2 with prior knowledge, in the clear.
    Http,
    /// HTTP over TLS that ends here.
    Https,
    /// Any protocol over TLS.
    Tls,
    /// Any protocol over TCP.
    Tcp,
    /// Datagrams.
    Udp,
    /// mTLS HTTP/2 CONNECT: the protocol of the mesh, spoken by waypoints.
    Hbone,
}

/// What a listener does with TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ListenerTls {
    /// It ends here.
    Terminate {
        /// Offered to clients, the first that fits; at least one.
        certificates: Vec<Certificate>,
        /// Clients have to show a certificate.
        client_validation: Option<ClientValidation>,
    },
    /// It goes on to the backend untouched; only the SNI is read.
    Passthrough,
}

/// A certificate chain with its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Chain in PEM, leaf first.
    pub chain: Arc<str>,
    /// Private key of the leaf in PEM.
    pub key: SecretKey,
}

/// What certificates of clients are checked against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientValidation {
    /// Roots in PEM.
    pub roots: Arc<str>,
    /// What happens without a valid certificate.
    pub mode: ClientValidationMode,
}

/// What happens to clients without a valid certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClientValidationMode {
    /// The handshake fails.
    #[default]
    AllowValidOnly,
    /// They are let in; what they show proves nothing.
    AllowInsecureFallback,
}
