//! The certificates of a node's workloads: obtained once, renewed in time, shared by all pods of
//! an identity.

mod renewal;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use agent_model::Identity;
use arc_swap::ArcSwap;
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::{CaClient, Certificate, HandedCertificate, IdentityError, TrustBundle};
use renewal::{Renewal, Settings, Trust};

/// Identities one node can hold certificates for.
pub const MAX_IDENTITIES: usize = 4096;
/// Signing requests under way at the same time.
const MAX_REQUESTS: usize = 8;
/// How long a connection waits for the first certificate of its identity.
const WAIT: Duration = Duration::from_secs(5);

/// Says what time it is.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The node's certificates. Cheap to clone; used from every thread. All network work runs on the
/// runtime given at construction.
#[derive(Clone)]
pub struct Certificates {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Handle,
    settings: Settings,
    trust: Arc<Trust>,
    /// Replaced as a whole when an identity comes or goes, so that lookups take no lock.
    renewals: ArcSwap<HashMap<Identity, Arc<Renewal>>>,
}

impl Certificates {
    /// `ttl` is the lifetime asked for; the service may give less.
    pub fn new(client: Arc<dyn CaClient>, runtime: Handle, ttl: Duration) -> Self {
        Self::with_clock(client, runtime, ttl, Arc::new(SystemTime::now))
    }

