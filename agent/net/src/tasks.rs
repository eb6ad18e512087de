//! Data-plane tasks, counted: the leak gate of the tests and a metric read the count.

use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::task::JoinHandle;

static ALIVE: AtomicI64 = AtomicI64::new(0);

/// Spawns a task on the worker's own thread. Must be called inside a `LocalSet`.
pub fn spawn_local<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let counted = Counted::new();
    tokio::task::spawn_local(async move {
        let _counted = counted;
        task.await
    })
}

/// Data-plane tasks alive in this process.
pub fn alive() -> i64 {
    ALIVE.load(Ordering::Relaxed)
}

struct Counted;

impl Counted {
    fn new() -> Self {
        ALIVE.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}
