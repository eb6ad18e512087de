//! Backends: what all workers know of their endpoints, and each worker's own connections to them.

mod alone;
mod awake;
mod behalf;
mod cluster;
mod connect;
mod endpoint;
mod group;
mod groups;
mod h1;
mod h2;
mod health;
mod line;
mod list;
mod patient;
mod probe;
mod trial;
mod view;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use agent_model::gateway::BackendProtocol;
use agent_model::{NamespacedHostname, Reason, Workload};
use agent_state::{Reader, Snapshot};
use arc_swap::ArcSwap;
use hyper::Request;
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::body::RequestBody;
use crate::leg::Leg;
use crate::plan::{Inside, Plan};
use crate::refusal::Refusal;
use crate::retry::Failure;
use crate::tuning::Tuning;
use cluster::Cluster;
use trial::Trial;

pub(crate) use alone::Alone;
pub(crate) use behalf::Behalf;
pub(crate) use connect::{Dialer, secure};
pub(crate) use group::Group;
pub(crate) use groups::Groups;
pub(crate) use h1::{Leased, Upgraded};
pub(crate) use health::Checks;
pub(crate) use line::Line;
pub use view::{BackendView, CircuitView, EndpointView};

/// How long a TCP connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Endpoints that are tried when connections cannot be made.
const MAX_ENDPOINTS_TRIED: usize = 3;
/// How long a connection may wait for its next request.
const IDLE: Duration = Duration::from_secs(30);

/// The backends that one worker has talked to.
pub(crate) struct Upstreams {
    groups: Arc<Groups>,
    dialer: Dialer,
    plan: Arc<ArcSwap<Plan>>,
    state: Reader,
    changes: RefCell<watch::Receiver<u64>>,
    snapshot: RefCell<Arc<Snapshot>>,
    clusters: RefCell<HashMap<NamespacedHostname, Ports>>,
}

/// The clusters of a service by port; a few at most.
type Ports = Vec<(u16, Rc<Cluster>)>;

/// A request on its way to a backend. Boxed: it is moved at each step.
pub(crate) type Outgoing = Box<Request<RequestBody>>;

/// Where a request goes, and what of it matters for the choice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) service: &'a NamespacedHostname,
    pub(crate) port: u16,
    pub(crate) protocol: BackendProtocol,
    /// Who asks, where that is known.
    pub(crate) client: Option<IpAddr>,
    /// Key of the endpoint that the client's session is with.
    pub(crate) session: Option<u64>,
    /// What it is hashed by where it lacks what is.
    pub(crate) hash: Option<u64>,
    /// When an answer is too late; the caller gives up then.
    pub(crate) deadline: Option<Instant>,
    /// For whom it is, at a waypoint.
    pub(crate) behalf: Option<&'a Arc<Behalf>>,
    /// The pod it goes to, whatever the service: the client has addressed it.
    pub(crate) pod: Option<&'a Alone>,
}

/// A backend's answer.
pub(crate) struct Answer {
    /// Head and body.
    pub(crate) response: http::Response<Incoming>,
    /// The connection it comes over.
    pub(crate) lease: Leased,
}

impl Upstreams {
    pub(crate) fn new(
        plan: Arc<ArcSwap<Plan>>,
        state: Reader,
        groups: Arc<Groups>,
        dialer: Dialer,
    ) -> Self {
        Self {
            groups,
            dialer,
            plan,
            changes: RefCell::new(state.changed()),
            snapshot: RefCell::new(state.load()),
            state,
            clusters: RefCell::default(),
        }
    }

