//! What the server's tasks and the test's thread share.

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
    /// Watches send a bookmark when this changes.
    pub(super) bookmark: watch::Sender<u64>,
    /// Requests that wait because of latency look at it again.
    pub(super) hurry: watch::Sender<u64>,
    /// The server ends.
    pub(super) stop: watch::Sender<bool>,
    /// Watches that run.
    pub(super) watches: watch::Sender<usize>,
}

impl Shared {
    pub(super) fn new(world: World, bookmark_every: Duration) -> Self {
        Self {
            world: Mutex::new(world),
            faults: Mutex::default(),
            signals: Signals {
                up: watch::Sender::new(true),
                listening: watch::Sender::new(false),
                drop_watches: watch::Sender::new(0),
                stalled: watch::Sender::new(false),
                bookmark: watch::Sender::new(0),
                hurry: watch::Sender::new(0),
                stop: watch::Sender::new(false),
                watches: watch::Sender::new(0),
            },
            bookmark_every,
        }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
