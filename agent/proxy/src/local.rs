//! An enrolled pod on one worker: what its connections need of it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agent_model::{Identity, Reason, Workload};
use agent_net::drain::Watcher;
use agent_net::socket;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::mesh::Worker;
use crate::pod::Pod;
use crate::refusal::Refusal;

/// How long a connection waits for the control plane's record of its pod.
const WORKLOAD_WAIT: Duration = Duration::from_secs(5);

/// A pod on one worker. Every task of the pod holds a clone of its watcher, so that removing the
/// pod can wait until they are gone and with them every socket in the pod's namespace.
#[derive(Clone)]
pub(crate) struct LocalPod {
    pub(crate) worker: Rc<Worker>,
    pub(crate) pod: Arc<Pod>,
    /// TLS handshakes with the pod that this worker may serve at a time. Every pod has its own, so
    /// that whoever keeps those of one busy keeps nobody from another.
    pub(crate) handshakes: Rc<Semaphore>,
    removal: Watcher,
}

impl LocalPod {
    pub(crate) fn new(worker: Rc<Worker>, pod: Arc<Pod>, removal: Watcher) -> Self {
        let turns = worker.mesh.config.handshakes_per_pod;
        Self {
            worker,
            pod,
            handshakes: Rc::new(Semaphore::new(turns)),
            removal,
        }
    }

    /// Completes when the pod's connections must end, with the reason: the pod is removed, or the
    /// agent's drain is over.
    pub(crate) async fn ended(&self) -> Refusal {
        self.removal.clone().signalled().await;
        if self.worker.draining.is_draining() {
            Refusal::new(Reason::Drained, "the agent stopped")
        } else {
            let detail = "the pod was removed from the mesh or deleted";
            Refusal::new(Reason::PodRemoved, detail)
        }
    }

    /// Counts one connection against the pod's limit.
    pub(crate) fn admit(&self) -> Result<Slot, Refusal> {
        self.count(&self.pod.connections, "connections")
    }

    /// Counts one tunnel of a peer against the pod's limit, from the moment it is accepted: nobody
    /// has proved anything yet, and descriptors are what the whole node shares.
    pub(crate) fn admit_tunnel(&self) -> Result<Slot, Refusal> {
        self.count(&self.pod.tunnels, "tunnels")
    }

    fn count(&self, counter: &Arc<AtomicU32>, what: &str) -> Result<Slot, Refusal> {
        let limit = self.worker.mesh.config.connections_per_pod;
        let before = counter.fetch_add(1, Ordering::Relaxed);
        let slot = Slot(Arc::clone(counter));
        if before >= limit {
            let detail = format!("the pod has {limit} {what} already");
            return Err(Refusal::new(Reason::LimitExceeded, detail));
        }
        Ok(slot)
    }

    /// This pod's record, waiting for the control plane for a while. Nothing is served from a
    /// mesh that was only half received: its policies may be the half that is missing.
    pub(crate) async fn workload(&self) -> Result<Arc<Workload>, Refusal> {
        let mesh = &self.worker.mesh;
        let current = || {
            let synced = *mesh.synced.borrow();
            synced
                .then(|| {
                    self.pod
                        .workload_in(&mesh.state.load(), &mesh.config.network)
                })
                .flatten()
        };
        if let Some(workload) = current() {
            return Ok(workload);
        }
        let (mut changes, mut synced) = (mesh.state.changed(), mesh.synced.clone());
        let wait = async {
            loop {
                if let Some(workload) = current() {
                    return workload;
                }
                let changed = tokio::select! {
                    changed = changes.changed() => changed,
                    changed = synced.changed() => changed,
                };
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(WORKLOAD_WAIT, wait)
            .await
            .map_err(|_| {
                let detail = format!(
                    "the control plane has no record of {}/{} with one of its addresses",
                    self.pod.info().namespace,
                    self.pod.info().name
                );
                Refusal::new(Reason::SourceUnknown, detail)
            })
    }

    /// [`Self::dial`], again and again while nobody answers: of a destination without alternative
    /// a lost packet must not be the end. The caller sets the deadline.
    pub(crate) async fn dial_persistently(&self, address: SocketAddr) -> io::Result<TcpStream> {
        loop {
            match self.dial(address).await {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                result => return result,
            }
        }
    }

    /// Dials from inside the pod with an exempt socket; the source address is the pod's.
    pub(crate) async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let kernel = &self.worker.mesh.kernel;
        socket::connect(self.pod.netns(), address, |socket| {
            kernel.exempt(socket.as_fd())
        })
        .await
    }

    /// Dials the application on one of the pod's own addresses; it sees `client` as its peer.
    pub(crate) async fn dial_application(
        &self,
        address: SocketAddr,
        client: SocketAddr,
    ) -> Result<TcpStream, Refusal> {
        let kernel = &self.worker.mesh.kernel;
        socket::connect(self.pod.netns(), address, |socket| {
            kernel.show_client(socket.as_fd(), client)
        })
        .await
        .map_err(|error| Refusal::connect(&error))
    }

    /// True when `ip` is one of the pod's own.
    pub(crate) fn owns(&self, ip: IpAddr) -> bool {
        self.pod.owns(ip)
    }
}

/// One of the pod's connections or tunnels; counted until dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<AtomicU32>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The identity a workload's certificate must carry.
pub(crate) fn identity_of(workload: &Workload) -> Result<Identity, Refusal> {
    workload
        .identity()
        .map_err(|error| Refusal::new(Reason::SourceUnknown, error.to_string()))
}
