//! What the tasks of one worker share.

use std::cell::{Cell, RefCell, RefMut};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use agent_hbone::Settings;
use agent_model::{TunnelProtocol, Workload};
use agent_net::datagram::LONGEST_DATAGRAM;
use agent_net::tasks::spawn_local;
use agent_policy::http::Peer;
use agent_policy::jwt::Cache;
use agent_state::Reader;
use agent_telemetry::Shard;
use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::behind::Memory;
use crate::body::Room;
use crate::certified;
use crate::config::Config;
use crate::keys::Keys;
use crate::mesh::Mesh;
use crate::plan::Plan;
use crate::record::{Record, Records};
use crate::redis::Redises;
use crate::source::Source;
use crate::tally::Tally;
use crate::trace::{self, Trace};
use crate::uncounted::Uncounted;
use crate::upstream::{Dialer, Groups, Upstreams};

/// How often connections that wait are looked at.
const SWEEP: Duration = Duration::from_secs(5);

/// What the tasks of one worker share.
pub(crate) struct Worker {
    pub(crate) plan: Arc<ArcSwap<Plan>>,
    /// Tells that the plan, or how endpoints are treated, is another now.
    changes: watch::Receiver<u64>,
    pub(crate) upstreams: Upstreams,
    pub(crate) records: Arc<dyn Records>,
    tally: Tally,
    /// The share of requests that are traced where callers do not decide.
    traced: Option<f64>,
    /// Who asks where clients are strangers: the gateway itself.
    pub(crate) own: Source,
    pub(crate) mesh: Option<Mesh>,
    pub(crate) network: Arc<str>,
    pub(crate) tunnels: Rc<Settings>,
    /// For bodies that may have to be sent again.
    pub(crate) room: Rc<Room>,
    /// Those that count for rate limits.
    pub(crate) redises: Redises,
    /// What they did not count.
    pub(crate) uncounted: Arc<Uncounted>,
    /// Keys of those who issue tokens.
    pub(crate) keys: Keys,
    /// Tokens that were verified with them.
    pub(crate) tokens: RefCell<Cache>,
    /// Answers of our own say why.
    pub(crate) tells_reasons: bool,
    /// Backends are told who their clients proved to be.
    tells_certified: bool,
    /// What was behind this waypoint.
    pub(crate) behind: Memory,
    limits: Limits,
    connections: Cell<usize>,
    mirrors: Cell<usize>,
    sessions: Cell<usize>,
    /// Datagrams are read into it, one at a time.
    datagram: RefCell<Box<[u8]>>,
}

/// Who hears of requests, and whose they are.
pub(crate) struct Reports {
    pub(crate) records: Arc<dyn Records>,
    pub(crate) shard: Shard,
    pub(crate) traced: Option<f64>,
    /// The gateway's own workload.
    pub(crate) own: Option<Arc<Workload>>,
}

/// What one worker takes at a time.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Connections of clients.
    connections: usize,
    /// Copies of requests under way.
    mirrors: usize,
    /// Sessions of datagrams.
    pub(crate) sessions: usize,
    /// How long a session of datagrams may be quiet.
    pub(crate) session_idle: Duration,
}

/// Counts until it is dropped.
pub(crate) struct Slot {
    worker: Rc<Worker>,
    count: fn(&Worker) -> &Cell<usize>,
}

