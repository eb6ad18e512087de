//! The certificate service and the clock fail: days pass in a moment.

use std::sync::Mutex;

use super::*;
use crate::revocation::tests::{ca, leaf, list};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Starts here, so that whoever looks at the real clock is found out.
const START: Duration = Duration::from_secs(2_000_000_000);

/// A wall clock that goes with tokio's paused time and can be set.
#[derive(Clone)]
struct Wall(Arc<Mutex<SystemTime>>, tokio::time::Instant);

impl Wall {
    fn new() -> Self {
        let start = SystemTime::UNIX_EPOCH + START;
        Self(Arc::new(Mutex::new(start)), tokio::time::Instant::now())
    }

    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap() + self.1.elapsed()
    }

    fn clock(&self) -> Clock {
        let wall = self.clone();
        Arc::new(move || wall.now())
    }

    fn forward(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }

    fn back(&self, by: Duration) {
        *self.0.lock().unwrap() -= by;
    }
}

/// A node and a service with a clock each.
struct World {
    here: Wall,
    ca: Arc<Ca>,
    cache: Certificates,
}

impl World {
    fn new(ttl: Duration) -> Self {
        let (here, there) = (Wall::new(), Wall::new());
        let ca = Arc::new(Ca::by(Duration::ZERO, there.clock()));
        let client = Arc::clone(&ca) as Arc<dyn CaClient>;
        let cache = Certificates::with_clock(client, Handle::current(), ttl, here.clock());
        Self { here, ca, cache }
    }

    fn fail(&self, failing: bool) {
        self.ca.failing.store(failing, Ordering::SeqCst);
    }

