//! How much of the traffic may be retries, so that a backend in trouble is not buried in them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The budget of one backend, shared by all workers: at any moment at most a part of the requests
/// in flight are retries.
#[derive(Debug)]
pub struct Budget {
    percent: AtomicU32,
    least: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
}

/// A request in flight, retried or not.
#[derive(Debug)]
pub struct InFlight(Arc<Budget>);

/// A retry in flight.
#[derive(Debug)]
pub struct Retrying(Arc<Budget>);

impl Budget {
    /// With so many percent of the requests, but always so many retries at a time.
    pub fn new(percent: u32, least: u32) -> Self {
        Self {
            percent: AtomicU32::new(percent),
            least: AtomicU32::new(least),
            requests: AtomicU32::new(0),
            retries: AtomicU32::new(0),
        }
    }

    /// Changes the bounds. What is in flight stays.
    pub fn set(&self, percent: u32, least: u32) {
        self.percent.store(percent, Ordering::Relaxed);
        self.least.store(least, Ordering::Relaxed);
    }

    /// A request begins; it is counted until this is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// A retry may begin; it is counted until this is dropped. `None` when there is no room.
    pub fn retry(self: &Arc<Self>) -> Option<Retrying> {
        let requests = u64::from(self.requests.load(Ordering::Relaxed));
        let part = requests * u64::from(self.percent.load(Ordering::Relaxed)) / 100;
        let most = part.max(u64::from(self.least.load(Ordering::Relaxed)));
        let more = |retries: u32| (u64::from(retries) < most).then_some(retries + 1);
        let taken = self
            .retries
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok().then(|| Retrying(Arc::clone(self)))
    }
}

impl Default for Budget {
    /// A fifth, and always three.
    fn default() -> Self {
        Self::new(20, 3)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.retries.fetch_sub(1, Ordering::Relaxed);
    }
}
