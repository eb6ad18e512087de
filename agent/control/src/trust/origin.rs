//! Where the issuer comes from.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use agent_identity::{Authority, NewRoot, Signer, TrustBundle, TrustedRoot};

use super::rotation::Offer;
use super::secret::SecretStore;
use crate::ControlError;

/// PEM files of an issuer.
#[derive(Debug, Clone)]
pub struct AuthorityFiles {
    /// The issuer's certificate, then its intermediates.
    pub chain: PathBuf,
    /// The issuer's private key, not readable by others.
    pub key: PathBuf,
    /// The roots peers shall trust.
    pub roots: PathBuf,
}

/// A place of issuers.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A root made once and kept in the state directory.
    Kept,
    /// Files that somebody else renews.
    Files(AuthorityFiles),
    /// A Secret of the cluster.
    Secret(Box<SecretStore>),
}

impl Origin {
    /// The issuer kept in `state_dir`, made when there is none.
    pub(crate) fn kept(
        state_dir: &Path,
        trust_domain: &str,
    ) -> Result<(Self, Offer), ControlError> {
        let authority = Authority::open(state_dir, trust_domain, SystemTime::now())?;
        Ok((Self::Kept, only(authority.signer())))
    }

    /// The issuer of `files`. `remembered` is the bundle handed out before, if it can be read.
    pub(crate) fn files(
        files: AuthorityFiles,
        remembered: &Path,
    ) -> Result<(Self, Offer), ControlError> {
        let mut offer = only(Arc::new(read(&files)?));
        offer.remembered = remembered_in(remembered);
        Ok((Self::Files(files), offer))
    }

    /// The issuer of the Secret in `namespace`, made there when there is none. Comes back when the
    /// API server and the Secret allow it.
    pub(crate) async fn secret(
        client: kube::Client,
        namespace: &str,
        trust_domain: &str,
    ) -> (Self, Offer) {
        let (store, offer) = SecretStore::open(client, namespace, trust_domain).await;
        (Self::Secret(Box::new(store)), offer)
    }

    /// For people: what it is.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Kept => "state-dir",
            Self::Files(_) => "files",
            Self::Secret(store) if store.is_ours() => "secret-generated",
            Self::Secret(_) => "secret-given",
        }
    }

    /// What is there now, when it may differ from the last time. Of several replicas the one that
    /// `leads` writes again what was made here and is gone.
    pub(crate) async fn poll(&mut self, leads: bool) -> Result<Option<Offer>, String> {
        match self {
            Self::Kept => Ok(None),
            // Small local files; while somebody writes them they may not fit together.
            Self::Files(files) => match read(files) {
                Ok(signer) => Ok(Some(only(Arc::new(signer)))),
                Err(error) => Err(error.to_string()),
            },
            Self::Secret(store) => store.poll(leads).await,
        }
    }

    /// True when a successor can be made here.
    pub(crate) fn makes_roots(&self) -> bool {
        matches!(self, Self::Secret(store) if store.is_ours())
    }

    /// Puts a successor beside the present issuer; the next [`Self::poll`] offers it.
    pub(crate) async fn prepare(&mut self, root: &NewRoot) -> Result<(), String> {
        match self {
            Self::Secret(store) => store.prepare(root).await,
            Self::Kept | Self::Files(_) => Ok(()),
        }
    }

    /// Says that the prepared successor signs; the next [`Self::poll`] offers it so.
    pub(crate) async fn promote(&mut self) -> Result<(), String> {
        match self {
            Self::Secret(store) => store.promote().await,
            Self::Kept | Self::Files(_) => Ok(()),
        }
    }

    /// Keeps the bundle for the next start.
    pub(crate) async fn remember(&mut self, bundle: &TrustBundle) -> Result<(), String> {
        match self {
            Self::Secret(store) => store.remember(bundle).await,
            // The root file for the nodes is what is remembered.
            Self::Kept | Self::Files(_) => Ok(()),
        }
    }
}

fn read(files: &AuthorityFiles) -> Result<Signer, agent_identity::IdentityError> {
    Signer::from_files(&files.chain, &files.key, &files.roots)
}

fn only(active: Arc<Signer>) -> Offer {
    Offer {
        active,
        prepared: None,
        remembered: Vec::new(),
    }
}

/// The roots in a bundle of our own, as far as they can be read.
fn remembered_in(path: &Path) -> Vec<TrustedRoot> {
    let Ok(text) = std::fs::read(path) else {
        return Vec::new();
    };
    TrustBundle::read(&text).map_or_else(|_| Vec::new(), |(bundle, _)| bundle.roots().to_vec())
}
