//! One identity's certificate over time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_model::Identity;
use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, Semaphore, watch};

use super::{CertificateState, CertificateStatus};
use crate::certificate::PendingKey;
use crate::{CaClient, Certificate, IdentityError, TrustBundle, renewal_delay, retry_backoff};

/// One attempt, connecting included.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// A waiting connection shortens the wait before the next attempt to this.
const DEMANDED_RETRY: Duration = Duration::from_secs(1);
/// How often a sleeping task looks whether its identity was forgotten.
const FORGOTTEN_CHECK: Duration = Duration::from_secs(10);

/// The roots that the control plane told, for every identity. Whoever changes them or stores a
/// certificate holds the lock: no certificate is left with the roots before.
#[derive(Default)]
pub(super) struct Trust {
    told: Mutex<Option<TrustBundle>>,
    /// Counts the times a root was trusted no longer.
    pub(super) withdrawals: watch::Sender<u64>,
}

impl Trust {
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<TrustBundle>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    pub(super) async fn wait(&self) -> Arc<Certificate> {
        let mut issued = self.issued.subscribe();
        loop {
            issued.mark_unchanged();
            if let Some(certificate) = self.current(SystemTime::now()) {
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
            last_error,
            chain_pem: certificate.as_ref().map(|c| c.chain_pem().to_owned()),
            roots_pem: certificate.as_ref().map(|c| c.trust().pem().to_owned()),
        }
    }

    fn store(&self, certificate: Certificate) {
        let told = self.trust.lock();
        let certificate = match &*told {
            Some(bundle) => certificate.trusting(bundle.clone()),
            None => certificate,
        };
        self.current.store(Some(Arc::new(certificate)));
        drop(told);
        *self.error_slot() = None;
        self.issued.send_modify(|count| *count += 1);
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

/// Obtains the certificate unless there is one, then renews it for as long as `renewal` is wanted. A failed renewal
/// leaves the old certificate in place.
pub(super) async fn keep_renewed(
    renewal: Weak<Renewal>,
    identity: Identity,
    client: Arc<dyn CaClient>,
    requests: Arc<Semaphore>,
    ttl: Duration,
) {
    let mut backoff = retry_backoff();
    let first = renewal
        .upgrade()
        .and_then(|wanted| wanted.current.load_full());
    if let Some(certificate) = first {
        sleep_while_wanted(&renewal, delay_of(&certificate)).await;
    }
    loop {
        if renewal.strong_count() == 0 {
            return;
        }
        let result = attempt(&identity, client.as_ref(), &requests, ttl).await;
        let Some(wanted) = renewal.upgrade() else {
            return;
        };
        match result {
            Ok(certificate) => {
                backoff.reset();
                let delay = delay_of(&certificate);
                tracing::info!(%identity, serial = certificate.serial(), renew_in = ?delay, "certificate obtained");
                wanted.store(certificate);
                drop(wanted);
                sleep_while_wanted(&renewal, delay).await;
            }
            Err(error) => {
                let delay = backoff.next(rand::random());
                tracing::warn!(%identity, %error, retry_in = ?delay, "certificate not obtained");
                wanted.fail(&error);
                drop(wanted);
                sleep_until_demanded(&renewal, delay).await;
            }
        }
    }
}

/// Time from now until a certificate is to be renewed; one that was taken over has had some of its.
fn delay_of(certificate: &Certificate) -> Duration {
    let delay = renewal_delay(
        certificate.obtained(),
        certificate.not_after(),
        rand::random(),
    );
    let age = SystemTime::now().duration_since(certificate.obtained());
    delay.saturating_sub(age.unwrap_or_default())
}

async fn attempt(
    identity: &Identity,
    client: &dyn CaClient,
    requests: &Semaphore,
    ttl: Duration,
) -> Result<Certificate, IdentityError> {
    let _permit = requests.acquire().await;
    let key = PendingKey::generate(identity)?;
    let answer = {
        let issue = client.issue(identity, key.csr_pem(), ttl);
        tokio::time::timeout(ATTEMPT_TIMEOUT, issue)
            .await
            .map_err(|_| IdentityError::Service("no answer in time".to_owned()))??
    };
    key.complete(&answer, SystemTime::now())
}

async fn sleep_while_wanted(renewal: &Weak<Renewal>, mut left: Duration) {
    while !left.is_zero() && renewal.strong_count() > 0 {
        let nap = left.min(FORGOTTEN_CHECK);
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
        let nap = left.min(FORGOTTEN_CHECK);
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
