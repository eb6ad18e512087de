//! A certificate authority for peers of the gateway.

use std::io;
use std::sync::Arc;

use agent_model::gateway::{Certificate, SecretKey};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub(crate) root: rcgen::Certificate,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        Self {
            issuer: rcgen::Issuer::new(params, key),
            root,
        }
    }

    pub(crate) fn issue(&self, names: &[&str]) -> (rcgen::Certificate, rcgen::KeyPair) {
        let key = rcgen::KeyPair::generate().unwrap();
        let (uris, names): (Vec<&str>, _) = names.iter().partition(|name| name.contains("://"));
        let names: Vec<_> = names.iter().map(|name: &&str| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        for uri in uris {
            let uri = rcgen::SanType::URI(uri.try_into().unwrap());
            params.subject_alt_names.push(uri);
        }
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    pub(crate) fn certificate(&self, names: &[&str]) -> Certificate {
        let (certificate, key) = self.issue(names);
        Certificate {
            chain: certificate.pem().into(),
            key: SecretKey::new(key.serialize_pem()),
        }
    }

    /// The same authority, as that of a mesh.
    pub(super) fn of_mesh(&self) -> agent_identity::Authority {
        let (root, key) = (self.root.pem(), self.issuer.key().serialize_pem());
        agent_identity::Authority::from_pem(&root, &key, &root).unwrap()
    }

    /// TLS over a stream to `name`, as a client that trusts this authority.
    pub(super) async fn trusting<S>(&self, stream: S, name: &str) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await
    }

    /// What a server with a certificate for these names speaks; clients have to show one of
    /// `clients`, where that is given.
    pub(crate) fn server(
        &self,
        names: &[&str],
        version: &'static rustls::SupportedProtocolVersion,
        protocols: &[&[u8]],
        clients: Option<&Self>,
    ) -> Arc<ServerConfig> {
        let (certificate, key) = self.issue(names);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.root.der().clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let chain = vec![certificate.der().clone()];
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}
