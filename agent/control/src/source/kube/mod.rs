//! The cluster source: watches what the API server has.
//!
//! One task per kind lists and watches; what they say is added up here and goes out as batches,
//! the first of them when every kind is complete. While the API server is away the last state
//! stays.

mod bounded;
mod item;
mod kinds;
mod progress;
mod store;
#[cfg(test)]
pub(crate) mod tests;
mod watch;

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use agent_net::drain;
use kube::Client;
use kube::core::ApiResource;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info};

use super::{Batch, Kind};
use kinds::WATCHED;
pub(crate) use progress::Progress;
use store::{Change, Stores};
use watch::{Reports, follow};

/// Changes are gathered this long before they go out.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// Before a task that has failed is replaced.
const START_AGAIN: Duration = Duration::from_secs(1);
/// What the watches have said and nobody has taken yet.
const WAITING: usize = 1_024;

/// A cluster.
pub(crate) struct KubeSource {
    client: Client,
    progress: Progress,
}

impl KubeSource {
    /// Asks for nothing yet.
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            progress: Progress::new(kinds()),
        }
    }

    /// How the watches are doing.
    pub(crate) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Watches until the drain begins or the receiver is gone. The first batch is the whole
    /// state; how long it takes is up to the API server.
    pub(crate) async fn run(self, output: mpsc::Sender<Batch>, mut drain: drain::Watcher) {
        let (reports, mut changes) = mpsc::channel(WAITING);
        let mut watches = Watches::start(self.client, reports);
        let mut gathering = Gathering::new(self.progress);
        loop {
            tokio::select! {
                () = drain.signalled() => return,
                () = output.closed() => return,
                () = watches.keep_up() => {}
                Some((index, change)) = changes.recv() => {
                    gathering.take(index, change);
                    while let Ok((index, change)) = changes.try_recv() {
                        gathering.take(index, change);
                    }
                }
                Some(place) = gathering.due(&output) => {
                    if let Some(batch) = gathering.batch() {
                        place.send(batch);
                    }
                }
            }
        }
    }
}

/// A kind as a cluster may serve it, the preferred version first.
pub(crate) fn resources(kind: Kind) -> Vec<ApiResource> {
    let watched = WATCHED.iter().find(|watched| watched.kind == kind);
    let versions = watched.map_or(&[][..], |watched| watched.versions);
    let resources = versions
        .iter()
        .map(|version| watched.map(|watched| watched.resource(version)));
    resources.flatten().collect()
}

fn kinds() -> impl Iterator<Item = Kind> {
    WATCHED.iter().map(|watched| watched.kind)
}

/// What was said since the last batch.
struct Gathering {
    stores: Stores,
    progress: Progress,
    /// When the next batch goes out.
    due: Option<Instant>,
    was_synced: bool,
}

impl Gathering {
    fn new(progress: Progress) -> Self {
        Self {
            stores: Stores::new(kinds()),
            progress,
            due: None,
            was_synced: false,
        }
    }

    fn take(&mut self, index: usize, change: Change) {
        self.progress.note(index, &change, SystemTime::now());
        self.stores.take(index, change);
        self.progress.count(index, self.stores.len(index));
        if !self.was_synced && self.stores.is_synced() {
            self.was_synced = true;
            info!(target: "source", "every kind of the cluster is complete");
        }
        if self.due.is_none() && self.stores.is_dirty() {
            self.due = Some(Instant::now() + DEBOUNCE);
        }
    }

    /// A place for the next batch, once there is one to send.
    async fn due<'a>(&self, output: &'a mpsc::Sender<Batch>) -> Option<mpsc::Permit<'a, Batch>> {
        match self.due {
            Some(due) => {
                sleep_until(due).await;
                output.reserve().await.ok()
            }
            None => std::future::pending().await,
        }
    }

    fn batch(&mut self) -> Option<Batch> {
        self.due = None;
        self.stores.batch()
    }
}

/// The tasks, one per kind. A kind whose task has failed would silently stand still, so it gets
/// another one, which begins with a list.
struct Watches {
    client: Client,
    changes: mpsc::Sender<(usize, Change)>,
    tasks: JoinSet<()>,
    indexes: HashMap<Id, usize>,
}

impl Watches {
    fn start(client: Client, changes: mpsc::Sender<(usize, Change)>) -> Self {
        let mut watches = Self {
            client,
            changes,
            tasks: JoinSet::new(),
            indexes: HashMap::new(),
        };
        (0..WATCHED.len()).for_each(|index| watches.spawn(index, Duration::ZERO));
        watches
    }

    fn spawn(&mut self, index: usize, delay: Duration) {
        let reports = Reports {
            index,
            changes: self.changes.clone(),
        };
        if let Some(watched) = WATCHED.get(index) {
            let client = self.client.clone();
            let task = self.tasks.spawn(async move {
                sleep(delay).await;
                follow(client, watched, reports).await;
            });
            self.indexes.insert(task.id(), index);
        }
    }

    /// Waits for a task to fail and replaces it.
    async fn keep_up(&mut self) {
        let id = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(failed)) => failed.id(),
            None => return std::future::pending().await,
        };
        if let Some(index) = self.indexes.remove(&id) {
            error!(target: "source", index, "a watch has failed; starting it again");
            self.spawn(index, START_AGAIN);
        }
    }
}
