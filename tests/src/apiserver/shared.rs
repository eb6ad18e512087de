//! What the server's tasks and the test's thread share.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::faults::Faults;
use super::world::World;

/// State, faults and signals.
#[derive(Debug)]
pub(super) struct Shared {
    world: Mutex<World>,
    faults: Mutex<Faults>,
    pub(super) signals: Signals,
    pub(super) bookmark_every: Duration,
    /// EndpointSlices follow Services and Pods.
    pub(super) endpoint_slices: bool,
}

/// What running tasks are told.
#[derive(Debug)]
pub(super) struct Signals {
    /// Connections are accepted.
    pub(super) up: watch::Sender<bool>,
    /// The socket listens; set by the server.
    pub(super) listening: watch::Sender<bool>,
    /// Watches end when this changes.
    pub(super) drop_watches: watch::Sender<u64>,
    /// Watches say nothing.
    pub(super) stalled: watch::Sender<bool>,
    /// Watches that run fall silent for good when this becomes true; false ends those.
    pub(super) silenced: watch::Sender<bool>,
    /// Watches send a bookmark when this changes.
    pub(super) bookmark: watch::Sender<u64>,
    /// Requests that wait because of latency look at it again.
    pub(super) hurry: watch::Sender<u64>,
    /// The server ends.
    pub(super) stop: watch::Sender<bool>,
    /// How far each running watch is.
    pub(super) watches: watch::Sender<BTreeMap<u64, u64>>,
}

impl Shared {
    pub(super) fn new(world: World, bookmark_every: Duration, endpoint_slices: bool) -> Self {
        Self {
            world: Mutex::new(world),
            faults: Mutex::default(),
            signals: Signals {
                up: watch::Sender::new(true),
                listening: watch::Sender::new(false),
                drop_watches: watch::Sender::new(0),
                stalled: watch::Sender::new(false),
                silenced: watch::Sender::new(false),
                bookmark: watch::Sender::new(0),
                hurry: watch::Sender::new(0),
                stop: watch::Sender::new(false),
                watches: watch::Sender::new(BTreeMap::new()),
            },
            bookmark_every,
            endpoint_slices,
        }
    }

    /// A running watch; nothing is known yet of how far it is.
    pub(super) fn register(&self) -> u64 {
        let mut id = 0;
        self.signals.watches.send_modify(|running| {
            id = running.last_key_value().map_or(1, |(last, _)| last + 1);
            running.insert(id, 0);
        });
        id
    }

    /// A watch has told everything up to this version.
    pub(super) fn progress(&self, id: u64, position: u64) {
        self.signals.watches.send_modify(|running| {
            running.insert(id, position);
        });
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
