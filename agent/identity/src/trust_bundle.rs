//! The roots that peers' certificates may come from.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Revocations;
use crate::x509::{facts, parse_pem};

/// A bundle of more bytes than this is refused unread.
pub const MAX_BUNDLE_BYTES: usize = 1024 * 1024;
/// A bundle of more roots than this is refused.
const MAX_ROOTS: usize = 64;
/// The line a certificate begins with, and the one it ends with.
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// One or more roots; there is no empty bundle, so trust can never be empty by accident.
#[derive(Clone)]
pub struct TrustBundle {
    pem: Arc<str>,
    sha256: Arc<str>,
    roots: Arc<[TrustedRoot]>,
    store: Arc<RootCertStore>,
    revocations: Revocations,
}

/// One root of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedRoot {
    certificate: CertificateDer<'static>,
    pem: Arc<str>,
    /// SHA-256 of the certificate, lower-case hexadecimal.
    pub fingerprint: Arc<str>,
    /// Its subject, as RFC 4514 writes it.
    pub subject: String,
    /// End of its validity.
    pub not_after: SystemTime,
}

impl TrustBundle {
    /// Reads a PEM text of which every part must be a usable root. The text is kept as it is.
    pub fn parse(pem: &str) -> Result<Self, String> {
        let (mut bundle, problems) = Self::read(pem.as_bytes())?;
        if let Some(problem) = problems.into_iter().next() {
            return Err(problem);
        }
        // Text outside of the certificates goes along: whoever gave the bundle wants it as it is.
        if bundle.revocations.is_empty() {
            bundle.pem = pem.into();
        }
        Ok(bundle)
    }

    /// Reads what somebody else wrote: usable roots and revocation lists count, the others are named
    /// in the second part of the answer. An error when there is no usable root, or far too much: whoever asks stays
    /// with what it had.
    pub fn read(text: &[u8]) -> Result<(Self, Vec<String>), String> {
        if text.len() > MAX_BUNDLE_BYTES {
            return Err(format!("larger than {MAX_BUNDLE_BYTES} bytes"));
        }
        let text = String::from_utf8_lossy(text);
        let (mut roots, mut problems) = (Vec::<TrustedRoot>::new(), Vec::new());
        for (index, section) in text.split(BEGIN).skip(1).enumerate() {
            match TrustedRoot::read(section) {
                Ok(root) if roots.contains(&root) => {}
                Ok(root) => roots.push(root),
                Err(problem) => problems.push(format!("certificate {}: {problem}", index + 1)),
            }
        }
        if roots.len() > MAX_ROOTS {
            return Err(format!("more than {MAX_ROOTS} roots"));
        }
        if roots.is_empty() {
            let problem = problems.into_iter().next();
            return Err(problem.unwrap_or_else(|| "no PEM certificate in it".to_owned()));
        }
        let (revocations, of_lists) = Revocations::read(&text);
        problems.extend(of_lists);
        Ok((Self::of(roots).revoking(revocations), problems))
    }

    /// These roots with other revocation lists.
    pub fn revoking(mut self, revocations: Revocations) -> Self {
        self.revocations = revocations;
        self
    }

    /// Who of the issuers' certificates counts no longer.
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Roots and revocation lists, as [`Self::read`] takes them.
    pub fn text(&self) -> String {
        format!("{}{}", self.pem, self.revocations.pem())
    }

    /// The bundle of these roots and those, each once, in that order.
    pub fn with(&self, others: &[TrustedRoot]) -> Self {
        let mut roots = self.roots.to_vec();
        for other in others {
            if !roots.contains(other) {
                roots.push(other.clone());
            }
        }
        Self::of(roots).revoking(self.revocations.clone())
    }

    /// True when every root of `other` is one of these.
    pub fn includes(&self, other: &Self) -> bool {
        other.roots.iter().all(|root| self.roots.contains(root))
    }

    /// PEM of the roots, one certificate after the other.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// What two bundles of the same roots have in common, whatever their order and whatever text
    /// is around them: SHA-256 of the sorted [`TrustedRoot::fingerprint`]s, a newline after each;
    /// lower-case hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The bundle of those roots for which `keep` is true; `None` when none is.
    pub fn only(&self, keep: impl Fn(&TrustedRoot) -> bool) -> Option<Self> {
        let roots: Vec<_> = self.roots.iter().filter(|root| keep(root)).collect();
        if roots.len() == self.roots.len() {
            return Some(self.clone());
        }
        (!roots.is_empty()).then(|| {
            let roots = Self::of(roots.into_iter().cloned().collect());
            roots.revoking(self.revocations.clone())
        })
    }

    /// The roots, at least one.
    pub fn roots(&self) -> &[TrustedRoot] {
        &self.roots
    }

