//! The control plane's own server certificate: signed by its authority, renewed by itself.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroize;

use super::{Authority, Signer};
use crate::x509::parse_pem;
use crate::{IdentityError, provider, renewal_delay};

impl Authority {
    /// A TLS 1.3 server configuration (ALPN h2, no client certificate) whose certificate names
    /// `names` (DNS names and addresses). It lives for `ttl` and is replaced at half-life or when
    /// another issuer signs, by the first handshake after it; `clock` tells the time (`SystemTime::now` outside tests).
    pub fn serving_config(
        self: &Arc<Self>,
        names: &[String],
        ttl: Duration,
        clock: fn() -> SystemTime,
    ) -> Result<Arc<ServerConfig>, IdentityError> {
        let names = names
            .iter()
            .map(|name| subject_name(name))
            .collect::<Result<Vec<_>, _>>()?;
        if names.is_empty() {
            return Err(IdentityError::Authority("no serving names".to_owned()));
        }
        let first = serving_key(self.signer(), &names, ttl, clock())?;
        let resolver = Serving {
            authority: Arc::clone(self),
            names,
            ttl,
            clock,
            current: Mutex::new(first),
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn serving_key(
    signer: Arc<Signer>,
    names: &[SanType],
    ttl: Duration,
    now: SystemTime,
) -> Result<Issued, IdentityError> {
    let mut key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = signer.leaf(ttl, now)?;
    params.subject_alt_names = names.to_vec();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let not_after = SystemTime::from(params.not_after);
    let chain =
        parse_pem(&signer.issue(&params, &key)?.concat()).map_err(IdentityError::Authority)?;
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    key.zeroize();
    Ok(Issued {
        key: Arc::new(CertifiedKey::from_der(chain, der, &provider())?),
        signer,
        renew_at: now + renewal_delay(now, not_after, rand::random()),
        not_after,
    })
}

/// A serving certificate and its schedule.
struct Issued {
    key: Arc<CertifiedKey>,
    signer: Arc<Signer>,
    renew_at: SystemTime,
    not_after: SystemTime,
}

struct Serving {
    authority: Arc<Authority>,
    names: Vec<SanType>,
    ttl: Duration,
    clock: fn() -> SystemTime,
    current: Mutex<Issued>,
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let now = (self.clock)();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let signer = self.authority.signer();
        // Also when another signs by now: the roots of the one before are on their way out.
        if now >= current.renew_at || !Arc::ptr_eq(&signer, &current.signer) {
            match serving_key(signer, &self.names, self.ttl, now) {
                Ok(issued) => *current = issued,
                Err(error) => tracing::error!(%error, "serving certificate not renewed"),
            }
        }
        (now < current.not_after).then(|| Arc::clone(&current.key))
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

fn subject_name(name: &str) -> Result<SanType, IdentityError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    if name.is_empty() || name.len() > 253 {
        return Err(IdentityError::Authority(format!("serving name {name:?}")));
    }
    Ok(SanType::DnsName(name.to_owned().try_into()?))
}
