//! The server's certificate, and the kubeconfig by which clients come in.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::Rng;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// Names that the server's certificate has besides its address.
const NAMES: [&str; 4] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
];

/// What the server needs to be believed.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) tls: Arc<ServerConfig>,
    /// PEM of the authority that signed its certificate.
    pub(super) root: String,
}

impl Credentials {
    /// A new authority and a certificate for these addresses.
    pub(super) fn make(addresses: &[IpAddr]) -> Result<Self> {
        let authority_key = KeyPair::generate()?;
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority
            .distinguished_name
            .push(DnType::CommonName, "kubernetes (fixture)");
        let root = authority.self_signed(&authority_key)?.pem();
        let issuer = Issuer::new(authority, authority_key);

        let mut names: Vec<String> = NAMES.iter().map(|&name| name.to_owned()).collect();
        names.extend(addresses.iter().map(ToString::to_string));
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(names)?;
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = leaf.signed_by(&key, &issuer)?;

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("no TLS version")?
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            tls: Arc::new(tls),
            root,
        })
    }
}

/// A token that nobody can guess.
pub(super) fn admin_token() -> String {
    let bytes: [u8; 24] = rand::rng().random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A kubeconfig for the server at `address`; without a root it speaks plain HTTP.
pub(super) fn kubeconfig(address: SocketAddr, root: Option<&str>, token: &str) -> String {
    let (scheme, authority) = match root {
        None => ("http", String::new()),
        Some(pem) => (
            "https",
            format!("\n    certificate-authority-data: {}", STANDARD.encode(pem)),
        ),
    };
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: fixture
  cluster:
    server: {scheme}://{address}{authority}
users:
- name: admin
  user:
    token: {token}
contexts:
- name: fixture
  context:
    cluster: fixture
    user: admin
current-context: fixture
"
    )
}
