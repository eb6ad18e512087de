//! TLS of listeners: TLS 1.3 and 1.2, certificates chosen by name, clients verified where asked
//! for.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use agent_model::gateway::{
    ClientValidation, ClientValidationMode, Listener, ListenerTls, Protocol,
};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};

use super::material::{certified, roots};

/// What HTTP clients are offered, in order of preference.
const HTTP: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The TLS of listeners, by their names.
#[derive(Debug, Default)]
pub(super) struct Terminations(HashMap<Arc<str>, Termination>);

#[derive(Debug, Clone)]
struct Termination {
    told: ListenerTls,
    is_http: bool,
    config: Arc<ServerConfig>,
}

impl Terminations {
    /// The TLS of a listener where it ends there, or what is wrong with it. What `before` has is
    /// not compiled again: its sessions live on.
    pub(super) fn take(
        &mut self,
        listener: &Listener,
        before: &Self,
    ) -> Result<Option<Arc<ServerConfig>>, String> {
        let is_http = listener.protocol == Protocol::Https;
        let told = match (listener.protocol, &listener.tls) {
            (Protocol::Https | Protocol::Tls, Some(told @ ListenerTls::Terminate { .. })) => told,
            (Protocol::Tls, Some(ListenerTls::Passthrough)) => return Ok(None),
            (Protocol::Https | Protocol::Tls, _) => {
                return Err("this listener has to terminate TLS".to_owned());
            }
            _ => return Ok(None),
        };
        let known = before.0.get(&listener.name);
        let known = known.filter(|one| one.told == *told && one.is_http == is_http);
        let termination = match known {
            Some(known) => known.clone(),
            None => Termination {
                told: told.clone(),
                is_http,
                config: terminate(told, if is_http { &HTTP } else { &[] })?,
            },
        };
        let config = Arc::clone(&termination.config);
        self.0.insert(Arc::clone(&listener.name), termination);
        Ok(Some(config))
    }
}

/// TLS that ends here, with the protocols that clients are offered inside. Keys never appear in
/// what is said to be wrong. All cipher suites are AEADs with forward secrecy, in TLS 1.2 too.
fn terminate(told: &ListenerTls, protocols: &[&[u8]]) -> Result<Arc<ServerConfig>, String> {
    let ListenerTls::Terminate {
        certificates,
        client_validation,
    } = told
    else {
        return Err("this listener does not terminate TLS".to_owned());
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let keys = certificates
        .iter()
        .map(|certificate| certified(certificate, &provider))
        .collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() {
        return Err("the listener has no certificate".to_owned());
    }
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| error.to_string())?;
    let builder = match client_validation {
        None => builder.with_no_client_auth(),
        Some(validation) => builder.with_client_cert_verifier(verifier(validation, provider)?),
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByName(keys)));
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// True when whoever gets in has shown a certificate that holds. What the lenient mode lets in
/// proves nothing.
pub(super) fn proves_clients(tls: &ListenerTls) -> bool {
    match tls {
        ListenerTls::Terminate {
            client_validation: Some(validation),
            ..
        } => validation.mode == ClientValidationMode::AllowValidOnly,
        ListenerTls::Terminate { .. } | ListenerTls::Passthrough => false,
    }
}

fn verifier(
    validation: &ClientValidation,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let roots = roots(&validation.roots)?;
    let strict = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| error.to_string())?;
    Ok(match validation.mode {
        ClientValidationMode::AllowValidOnly => strict,
        ClientValidationMode::AllowInsecureFallback => Arc::new(Lenient(strict)),
    })
}

/// The first certificate that is for the name the client asks for, else the first one; always one
/// whose key the client can verify.
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let mut usable = self
            .0
            .iter()
            .filter(|key| key.key.choose_scheme(schemes).is_some());
        let named = hello.server_name().and_then(|name| {
            let mut usable = usable.clone();
            usable.find(|key| is_for(key, name))
        });
        named.or_else(|| usable.next()).cloned()
    }
}

fn is_for(key: &CertifiedKey, name: &str) -> bool {
    let Some(leaf) = key.cert.first() else {
        return false;
    };
    let Ok(leaf) = webpki::EndEntityCert::try_from(leaf) else {
        return false;
    };
    rustls::pki_types::ServerName::try_from(name)
        .is_ok_and(|name| leaf.verify_is_valid_for_subject_name(&name).is_ok())
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByName({} certificates)", self.0.len())
    }
}

/// Lets clients in whatever they show (Gateway API, `AllowInsecureFallback`). Nothing may be
/// derived from such a certificate.
#[derive(Debug)]
struct Lenient(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Lenient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
