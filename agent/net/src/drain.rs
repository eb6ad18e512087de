//! Drain: one signal that asks every task to finish, and a wait for them to have done so.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

/// Starts the drain and waits for its watchers.
#[derive(Debug)]
pub struct Drain {
    signal: watch::Sender<bool>,
    finished: mpsc::Receiver<std::convert::Infallible>,
    alive: mpsc::WeakSender<std::convert::Infallible>,
}

/// Sees the drain begin; the drain waits until every clone is dropped.
#[derive(Debug, Clone)]
pub struct Watcher {
    signal: watch::Receiver<bool>,
    _alive: mpsc::Sender<std::convert::Infallible>,
}

/// Makes a drain and its first watcher.
pub fn channel() -> (Drain, Watcher) {
    let (signal, seen) = watch::channel(false);
    let (alive, finished) = mpsc::channel(1);
    (
        Drain {
            signal,
            finished,
            alive: alive.downgrade(),
        },
        Watcher {
            signal: seen,
            _alive: alive,
        },
    )
}

impl Drain {
    /// Signals every watcher and waits until all are dropped or `deadline` has passed. True when
    /// all finished in time.
    pub async fn drain(mut self, deadline: Duration) -> bool {
        let _ = self.signal.send(true);
        tokio::time::timeout(deadline, self.finished.recv())
            .await
            .is_ok()
    }
}

impl Drain {
    /// One more watcher; none once all are dropped, and the drain with them is over.
    pub fn watcher(&self) -> Option<Watcher> {
        Some(Watcher {
            signal: self.signal.subscribe(),
            _alive: self.alive.upgrade()?,
        })
    }

    /// Waits until every watcher is dropped, without a signal. Safe to drop before.
    pub async fn finished(&mut self) {
        // Nothing is ever sent: this ends when the last sender is gone.
        self.finished.recv().await;
    }
}

impl Watcher {
    /// Completes when the drain begins (or its owner is gone). Safe to drop before.
    pub async fn signalled(&mut self) {
        let _ = self.signal.wait_for(|draining| *draining).await;
    }

    /// True once the drain has begun.
    pub fn is_draining(&self) -> bool {
        *self.signal.borrow()
    }
}
