//! One writer, many readers, whole snapshots in between.

use std::sync::Arc;

use agent_model::NamespacedHostname;
use agent_xds::{Apply, Rejection, Update};
use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::Snapshot;

/// Makes the two ends of an empty state.
pub fn channel() -> (Writer, Reader) {
    let (version, changed) = watch::channel(0);
    let shared = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
    let writer = Writer {
        next: Snapshot::default(),
        shared: Arc::clone(&shared),
        version,
    };
    (writer, Reader { shared, changed })
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
}

impl Reader {
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
