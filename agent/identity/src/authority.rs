//! The certificate authority of the mesh: a root and a signer.

mod files;
mod request;
mod serving;
mod signer;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent_model::Identity;
use arc_swap::ArcSwap;
use rcgen::{ExtendedKeyUsagePurpose, SanType};

use crate::{IdentityError, TrustBundle};

pub use request::MAX_CSR_BYTES;
pub use signer::{NewRoot, Signer};

/// Signs certificates of workloads and of the control plane's own servers, and says which roots
/// are trusted. Both can be replaced while it works: a root is followed by another without a
/// moment without either.
pub struct Authority {
    current: ArcSwap<Current>,
}

/// What is in force together.
struct Current {
    signer: Arc<Signer>,
    bundle: TrustBundle,
}

impl Authority {
    /// An authority that signs with `signer` and hands out `bundle`.
    pub fn new(signer: Arc<Signer>, bundle: TrustBundle) -> Self {
        Self {
            current: ArcSwap::from_pointee(Current { signer, bundle }),
        }
    }

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
                let root = NewRoot::make(trust_domain, now)?;
                files::store(state_dir, &root.certificate, &root.key)?;
                (root.certificate, root.key)
            }
        };
        Self::from_pem(&certificate, &key, &certificate)
    }

    /// A new authority whose root lives only as long as the value.
    pub fn in_memory(trust_domain: &str, now: SystemTime) -> Result<Self, IdentityError> {
        let root = NewRoot::make(trust_domain, now)?;
        Self::from_pem(&root.certificate, &root.key, &root.certificate)
    }

    /// An authority given from outside, see [`Signer::from_pem`]; it trusts the signer's roots.
    pub fn from_pem(
        chain_pem: &str,
        key_pem: &str,
        roots_pem: &str,
    ) -> Result<Self, IdentityError> {
        let signer = Signer::from_pem(chain_pem, key_pem, roots_pem)?;
        let bundle = signer.roots.clone();
        Ok(Self::new(Arc::new(signer), bundle))
    }

    /// From now on `signer` signs and `bundle` is handed out. The roots of `signer` must be in it.
    pub fn replace(&self, signer: Arc<Signer>, bundle: TrustBundle) {
        self.current.store(Arc::new(Current { signer, bundle }));
    }

    /// What signs at present.
    pub fn signer(&self) -> Arc<Signer> {
        Arc::clone(&self.current.load().signer)
    }

    /// The roots every node must trust.
    pub fn bundle(&self) -> TrustBundle {
        self.current.load().bundle.clone()
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
        let current = self.current.load();
        let mut params = current.signer.leaf(ttl, now)?;
        params.subject_alt_names = vec![SanType::URI(expected.to_string().try_into()?)];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let mut answer = current.signer.issue(&params, &public_key)?;
        answer.push(current.bundle.pem().to_owned());
        Ok(answer)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.current.load();
        f.debug_struct("Authority")
            .field("signer", &current.signer)
            .field("bundle", &current.bundle)
            .finish()
    }
}

#[cfg(test)]
mod tests;