    /// Sends a request to an endpoint of a service and waits for the head of its answer. Endpoints
    /// that cannot be reached are passed over: nothing was sent to them. Those that failed are
    /// added to `tried`.
    pub(crate) async fn send(
        &self,
        call: &Call<'_>,
        tried: &mut Vec<u64>,
        mut request: Outgoing,
    ) -> Result<Answer, Failed> {
        let found;
        let cluster = match call.pod {
            Some(pod) => &pod.cluster,
            None => {
                found = self.cluster(call.service, call.port);
                &*found
            }
        };
        let mut passed_over = 0;
        loop {
            let now = std::time::Instant::now();
            let headers = Some(request.headers());
            let endpoint = cluster.choose(call, headers, tried, now)?;
            let (id, address) = (endpoint.vital().id, endpoint.address());
            let permit = cluster.group().admit()?;
            let trial = Trial::begin(endpoint, permit, call.deadline, now);
            let sent = match call.protocol {
                BackendProtocol::Http => h1::send(&self.dialer, trial, call.behalf, request).await,
                // Boxed: it may have to connect, and everybody would carry the room for that.
                BackendProtocol::H2c => {
                    Box::pin(h2::send(&self.dialer, trial, call.behalf, request)).await
                }
            };
            let failed = match sent {
                Ok((response, lease)) => return Ok(Answer { response, lease }),
                Err(failed) => failed,
            };
            if !tried.contains(&id) {
                tried.push(id);
            }
            passed_over += 1;
            match failed {
                Failed {
                    refusal,
                    unsent: Some(unsent),
                    ..
                } if refusal.reason != Reason::CircuitOpen
                    && passed_over < MAX_ENDPOINTS_TRIED
                    && tried.len() < cluster.len() =>
                {
                    tracing::debug!(endpoint = %address, detail = refusal.detail,
                        "endpoint passed over");
                    request = unsent;
                }
                failed => return Err(failed),
            }
        }
    }

    /// Connects to an endpoint of a service, for bytes that nobody looks into.
    pub(crate) async fn connect(&self, call: &Call<'_>, inside: Inside) -> Result<Line, Refusal> {
        let cluster = self.cluster(call.service, call.port);
        let mut tried = Vec::new();
        loop {
            let now = std::time::Instant::now();
            let endpoint = cluster.choose(call, None, &tried, now)?;
            let permit = cluster.group().admit()?;
            let mut trial = Trial::begin(Rc::clone(&endpoint), permit, None, now);
            match self.dialer.line(&endpoint, inside, call.behalf).await {
                Ok(line) => {
                    trial.connected();
                    return Ok(line.of(trial));
                }
                Err(refusal) => {
                    if fault(refusal.reason) {
                        trial.failed();
                    }
                    tried.push(endpoint.vital().id);
                    if tried.len() >= MAX_ENDPOINTS_TRIED.min(cluster.len())
                        || refusal.reason == Reason::CircuitOpen
                    {
                        return Err(refusal);
                    }
                }
            }
        }
    }

    /// How endpoints are treated.
    pub(crate) fn tuning(&self) -> Arc<Tuning> {
        self.groups.tuning()
    }

    /// Connects to a workload itself, which has that address.
    pub(crate) async fn connect_to(
        &self,
        workload: &Workload,
        address: SocketAddr,
        behalf: &Arc<Behalf>,
    ) -> Result<Leg, Refusal> {
        self.dialer.pod(workload, address, Some(behalf)).await
    }

