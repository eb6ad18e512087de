//! TLS that begins here: to the endpoints of services (BackendTLSPolicy).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use agent_model::NamespacedHostname;
use agent_model::gateway::{
    Backend, BackendTls, Certificate, SubjectAltName, TrustedRoots, VerifiedTls,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use super::material::{certified, roots};

/// What is spoken inside TLS to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Bytes that nobody looks into: no protocol is offered.
    Bytes,
    /// TLS of the client, who speaks with the endpoint itself: there is none of ours around it.
    Tls,
}

/// TLS to the endpoints of a service.
pub struct Origination {
    wanted: VerifiedTls,
    shown: Option<Certificate>,
    name: ServerName<'static>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    bytes: Arc<ClientConfig>,
}

impl Origination {
    /// The name that is sent (SNI).
    pub fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// How to speak it.
    pub fn config(&self, inside: Inside) -> &Arc<ClientConfig> {
        match inside {
            Inside::Http1 => &self.http1,
            Inside::Http2 => &self.http2,
            Inside::Bytes | Inside::Tls => &self.bytes,
        }
    }

    /// Compiles what is told. `shown` is the gateway's own certificate, for those who ask for one.
    pub(crate) fn reached(tls: &BackendTls, shown: Option<&Certificate>) -> Reached {
        match tls {
            BackendTls::Invalid(why) => Err(Arc::clone(why)),
            BackendTls::Verified(wanted) => {
                let compiled = Self::compile(wanted, shown);
                compiled.map(Arc::new).map_err(Arc::from)
            }
        }
    }

    fn compile(wanted: &VerifiedTls, shown: Option<&Certificate>) -> Result<Self, String> {
        let name = ServerName::try_from(wanted.hostname.to_string())
            .map_err(|_| format!("{:?} is not a host name", wanted.hostname))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Verifier {
            roots: match &wanted.roots {
                TrustedRoots::System => system_roots()?,
                TrustedRoots::Certificates(pem) => roots(pem)?,
            },
            alternatives: wanted.subject_alt_names.clone(),
            algorithms: provider.signature_verification_algorithms,
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let bytes = match shown {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let key = certified(certificate, &provider)
                    .map_err(|what| format!("the certificate for backends: {what}"))?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
            }
        };
        let offering = |protocol: &[u8]| {
            let mut config = bytes.clone();
            config.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(config)
        };
        Ok(Self {
            wanted: wanted.clone(),
            shown: shown.cloned(),
            name,
            http1: offering(b"http/1.1"),
            http2: offering(b"h2"),
            bytes: Arc::new(bytes),
        })
    }
}

impl fmt::Debug for Origination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origination")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// TLS to endpoints, or why nothing may be sent to them.
pub type Reached = Result<Arc<Origination>, Arc<str>>;

/// The services whose endpoints are reached by TLS.
#[derive(Debug, Clone, Default)]
pub struct Originations(HashMap<NamespacedHostname, Vec<(Option<u16>, Reached)>>);

impl Originations {
    /// Compiles what is told of backends. What `before` has is not compiled again: its sessions
    /// and its connections live on.
    pub(super) fn compile<'a>(
        backends: impl IntoIterator<Item = &'a Arc<Backend>>,
        shown: Option<&Certificate>,
        before: &Self,
    ) -> Self {
        let mut table = HashMap::<_, Vec<_>>::new();
        for backend in backends {
            let reached = match &backend.tls {
                None => continue,
                Some(tls) => {
                    let known = before.known(&backend.service, backend.port, tls, shown);
                    known.map_or_else(|| Origination::reached(tls, shown), Ok)
                }
            };
            let ports = table.entry(backend.service.clone()).or_default();
            ports.push((backend.port, reached));
        }
        Self(table)
    }

    /// How the endpoints behind a port of a service are reached; `None` is without TLS. What is
    /// said of a port counts more than what is said of the service.
    pub fn of(&self, service: &NamespacedHostname, port: u16) -> Option<&Reached> {
        let ports = self.0.get(service)?;
        let said = |wanted| ports.iter().find(|(of, _)| *of == wanted);
        let (_, reached) = said(Some(port)).or_else(|| said(None))?;
        Some(reached)
    }

    /// Those that cannot be used.
    pub(super) fn unusable(
        &self,
    ) -> impl Iterator<Item = (&NamespacedHostname, Option<u16>, &Arc<str>)> {
        self.0.iter().flat_map(|(service, ports)| {
            let unusable = ports.iter().filter_map(|(port, reached)| {
                let why = reached.as_ref().err()?;
                Some((*port, why))
            });
            unusable.map(move |(port, why)| (service, port, why))
        })
    }

    fn known(
        &self,
        service: &NamespacedHostname,
        port: Option<u16>,
        tls: &BackendTls,
        shown: Option<&Certificate>,
    ) -> Option<Arc<Origination>> {
        let BackendTls::Verified(wanted) = tls else {
            return None;
        };
        let (_, reached) = self.0.get(service)?.iter().find(|(of, _)| *of == port)?;
        let known = reached.as_ref().ok()?;
        let is_same = known.wanted == *wanted && known.shown.as_ref() == shown;
        is_same.then(|| Arc::clone(known))
    }
}

fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    match (added, found.errors.first()) {
        (0, Some(error)) => Err(format!("the system's roots cannot be read: {error}")),
        (0, None) => Err("this system has no roots".to_owned()),
        _ => Ok(roots),
    }
}

/// Checks certificates of endpoints.
struct Verifier {
    roots: RootCertStore,
    /// In place of the name that was asked for.
    alternatives: Vec<SubjectAltName>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// The certificate is valid and carries none of the names that are wanted.
#[derive(Debug, thiserror::Error)]
#[error("the certificate has none of the wanted names: {0:?}")]
struct OtherNames(Vec<SubjectAltName>);

impl Verifier {
    fn carries(
        certificate: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        name: &SubjectAltName,
    ) -> bool {
        let Ok(names) = webpki::EndEntityCert::try_from(certificate) else {
            return false;
        };
        match name {
            SubjectAltName::Uri(uri) => names.valid_uri_names().any(|one| *one == **uri),
            SubjectAltName::Hostname(host) if host.starts_with("*.") => names
                .valid_dns_names()
                .any(|one| one.eq_ignore_ascii_case(host)),
            SubjectAltName::Hostname(host) => ServerName::try_from(&**host)
                .is_ok_and(|name| verify_server_name(parsed, &name).is_ok()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        if self.alternatives.is_empty() {
            verify_server_name(&parsed, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        let mut alternatives = self.alternatives.iter();
        if alternatives.any(|name| Self::carries(certificate, &parsed, name)) {
            return Ok(ServerCertVerified::assertion());
        }
        let other = OtherError(Arc::new(OtherNames(self.alternatives.clone())));
        Err(Error::InvalidCertificate(CertificateError::Other(other)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("alternatives", &self.alternatives)
            .finish_non_exhaustive()
    }
}
