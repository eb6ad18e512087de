//! Certificates and keys: what is read of Secrets and ConfigMaps, and nothing else of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_model::gateway::traffic::RedisLogin;
use agent_model::gateway::{Certificate, Hostname, SecretKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::Deserialize;
use serde::de::Deserializer;

use super::parameters::{KEYS, Parameters};
use crate::source::kubernetes::Metadata;

/// Certificates of one chain or one bundle.
const MAX_CERTIFICATES: usize = 1_000;

/// `v1 Secret` with a certificate (`tls.crt`) and its key (`tls.key`), or with a login.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "RawSecret")]
pub(crate) struct Secret {
    pub(crate) metadata: Metadata,
    /// What is wrong with it is for the status of whoever refers to it.
    pub(crate) pair: Result<Pair, String>,
    /// Its `password`, and `username` where there is one.
    pub(crate) login: Option<RedisLogin>,
}

/// A certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) certificate: Certificate,
    /// The names that it is for.
    pub(crate) names: Arc<[Hostname]>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSecret {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default, deserialize_with = "texts")]
    data: BTreeMap<String, String>,
    /// Manifests write plain text here, and the API server moves it into `data`.
    #[serde(default, deserialize_with = "texts")]
    string_data: BTreeMap<String, String>,
}

impl From<RawSecret> for Secret {
    fn from(raw: RawSecret) -> Self {
        let field = |name: &str| -> Result<String, String> {
            if let Some(text) = raw.string_data.get(name) {
                return Ok(text.clone());
            }
            let data = raw.data.get(name).ok_or_else(|| format!("no {name}"))?;
            let data: String = data.split_ascii_whitespace().collect();
            let bytes = STANDARD.decode(data);
            let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
            text.ok_or_else(|| format!("{name} is not PEM"))
        };
        let login = field("password")
            .ok()
            .filter(|password| !password.is_empty());
        let login = login.map(|password| RedisLogin {
            user: field("username").ok().map(Into::into),
            password: SecretKey::new(password),
        });
        let pair = field("tls.crt").and_then(|chain| Ok((chain, field("tls.key")?)));
        let pair = pair.and_then(|(chain, key)| {
            let names = check_pair(&chain, &key)?;
            let certificate = Certificate {
                chain: chain.into(),
                key: SecretKey::new(key),
            };
            Ok(Pair { certificate, names })
        });
        Self {
            metadata: raw.metadata,
            pair,
            login,
        }
    }
}

/// Returns the names that the certificate is for.
fn check_pair(chain: &str, key: &str) -> Result<Arc<[Hostname]>, String> {
    let chain = certificates(chain).map_err(|message| format!("tls.crt: {message}"))?;
    // Errors of this parser might repeat what they read.
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| "tls.key holds no private key".to_owned())?;
    let names = chain.first().map(names).unwrap_or_default();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok(names),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("tls.key is not the key of tls.crt".to_owned())
        }
        Err(_) => Err("tls.crt or tls.key is of no kind that is supported".to_owned()),
    }
}

/// At least one certificate, and nothing that is broken.
/// Those that a client could compare with a host.
fn names(certificate: &CertificateDer<'_>) -> Arc<[Hostname]> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else {
        return Arc::default();
    };
    let names = certificate.valid_dns_names();
    names.filter_map(|name| name.parse().ok()).collect()
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .take(MAX_CERTIFICATES + 1)
        .collect();
    match found {
        Ok(found) if found.is_empty() => Err("no certificate in it".to_owned()),
        Ok(found) if found.len() > MAX_CERTIFICATES => {
            Err(format!("more than {MAX_CERTIFICATES} certificates"))
        }
        Ok(found) => Ok(found),
        Err(_) => Err("not PEM".to_owned()),
    }
}

/// `v1 ConfigMap` with the certificates of authorities (`ca.crt`), or with parameters of Gateways.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "RawConfigMap")]
pub(crate) struct ConfigMap {
    pub(crate) metadata: Metadata,
    /// PEM.
    /// What is wrong with it is for the status of whoever refers to it.
    pub(crate) authorities: Result<Arc<str>, String>,
    pub(crate) parameters: Result<Parameters, String>,
}

#[derive(Deserialize)]
struct RawConfigMap {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default, deserialize_with = "texts")]
    data: BTreeMap<String, String>,
}

impl From<RawConfigMap> for ConfigMap {
    fn from(raw: RawConfigMap) -> Self {
        let pem = raw.data.get("ca.crt");
        let authorities = pem.ok_or_else(|| "no ca.crt".to_owned()).and_then(|pem| {
            let found = certificates(pem).map_err(|message| format!("ca.crt: {message}"))?;
            // An anchor that cannot be read would be trusted by nobody, silently.
            let mut roots = rustls::RootCertStore::empty();
            let (_, ignored) = roots.add_parsable_certificates(found);
            match ignored {
                0 => Ok(Arc::from(pem.as_str())),
                _ => Err("ca.crt: a certificate that cannot be read".to_owned()),
            }
        });
        Self {
            metadata: raw.metadata,
            authorities,
            parameters: Parameters::read(&raw.data),
        }
    }
}

/// The entries that are read here; of others, which may be large, the name. What is of another form
/// is left out, as an error of a decoder would repeat what it saw.
fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let serde_json::Value::Object(all) = serde_json::Value::deserialize(from)? else {
        return Ok(BTreeMap::new());
    };
    let read = all.into_iter().filter_map(|(key, value)| {
        let is_read = matches!(
            key.as_str(),
            "tls.crt" | "tls.key" | "ca.crt" | "username" | "password"
        );
        let is_read = is_read || KEYS.contains(&key.as_str());
        let text = value.as_str()?;
        let text = if is_read { text } else { "" };
        Some((key, text.to_owned()))
    });
    Ok(read.collect())
}
