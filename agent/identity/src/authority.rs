//! The certificate authority of the mesh: a root and a signer.

mod files;
mod request;
mod serving;

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use agent_model::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::IdentityError;
use crate::x509::{facts, parse_pem};

pub use request::MAX_CSR_BYTES;

/// Clocks of nodes may be behind by this much.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Lifetime of a root made here.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Length of serial numbers; RFC 5280 section 4.1.2.2 allows 20.
const SERIAL_BYTES: usize = 16;

/// Signs certificates of workloads and of the control plane's own servers. Holds the private key
/// of the issuer in memory.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    issuer_not_after: SystemTime,
    /// The issuer's own chain without the root, PEM, nearest first; empty when it is the root.
    intermediates: Vec<String>,
    roots_pem: String,
}

impl Authority {
    /// Opens the authority in `state_dir`, or makes it when neither of its files is there: a
    /// P-256 root of 10 years in `root-cert.pem` and its key in `root-key.pem` (mode 0600), the
    /// directory 0700. Fails when only one of the files exists or when others may read the key: a
    /// root is never replaced silently.
    pub fn open(
        state_dir: &Path,
        trust_domain: &str,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let (certificate, key) = match files::load(state_dir)? {
            Some(found) => found,
            None => {
                let (certificate, key) = make_root(trust_domain, now)?;
                files::store(state_dir, &certificate, &key)?;
                (certificate, key)
            }
        };
        Self::from_pem(&certificate, &key, &certificate)
    }

    /// A new authority whose root lives only as long as the value.
    pub fn in_memory(trust_domain: &str, now: SystemTime) -> Result<Self, IdentityError> {
        let (certificate, key) = make_root(trust_domain, now)?;
        Self::from_pem(&certificate, &key, &certificate)
    }

    /// An authority given from outside: `chain_pem` is the issuer's certificate followed by its
    /// intermediates (a root at its end is left out of what is sent), `key_pem` the issuer's
    /// PKCS #8 key, `roots_pem` the bundle peers shall trust.
    pub fn from_pem(
        chain_pem: &str,
        key_pem: &str,
        roots_pem: &str,
    ) -> Result<Self, IdentityError> {
        let invalid =
            |what: &str, error: String| IdentityError::Authority(format!("{what}: {error}"));
        let chain = parse_pem(chain_pem).map_err(|error| invalid("issuer chain", error))?;
        let roots = parse_pem(roots_pem).map_err(|error| invalid("roots", error))?;
        let key =
            KeyPair::from_pem(key_pem).map_err(|error| invalid("issuer key", error.to_string()))?;
        request::check_issuer(&chain[0], &key).map_err(IdentityError::Authority)?;
        let facts = facts(&chain[0])
            .ok_or_else(|| IdentityError::Authority("issuer does not parse".to_owned()))?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&chain[0], key)?,
            issuer_not_after: facts.not_after,
            intermediates: without_roots(chain_pem, &roots),
            roots_pem: roots_pem.to_owned(),
        })
    }

    /// As [`Self::from_pem`], from files. The key file must not be readable by group or others.
    pub fn from_files(chain: &Path, key: &Path, roots: &Path) -> Result<Self, IdentityError> {
        Self::from_pem(
            &files::read(chain)?,
            &files::read_secret(key)?,
            &files::read(roots)?,
        )
    }

    /// The roots every node must trust, PEM.
    pub fn roots_pem(&self) -> &str {
        &self.roots_pem
    }

    /// Signs a workload's request when it asks for exactly `expected` (see [`MAX_CSR_BYTES`] for
    /// its size): self-signed with a P-256 key, one name, the SPIFFE URI, no CA. The certificate
    /// is valid from 5 minutes ago for `ttl` from `now`, not beyond the issuer. Returns PEM texts
    /// in the order of the certificate service: leaf, intermediates, last the root bundle.
    pub fn sign(
        &self,
        csr_pem: &str,
        expected: &Identity,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<String>, IdentityError> {
        let public_key = request::check(csr_pem, expected).map_err(IdentityError::Request)?;
        let mut params = self.leaf(ttl, now)?;
        params.subject_alt_names = vec![SanType::URI(expected.to_string().try_into()?)];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let mut answer = self.issue(&params, &public_key)?;
        answer.push(self.roots_pem.clone());
        Ok(answer)
    }

    /// What every leaf has in common: no subject, signing only, clipped to the issuer's life.
    fn leaf(&self, ttl: Duration, now: SystemTime) -> Result<CertificateParams, IdentityError> {
        if now >= self.issuer_not_after {
            return Err(IdentityError::Authority(
                "the issuer has expired".to_owned(),
            ));
        }
        let not_after = now
            .checked_add(ttl)
            .map_or(self.issuer_not_after, |end| end.min(self.issuer_not_after));
        let mut params = base_params(now - BACKDATE, not_after);
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    /// Leaf and intermediates, PEM.
    fn issue(
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

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("issuer_not_after", &self.issuer_not_after)
            .field("intermediates", &self.intermediates.len())
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

/// Certificate and key of a new root, PEM.
fn make_root(
    trust_domain: &str,
    now: SystemTime,
) -> Result<(String, Zeroizing<String>), IdentityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let key_pem = Zeroizing::new(key.serialize_pem());
    let mut params = base_params(now - BACKDATE, now + ROOT_LIFETIME);
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Culvert");
    // Roots of one mesh that follow each other must differ in name, or verifiers try the wrong one.
    let distinct: u64 = rand::random();
    name.push(
        DnType::CommonName,
        format!("{trust_domain} root {distinct:016x}"),
    );
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root = CertifiedIssuer::self_signed(params, key)?;
    Ok((root.pem(), key_pem))
}

fn base_params(not_before: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut serial: [u8; SERIAL_BYTES] = rand::random();
    // Positive and of full length.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from(not_before);
    params.not_after = OffsetDateTime::from(not_after);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

#[cfg(test)]
mod tests;
