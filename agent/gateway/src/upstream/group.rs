//! The endpoints of one port of a service as all workers see them: which there are, how busy and
//! how well each is, what the service may have at a time. Connections are the workers' own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent_model::{NamespacedHostname, Reason, Workload};
use agent_state::Snapshot;
use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use super::groups::Place;
use super::list::{List, Member, Vital};
use crate::circuit::{Circuit, Kind, Limits, Permit};
use crate::outlier::{Cause, Change, Outliers};
use crate::refusal::Refusal;
use crate::retry::{Budget, Retrying};
use crate::tuning::Settings;

/// Failures in a row are not counted.
const UNCOUNTED: u32 = u32::MAX;

/// One port of a service, or of one pod. What is limited or judged is so for the whole process.
pub(crate) struct Group {
    service: NamespacedHostname,
    port: u16,
    /// It is one pod, which was addressed itself.
    is_pod: bool,
    list: ArcSwap<List>,
    /// Grows with each list.
    epoch: AtomicU64,
    /// There is a circuit.
    is_limited: AtomicBool,
    /// Endpoints are checked.
    is_checked: AtomicBool,
    /// Failures in a row that eject; [`UNCOUNTED`] when nothing is counted, 0 when only rates are.
    consecutive: AtomicU32,
    judge: Mutex<Judge>,
    circuit: Arc<Circuit>,
    budget: Arc<Budget>,
    /// Requests that wait for a connection because there are enough.
    waiting: AtomicU32,
    /// A connection has ended.
    freed: Notify,
    /// Asks every worker to close connections that nobody uses.
    reclaim: watch::Sender<u64>,
    events: Events,
}

/// What happened so far.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// Ejections.
    pub(super) ejected: AtomicU64,
    /// Ends of ejections.
    pub(super) returned: AtomicU64,
    /// Requests sent again.
    pub(super) retried: AtomicU64,
    /// Retries for which the budget had no room.
    pub(super) unretried: AtomicU64,
}

/// Who decides which endpoints there are and which of them count.
struct Judge {
    /// Version of the snapshot that was looked at last.
    version: Option<u64>,
    settings: Arc<Settings>,
    outliers: Option<Outliers>,
}

impl Group {
    pub(super) fn new(
        service: NamespacedHostname,
        port: u16,
        settings: Arc<Settings>,
        reclaim: watch::Sender<u64>,
    ) -> Arc<Self> {
        let group = Self::empty(service, port, &settings, reclaim);
        group.tune(&mut group.judge(), settings, Instant::now());
        Arc::new(group)
    }

    /// Of one pod and no other, under a name that no service has. Settings of services are not for
    /// it: there is no other to choose, or to send to while it fails.
    pub(super) fn of_pod(
        name: NamespacedHostname,
        workload: Arc<Workload>,
        address: SocketAddr,
    ) -> Arc<Self> {
        let settings = Arc::default();
        let reclaim = watch::channel(0).0;
        let group = Self::empty(name, address.port(), &settings, reclaim);
        group.tune(&mut group.judge(), Arc::clone(&settings), Instant::now());
        let alone = List::of_one(workload, address, &settings);
        group.put(&mut group.judge(), alone);
        Arc::new(Self {
            is_pod: true,
            ..group
        })
    }

    fn empty(
        service: NamespacedHostname,
        port: u16,
        settings: &Arc<Settings>,
        reclaim: watch::Sender<u64>,
    ) -> Self {
        Self {
            service,
            port,
            is_pod: false,
            list: ArcSwap::from_pointee(List::unknown(settings)),
            epoch: AtomicU64::new(0),
            is_limited: AtomicBool::new(false),
            is_checked: AtomicBool::new(false),
            consecutive: AtomicU32::new(UNCOUNTED),
            judge: Mutex::new(Judge {
                version: None,
                settings: Arc::default(),
                outliers: None,
            }),
            circuit: Arc::new(Circuit::new(Limits::default())),
            budget: Arc::default(),
            waiting: AtomicU32::new(0),
            freed: Notify::new(),
            reclaim,
            events: Events::default(),
        }
    }

