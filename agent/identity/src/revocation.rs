//! Certificates that count no longer before their end: revocation lists (RFC 5280, section 5).

use std::sync::Arc;

use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, KeyUsage, OwnedCertRevocationList, RevocationOptionsBuilder,
};

use crate::provider;

/// More lists than this are refused.
const MAX_LISTS: usize = 64;
/// The line a list begins with, and the one it ends with.
const BEGIN: &str = "-----BEGIN X509 CRL-----";
const END: &str = "-----END X509 CRL-----";

/// Revocation lists of the issuers of a trust bundle. While there is one, every certificate of a
/// peer's chain needs the list of its issuer: whose status is unknown is refused. A list whose
/// `nextUpdate` has passed still counts, as no news takes nothing back.
#[derive(Clone, Default)]
pub struct Revocations {
    lists: Arc<[List]>,
    pem: Arc<str>,
    is_damaged: bool,
}

struct List {
    der: CertificateRevocationListDer<'static>,
    parsed: CertRevocationList<'static>,
}

impl Revocations {
    /// Reads the lists of a PEM text, whatever else is in it; the second part of the answer names
    /// those that are none.
    pub(crate) fn read(text: &str) -> (Self, Vec<String>) {
        let (mut lists, mut problems) = (Vec::new(), Vec::new());
        let mut pem = String::new();
        for (index, section) in text.split(BEGIN).skip(1).enumerate() {
            let read = match lists.len() {
                MAX_LISTS.. => Err(format!("more than {MAX_LISTS} lists")),
                _ => List::read(section),
            };
            match read {
                Ok((list, section)) => {
                    lists.push(list);
                    pem.push_str(&section);
                }
                Err(problem) => problems.push(format!("revocation list {}: {problem}", index + 1)),
            }
        }
        let revocations = Self {
            lists: lists.into(),
            pem: pem.into(),
            is_damaged: !problems.is_empty(),
        };
        (revocations, problems)
    }

    /// Reads a text of which every part must be a usable list. No text is no list.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (revocations, problems) = Self::read(text);
        match problems.into_iter().next() {
            Some(problem) => Err(problem),
            None if revocations.is_empty() && !text.trim().is_empty() => {
                Err("no PEM revocation list in it".to_owned())
            }
            None => Ok(revocations),
        }
    }

    /// True without any list: nothing is checked then.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// How many lists there are.
    pub fn len(&self) -> usize {
        self.lists.len()
    }

    /// True when a list could not be read: who is revoked is not known.
    pub fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// PEM, one list after the other.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// True when a certificate of `chain` is on the list of its issuer. Signatures are not looked
    /// at again: the chain was verified when the connection began.
    pub fn revoke(&self, chain: &[CertificateDer<'_>]) -> bool {
        let is_listed = |certificate: &CertificateDer<'_>| {
            let Ok(certificate) = EndEntityCert::try_from(certificate) else {
                return false;
            };
            let of_issuer = |list: &&List| list.parsed.issuer() == certificate.issuer();
            let mut lists = self.lists.iter().filter(of_issuer);
            lists.any(|list| {
                let found = list.parsed.find_serial(certificate.serial());
                !matches!(found, Ok(None))
            })
        };
        !self.is_empty() && chain.iter().any(is_listed)
    }

    /// For rustls' own verifier.
    pub(crate) fn ders(&self) -> impl Iterator<Item = CertificateRevocationListDer<'static>> {
        self.lists.iter().map(|list| list.der.clone())
    }
}

/// Checks the revocation of a server's chain, which rustls does for names only. The chain is known
/// to be valid otherwise.
pub(crate) fn check_server(
    revocations: &Revocations,
    roots: &RootCertStore,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), Error> {
    let lists: Vec<_> = revocations.lists.iter().map(|list| &list.parsed).collect();
    // An error is that there is no list.
    let Ok(options) = RevocationOptionsBuilder::new(&lists) else {
        return Ok(());
    };
    let algorithms = provider().signature_verification_algorithms;
    let verified = EndEntityCert::try_from(leaf).and_then(|leaf| {
        leaf.verify_for_usage(
            algorithms.all,
            &roots.roots,
            intermediates,
            now,
            KeyUsage::server_auth(),
            Some(options.build()),
            None,
        )
        .map(|_| ())
    });
    verified.map_err(|error| {
        Error::InvalidCertificate(match error {
            webpki::Error::CertRevoked => CertificateError::Revoked,
            // A list that its issuer has not signed says nothing.
            _ => CertificateError::UnknownRevocationStatus,
        })
    })
}

impl List {
    /// Reads what follows a BEGIN line; also as PEM of its own.
    fn read(section: &str) -> Result<(Self, String), String> {
        let (body, _) = section
            .split_once(END)
            .ok_or_else(|| "it has no end".to_owned())?;
        let pem = format!("{BEGIN}{}{END}\n", body.replace('\r', ""));
        let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| format!("not PEM: {error}"))?;
        let parsed = OwnedCertRevocationList::from_der(&der)
            .map_err(|error| format!("it does not parse: {error}"))?;
        let parsed = CertRevocationList::Owned(parsed);
        Ok((Self { der, parsed }, pem))
    }
}

impl std::fmt::Debug for Revocations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Revocations")
            .field("lists", &self.lists.len())
            .finish_non_exhaustive()
    }
}

impl PartialEq for Revocations {
    /// The same lists in the same order.
    fn eq(&self, other: &Self) -> bool {
        self.pem == other.pem
    }
}

impl Eq for Revocations {}

#[cfg(test)]
pub(crate) mod tests;
