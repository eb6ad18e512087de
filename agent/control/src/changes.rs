//! From what a source says to what nodes are told: one turn for all that came together.

use std::sync::{Arc, PoisonError, RwLock};

use agent_net::drain;
use agent_xds::server::ConnectedNodes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::collection::{Collection, Placement};
use crate::gateway;
use crate::nodes::AttachedNodes;
use crate::pace::Pace;
use crate::snapshot::Snapshot;
use crate::source::{Batch, Problem};
use crate::status::Status;

/// Turns batches into what nodes see.
pub(crate) struct Changes {
    pub(crate) collection: Arc<RwLock<Collection>>,
    pub(crate) snapshot: Snapshot,
    pub(crate) status: Status,
    pub(crate) problems: Vec<Problem>,
    /// Where the problems are to be seen, anew after every change.
    pub(crate) told: watch::Sender<Arc<[Problem]>>,
    pub(crate) placement: watch::Sender<Placement>,
    pub(crate) attached: AttachedNodes,
    /// Who is told.
    pub(crate) streams: ConnectedNodes,
}

impl Changes {
    /// Goes on until the drain begins, or the source ends.
    pub(crate) async fn follow(
        mut self,
        mut batches: mpsc::Receiver<Batch>,
        mut drain: drain::Watcher,
    ) {
        let mut reports = self.attached.changes();
        let mut taken = self.streams.gateway_changes();
        let mut pace = Pace::default();
        loop {
            let turn = self.next_turn();
            let turned = async {
                match turn {
                    Some(turn) => sleep_until(turn).await,
                    None => std::future::pending().await,
                }
            };
            let first = tokio::select! {
                () = drain.signalled() => return,
                batch = batches.recv() => match batch {
                    Some(batch) => Some(batch),
                    None => return,
                },
                Ok(()) = reports.changed() => None,
                Ok(()) = taken.changed() => {
                    if !self.hear() {
                        continue;
                    }
                    None
                }
                () = turned => None,
            };
            let streams = self.streams.count();
            sleep_until(pace.gather_until(Instant::now(), streams)).await;
            let mut gathered: Vec<Batch> = first.into_iter().collect();
            while let Ok(batch) = batches.try_recv() {
                gathered.push(batch);
            }
            self.take(gathered);
            pace.done(Instant::now());
        }
    }

    /// Takes over what gateways have taken; true when that says something new.
    fn hear(&self) -> bool {
        let heard = gateway::heard(&self.streams.gateways());
        let collection = self.collection.write();
        let mut collection = collection.unwrap_or_else(PoisonError::into_inner);
        collection.hear(heard)
    }

    /// When what was put off is due.
    fn next_turn(&self) -> Option<Instant> {
        let collection = self.collection.read();
        let collection = collection.unwrap_or_else(PoisonError::into_inner);
        collection.next_turn().map(Instant::from_std)
    }

    /// Takes batches over, and what nodes have said meanwhile.
    pub(crate) fn take(&mut self, batches: Vec<Batch>) {
        let mut collection = self
            .collection
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let mut events = 0;
        for batch in batches {
            events += batch.events.len();
            self.problems = batch.problems;
            for event in batch.events {
                collection.apply(event);
            }
        }
        for (node, reports) in self.attached.take_reports() {
            collection.report(&node, &reports);
        }
        let changed = collection.settle_at(Instant::now().into_std());
        // Certificates first: a node that sees a new pod asks for its certificate at once.
        let is_published = self.snapshot.update(&collection, &changed);
        let notes = collection.notes();
        if let Some(placement) = collection.new_placement() {
            self.placement.send_replace(placement);
        }
        drop(collection);
        debug!(
            events,
            namespaces = changed.len(),
            is_published,
            "manifests taken over"
        );
        self.status.report(&self.problems, notes);
        self.told.send_replace(self.problems.as_slice().into());
    }
}
