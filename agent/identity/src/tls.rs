//! rustls configurations: TLS 1.3 only, AES-GCM only, both ends with a certificate.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use agent_model::Identity;
use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;

use crate::verify::{ClientPeer, ServerPeer};
use crate::{Certificate, IdentityError, provider};

const ALPN: &[u8] = b"h2";

/// The configuration of an HBONE server that holds `certificate`: a client certificate is
/// mandatory, must chain to the roots issued with `certificate`, and must name an identity of the
/// same trust domain. A client without ALPN is accepted, one with another protocol is refused.
/// Made once per certificate and shared.
pub fn server_config(certificate: &Certificate) -> Result<Arc<ServerConfig>, IdentityError> {
    certificate.server_config_or(|| {
        let verifier = ClientPeer::new(
            certificate.trust(),
            certificate.identity().trust_domain(),
            &provider(),
        )?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(resolver(certificate));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Clients of this mesh never resume: a ticket would outlive the certificate it was
        // issued for.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    })
}

/// The configuration of an HBONE client that holds `certificate` and talks only to a peer whose
/// identity is one of `expected`. No SNI (connect with [`dummy_server_name`]), no resumption. An
/// empty `expected` refuses every peer.
pub fn client_config(
    certificate: &Certificate,
    expected: &[Identity],
) -> Result<Arc<ClientConfig>, IdentityError> {
    let verifier = ServerPeer::new(certificate.trust(), expected.to_vec(), &provider());
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(resolver(certificate));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// The server name HBONE clients connect with: peers are told apart by identity, not by name, and
/// an address is never sent as SNI.
pub fn dummy_server_name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into())
}

fn resolver(certificate: &Certificate) -> Arc<SingleCertAndKey> {
    Arc::new(SingleCertAndKey::from(certificate.certified_key()))
}
