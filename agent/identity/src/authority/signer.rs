//! What signs: an issuer's certificate with its key, and the roots it comes from.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{files, request};
use crate::x509::{facts, parse_pem};
use crate::{IdentityError, TrustBundle};

/// Clocks of nodes may be behind by this much.
pub(super) const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Lifetime of a root made here.
pub(super) const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Length of serial numbers; RFC 5280 section 4.1.2.2 allows 20.
const SERIAL_BYTES: usize = 16;

/// An issuer. Its private key is in memory only.
pub struct Signer {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
    /// The issuer's own chain without the root, PEM, nearest first; empty when it is the root.
    intermediates: Vec<String>,
    pub(super) roots: TrustBundle,
}

impl Signer {
    /// An issuer given from outside: `chain_pem` is its certificate followed by its intermediates
    /// (a root at its end is left out of what is sent), `key_pem` its PKCS #8 key, `roots_pem` the
    /// roots it chains to.
    pub fn from_pem(
        chain_pem: &str,
        key_pem: &str,
        roots_pem: &str,
    ) -> Result<Self, IdentityError> {
        let invalid =
            |what: &str, error: String| IdentityError::Authority(format!("{what}: {error}"));
        let chain = parse_pem(chain_pem).map_err(|error| invalid("issuer chain", error))?;
        let roots = TrustBundle::parse(roots_pem).map_err(|error| invalid("roots", error))?;
        let root_certificates = parse_pem(roots_pem).map_err(|error| invalid("roots", error))?;
        let key =
            KeyPair::from_pem(key_pem).map_err(|error| invalid("issuer key", error.to_string()))?;
        request::check_issuer(&chain[0], &key).map_err(IdentityError::Authority)?;
        let facts = facts(&chain[0])
            .ok_or_else(|| IdentityError::Authority("issuer does not parse".to_owned()))?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&chain[0], key)?,
            certificate: chain[0].clone(),
            not_before: facts.not_before,
            not_after: facts.not_after,
            intermediates: without_roots(chain_pem, &root_certificates),
            roots,
        })
    }

    /// As [`Self::from_pem`], from files. The key file must not be readable by others, nor
    /// writable by the group.
    pub fn from_files(chain: &Path, key: &Path, roots: &Path) -> Result<Self, IdentityError> {
        Self::from_pem(
            &files::read(chain)?,
            &files::read_given_secret(key)?,
            &files::read(roots)?,
        )
    }

    /// The roots it comes from.
    pub fn roots(&self) -> &TrustBundle {
        &self.roots
    }

    /// End of the issuer's validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Start of the issuer's validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// True when both are the same certificate of the same roots.
    pub fn is_same(&self, other: &Self) -> bool {
        self.certificate == other.certificate && self.roots == other.roots
    }

    /// What every leaf has in common: no subject, signing only, clipped to the issuer's life.
    pub(super) fn leaf(
        &self,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<CertificateParams, IdentityError> {
        if now >= self.not_after {
            return Err(IdentityError::Authority(
                "the issuer has expired".to_owned(),
            ));
        }
        let not_after = now
            .checked_add(ttl)
            .map_or(self.not_after, |end| end.min(self.not_after));
        let mut params = base_params(now - BACKDATE, not_after);
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    /// Leaf and intermediates, PEM.
    pub(super) fn issue(
        &self,
        params: &CertificateParams,
        public_key: &impl PublicKeyData,
    ) -> Result<Vec<String>, IdentityError> {
        let leaf = params.signed_by(public_key, &self.issuer)?;
        let mut chain = vec![leaf.pem()];
        chain.extend(self.intermediates.iter().cloned());
        Ok(chain)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("not_after", &self.not_after)
            .field("intermediates", &self.intermediates.len())
            .field("roots", &self.roots)
            .finish_non_exhaustive()
    }
}

/// The PEM sections of `chain_pem` that are not among `roots`, each with its line end.
fn without_roots(chain_pem: &str, roots: &[CertificateDer<'static>]) -> Vec<String> {
    let sections = chain_pem.split_inclusive("-----END CERTIFICATE-----");
    let intermediates = sections.filter(|section| {
        parse_pem(section).is_ok_and(|certificates| !roots.contains(&certificates[0]))
    });
    intermediates
        .map(|section| format!("{}\n", section.trim_start()))
        .collect()
}

/// A root just made, to be kept by whoever made it.
pub struct NewRoot {
    /// The certificate, PEM.
    pub certificate: String,
    /// Its PKCS #8 key, PEM; wiped when dropped.
    pub key: Zeroizing<String>,
}

impl NewRoot {
    /// A P-256 root of 10 years, with a name of its own.
    pub fn make(trust_domain: &str, now: SystemTime) -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        let mut params = base_params(now - BACKDATE, now + ROOT_LIFETIME);
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "Culvert");
        // Roots of one mesh that follow each other must differ in name, or verifiers try the
        // wrong one.
        let distinct: u64 = rand::random();
        name.push(
            DnType::CommonName,
            format!("{trust_domain} root {distinct:016x}"),
        );
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = CertifiedIssuer::self_signed(params, key)?;
        Ok(Self {
            certificate: root.pem(),
            key: key_pem,
        })
    }
}

impl fmt::Debug for NewRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewRoot").finish_non_exhaustive()
    }
}

pub(super) fn base_params(not_before: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut serial: [u8; SERIAL_BYTES] = rand::random();
    // Positive and of full length.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from(not_before);
    params.not_after = OffsetDateTime::from(not_after);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}