    pub(crate) fn store(&self) -> &Arc<RootCertStore> {
        &self.store
    }

    /// Roots are known to be usable here.
    fn of(roots: Vec<TrustedRoot>) -> Self {
        let pem: String = roots.iter().map(|root| &*root.pem).collect();
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().map(|root| root.certificate.clone()));
        let mut fingerprints: Vec<_> = roots.iter().map(|root| &*root.fingerprint).collect();
        fingerprints.sort_unstable();
        let set: String = fingerprints.iter().flat_map(|one| [one, "\n"]).collect();
        Self {
            sha256: sha256(set.as_bytes()).into(),
            pem: pem.into(),
            roots: roots.into(),
            store: Arc::new(store),
            revocations: Revocations::default(),
        }
    }
}

impl TrustedRoot {
    /// Reads what follows a BEGIN line.
    fn read(section: &str) -> Result<Self, String> {
        let (body, _) = section
            .split_once(END)
            .ok_or_else(|| "it has no end".to_owned())?;
        let pem = format!("{BEGIN}{}{END}\n", body.replace('\r', ""));
        let certificate = parse_pem(&pem)?.swap_remove(0);
        webpki::anchor_from_trusted_cert(&certificate)
            .map_err(|error| format!("it is no root: {error}"))?;
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .map_err(|error| format!("it does not parse: {error}"))?;
        let subject = parsed.subject().to_string();
        let facts = facts(&certificate).ok_or_else(|| "it does not parse".to_owned())?;
        Ok(Self {
            fingerprint: sha256(&certificate).into(),
            pem: pem.into(),
            subject,
            not_after: facts.not_after,
            certificate,
        })
    }
}

impl PartialEq for TrustBundle {
    /// The same roots in the same order, written the same way, and the same revocation lists.
    fn eq(&self, other: &Self) -> bool {
        self.pem == other.pem && self.revocations == other.revocations
    }
}

impl Eq for TrustBundle {}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fingerprints = self.roots.iter().map(|root| &*root.fingerprint);
        f.debug_list().entries(fingerprints).finish()
    }
}

fn sha256(bytes: &[u8]) -> String {
    let hash = digest(&SHA256, bytes);
    hash.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Authority;

    fn root() -> String {
        let authority = Authority::in_memory("cluster.local", SystemTime::now());
        authority.unwrap().bundle().pem().to_owned()
    }

    #[test]
    fn f_26_good_roots_are_kept_and_bad_ones_named() {
        let (good, other) = (root(), root());
        let garbled = good.replace("MII", "!!!");
        let cut = other.lines().take(3).collect::<Vec<_>>().join("\n");
        let text = format!(
            "# ours\r\n{garbled}{}{cut}\n{other}",
            good.replace('\n', "\r\n")
        );
        let (bundle, problems) = TrustBundle::read(text.as_bytes()).unwrap();
        assert_eq!(bundle.pem(), format!("{good}{other}"));
        assert_eq!(bundle.store().len(), 2);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(TrustBundle::parse(&text).is_err());
    }

    #[test]
    fn f_26_there_is_no_empty_trust() {
        let huge = "x".repeat(MAX_BUNDLE_BYTES + 1);
        let der = parse_pem(&root()).unwrap();
        for text in [
            &b""[..],
            b"no certificate",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            huge.as_bytes(),
            &der[0],
        ] {
            assert!(TrustBundle::read(text).is_err());
        }
        assert!(TrustBundle::read(root().repeat(10_000).as_bytes()).is_err());
    }

    #[test]
    fn a_bundle_has_every_root_once_and_a_name_for_its_content() {
        let (one, two) = (root(), root());
        let first = TrustBundle::parse(&one).unwrap();
        let second = TrustBundle::parse(&two).unwrap();
        let both = first.with(second.roots()).with(first.roots());
        assert_eq!(both.pem(), format!("{one}{two}"));
        assert_eq!(both, TrustBundle::parse(&format!("{one}{two}")).unwrap());
        assert_ne!(both.sha256(), first.sha256());
        // Replicas that came to the same roots in another order mean the same.
        let reverse = TrustBundle::parse(&format!("# ours\n{two}{one}")).unwrap();
        assert_ne!(reverse, both);
        assert_eq!(reverse.sha256(), both.sha256());
        let is_first = |root: &TrustedRoot| *root == first.roots()[0];
        assert_eq!(both.only(is_first), Some(first.clone()));
        assert_eq!(second.only(is_first), None);
        assert_eq!(reverse.only(|_| true), Some(reverse));
        assert_eq!(both.sha256().len(), 64);
        assert!(first.roots()[0].subject.contains("Culvert"));
    }
}
