//! Connections to backends: one worker's, shared by nobody.

mod choose;
mod cluster;
mod connect;
mod h1;
mod h2;
mod patient;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use agent_model::gateway::BackendProtocol;
use agent_model::{NamespacedHostname, Reason};
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
use cluster::Cluster;

pub(crate) use choose::Endpoint;
pub(crate) use connect::Dialer;
pub(crate) use h1::{Leased, Upgraded};

/// How long a TCP connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Endpoints that are tried when connections cannot be made.
const MAX_ENDPOINTS_TRIED: usize = 3;
/// How long a connection may wait for its next request.
const IDLE: Duration = Duration::from_secs(30);

/// The backends that one worker has talked to.
pub(crate) struct Upstreams {
    network: Arc<str>,
    dialer: Dialer,
    plan: Arc<ArcSwap<Plan>>,
    state: Reader,
    changes: RefCell<watch::Receiver<u64>>,
    snapshot: RefCell<Arc<Snapshot>>,
    clusters: RefCell<HashMap<NamespacedHostname, Ports>>,
}

/// The clusters of a service by port; a few at most.
type Ports = Vec<(u16, Rc<Cluster>)>;

/// A backend's answer.
pub(crate) struct Answer {
    /// Head and body.
    pub(crate) response: http::Response<Incoming>,
    /// The connection it comes over.
    pub(crate) lease: Leased,
    /// Who answers.
    pub(crate) endpoint: Rc<Endpoint>,
}

impl Upstreams {
    pub(crate) fn new(
        plan: Arc<ArcSwap<Plan>>,
        state: Reader,
        network: Arc<str>,
        dialer: Dialer,
    ) -> Self {
        Self {
            network,
            dialer,
            plan,
            changes: RefCell::new(state.changed()),
            snapshot: RefCell::new(state.load()),
            state,
            clusters: RefCell::default(),
        }
    }

    /// Sends a request to an endpoint of a service and waits for the head of its answer. Endpoints
    /// that cannot be reached are passed over: nothing was sent to them.
    pub(crate) async fn send(
        &self,
        service: &NamespacedHostname,
        port: u16,
        protocol: BackendProtocol,
        request: Request<RequestBody>,
    ) -> Result<Answer, Refusal> {
        let cluster = self.cluster(service, port);
        let mut tried = Vec::new();
        let mut request = request;
        loop {
            let endpoint = cluster.choose(&tried, rand::random())?;
            let sent = match protocol {
                BackendProtocol::Http => h1::send(&self.dialer, &endpoint, request).await,
                BackendProtocol::H2c => h2::send(&self.dialer, &endpoint, request).await,
            };
            match sent {
                Ok((response, lease)) => {
                    return Ok(Answer {
                        response,
                        lease,
                        endpoint,
                    });
                }
                Err(Failed {
                    refusal,
                    unsent: Some(unsent),
                }) if tried.len() + 1 < MAX_ENDPOINTS_TRIED && cluster.len() > tried.len() + 1 => {
                    tracing::debug!(endpoint = %endpoint.address(), detail = refusal.detail,
                        "endpoint passed over");
                    tried.push(endpoint.address());
                    request = *unsent;
                }
                Err(failed) => return Err(failed.refusal),
            }
        }
    }

    /// Connects to an endpoint of a service, for bytes that nobody looks into.
    pub(crate) async fn connect(
        &self,
        service: &NamespacedHostname,
        port: u16,
    ) -> Result<Leg, Refusal> {
        let cluster = self.cluster(service, port);
        let mut tried = Vec::new();
        loop {
            let endpoint = cluster.choose(&tried, rand::random())?;
            let address = endpoint.address();
            match self.dialer.dial(&endpoint, Inside::Bytes).await {
                Ok(leg) => return Ok(leg.into_inner()),
                Err(refusal) => {
                    tried.push(address);
                    if tried.len() >= MAX_ENDPOINTS_TRIED.min(cluster.len()) {
                        return Err(refusal);
                    }
                }
            }
        }
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
            cluster.update(&snapshot, &self.network);
            return Rc::clone(cluster);
        }
        let cluster = Rc::new(Cluster::new(service.clone(), port));
        cluster.follow(&plan);
        cluster.update(&snapshot, &self.network);
        let mut clusters = self.clusters.borrow_mut();
        let ports = clusters.entry(service.clone()).or_default();
        ports.push((port, Rc::clone(&cluster)));
        cluster
    }
}

/// A request that got no answer.
pub(crate) struct Failed {
    pub(crate) refusal: Refusal,
    /// The request, when nothing of it was sent.
    pub(crate) unsent: Option<Box<Request<RequestBody>>>,
}

impl Failed {
    fn unsent(refusal: Refusal, request: Request<RequestBody>) -> Self {
        Self {
            refusal,
            unsent: Some(Box::new(request)),
        }
    }

    fn lost(error: &hyper::Error) -> Self {
        let detail = chain(error);
        Self {
            refusal: Refusal::new(Reason::ConnectionReset, detail),
            unsent: None,
        }
    }
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
