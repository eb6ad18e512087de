//! Who may be at the other end of a TLS connection.

use std::fmt;
use std::sync::Arc;

use agent_model::Identity;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::revocation::check_server;
use crate::x509::{spiffe_identities, spiffe_identity};
use crate::{Certificate, IdentityError, TrustBundle, provider};

/// A peer whose certificate is valid but whose identity is not acceptable. The other end sees the
/// TLS alert certificate_unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// The server is not one of the identities expected behind the address.
    #[error("peer is {presented:?}, expected one of {expected:?}")]
    Unexpected {
        /// The identities its certificate names.
        presented: Vec<Identity>,
        /// The identities that were acceptable.
        expected: Vec<Identity>,
    },
    /// The client names no identity, or one of another trust domain.
    #[error("peer is {presented:?}, not of trust domain {trust_domain}")]
    TrustDomain {
        /// The identity its certificate names.
        presented: Option<Identity>,
        /// The trust domain of this end.
        trust_domain: String,
    },
}

/// The identity reason in a handshake error, when that is what ended the handshake.
pub fn peer_refused(error: &Error) -> Option<&PeerRefused> {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(other))) = error else {
        return None;
    };
    other.downcast_ref()
}

/// True when a handshake ended because a certificate of the peer is on a revocation list, or
/// because no list says that it is not.
pub fn peer_revoked(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::Revoked | CertificateError::UnknownRevocationStatus
        ) | Error::InvalidCertRevocationList(_)
    )
}

fn refuse(reason: PeerRefused) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
}

/// Who the client of a handshake is to the mesh, although roots of others let it in: the identity that
/// a server with `certificate` would have taken `chain` (leaf first) for, or nobody.
pub fn client_identity(
    certificate: &Certificate,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Option<Identity> {
    let (leaf, intermediates) = chain.split_first()?;
    let trust_domain = certificate.identity().trust_domain();
    let peer = ClientPeer::new(certificate.trust(), trust_domain, &provider()).ok()?;
    peer.verify_client_cert(leaf, intermediates, now).ok()?;
    spiffe_identity(leaf)
}

/// What a server asks of its clients.
pub(crate) struct ClientPeer {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: String,
}

impl ClientPeer {
    pub(crate) fn new(
        trust: &TrustBundle,
        trust_domain: &str,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, IdentityError> {
        let chain = WebPkiClientVerifier::builder_with_provider(
            Arc::clone(trust.store()),
            Arc::clone(provider),
        )
        .with_crls(trust.revocations().ders())
        .clear_root_hint_subjects()
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
        Ok(Self {
            chain,
            trust_domain: trust_domain.to_owned(),
        })
    }
}

impl ClientCertVerifier for ClientPeer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        let presented = spiffe_identity(end_entity);
        if presented
            .as_ref()
            .is_some_and(|identity| identity.trust_domain() == self.trust_domain)
        {
            return Ok(verified);
        }
        Err(refuse(PeerRefused::TrustDomain {
            presented,
            trust_domain: self.trust_domain.clone(),
        }))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl fmt::Debug for ClientPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientPeer")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

/// What a client asks of its server.
pub(crate) struct ServerPeer {
    trust: TrustBundle,
    expected: Vec<Identity>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerPeer {
    pub(crate) fn new(
        trust: &TrustBundle,
        expected: Vec<Identity>,
        provider: &CryptoProvider,
    ) -> Self {
        Self {
            trust: trust.clone(),
            expected,
            algorithms: provider.signature_verification_algorithms,
        }
    }
}

impl ServerCertVerifier for ServerPeer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            self.trust.store(),
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let (lists, roots) = (self.trust.revocations(), self.trust.store());
        check_server(lists, roots, end_entity, intermediates, now)?;
        let presented = spiffe_identities(end_entity);
        if presented
            .iter()
            .any(|identity| self.expected.contains(identity))
        {
            return Ok(ServerCertVerified::assertion());
        }
        Err(refuse(PeerRefused::Unexpected {
            presented,
            expected: self.expected.clone(),
        }))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for ServerPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerPeer")
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

fn tls13_only() -> Error {
    PeerIncompatible::Tls12NotOffered.into()
}
