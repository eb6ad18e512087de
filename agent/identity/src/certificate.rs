//! One workload certificate with its key, ready for TLS.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use agent_model::Identity;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::ServerConfig;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use zeroize::{Zeroize, Zeroizing};

use crate::x509::{Facts, facts, parse_pem, spiffe_identity};
use crate::{IdentityError, TrustBundle, provider};

/// More certificates than this in an answer are refused.
const MAX_CHAIN: usize = 64;

/// A fresh P-256 key that waits for its certificate. Never leaves memory; wiped when dropped.
pub struct PendingKey {
    key: KeyPair,
    identity: Identity,
    csr_pem: String,
}

impl PendingKey {
    /// Makes a key and a signing request for `identity`: empty subject, one critical URI name.
    pub fn generate(identity: &Identity) -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        let csr_pem = params.serialize_request(&key)?.pem()?;
        Ok(Self {
            key,
            identity: identity.clone(),
            csr_pem,
        })
    }

    /// The PKCS #10 request, PEM.
    pub fn csr_pem(&self) -> &str {
        &self.csr_pem
    }

    /// Takes the answer of the certificate service: leaf, intermediates, last the root bundle,
    /// PEM each. Fails unless the leaf carries exactly the identity and the key asked for and
    /// chains to those roots, valid at `now`, for both ends of a TLS connection.
    pub fn complete(
        self,
        answer: &[String],
        now: SystemTime,
    ) -> Result<Certificate, IdentityError> {
        let key = Zeroizing::new(self.key.serialize_der());
        Certificate::assemble(&self.identity, key, answer, now, now)
    }
}

