//! The cluster source: watches what the API server has.
//!
//! One task per kind lists and watches; what they say is added up here and goes out as batches,
//! the first of them when every kind is complete. While the API server is away the last state
//! stays.

mod bounded;
mod item;
mod kinds;
mod named;
mod progress;
mod store;
#[cfg(test)]
pub(crate) mod tests;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use agent_net::drain;
use kube::Client;
use kube::core::ApiResource;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info};

use super::{Batch, Kind, ObjectRef};
use kinds::{NAMED, WATCHED, Watched};
use named::{Difference, Named, decides_names, wanted};
pub(crate) use progress::Progress;
use store::{Change, Stores};
use watch::{Reports, Subject, follow};

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
                Some((subject, change)) = changes.recv() => {
                    gathering.take(subject, change);
                    while let Ok((subject, change)) = changes.try_recv() {
                        gathering.take(subject, change);
                    }
                    watches.follow_names(gathering.new_names());
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
    let mut all = WATCHED.iter().chain(&NAMED);
    let watched = all.find(|watched| watched.kind == kind);
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
    named: Named,
    /// Something changed that decides what is asked for by name.
    is_naming_new: bool,
    progress: Progress,
    /// When the next batch goes out.
    due: Option<Instant>,
    was_synced: bool,
}

impl Gathering {
    fn new(progress: Progress) -> Self {
        Self {
            stores: Stores::new(kinds()),
            named: Named::default(),
            is_naming_new: false,
            progress,
            due: None,
            was_synced: false,
        }
    }

    fn take(&mut self, subject: Subject, change: Change) {
        match subject {
            Subject::Kind(index) => self.take_kind(index, change),
            Subject::Name(name) => self.named.take(&name, change),
        }
        let is_dirty = self.stores.is_dirty() || (self.was_synced && self.named.is_dirty());
        if self.due.is_none() && is_dirty {
            self.due = Some(Instant::now() + DEBOUNCE);
        }
    }

    fn take_kind(&mut self, index: usize, change: Change) {
        let watched = WATCHED.get(index);
        self.is_naming_new |= watched.is_some_and(|watched| decides_names(watched.kind));
        self.progress.note(index, &change, SystemTime::now());
        self.stores.take(index, change);
        self.progress.count(index, self.stores.len(index));
        if !self.was_synced && self.stores.is_synced() {
            self.was_synced = true;
            info!(target: "source", "every kind of the cluster is complete");
        }
    }

    /// What is to be asked for by name from now on, and what no more.
    fn new_names(&mut self) -> Difference {
        if !self.was_synced || !std::mem::take(&mut self.is_naming_new) {
            return Difference::default();
        }
        let wanted = wanted(self.stores.naming());
        self.named.set(&wanted, Instant::now())
    }

    /// A place for the next batch, once there is one to send.
    async fn due<'a>(&self, output: &'a mpsc::Sender<Batch>) -> Option<mpsc::Permit<'a, Batch>> {
        match self.due {
            Some(due) => {
                let held = self.named.hold_until();
                sleep_until(held.map_or(due, |held| held.max(due))).await;
                output.reserve().await.ok()
            }
            None => std::future::pending().await,
        }
    }

    fn batch(&mut self) -> Option<Batch> {
        self.due = None;
        let mut batch = self.stores.batch(self.named.is_dirty())?;
        batch.events.extend(self.named.drain());
        batch.problems.extend(self.named.problems().cloned());
        Some(batch)
    }
}

/// The tasks, one per kind and one per name. A kind whose task has failed would silently stand still, so it gets
/// another one, which begins with a list.
struct Watches {
    client: Client,
    changes: mpsc::Sender<(Subject, Change)>,
    tasks: JoinSet<()>,
    subjects: HashMap<Id, Subject>,
    names: BTreeMap<ObjectRef, AbortHandle>,
}

impl Watches {
    fn start(client: Client, changes: mpsc::Sender<(Subject, Change)>) -> Self {
        let mut watches = Self {
            client,
            changes,
            tasks: JoinSet::new(),
            subjects: HashMap::new(),
            names: BTreeMap::new(),
        };
        let kinds = (0..WATCHED.len()).map(Subject::Kind);
        kinds.for_each(|subject| watches.spawn(subject, Duration::ZERO));
        watches
    }

    fn spawn(&mut self, subject: Subject, delay: Duration) {
        let reports = Reports {
            subject: subject.clone(),
            changes: self.changes.clone(),
        };
        let Some(watched) = watched(&subject) else {
            return;
        };
        let client = self.client.clone();
        let task = self.tasks.spawn(async move {
            sleep(delay).await;
            follow(client, watched, reports).await;
        });
        self.subjects.insert(task.id(), subject.clone());
        if let Subject::Name(name) = subject {
            self.names.insert(name, task);
        }
    }

    fn follow_names(&mut self, difference: Difference) {
        for name in difference.gone {
            if let Some(task) = self.names.remove(&name) {
                self.subjects.remove(&task.id());
                task.abort();
            }
        }
        let new = difference.new.into_iter().map(Subject::Name);
        new.for_each(|subject| self.spawn(subject, Duration::ZERO));
    }

    /// Waits for a task to fail and replaces it.
    async fn keep_up(&mut self) {
        let id = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(failed)) => failed.id(),
            None => return std::future::pending().await,
        };
        if let Some(subject) = self.subjects.remove(&id) {
            error!(target: "source", ?subject, "a watch has failed; starting it again");
            self.spawn(subject, START_AGAIN);
        }
    }
}

fn watched(subject: &Subject) -> Option<&'static Watched> {
    match subject {
        Subject::Kind(index) => WATCHED.get(*index),
        Subject::Name(name) => NAMED.iter().find(|watched| watched.kind == name.kind),
    }
}
