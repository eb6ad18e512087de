//! One identity's certificate over time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_model::Identity;
use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, Semaphore, watch};

use super::{CertificateState, CertificateStatus, Clock};
use crate::certificate::PendingKey;
use crate::schedule::is_late;
use crate::{CaClient, Certificate, IdentityError, TrustBundle, renewal_delay, retry_backoff};

/// One attempt, connecting included.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// A waiting connection shortens the wait before the next attempt to this.
const DEMANDED_RETRY: Duration = Duration::from_secs(1);
/// How often a sleeping task looks whether its identity was forgotten, or the clock was set.
const LOOK: Duration = Duration::from_secs(10);

/// The roots that the control plane told, for every identity. Whoever changes them or stores a
/// certificate holds the lock: no certificate is left with the roots before.
#[derive(Default)]
pub(super) struct Trust {
    told: Mutex<Option<TrustBundle>>,
    /// What is wrong with what was told last.
    pub(super) problems: Mutex<Vec<String>>,
    /// Counts the times a root was trusted no longer.
    pub(super) withdrawals: watch::Sender<u64>,
    /// Counts the changes of the revocation lists.
    pub(super) revocations: watch::Sender<u64>,
}

impl Trust {
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<TrustBundle>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all identities have in common.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) client: Arc<dyn CaClient>,
    pub(super) ttl: Duration,
    pub(super) requests: Arc<Semaphore>,
    pub(super) clock: Clock,
}

/// The current certificate and the last failure of one identity.
pub(super) struct Renewal {
    trust: Arc<Trust>,
    current: ArcSwapOption<Certificate>,
    last_error: Mutex<Option<String>>,
    /// Counts certificates, so that waiters see the next one.
    issued: watch::Sender<u64>,
    demand: Notify,
}

impl Renewal {
    /// With the certificate that is at hand, if one is.
    pub(super) fn new(trust: Arc<Trust>, first: Option<Certificate>) -> Self {
        Self {
            trust,
            current: ArcSwapOption::new(first.map(Arc::new)),
            last_error: Mutex::new(None),
            issued: watch::Sender::new(0),
            demand: Notify::new(),
        }
    }

    pub(super) fn current(&self, now: SystemTime) -> Option<Arc<Certificate>> {
        let current = self.current.load_full()?;
        current.is_valid_at(now).then_some(current)
    }

    /// Waits for a valid certificate, asking for an early attempt.
    pub(super) async fn wait(&self, clock: &Clock) -> Arc<Certificate> {
        let mut issued = self.issued.subscribe();
        loop {
            issued.mark_unchanged();
            if let Some(certificate) = self.current(clock()) {
                return certificate;
            }
            self.demand.notify_one();
            // The sender is self: it cannot be gone.
            let _ = issued.changed().await;
        }
    }

    pub(super) fn last_error(&self) -> Option<String> {
        self.error_slot().clone()
    }

    pub(super) fn status(&self, identity: &Identity, now: SystemTime) -> CertificateStatus {
        let certificate = self.current.load_full();
        let last_error = self.last_error();
        let valid = certificate.as_ref().is_some_and(|c| c.is_valid_at(now));
        CertificateStatus {
            identity: identity.clone(),
            state: match (valid, &last_error) {
                (true, _) => CertificateState::Available,
                (false, None) => CertificateState::Initializing,
                (false, Some(_)) => CertificateState::Unavailable,
            },
            not_before: certificate.as_ref().map(|c| unix_seconds(c.not_before())),
            not_after: certificate.as_ref().map(|c| unix_seconds(c.not_after())),
            serial: certificate.as_ref().map(|c| c.serial().to_owned()),
            ends_soon: last_error.is_some() && self.is_late(now),
            last_error,
            chain_pem: certificate.as_ref().map(|c| c.chain_pem().to_owned()),
            roots_pem: certificate.as_ref().map(|c| c.trust().pem().to_owned()),
        }
    }

    fn is_late(&self, now: SystemTime) -> bool {
        let current = self.current.load_full();
        current.is_some_and(|current| is_late(current.obtained(), current.not_after(), now))
    }

    fn store(&self, certificate: Certificate) -> Arc<Certificate> {
        let told = self.trust.lock();
        let certificate = Arc::new(match &*told {
            Some(bundle) => certificate.trusting(bundle.clone()),
            None => certificate,
        });
        self.current.store(Some(Arc::clone(&certificate)));
        drop(told);
        *self.error_slot() = None;
        self.issued.send_modify(|count| *count += 1);
        certificate
    }