impl Drop for PendingKey {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for PendingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingKey")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// A workload's certificate, its key and the roots issued with it.
pub struct Certificate {
    identity: Identity,
    key: Arc<CertifiedKey>,
    trust: TrustBundle,
    chain_pem: String,
    facts: Facts,
    obtained: SystemTime,
    generation: u64,
    server: OnceLock<Arc<ServerConfig>>,
    /// The private key once more, for a successor of this process; rustls gives none back.
    pkcs8: Zeroizing<Vec<u8>>,
}

/// A certificate and its key on the way to the agent's successor. Wiped when dropped, and without
/// a textual form of the key.
pub struct HandedCertificate {
    /// Whose certificate.
    pub identity: Identity,
    /// The private key, PKCS #8 DER.
    pub key: Zeroizing<Vec<u8>>,
    /// Leaf and intermediates, PEM.
    pub chain_pem: String,
    /// The roots its peers must chain to, PEM.
    pub roots_pem: String,
    /// When it was obtained.
    pub obtained: SystemTime,
}

impl HandedCertificate {
    /// Checks it as the certificate service's answer was checked, and makes it ready for use.
    pub(crate) fn receive(self, now: SystemTime) -> Result<Certificate, IdentityError> {
        let answer = [self.chain_pem, self.roots_pem];
        Certificate::assemble(&self.identity, self.key, &answer, now, self.obtained)
    }
}

impl fmt::Debug for HandedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandedCertificate")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Certificate {
    /// `answer` is leaf, intermediates, last the root bundle, PEM each.
    fn assemble(
        identity: &Identity,
        key: Zeroizing<Vec<u8>>,
        answer: &[String],
        now: SystemTime,
        obtained: SystemTime,
    ) -> Result<Self, IdentityError> {
        let unusable = |detail: String| IdentityError::Unusable {
            identity: identity.clone(),
            detail,
        };
        let (chain, trust) = split_answer(answer).map_err(unusable)?;
        let leaf = &chain[0];
        if spiffe_identity(leaf).as_ref() != Some(identity) {
            return Err(unusable("it names another identity".to_owned()));
        }
        verify_chain(&chain, &trust, now).map_err(unusable)?;
        let facts = facts(leaf).ok_or_else(|| unusable("it does not parse".to_owned()))?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_vec()));
        let certified = CertifiedKey::from_der(chain.clone(), der, &provider())
            .map_err(|error| unusable(error.to_string()))?;
        Ok(Self {
            identity: identity.clone(),
            key: Arc::new(certified),
            trust,
            chain_pem: answer[..answer.len() - 1].concat(),
            facts,
            obtained,
            generation: next_generation(),
            server: OnceLock::new(),
            pkcs8: key,
        })
    }

    /// A copy for the successor of this process.
    pub(crate) fn hand_over(&self) -> HandedCertificate {
        HandedCertificate {
            identity: self.identity.clone(),
            key: self.pkcs8.clone(),
            chain_pem: self.chain_pem.clone(),
            roots_pem: self.trust.pem().to_owned(),
            obtained: self.obtained,
        }
    }

    /// Whose certificate it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Grows with every certificate this process obtains: the larger is the newer.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Start of validity.
    pub fn not_before(&self) -> SystemTime {
        self.facts.not_before
    }

    /// End of validity.
    pub fn not_after(&self) -> SystemTime {
        self.facts.not_after
    }

    /// When this process obtained it.
    pub fn obtained(&self) -> SystemTime {
        self.obtained
    }

    /// Serial number, lower-case hexadecimal.
    pub fn serial(&self) -> &str {
        &self.facts.serial
    }

    /// True until the end of validity.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        now < self.facts.not_after
    }

    /// Leaf and intermediates, PEM.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The roots that peers must chain to: those it was issued with, unless the control plane
    /// has said others since.
    pub fn trust(&self) -> &TrustBundle {
        &self.trust
    }

    /// The same certificate with other roots for its peers, as a new generation: connections made
    /// under the roots before are not used for new streams.
    pub(crate) fn trusting(&self, trust: TrustBundle) -> Self {
        Self {
            identity: self.identity.clone(),
            key: Arc::clone(&self.key),
            trust,
            chain_pem: self.chain_pem.clone(),
            facts: self.facts.clone(),
            obtained: self.obtained,
            generation: next_generation(),
            server: OnceLock::new(),
            pkcs8: self.pkcs8.clone(),
        }
    }

    pub(crate) fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }

    /// The server configuration, made by `make` the first time.
    pub(crate) fn server_config_or(
        &self,
        make: impl FnOnce() -> Result<Arc<ServerConfig>, IdentityError>,
    ) -> Result<Arc<ServerConfig>, IdentityError> {
        if let Some(config) = self.server.get() {
            return Ok(Arc::clone(config));
        }
        let config = make()?;
        Ok(Arc::clone(self.server.get_or_init(|| config)))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("identity", &self.identity)
            .field("serial", &self.facts.serial)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

type Chain = Vec<CertificateDer<'static>>;

fn split_answer(answer: &[String]) -> Result<(Chain, TrustBundle), String> {
    let [chain @ .., roots] = answer else {
        return Err("it is empty".to_owned());
    };
    if chain.is_empty() {
        return Err("it has no roots".to_owned());
    }
    let mut presented = Vec::new();
    for pem in chain {
        presented.extend(parse_pem(pem)?);
    }
    if presented.len() > MAX_CHAIN {
        return Err(format!("it holds more than {MAX_CHAIN} certificates"));
    }
    let (trust, problems) = TrustBundle::read(roots.as_bytes())?;
    for problem in problems {
        tracing::warn!(problem, "a root of the certificate service is ignored");
    }
    Ok((presented, trust))
}

fn verify_chain(
    chain: &[CertificateDer<'static>],
    trust: &TrustBundle,
    now: SystemTime,
) -> Result<(), String> {
    let since_epoch = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(|_| "the clock is before 1970".to_owned())?;
    let leaf = EndEntityCert::try_from(&chain[0]).map_err(|error| error.to_string())?;
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        leaf.verify_for_usage(
            provider().signature_verification_algorithms.all,
            &trust.store().roots,
            &chain[1..],
            UnixTime::since_unix_epoch(since_epoch),
            usage,
            None,
            None,
        )
        .map_err(|error| unverified(&error, now))?;
    }
    Ok(())
}

/// Why it does not verify. The commonest reason is a clock, and webpki does not say which way.
fn unverified(error: &webpki::Error, now: SystemTime) -> String {
    let apart = |one: SystemTime, other: SystemTime| {
        let apart = one.duration_since(other).unwrap_or_default();
        format!("{} s", apart.as_secs())
    };
    let at = |time: UnixTime| SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    match error {
        webpki::Error::CertNotValidYet { not_before, .. } => format!(
            "it is not valid before {} from now: the clock here is behind",
            apart(at(*not_before), now)
        ),
        webpki::Error::CertExpired { not_after, .. } => format!(
            "it has ended {} ago: the clock here is ahead, or the certificate is old",
            apart(now, at(*not_after))
        ),
        other => format!("it does not verify: {other}"),
    }
}

fn next_generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