    /// Sees snapshots change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.state.changed()
    }

    /// The group of whatever a request goes to.
    pub(crate) fn group(&self, call: &Call<'_>) -> Arc<Group> {
        match call.pod {
            Some(pod) => Arc::clone(pod.cluster.group()),
            None => Arc::clone(self.cluster(call.service, call.port).group()),
        }
    }

    /// An endpoint of a service, for datagrams.
    pub(crate) fn endpoint(&self, call: &Call<'_>) -> Result<SocketAddr, Refusal> {
        let cluster = self.cluster(call.service, call.port);
        let endpoint = cluster.choose(call, None, &[], std::time::Instant::now())?;
        if endpoint.tls().is_some() {
            let Call { service, port, .. } = call;
            let detail = format!("{service}:{port} wants TLS, which datagrams have not");
            return Err(Refusal::new(Reason::BackendInvalid, detail));
        }
        Ok(endpoint.address())
    }

    /// Whether an address still is one of a service's endpoints.
    pub(crate) fn has(
        &self,
        service: &NamespacedHostname,
        port: u16,
        endpoint: SocketAddr,
    ) -> bool {
        self.cluster(service, port).has(endpoint)
    }

    /// The newest snapshot of the mesh.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.refresh();
        Arc::clone(&self.snapshot.borrow())
    }

    /// Closes connections that have waited for too long, and forgets services that are gone.
    pub(crate) fn sweep(&self, now: Instant) {
        let snapshot = self.snapshot();
        self.clusters
            .borrow_mut()
            .retain(|service, _| snapshot.service(service).is_some());
        for (_, cluster) in self.clusters.borrow().values().flatten() {
            cluster.sweep(now);
        }
    }

    /// Closes connections that nobody uses where somebody waits for one.
    pub(crate) fn reclaim(&self) {
        for (_, cluster) in self.clusters.borrow().values().flatten() {
            cluster.reclaim();
        }
    }

    /// Changes when [`Self::reclaim`] has to be called.
    pub(crate) fn reclaimed(&self) -> watch::Receiver<u64> {
        self.groups.reclaimed()
    }

    fn refresh(&self) {
        if self.changes.borrow().has_changed().unwrap_or(false) {
            self.changes.borrow_mut().mark_unchanged();
            *self.snapshot.borrow_mut() = self.state.load();
        }
    }

    fn cluster(&self, service: &NamespacedHostname, port: u16) -> Rc<Cluster> {
        self.refresh();
        let snapshot = self.snapshot.borrow();
        let plan = self.plan.load();
        if let Some(ports) = self.clusters.borrow().get(service)
            && let Some((_, cluster)) = ports.iter().find(|(candidate, _)| *candidate == port)
        {
            cluster.follow(&plan);
            cluster.update(&snapshot, self.groups.place());
            return Rc::clone(cluster);
        }
        let cluster = Rc::new(Cluster::new(self.groups.group(service, port)));
        cluster.follow(&plan);
        cluster.update(&snapshot, self.groups.place());
        // Of ports that there are not, clients can name any number.
        if cluster.len() > 0 {
            let mut clusters = self.clusters.borrow_mut();
            let ports = clusters.entry(service.clone()).or_default();
            ports.push((port, Rc::clone(&cluster)));
        }
        cluster
    }
}

/// A request that got no answer.
pub(crate) struct Failed {
    pub(crate) refusal: Refusal,
    /// The request, when nothing of it was sent.
    pub(crate) unsent: Option<Outgoing>,
    /// What failed, where another attempt may do better.
    pub(crate) failure: Option<Failure>,
}

impl Failed {
    fn unsent(refusal: Refusal, request: Outgoing) -> Self {
        Self {
            failure: fault(refusal.reason).then_some(Failure::NotConnected),
            refusal,
            unsent: Some(request),
        }
    }

    fn lost(error: &hyper::Error) -> Self {
        let detail = chain(error);
        Self {
            refusal: Refusal::new(Reason::ConnectionReset, detail),
            unsent: None,
            failure: Some(Failure::Broken),
        }
    }

    /// It is the endpoint's fault, as far as it is anybody's there.
    fn at(self, mut trial: Trial) -> Self {
        if self.failure.is_some() {
            trial.failed();
        }
        self
    }
}

impl From<Refusal> for Failed {
    /// Nobody was asked.
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            unsent: None,
            failure: None,
        }
    }
}

/// True for what another endpoint may do better.
fn fault(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConnectRefused
            | Reason::ConnectTimeout
            | Reason::ConnectFailed
            | Reason::ConnectionReset
            | Reason::TlsFailed
            | Reason::PeerIdentityMismatch
            | Reason::PeerRevoked
            | Reason::PeerDenied
            | Reason::PeerRejected
            | Reason::H2Failed
            | Reason::TunnelLost
    )
}

/// The error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