    /// Gives the certificate at hand other roots; true when one of those before is not among
    /// them. The caller holds the lock of [`Trust`].
    pub(super) fn retrust(&self, bundle: &TrustBundle) -> bool {
        let Some(current) = self.current.load_full() else {
            return false;
        };
        if current.trust() == bundle {
            return false;
        }
        let fewer = !bundle.includes(current.trust());
        self.current
            .store(Some(Arc::new(current.trusting(bundle.clone()))));
        fewer
    }

    fn fail(&self, error: &IdentityError) {
        *self.error_slot() = Some(error.to_string());
    }

    fn error_slot(&self) -> MutexGuard<'_, Option<String>> {
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Obtains the certificate unless there is one, then renews it for as long as `renewal` is wanted.
/// A failed renewal leaves the old certificate in place.
pub(super) async fn keep_renewed(renewal: Weak<Renewal>, identity: Identity, settings: Settings) {
    let mut backoff = retry_backoff();
    let first = renewal
        .upgrade()
        .and_then(|wanted| wanted.current.load_full());
    if let Some(certificate) = first {
        sleep_until_due(&renewal, &certificate, &settings.clock).await;
    }
    loop {
        if renewal.strong_count() == 0 {
            return;
        }
        let result = attempt(&identity, &settings).await;
        let Some(wanted) = renewal.upgrade() else {
            return;
        };
        match result {
            Ok(certificate) => {
                backoff.reset();
                let certificate = wanted.store(certificate);
                drop(wanted);
                let serial = certificate.serial();
                tracing::info!(%identity, serial, not_after = ?certificate.not_after(), "certificate obtained");
                sleep_until_due(&renewal, &certificate, &settings.clock).await;
            }
            Err(error) => {
                let delay = backoff.next(rand::random());
                if wanted.is_late((settings.clock)()) {
                    tracing::error!(%identity, %error, retry_in = ?delay, "certificate not renewed, and less than a fifth of its life is left");
                } else {
                    tracing::warn!(%identity, %error, retry_in = ?delay, "certificate not obtained");
                }
                wanted.fail(&error);
                drop(wanted);
                sleep_until_demanded(&renewal, delay).await;
            }
        }
    }
}

async fn attempt(identity: &Identity, settings: &Settings) -> Result<Certificate, IdentityError> {
    let _permit = settings.requests.acquire().await;
    let key = PendingKey::generate(identity)?;
    let answer = {
        let issue = settings.client.issue(identity, key.csr_pem(), settings.ttl);
        tokio::time::timeout(ATTEMPT_TIMEOUT, issue)
            .await
            .map_err(|_| IdentityError::Service("no answer in time".to_owned()))??
    };
    key.complete(&answer, (settings.clock)())
}

/// Sleeps until the certificate is to be renewed; one that was taken over has had some of its time.
/// Whatever becomes of the wall clock, that is no later than it was at first: a clock that is set
/// back is not waited for. When it is set forward, or the machine slept, it may be earlier.
async fn sleep_until_due(renewal: &Weak<Renewal>, certificate: &Certificate, clock: &Clock) {
    let delay = renewal_delay(
        certificate.obtained(),
        certificate.not_after(),
        rand::random(),
    );
    let due = certificate.obtained() + delay;
    let mut left = delay.min(due.duration_since(clock()).unwrap_or_default());
    while !left.is_zero() && renewal.strong_count() > 0 && clock() < due {
        let nap = left.min(LOOK);
        tokio::time::sleep(nap).await;
        left -= nap;
    }
}

/// Sleeps for `delay`, less when a connection waits: then [`DEMANDED_RETRY`] from now.
async fn sleep_until_demanded(renewal: &Weak<Renewal>, delay: Duration) {
    if delay <= DEMANDED_RETRY {
        return tokio::time::sleep(delay).await;
    }
    tokio::time::sleep(DEMANDED_RETRY).await;
    let mut left = delay - DEMANDED_RETRY;
    while !left.is_zero() {
        let Some(wanted) = renewal.upgrade() else {
            return;
        };
        let nap = left.min(LOOK);
        if tokio::time::timeout(nap, wanted.demand.notified())
            .await
            .is_ok()
        {
            return;
        }
        left -= nap;
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