    async fn generation(&self) -> u64 {
        let certificate = self.cache.get(&identity("web")).await;
        certificate.unwrap().generation()
    }
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn f_19_renewed_at_half_life_and_kept_while_the_service_is_away() {
    let world = World::new(DAY);
    let first = world.generation().await;
    pass(DAY.mul_f64(0.44)).await;
    assert_eq!(world.generation().await, first, "renewed too early");
    world.fail(true);
    let calls = world.ca.calls();
    pass(DAY.mul_f64(0.12)).await;
    assert!(world.ca.calls() > calls, "not tried at half-life");
    assert_eq!(world.generation().await, first);
    assert!(!world.cache.status()[0].ends_soon);
    // To the last minute it is used; people were told in time.
    pass(DAY.mul_f64(0.25)).await;
    let row = world.cache.status().remove(0);
    assert_eq!(row.state, CertificateState::Available);
    assert!(row.ends_soon && row.last_error.unwrap().contains("down"));
    pass(DAY.mul_f64(0.19) - MINUTE).await;
    assert_eq!(world.generation().await, first);
    world.fail(false);
    pass(MINUTE * 3).await;
    assert!(world.generation().await > first, "renewed when it is back");
    assert!(!world.cache.status()[0].ends_soon);
}

#[tokio::test(start_paused = true)]
async fn f_20_after_its_end_nothing_is_served_until_the_service_is_back() {
    let world = World::new(DAY);
    world.generation().await;
    world.fail(true);
    pass(DAY * 2).await;
    assert!(world.cache.cached(&identity("web")).is_none());
    let error = world.cache.get(&identity("web")).await.unwrap_err();
    assert!(
        matches!(&error, IdentityError::NotAvailable { detail, .. } if detail.contains("down")),
        "{error}"
    );
    // Traffic does not wait for the back-off to end.
    world.fail(false);
    let back = tokio::time::Instant::now();
    world.generation().await;
    assert!(back.elapsed() <= Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn f_22_five_minutes_between_two_clocks_are_nothing() {
    for ahead in [false, true] {
        let world = World::new(DAY);
        match ahead {
            true => world.here.forward(MINUTE * 5),
            false => world.here.back(MINUTE * 5),
        }
        let first = world.generation().await;
        pass(DAY * 3).await;
        assert!(world.generation().await > first);
        assert!(world.cache.status()[0].last_error.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn f_22_a_clock_that_is_wrong_by_an_hour_is_named() {
    let world = World::new(MINUTE * 30);
    world.here.back(MINUTE * 60);
    let error = world.cache.get(&identity("web")).await.unwrap_err();
    assert!(
        error.to_string().contains("clock here is behind"),
        "{error}"
    );
    let world = World::new(MINUTE * 30);
    world.here.forward(MINUTE * 60);
    let error = world.cache.get(&identity("web")).await.unwrap_err();
    assert!(error.to_string().contains("clock here is ahead"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn f_22_a_day_forward_and_a_day_back() {
    let world = World::new(DAY);
    let first = world.generation().await;
    // Forward: what was obtained has ended by this clock. The service has stepped, too.
    world.here.forward(DAY + MINUTE);
    let stepped = Arc::new(Ca::by(Duration::ZERO, world.here.clock()));
    let client = Arc::clone(&stepped) as Arc<dyn CaClient>;
    assert!(world.cache.cached(&identity("web")).is_none());
    pass(Duration::from_secs(15)).await;
    assert!(
        world.ca.calls() > 1,
        "half a day of monotonic time was waited for"
    );
    let cache = Certificates::with_clock(client, Handle::current(), DAY, world.here.clock());
    let before = cache.get(&identity("web")).await.unwrap();
    assert!(before.generation() > first);
    // Back: it stays in use, and is renewed when half of its life is over by any clock.
    world.here.back(DAY);
    pass(DAY.mul_f64(0.44)).await;
    assert_eq!(stepped.calls(), 1);
    let same = cache.cached(&identity("web")).unwrap();
    assert_eq!(same.generation(), before.generation());
    pass(DAY.mul_f64(0.12)).await;
    assert_eq!(stepped.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn f_23_certificates_of_a_second_never_leave_a_caller_without() {
    let world = World::new(Duration::from_secs(1));
    let mut generations = std::collections::BTreeSet::new();
    for _ in 0..300 * 50 {
        generations.insert(world.generation().await);
        pass(Duration::from_millis(20)).await;
    }
    assert!(generations.len() > 300, "{}", generations.len());
    assert_eq!(world.cache.status().len(), 1);
    // Never faster than ten a second, however short they live.
    assert!(world.ca.calls() <= 3_100, "{}", world.ca.calls());
}

#[tokio::test(start_paused = true)]
async fn f_24_two_thousand_that_end_together_are_not_renewed_together() {
    const COUNT: usize = 2_000;
    let world = World::new(Duration::from_secs(3600));
    world
        .cache
        .prefetch((0..COUNT).map(|number| identity(&format!("sa-{number}"))));
    pass(MINUTE).await;
    assert_eq!(world.ca.calls(), COUNT);
    let (mut before, mut most) = (COUNT, 0);
    while world.ca.calls() < 2 * COUNT {
        pass(Duration::from_secs(1)).await;
        let calls = world.ca.calls();
        most = most.max(calls - before);
        before = calls;
    }
    assert!(most <= 50, "{most} in a second");
    assert!(world.ca.most_active.load(Ordering::SeqCst) <= MAX_REQUESTS);
}

#[tokio::test(start_paused = true)]
async fn f_26_what_the_control_plane_tells_is_taken_as_far_as_it_goes() {
    let world = World::new(DAY);
    let certificate = world.cache.get(&identity("web")).await.unwrap();
    let own = world.ca.authority.bundle();
    let garbled = own.pem().replace("MII", "!!!");
    let text = format!("{}{garbled}", own.pem().replace('\n', "\r\n"));
    let taken = world.cache.trust_text(text.as_bytes()).unwrap();
    assert_eq!(taken.sha256(), own.sha256());
    assert_eq!(world.cache.trust_problems().len(), 1);
    // Nothing of use: everything stays, and the reason is kept.
    for useless in [&b""[..], garbled.as_bytes(), &[0xff; 100]] {
        world.cache.trust_text(useless).unwrap_err();
        assert_eq!(world.cache.trusted(), Some(taken.clone()));
        assert_eq!(world.cache.trust_problems().len(), 1);
    }
    let now = world.cache.cached(&identity("web")).unwrap();
    assert_eq!(now.trust().roots(), certificate.trust().roots());
    world.cache.trust_text(own.pem().as_bytes()).unwrap();
    assert!(world.cache.trust_problems().is_empty());
}

#[tokio::test(start_paused = true)]
async fn f_27_who_is_revoked_is_told_to_those_who_serve_and_stays_so() {
    let world = World::new(DAY);
    let issuer = ca("root", 1, None);
    let (web, cache) = ([leaf(&issuer, 7)], [leaf(&issuer, 8)]);
    let certificates = &world.cache;
    let (withdrawals, mut changes) = (certificates.withdrawals(), certificates.revocations());
    let root = world.ca.authority.bundle().pem().to_owned();
    certificates.trust_text(root.as_bytes()).unwrap();
    assert!(!certificates.revoke(&web));
    assert!(!changes.has_changed().unwrap());
    let revoked = format!("{root}{}", list(&issuer, &[7]));
    certificates.trust_text(revoked.as_bytes()).unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert!(certificates.revoke(&web));
    assert!(!certificates.revoke(&cache));
    // The same once more is no news.
    certificates.trust_text(revoked.as_bytes()).unwrap();
    assert!(!changes.has_changed().unwrap());
    // Tunnels to everybody else stay as they are.
    assert!(!withdrawals.has_changed().unwrap());
    let damaged = revoked.replace("-----END X509 CRL-----", "");
    certificates.trust_text(damaged.as_bytes()).unwrap();
    assert_eq!(certificates.trust_problems().len(), 1);
    assert!(certificates.revoke(&web), "taken back in by accident");
    certificates.trust_text(root.as_bytes()).unwrap();
    assert!(!certificates.revoke(&web));
}
