//! Identities made provable: the certificate authority, the certificates of a node's workloads,
//! and the TLS configurations that check who a peer is.
//!
//! - [`Authority`] signs: it belongs to the control plane.
//! - [`Certificates`] obtains and renews through a [`CaClient`]: it belongs to the node agent.
//! - [`server_config`] and [`client_config`] turn a [`Certificate`] into rustls configurations;
//!   [`peer_identity`] says who a verified peer is.
//!
//! Private keys exist in memory only, are wiped when dropped, and have no textual form.

mod authority;
mod ca_client;
mod certificate;
mod certificates;
mod error;
mod provider;
mod revocation;
mod schedule;
mod tls;
mod trust_bundle;
mod verify;
mod x509;

pub use authority::{Authority, MAX_CSR_BYTES, NewRoot, Signer};
pub use ca_client::{CaClient, GrpcCaClient, GrpcCaConfig, IssueFuture};
pub use certificate::{Certificate, HandedCertificate, PendingKey};
pub use certificates::{CertificateState, CertificateStatus, Certificates, Clock, MAX_IDENTITIES};
pub use error::IdentityError;
pub use provider::provider;
pub use revocation::Revocations;
pub use schedule::{renewal_delay, retry_backoff};
pub use tls::{client_config, dummy_server_name, server_config};
pub use trust_bundle::{MAX_BUNDLE_BYTES, TrustBundle, TrustedRoot};
pub use verify::{PeerRefused, client_identity, peer_refused, peer_revoked};
pub use x509::{peer_identity, spiffe_identity};
