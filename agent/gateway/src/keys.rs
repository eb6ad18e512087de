//! Keys of those who issue tokens, where policies name an address for them.
//!
//! When what is fetched is decided by [`KeySets`]; [`fetch`] does it, and workers read what there
//! is without a lock.

mod address;
mod exchange;
mod fetch;
mod roots;
mod task;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent_policy::jwt::{KeySets, Settings, SourceStatus};
use arc_swap::{ArcSwap, Guard};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::access::Remote;

pub use fetch::{Limits, fetch};
pub use roots::system_tls;
pub use task::run;

/// The keys that were fetched. Clones share them.
#[derive(Clone)]
pub struct Keys {
    shared: Arc<Shared>,
}

struct Shared {
    sets: Mutex<KeySets>,
    good: ArcSwap<Remote>,
    /// Counts answers.
    answers: watch::Sender<u64>,
    /// Something is due earlier than it was.
    hurry: Notify,
}

/// A wait for an answer, begun before it was asked for; `None` when it has come already.
pub(crate) struct Wait(Option<watch::Receiver<u64>>);

impl Keys {
    /// None yet.
    pub fn new(settings: Settings) -> Self {
        let shared = Shared {
            sets: Mutex::new(KeySets::new(settings)),
            good: ArcSwap::default(),
            answers: watch::Sender::new(0),
            hurry: Notify::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Has the sets of these addresses fetched from now on, and no other. Returns how many are
    /// beyond the limit and will not be.
    pub fn want<'a>(&self, addresses: impl IntoIterator<Item = &'a Arc<str>>) -> usize {
        let addresses: BTreeSet<_> = addresses.into_iter().collect();
        let now = Instant::now();
        let beyond = self.sets().want(addresses, now);
        self.publish(now);
        self.shared.hurry.notify_one();
        beyond
    }

    /// Every set, for those who look.
    pub fn status(&self) -> Vec<SourceStatus> {
        self.sets().status(Instant::now()).collect()
    }

    pub(crate) fn good(&self) -> Guard<Arc<Remote>> {
        self.shared.good.load()
    }

    /// A token wants a key that the set of `address` does not have in `judged`. Some when judging
    /// again may end otherwise: at once, where newer keys came meanwhile, or after a wait for them.
    pub(crate) fn missed(&self, address: &str, judged: &Remote) -> Option<Wait> {
        let wait = Wait(Some(self.shared.answers.subscribe()));
        let now = Instant::now();
        let mut sets = self.sets();
        let is_newer = sets.keys(address, now).is_some_and(|newest| {
            let known = judged.get(address);
            known.is_none_or(|known| !Arc::ptr_eq(known, newest))
        });
        let is_due = !is_newer && sets.key_missed(address, now);
        drop(sets);
        if is_newer {
            self.publish(now);
            return Some(Wait(None));
        }
        self.shared.hurry.notify_one();
        is_due.then_some(wait)
    }

    /// Lets workers see what there is.
    fn publish(&self, now: Instant) {
        let sets = self.sets();
        let known = self.shared.good.load();
        let is_news = sets.good(now).count() != known.len()
            || sets.good(now).any(|(address, keys)| {
                let known = known.get(address);
                known.is_none_or(|known| !Arc::ptr_eq(known, keys))
            });
        if is_news {
            let good = sets.good(now);
            let good = good.map(|(address, keys)| (Arc::clone(address), Arc::clone(keys)));
            self.shared.good.store(Arc::new(good.collect()));
        }
    }

    fn sets(&self) -> MutexGuard<'_, KeySets> {
        let sets = self.shared.sets.lock();
        sets.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wait {
    /// Until any answer has come, good or bad, or until `most` is over.
    pub(crate) async fn within(mut self, most: Duration) {
        if let Some(answers) = &mut self.0 {
            let _ = timeout(most, answers.changed()).await;
        }
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self::new(Settings {
            attempt: fetch::PATIENCE + Duration::from_secs(1),
            ..Settings::default()
        })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({} sets)", self.shared.good.load().len())
    }
}
