use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::{Authority, IssueFuture};

/// F-19 to F-26, by a clock of their own.
mod faults;

fn identity(account: &str) -> Identity {
    Identity::new("cluster.local", "shop", account).unwrap()
}

/// An authority that counts, delays and fails on demand.
struct Ca {
    authority: Authority,
    delay: Duration,
    failing: AtomicBool,
    calls: AtomicUsize,
    active: AtomicUsize,
    most_active: AtomicUsize,
    /// Signs for this identity whatever is asked.
    instead: Option<Identity>,
    clock: Clock,
}

impl Ca {
    fn new(delay: Duration) -> Self {
        Self::by(delay, Arc::new(SystemTime::now))
    }

    fn by(delay: Duration, clock: Clock) -> Self {
        Self {
            authority: Authority::in_memory("cluster.local", clock()).unwrap(),
            clock,
            delay,
            failing: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            most_active: AtomicUsize::new(0),
            instead: None,
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl CaClient for Ca {
    fn issue<'a>(
        &'a self,
        identity: &'a Identity,
        csr_pem: &'a str,
        ttl: Duration,
    ) -> IssueFuture<'a> {
        Box::pin(async move {
            self.calls.fetch_add(1, Ordering::SeqCst);
            let active = self.active.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_active.fetch_max(active, Ordering::SeqCst);
            tokio::time::sleep(self.delay).await;
            self.active.fetch_sub(1, Ordering::SeqCst);
            if self.failing.load(Ordering::SeqCst) {
                return Err(IdentityError::Service("down".to_owned()));
            }
            if let Some(other) = &self.instead {
                let key = crate::PendingKey::generate(other)?;
                return self
                    .authority
                    .sign(key.csr_pem(), other, ttl, (self.clock)());
            }
            self.authority.sign(csr_pem, identity, ttl, (self.clock)())
        })
    }
}

fn certificates(ca: &Arc<Ca>, ttl: Duration) -> Certificates {
    Certificates::new(Arc::clone(ca) as Arc<dyn CaClient>, Handle::current(), ttl)
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn callers_of_one_identity_share_one_request() {
    let ca = Arc::new(Ca::new(Duration::from_millis(50)));
    let cache = certificates(&ca, HOUR);
    let web = identity("web");
    let (a, b, c) = tokio::join!(cache.get(&web), cache.get(&web), cache.get(&web));
    let generation = a.unwrap().generation();
    assert_eq!(b.unwrap().generation(), generation);
    assert_eq!(c.unwrap().generation(), generation);
    assert_eq!(ca.calls(), 1);
    assert_eq!(cache.cached(&web).unwrap().generation(), generation);
}

#[tokio::test]
async fn at_most_eight_requests_at_a_time() {
    let ca = Arc::new(Ca::new(Duration::from_millis(20)));
    let cache = certificates(&ca, HOUR);
    let all: Vec<_> = (0..40).map(|n| identity(&format!("sa-{n}"))).collect();
    cache.prefetch(all.clone());
    for identity in &all {
        cache.get(identity).await.unwrap();
    }
    assert_eq!(ca.calls(), 40);
    assert_eq!(ca.most_active.load(Ordering::SeqCst), MAX_REQUESTS);
}

#[tokio::test(start_paused = true)]
async fn a_silent_service_fails_the_caller_after_five_seconds() {
    let ca = Arc::new(Ca::new(HOUR));
    let cache = certificates(&ca, HOUR);
    let start = tokio::time::Instant::now();
    let error = cache.get(&identity("web")).await.unwrap_err();
    assert!(matches!(error, IdentityError::NotAvailable { .. }));
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn the_last_error_is_told_and_a_waiting_caller_speeds_up_the_retry() {
    let ca = Arc::new(Ca::new(Duration::ZERO));
    ca.failing.store(true, Ordering::SeqCst);
    let cache = certificates(&ca, HOUR);
    let web = identity("web");
    let error = cache.get(&web).await.unwrap_err().to_string();
    assert!(error.contains("down"), "{error}");
    assert_eq!(cache.status()[0].state, CertificateState::Unavailable);
    // Far into the back-off the next attempt is tens of seconds away; a caller gets it within 5.
    tokio::time::sleep(Duration::from_secs(100)).await;
    ca.failing.store(false, Ordering::SeqCst);
    cache.get(&web).await.unwrap();
    let row = &cache.status()[0];
    assert_eq!(row.state, CertificateState::Available);
    assert_eq!(row.last_error, None);
}

#[tokio::test(start_paused = true)]
async fn a_dead_service_is_asked_ever_less_often() {
    let ca = Arc::new(Ca::new(Duration::ZERO));
    ca.failing.store(true, Ordering::SeqCst);
    let cache = certificates(&ca, HOUR);
    cache.prefetch([identity("web")]);
    tokio::time::sleep(Duration::from_secs(600)).await;
    // 1+2+4+...+128+150+150 seconds, each 20 % off.
    assert!((8..=13).contains(&ca.calls()), "{}", ca.calls());
}

#[tokio::test(start_paused = true)]
async fn a_certificate_for_somebody_else_is_not_taken() {
    let mut ca = Ca::new(Duration::ZERO);
    ca.instead = Some(identity("db"));
    let ca = Arc::new(ca);
    let cache = certificates(&ca, HOUR);
    let error = cache.get(&identity("web")).await.unwrap_err().to_string();
    assert!(error.contains("another identity"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_identity_is_not_renewed() {
    let ca = Arc::new(Ca::new(Duration::ZERO));
    let cache = certificates(&ca, HOUR);
    let web = identity("web");
    cache.get(&web).await.unwrap();
    cache.forget(&web);
    assert!(cache.cached(&web).is_none());
    assert!(cache.status().is_empty());
    tokio::time::sleep(HOUR * 3).await;
    assert_eq!(ca.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn identities_are_bounded() {
    let ca = Arc::new(Ca::new(HOUR));
    let cache = certificates(&ca, HOUR);
    cache.prefetch((0..MAX_IDENTITIES + 10).map(|n| identity(&format!("sa-{n}"))));
    assert_eq!(cache.status().len(), MAX_IDENTITIES);
    assert!(matches!(
        cache.get(&identity("one-more")).await,
        Err(IdentityError::TooMany(_))
    ));
}

#[tokio::test]
async fn status_names_the_certificate_and_never_the_key() {
    let ca = Arc::new(Ca::new(Duration::ZERO));
    let cache = certificates(&ca, HOUR);
    let certificate = cache.get(&identity("web")).await.unwrap();
    let row = &cache.status()[0];
    assert_eq!(row.serial.as_deref(), Some(certificate.serial()));
    assert!(
        row.chain_pem
            .as_ref()
            .unwrap()
            .contains("BEGIN CERTIFICATE")
    );
    assert_eq!(row.roots_pem.as_deref(), Some(ca.authority.bundle().pem()));
    assert!(!format!("{certificate:?} {row:?}").contains("PRIVATE"));
}

#[tokio::test]
async fn a_successor_needs_no_certificate_service() {
    let ca = Arc::new(Ca::new(Duration::ZERO));
    let before = certificates(&ca, HOUR);
    let old = before.get(&identity("web")).await.unwrap();
    before.get(&identity("api")).await.unwrap();
    let handed = before.hand_over();
    assert_eq!(handed.len(), 2);
    let shown = format!("{handed:?}");
    assert!(
        !shown.contains("key") && !shown.contains("BEGIN"),
        "{shown}"
    );

    let down = Arc::new(Ca::new(Duration::ZERO));
    down.failing.store(true, Ordering::SeqCst);
    let after = certificates(&down, HOUR);
    assert_eq!(after.take_over(handed), 2);
    let new = after.get(&identity("web")).await.unwrap();
    assert_eq!(new.serial(), old.serial());
    assert_eq!(new.obtained(), old.obtained());
    crate::server_config(&new).unwrap();
    // It is renewed in its own time, not at the start.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(down.calls(), 0);
}

#[tokio::test]
async fn what_was_taken_over_is_renewed_in_time() {
    let ca = Arc::new(Ca::new(Duration::ZERO));
    let before = certificates(&ca, Duration::from_secs(2));
    let old = before.get(&identity("web")).await.unwrap();
    let successor = Arc::new(Ca::new(Duration::ZERO));
    let after = certificates(&successor, Duration::from_secs(2));
    assert_eq!(after.take_over(before.hand_over()), 1);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(successor.calls() > 0);
    // Another authority, so another root: what matters is that it is a new one.
    assert_ne!(
        after.get(&identity("web")).await.unwrap().serial(),
        old.serial()
    );
}

/// A predecessor that sends nonsense costs a certificate, nothing else.
#[tokio::test]
async fn what_does_not_fit_is_not_taken_over() {
    let ca = Arc::new(Ca::new(Duration::ZERO));
    let before = certificates(&ca, HOUR);
    before.get(&identity("web")).await.unwrap();
    before.get(&identity("api")).await.unwrap();
    let handed = || before.hand_over().into_iter();
    let of = |account| {
        handed()
            .find(|one| one.identity == identity(account))
            .unwrap()
    };
    let mut other_identity = of("web");
    other_identity.identity = identity("api");
    let mut other_key = of("web");
    other_key.key = std::mem::take(&mut of("api").key);
    let mut no_key = of("web");
    no_key.key.clear();
    let mut no_roots = of("web");
    no_roots.roots_pem.clear();
    let after = certificates(&ca, HOUR);
    for wrong in [other_identity, other_key, no_key, no_roots] {
        assert_eq!(after.take_over([wrong]), 0);
    }
    assert!(after.status().is_empty());
}

#[tokio::test]
async fn f_25_roots_that_are_told_replace_those_of_the_service_at_once() {
    let ca = Arc::new(Ca::new(Duration::ZERO));
    let cache = certificates(&ca, HOUR);
    let web = identity("web");
    let before = cache.get(&web).await.unwrap();
    let own = ca.authority.bundle();
    assert_eq!(before.trust(), &own);
    assert_eq!(cache.trusted(), None);

    let next = Authority::in_memory("cluster.local", SystemTime::now()).unwrap();
    let both = own.with(next.bundle().roots());
    let mut withdrawals = cache.withdrawals();
    cache.trust(&both);
    assert!(!withdrawals.has_changed().unwrap(), "roots came, none went");
    let after = cache.cached(&web).unwrap();
    assert_eq!(after.trust(), &both);
    assert!(
        after.generation() > before.generation(),
        "pools must see it"
    );
    assert_eq!(
        after.serial(),
        before.serial(),
        "the certificate is the same"
    );
    // The same again changes nothing, and what is obtained later trusts the same.
    cache.trust(&both);
    assert_eq!(cache.cached(&web).unwrap().generation(), after.generation());
    let db = cache.get(&identity("db")).await.unwrap();
    assert_eq!(db.trust(), &both);
    assert_eq!(cache.trusted(), Some(both));
    // So does what a predecessor hands over.
    let other = certificates(&ca, HOUR);
    other.get(&identity("api")).await.unwrap();
    assert_eq!(cache.take_over(other.hand_over()), 1);
    let api = cache.cached(&identity("api")).unwrap();
    assert_eq!(Some(api.trust()), cache.trusted().as_ref());
    cache.trust(&next.bundle());
    assert!(withdrawals.has_changed().unwrap());
    withdrawals.mark_unchanged();
    assert!(!cache.withdrawals().has_changed().unwrap());
}
