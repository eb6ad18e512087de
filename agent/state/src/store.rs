//! One writer, many readers, whole snapshots in between.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use agent_model::{NamespacedHostname, Workload};
use agent_xds::{Apply, Demand, NotTold, Rejection, Update};
use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::Snapshot;
use crate::resolve::{AuthorityRef, Names, inbound_names, outbound_names, peer_names};

/// How long a connection waits for what its control plane says of a name.
const PATIENCE: Duration = Duration::from_secs(1);
/// Questions one decision leads to at most: a destination, its waypoint, and one for a change in
/// between.
const MAX_QUESTIONS: usize = 3;

/// Makes the two ends of an empty state.
pub fn channel() -> (Writer, Reader) {
    let (version, changed) = watch::channel(0);
    let shared = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
    let writer = Writer {
        next: Snapshot::default(),
        shared: Arc::clone(&shared),
        version,
    };
    let reader = Reader {
        shared,
        changed,
        demand: None,
    };
    (writer, reader)
}

/// Applies batches; each becomes visible as a whole.
#[derive(Debug)]
pub struct Writer {
    next: Snapshot,
    shared: Arc<ArcSwap<Snapshot>>,
    version: watch::Sender<u64>,
}

/// Reads the newest snapshot. Clones are cheap, and every worker should have its own.
#[derive(Debug, Clone)]
pub struct Reader {
    shared: Arc<ArcSwap<Snapshot>>,
    changed: watch::Receiver<u64>,
    demand: Option<Demand>,
}

impl Reader {
    /// The reader of a state that holds of the mesh only what was asked for by `demand`.
    pub fn on_demand(self, demand: Demand) -> Self {
        Self {
            demand: Some(demand),
            ..self
        }
    }

    /// What asks the control plane by name, where the state is not the whole mesh.
    pub fn demand(&self) -> Option<&Demand> {
        self.demand.as_ref()
    }

    /// The newest snapshot, with what a connection of `source` to `destination` needs. Waits for
    /// the control plane when it was not asked for that before, up to a second per question.
    pub async fn for_outbound(
        &self,
        source: &Workload,
        destination: SocketAddr,
    ) -> Result<Arc<Snapshot>, NotTold> {
        self.with(|snapshot| outbound_names(snapshot, source, destination))
            .await
    }

    /// The newest snapshot, with what a tunnel request to `local` needs, as
    /// [`Self::for_outbound`].
    pub async fn for_inbound(
        &self,
        local: &Workload,
        authority: &AuthorityRef<'_>,
    ) -> Result<Arc<Snapshot>, NotTold> {
        self.with(|snapshot| inbound_names(snapshot, local, authority))
            .await
    }

    /// The newest snapshot, with who the peer at an address is, as [`Self::for_outbound`].
    pub async fn for_peer(&self, network: &str, peer: IpAddr) -> Result<Arc<Snapshot>, NotTold> {
        self.with(|snapshot| peer_names(snapshot, network, peer))
            .await
    }

    async fn with(&self, names: impl Fn(&Snapshot) -> Names) -> Result<Arc<Snapshot>, NotTold> {
        let Some(demand) = &self.demand else {
            return Ok(self.load());
        };
        for _ in 0..MAX_QUESTIONS {
            let snapshot = self.load();
            let Names { known, unknown } = names(&snapshot);
            demand.used(known.iter().map(String::as_str));
            // What was answered before and is unknown still does not exist.
            if unknown.is_empty() || demand.want(&unknown)? {
                return Ok(snapshot);
            }
            demand.know(&unknown, PATIENCE).await?;
        }
        Ok(self.load())
    }

    /// The newest snapshot, without a lock.
    pub fn load(&self) -> Arc<Snapshot> {
        self.shared.load_full()
    }

    /// The version of the newest snapshot, to wait for the next one. Ends when the writer is gone.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
}

impl Apply for Writer {
    fn apply(&mut self, updates: Vec<Update>) -> Vec<Rejection> {
        if updates.is_empty() {
            return Vec::new();
        }
        for update in updates {
            self.apply_one(update);
        }
        self.next.bump();
        self.shared.store(Arc::new(self.next.clone()));
        self.version.send_replace(self.next.version());
        Vec::new()
    }
}

impl Writer {
    fn apply_one(&mut self, update: Update) {
        match update {
            Update::Workload(workload) => self.next.put_workload(Arc::new(*workload)),
            Update::Service(service) => self.next.put_service(Arc::new(*service)),
            Update::Policy(policy) => self.next.put_policy(&policy),
            Update::RemoveAddress(name) => self.remove_address(&name),
            Update::RemovePolicy(key) => self.next.remove_policy(&key),
            Update::RejectedPolicy(key) => self.next.reject_policy(&key),
            // Only gateways are told; their room keeps it.
            Update::Gateway(_)
            | Update::Route(..)
            | Update::Backend(..)
            | Update::Access(..)
            | Update::Authentication(..)
            | Update::TrafficPolicy(..)
            | Update::RejectedOfGateway(..)
            | Update::RemoveOfGateway(..) => {}
        }
    }

    /// A uid, or else `namespace/hostname`; the two forms cannot be told apart by their looks.
    fn remove_address(&mut self, name: &str) {
        if self.next.remove_workload(name) {
            return;
        }
        if let Some(key) = NamespacedHostname::parse(name) {
            self.next.remove_service(&key);
        }
    }
}