    pub(super) fn service(&self) -> &NamespacedHostname {
        &self.service
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// True for one pod that was addressed itself.
    pub(super) fn is_pod(&self) -> bool {
        self.is_pod
    }

    /// The list, and its number.
    pub(super) fn list(&self) -> (Arc<List>, u64) {
        // The number first: at worst the list is newer, and looked at twice.
        let epoch = self.epoch.load(Ordering::Acquire);
        (self.list.load_full(), epoch)
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// There are no endpoints.
    pub(super) fn is_empty(&self) -> bool {
        self.list.load().members.is_empty()
    }

    /// Time brings something: endpoints may be ejected.
    pub(super) fn is_judged(&self) -> bool {
        self.consecutive.load(Ordering::Relaxed) != UNCOUNTED
    }

    /// Endpoints are asked whether they are well.
    pub(super) fn is_checked(&self) -> bool {
        self.is_checked.load(Ordering::Relaxed)
    }

    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub(super) fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    pub(super) fn events(&self) -> &Events {
        &self.events
    }

    /// Takes the endpoints of a snapshot, unless another worker was first. Endpoints that stay
    /// keep what is known of them.
    pub(super) fn follow(&self, snapshot: &Snapshot, place: &Place) {
        let mut judge = self.judge();
        if judge
            .version
            .is_some_and(|known| known >= snapshot.version())
        {
            return;
        }
        judge.version = Some(snapshot.version());
        let before = self.list.load_full();
        let settings = Arc::clone(&judge.settings);
        let next = List::of(
            snapshot,
            (&self.service, self.port),
            place,
            &settings,
            &before,
        );
        if let Some(next) = next {
            self.put(&mut judge, next);
        }
    }

    /// Works by other settings from now on. Endpoints, connections and what is known of them stay.
    pub(super) fn configure(&self, settings: Arc<Settings>, now: Instant) {
        let mut judge = self.judge();
        if *judge.settings == *settings {
            return;
        }
        self.tune(&mut judge, Arc::clone(&settings), now);
        // Whether near endpoints come first may have changed: the snapshot is looked at again.
        judge.version = None;
        let next = self.list.load().with_settings(&settings);
        self.put(&mut judge, next);
    }

    fn tune(&self, judge: &mut Judge, settings: Arc<Settings>, now: Instant) {
        self.circuit
            .set_limits(settings.circuit.unwrap_or_default());
        let is_limited = settings.circuit.is_some();
        self.is_limited.store(is_limited, Ordering::Relaxed);
        let is_checked = settings.health.is_some();
        self.is_checked.store(is_checked, Ordering::Relaxed);
        let budget = settings.budget;
        self.budget.set(budget.percent, budget.least);
        let consecutive = settings.outlier.map_or(UNCOUNTED, |outlier| {
            outlier.consecutive.unwrap_or(0).min(UNCOUNTED - 1)
        });
        self.consecutive.store(consecutive, Ordering::Relaxed);
        match (&mut judge.outliers, settings.outlier) {
            (Some(outliers), Some(settings)) => outliers.judge_by(settings, now),
            (outliers, settings) => {
                *outliers = settings.map(|settings| Outliers::new(settings, now));
            }
        }
        judge.settings = settings;
    }

    /// What came of a request at an endpoint.
    pub(super) fn note(&self, vital: &Vital, is_good: bool, now: Instant) {
        let limit = match self.consecutive.load(Ordering::Relaxed) {
            UNCOUNTED => return,
            0 => None,
            limit => Some(limit),
        };
        if vital.tally.note(is_good, limit) {
            let mut judge = self.judge();
            let outliers = judge.outliers.as_mut();
            let change = outliers.and_then(|outliers| outliers.failed(vital.id, now));
            self.changed(&judge, change.as_slice(), now);
        }
    }

    /// Does what time brings: endpoints come back, rates are compared.
    pub(super) fn tick(&self, now: Instant) {
        let mut judge = self.judge();
        let Some(outliers) = &mut judge.outliers else {
            return;
        };
        if now >= outliers.next_tick() {
            let changes = outliers.tick(now);
            self.changed(&judge, &changes, now);
        }
    }

    /// Until when an endpoint is out, and why.
    pub(super) fn ejection(&self, vital: &Vital) -> Option<(Instant, Cause)> {
        self.judge().outliers.as_ref()?.ejection(vital.id)
    }

    /// An endpoint passes its checks again, or not any more, for this reason.
    pub(super) fn health_changed(&self, member: &Member, problem: Option<&str>) {
        let Self { service, port, .. } = self;
        let endpoint = member.address;
        match problem {
            Some(problem) => tracing::warn!(%service, port, %endpoint, problem,
                "endpoint is unhealthy"),
            None => tracing::info!(%service, port, %endpoint, "endpoint is healthy again"),
        }
        let judge = self.judge();
        self.assess(&judge, &self.list.load());
    }

    /// A retry, as far as a budget has room. What has none is counted.
    pub(crate) fn retry(&self, budget: &Arc<Budget>) -> Option<Retrying> {
        let retrying = budget.retry();
        let counter = match &retrying {
            Some(_) => &self.events.retried,
            None => &self.events.unretried,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        retrying
    }

    /// The right to send a request; refused when there are enough under way.
    pub(super) fn admit(&self) -> Result<Option<Permit>, Refusal> {
        if !self.is_limited.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let permit = self.circuit.take(Kind::Requests);
        permit.map(Some).ok_or_else(|| self.open("requests"))
    }

    /// The right to make a connection. Waits for one to end when there are enough, as long as not
    /// too many wait; `patience` bounds the wait.
    pub(super) async fn connection(
        self: &Arc<Self>,
        patience: Duration,
    ) -> Result<Option<Admission>, Refusal> {
        if !self.is_limited.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let Some(pending) = self.circuit.take(Kind::Pending) else {
            return Err(self.open("requests that wait for a connection"));
        };
        let permit = match self.circuit.take_now(Kind::Connections) {
            Some(permit) => permit,
            None => tokio::time::timeout(patience, self.wait())
                .await
                .map_err(|_| {
                    // It is full, and that is counted.
                    let _ = self.circuit.take(Kind::Connections);
                    self.open("connections")
                })?,
        };
        Ok(Some(Admission {
            pass: Pass {
                permit: Some(permit),
                group: Arc::clone(self),
            },
            _pending: pending,
        }))
    }

    /// True when somebody waits for a connection: one that is free must not be kept.
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    async fn wait(&self) -> Permit {
        let _waiting = Waiting::begin(&self.waiting);
        // Every worker has connections of its own, and some may be unused.
        self.reclaim.send_modify(|asked| *asked += 1);
        loop {
            let freed = self.freed.notified();
            if let Some(permit) = self.circuit.take_now(Kind::Connections) {
                return permit;
            }
            freed.await;
        }
    }

    fn open(&self, what: &str) -> Refusal {
        let Self { service, port, .. } = self;
        let detail = format!("{service}:{port} has as many {what} as its policy allows");
        Refusal::new(Reason::CircuitOpen, detail)
    }

    fn put(&self, judge: &mut Judge, next: List) {
        if let Some(outliers) = &mut judge.outliers {
            let members = next.members.iter();
            outliers.hold(members.map(|member| (member.vital.id, Arc::clone(&member.vital.tally))));
        }
        self.assess(judge, &next);
        self.list.store(Arc::new(next));
        self.epoch.fetch_add(1, Ordering::Release);
    }

    fn changed(&self, judge: &Judge, changes: &[Change], now: Instant) {
        if changes.is_empty() {
            return;
        }
        let list = self.list.load();
        for change in changes {
            let member = list.members.iter().find(|one| one.vital.id == change.key);
            self.tell(member.map(|member| member.address), change, now);
        }
        self.assess(judge, &list);
    }

    fn tell(&self, endpoint: Option<SocketAddr>, change: &Change, now: Instant) {
        let Self { service, port, .. } = self;
        let endpoint = endpoint.map(tracing::field::display);
        match change.ejected {
            Some((until, cause)) => {
                self.events.ejected.fetch_add(1, Ordering::Relaxed);
                let seconds = until.saturating_duration_since(now).as_secs();
                tracing::warn!(%service, port, endpoint, cause = cause.as_str(), seconds,
                    "endpoint ejected");
            }
            None => {
                self.events.returned.fetch_add(1, Ordering::Relaxed);
                tracing::info!(%service, port, endpoint, "endpoint back from ejection");
            }
        }
    }

    /// Says which endpoints may be chosen: who is not ejected and passes its health checks. Where
    /// that leaves too few, checks do not count.
    fn assess(&self, judge: &Judge, list: &List) {
        let outliers = judge.outliers.as_ref();
        let is_in = |member: &Member| {
            !outliers.is_some_and(|outliers| outliers.is_ejected(member.vital.id))
        };
        let is_well = |member: &Member| member.vital.is_well();
        let checks = judge.settings.health.as_ref();
        let is_panic = checks.is_some_and(|checks| {
            let members = list.members.iter();
            let usable = members.filter(|member| is_in(member) && is_well(member));
            usable.count() * 100 < list.members.len() * usize::from(checks.panic_percent)
        });
        for (index, member) in list.members.iter().enumerate() {
            let counts = checks.is_none() || is_panic || is_well(member);
            list.balancer.set_usable(index, is_in(member) && counts);
        }
    }

    fn judge(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to make a connection, and the place among those who do.
pub(super) struct Admission {
    pass: Pass,
    _pending: Permit,
}

impl Admission {
    /// The connection is made: it is no longer waited for.
    pub(super) fn made(self) -> Pass {
        self.pass
    }
}

/// The right to a connection, as long as it lives.
pub(super) struct Pass {
    /// Always there but while it is dropped.
    permit: Option<Permit>,
    group: Arc<Group>,
}

impl Drop for Pass {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.group.freed.notify_one();
    }
}

struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