impl Worker {
    pub(crate) fn new(
        (plan, changes): (Arc<ArcSwap<Plan>>, watch::Receiver<u64>),
        state: Reader,
        config: &Config,
        groups: Arc<Groups>,
        mesh: Option<Mesh>,
        reports: Reports,
    ) -> Rc<Self> {
        let network = Arc::clone(&config.network);
        let dialer = Dialer::new(mesh.clone(), state.clone(), Arc::clone(&network));
        let own = Source {
            workload: reports.own,
            identity: mesh.as_ref().map(|mesh| mesh.identity.clone()),
        };
        let worker = Rc::new(Self {
            upstreams: Upstreams::new(Arc::clone(&plan), state, groups, dialer),
            plan,
            changes,
            records: reports.records,
            tally: Tally::new(reports.shard),
            traced: reports.traced,
            own,
            mesh,
            network,
            tunnels: Rc::default(),
            room: Rc::default(),
            redises: Redises::default(),
            uncounted: Arc::clone(&config.uncounted),
            behind: Memory::default(),
            keys: config.keys.clone(),
            tokens: RefCell::default(),
            tells_reasons: config.tells_reasons,
            tells_certified: config.tells_certified,
            limits: Limits {
                connections: config.connections_per_worker,
                mirrors: config.mirrors_per_worker,
                sessions: config.sessions_per_worker,
                session_idle: config.session_idle,
            },
            connections: Cell::new(0),
            mirrors: Cell::new(0),
            sessions: Cell::new(0),
            datagram: RefCell::new(vec![0; LONGEST_DATAGRAM].into()),
        });
        let swept = Rc::downgrade(&worker);
        let mut reclaimed = worker.upstreams.reclaimed();
        spawn_local(async move {
            loop {
                let is_wanted = tokio::select! {
                    () = sleep(SWEEP) => false,
                    Ok(()) = reclaimed.changed() => true,
                };
                let Some(worker) = swept.upgrade() else {
                    return;
                };
                worker.redises.sweep(Instant::now());
                match is_wanted {
                    true => worker.upstreams.reclaim(),
                    false => worker.upstreams.sweep(Instant::now()),
                }
            }
        });
        worker
    }

    /// Sees the plan change, and how endpoints are treated.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// True for the address of a workload that is reached by tunnel.
    pub(crate) fn is_meshed(&self, ip: IpAddr) -> bool {
        let snapshot = self.upstreams.snapshot();
        let workload = snapshot.workload_by_ip(&self.network, ip);
        workload.is_some_and(|workload| workload.tunnel_protocol != TunnelProtocol::None)
    }

    /// What backends are told of a client's certificate; nothing unless that is wanted, of a client
    /// that has shown none, or by a gateway that is nobody itself.
    pub(crate) fn certified(&self, client: Option<&Peer>) -> Option<HeaderValue> {
        let wanted = client.filter(|_| self.tells_certified);
        let own = self.mesh.as_ref().map(|mesh| &mesh.identity);
        own.zip(wanted)
            .and_then(|(own, client)| certified::of(own, client))
    }

    /// The trace of a request that is recorded.
    pub(crate) fn trace(&self, headers: &mut HeaderMap) -> Option<Box<Trace>> {
        trace::begin(headers, self.traced?, rand::random).map(Box::new)
    }

    /// A request is over.
    pub(crate) fn take(&self, record: &Record) {
        self.tally.count(record);
        self.records.take(record);
    }

    /// Counts a connection; `None` when there are enough.
    pub(crate) fn connection(self: &Rc<Self>) -> Option<Slot> {
        self.count(|worker| &worker.connections, self.limits.connections)
    }

    /// Counts a copy of a request; `None` when there are enough.
    pub(crate) fn mirror(self: &Rc<Self>) -> Option<Slot> {
        self.count(|worker| &worker.mirrors, self.limits.mirrors)
    }

    /// Counts a session of datagrams; `None` when there are enough.
    pub(crate) fn session(self: &Rc<Self>) -> Option<Slot> {
        self.count(|worker| &worker.sessions, self.limits.sessions)
    }

    /// How long a session of datagrams may be quiet.
    pub(crate) fn datagrams_idle(&self) -> Duration {
        self.limits.session_idle
    }

    /// Room for one datagram; not to be held across a wait.
    pub(crate) fn datagram_buffer(&self) -> RefMut<'_, Box<[u8]>> {
        self.datagram.borrow_mut()
    }

    fn count(self: &Rc<Self>, count: fn(&Self) -> &Cell<usize>, limit: usize) -> Option<Slot> {
        let counter = count(self);
        if counter.get() >= limit {
            return None;
        }
        counter.set(counter.get() + 1);
        Some(Slot {
            worker: Rc::clone(self),
            count,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let counter = (self.count)(&self.worker);
        counter.set(counter.get() - 1);
    }
}