    /// As [`Self::new`], by another clock.
    pub fn with_clock(
        client: Arc<dyn CaClient>,
        runtime: Handle,
        ttl: Duration,
        clock: Clock,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                runtime,
                settings: Settings {
                    client,
                    ttl,
                    requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
                    clock,
                },
                trust: Arc::default(),
                renewals: ArcSwap::default(),
            }),
        }
    }

    /// The certificate of `identity` when it is at hand and valid.
    pub fn cached(&self, identity: &Identity) -> Option<Arc<Certificate>> {
        self.shared
            .renewals
            .load()
            .get(identity)?
            .current(self.now())
    }

    /// The certificate of `identity`, from the cache or from the service. Waits up to 5 s; callers
    /// of the same identity share one request. Needs a tokio runtime with time on the calling
    /// thread. Safe to drop before it completes.
    pub async fn get(&self, identity: &Identity) -> Result<Arc<Certificate>, IdentityError> {
        if let Some(certificate) = self.cached(identity) {
            return Ok(certificate);
        }
        let renewal = self.renewal(identity)?;
        let waiting = renewal.wait(&self.shared.settings.clock);
        match tokio::time::timeout(WAIT, waiting).await {
            Ok(certificate) => Ok(certificate),
            Err(_) => Err(IdentityError::NotAvailable {
                identity: identity.clone(),
                detail: renewal
                    .last_error()
                    .unwrap_or_else(|| "the certificate service does not answer".to_owned()),
            }),
        }
    }

    /// Obtains certificates ahead of need and keeps them renewed. Identities beyond
    /// [`MAX_IDENTITIES`] are left out with an error in the log.
    pub fn prefetch(&self, identities: impl IntoIterator<Item = Identity>) {
        for identity in identities {
            if let Err(error) = self.renewal(&identity) {
                tracing::error!(%identity, %error, "certificate not prefetched");
            }
        }
    }

    /// Drops the certificate of `identity` and stops renewing it. Connections that use it live on.
    pub fn forget(&self, identity: &Identity) {
        self.shared.renewals.rcu(|renewals| {
            let mut renewals = HashMap::clone(renewals);
            renewals.remove(identity);
            renewals
        });
    }

    /// Copies of all valid certificates with their keys, for the successor of this process.
    pub fn hand_over(&self) -> Vec<HandedCertificate> {
        let now = self.now();
        let renewals = self.shared.renewals.load();
        let valid = renewals.values().filter_map(|renewal| renewal.current(now));
        valid.map(|certificate| certificate.hand_over()).collect()
    }

    /// Takes over what this process's predecessor had, and renews it in its time. What does not
    /// verify now, or is there already, is left out; how many were taken.
    pub fn take_over(&self, handed: impl IntoIterator<Item = HandedCertificate>) -> usize {
        let take = |handed: HandedCertificate| {
            let identity = handed.identity.clone();
            let taken = handed
                .receive(self.now())
                .and_then(|certificate| self.start(&identity, Some(certificate)));
            taken.inspect_err(
                |error| tracing::warn!(%identity, %error, "certificate not taken over"),
            )
        };
        handed.into_iter().filter_map(|one| take(one).ok()).count()
    }

    /// From now on peers must chain to `bundle`, whatever roots the certificate service sends
    /// along. Every certificate becomes a new generation, so that pooled connections made under
    /// other roots get no new streams.
    pub fn trust(&self, bundle: &TrustBundle) {
        let mut told = self.shared.trust.lock();
        if told.as_ref() == Some(bundle) {
            return;
        }
        let before = told.replace(bundle.clone());
        let relisted = match &before {
            Some(before) => before.revocations() != bundle.revocations(),
            None => !bundle.revocations().is_empty(),
        };
        let mut fewer = before.is_some_and(|before| !bundle.includes(&before));
        for renewal in self.shared.renewals.load().values() {
            fewer |= renewal.retrust(bundle);
        }
        drop(told);
        if fewer {
            let withdrawals = &self.shared.trust.withdrawals;
            withdrawals.send_modify(|count| *count += 1);
        }
        if relisted {
            let revocations = &self.shared.trust.revocations;
            revocations.send_modify(|count| *count += 1);
        }
    }

    /// Changes whenever a root is trusted no longer: connections whose peer was verified before
    /// take no more streams then.
    pub fn withdrawals(&self) -> watch::Receiver<u64> {
        self.shared.trust.withdrawals.subscribe()
    }

    /// Changes with the revocation lists: connections whose peer is revoked now ([`Self::revoke`])
    /// end then.
    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.shared.trust.revocations.subscribe()
    }

    /// True when a certificate of a peer's chain, leaf first, is on a revocation list.
    pub fn revoke(&self, chain: &[CertificateDer<'_>]) -> bool {
        let told = self.shared.trust.lock();
        let revocations = told.as_ref().map(TrustBundle::revocations);
        revocations.is_some_and(|revocations| revocations.revoke(chain))
    }

    /// [`Self::trust`] for what the control plane wrote: usable roots and revocation lists count,
    /// what is wrong with the rest is kept for [`Self::trust_problems`]. An error when there is no
    /// usable root: the bundle before stays. When a list cannot be read, those before stay: nobody
    /// is taken back in by accident.
    pub fn trust_text(&self, text: &[u8]) -> Result<TrustBundle, String> {
        let read = TrustBundle::read(text);
        let problems = match &read {
            Ok((_, problems)) => problems.clone(),
            Err(problem) => vec![format!("all of it: {problem}")],
        };
        let slot = &self.shared.trust.problems;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = problems;
        let (mut bundle, _) = read?;
        if bundle.revocations().is_damaged()
            && let Some(before) = self.trusted()
        {
            bundle = bundle.revoking(before.revocations().clone());
        }
        self.trust(&bundle);
        Ok(bundle)
    }

    /// What is wrong with the bundle that was told last.
    pub fn trust_problems(&self) -> Vec<String> {
        let slot = &self.shared.trust.problems;
        slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The roots of [`Self::trust`], once there were any.
    pub fn trusted(&self) -> Option<TrustBundle> {
        self.shared.trust.lock().clone()
    }

    /// Every identity with what is known about its certificate, ordered by identity.
    pub fn status(&self) -> Vec<CertificateStatus> {
        let now = self.now();
        let renewals = self.shared.renewals.load();
        let mut rows: Vec<_> = renewals
            .iter()
            .map(|(identity, renewal)| renewal.status(identity, now))
            .collect();
        rows.sort_by(|a, b| a.identity.cmp(&b.identity));
        rows
    }

    /// The renewal of `identity`, started when there is none.
    fn renewal(&self, identity: &Identity) -> Result<Arc<Renewal>, IdentityError> {
        if let Some(renewal) = self.shared.renewals.load().get(identity) {
            return Ok(Arc::clone(renewal));
        }
        self.start(identity, None)
    }

    /// Starts the renewal of `identity` unless there is one by now; the one there is.
    fn start(
        &self,
        identity: &Identity,
        first: Option<Certificate>,
    ) -> Result<Arc<Renewal>, IdentityError> {
        let fresh = Arc::new(Renewal::new(Arc::clone(&self.shared.trust), first));
        let mut chosen = Ok(Arc::clone(&fresh));
        self.shared.renewals.rcu(|renewals| {
            let mut renewals = HashMap::clone(renewals);
            chosen = match renewals.get(identity) {
                Some(present) => Ok(Arc::clone(present)),
                None if renewals.len() >= MAX_IDENTITIES => {
                    Err(IdentityError::TooMany(MAX_IDENTITIES))
                }
                None => {
                    renewals.insert(identity.clone(), Arc::clone(&fresh));
                    Ok(Arc::clone(&fresh))
                }
            };
            renewals
        });
        let chosen = chosen?;
        if Arc::ptr_eq(&chosen, &fresh) {
            // Only now, when everybody who tells other roots finds it.
            if let Some(bundle) = &*self.shared.trust.lock() {
                fresh.retrust(bundle);
            }
            // The task ends when the map lets go of the renewal.
            self.shared.runtime.spawn(renewal::keep_renewed(
                Arc::downgrade(&fresh),
                identity.clone(),
                self.shared.settings.clone(),
            ));
        }
        Ok(chosen)
    }

    fn now(&self) -> SystemTime {
        (self.shared.settings.clock)()
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates")
            .field("identities", &self.shared.renewals.load().len())
            .finish_non_exhaustive()
    }
}

/// One row of `culvert status` and of the configuration dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// Whose certificate.
    pub identity: Identity,
    /// Whether there is a valid one.
    pub state: CertificateState,
    /// Start of validity, seconds since 1970.
    pub not_before: Option<u64>,
    /// End of validity, seconds since 1970.
    pub not_after: Option<u64>,
    /// Serial number, lower-case hexadecimal.
    pub serial: Option<String>,
    /// The last failure since the last success.
    pub last_error: Option<String>,
    /// It is not renewed, and less than a fifth of its life is left.
    pub ends_soon: bool,
    /// Leaf and intermediates, PEM.
    pub chain_pem: Option<String>,
    /// The roots its peers must chain to, PEM.
    pub roots_pem: Option<String>,
}

/// Whether an identity has a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum CertificateState {
    /// The first request is under way.
    Initializing,
    /// There is a valid certificate.
    Available,
    /// There is none, and the last request failed.
    Unavailable,
}

#[cfg(test)]
mod tests;
