//! Cells by key and thread: each thread counts in its own, a scrape adds them up.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A full table is searched for idle keys at most this often: it is a full walk.
const SEARCH_INTERVAL: Duration = Duration::from_secs(60);

/// What a table counts in.
pub(super) trait Counts: Default {
    /// How many times something was counted.
    fn total(&self) -> u64;
}

/// The key of whatever has no place of its own.
pub(super) trait Overflow {
    /// That key.
    fn overflow() -> Self;
}

/// The cells of one thread for one key.
#[derive(Debug, Default)]
pub(super) struct Cells<C> {
    pub(super) counts: C,
    retired: AtomicBool,
}

impl<C> Cells<C> {
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }
}

/// Adds to a counter that only one thread writes: no other write can be lost, and the bus need not
/// be locked.
pub(super) fn add(cell: &AtomicU64, by: u64) {
    cell.store(
        cell.load(Ordering::Relaxed).wrapping_add(by),
        Ordering::Relaxed,
    );
}

/// All cells. Ages are the time since the process began.
pub(super) struct Sharded<K, C> {
    rows: Mutex<Rows<K, C>>,
    limit: usize,
    /// How long a key without counts is kept; for ever when absent.
    idle: Option<Duration>,
}

struct Rows<K, C> {
    by_key: HashMap<K, Row<C>>,
    searched: Duration,
}

struct Row<C> {
    by_thread: BTreeMap<usize, Arc<Cells<C>>>,
    /// The sum of counts when it was last looked at, and when it came to be that.
    seen: (u64, Duration),
}

impl<K: Eq + Hash + Clone + Overflow, C: Counts> Sharded<K, C> {
    pub(super) fn new(limit: usize, idle: Option<Duration>) -> Self {
        Self {
            rows: Mutex::new(Rows {
                by_key: HashMap::new(),
                searched: Duration::ZERO,
            }),
            limit,
            idle,
        }
    }

    /// The cells of a thread for a key, or for the overflow when there are enough keys.
    pub(super) fn cells(&self, key: K, thread: usize, age: Duration) -> Arc<Cells<C>> {
        let mut rows = self.lock();
        let full = rows.by_key.len() >= self.limit;
        let key = match full && !rows.by_key.contains_key(&key) && !self.made_room(&mut rows, age) {
            true => K::overflow(),
            false => key,
        };
        let row = rows.by_key.entry(key).or_insert_with(|| Row {
            by_thread: BTreeMap::new(),
            seen: (0, age),
        });
        Arc::clone(row.by_thread.entry(thread).or_default())
    }

    /// Every key with what `sum` makes of its cells; keys that never counted are left out.
    pub(super) fn rows<S>(&self, sum: impl Fn(&[&C]) -> S) -> Vec<(K, S)> {
        let rows = self.lock();
        let counted = rows.by_key.iter().filter(|(_, row)| row.total() > 0);
        let summed = counted.map(|(key, row)| {
            let cells: Vec<&C> = row.by_thread.values().map(|one| &one.counts).collect();
            (key.clone(), sum(&cells))
        });
        summed.collect()
    }

    /// Forgets the keys that `is_wanted` does not want.
    pub(super) fn retain(&self, is_wanted: impl Fn(&K) -> bool) {
        let overflow = K::overflow();
        self.lock().by_key.retain(|key, row| {
            let stays = *key == overflow || is_wanted(key);
            stays || row.retire()
        });
    }

    /// Forgets idle keys.
    pub(super) fn expire(&self, age: Duration) {
        if let Some(idle) = self.idle {
            remove_idle(&mut self.lock(), age, idle);
        }
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.lock().by_key.len()
    }

    fn made_room(&self, rows: &mut Rows<K, C>, age: Duration) -> bool {
        let Some(idle) = self.idle else {
            return false;
        };
        if age.saturating_sub(rows.searched) < SEARCH_INTERVAL {
            return false;
        }
        remove_idle(rows, age, idle);
        rows.by_key.len() < self.limit
    }

    fn lock(&self) -> MutexGuard<'_, Rows<K, C>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Counts> Row<C> {
    fn total(&self) -> u64 {
        self.by_thread.values().map(|one| one.counts.total()).sum()
    }

    /// Tells the threads; false, for `retain`.
    fn retire(&self) -> bool {
        for cells in self.by_thread.values() {
            cells.retired.store(true, Ordering::Relaxed);
        }
        false
    }
}

fn remove_idle<K, C: Counts>(rows: &mut Rows<K, C>, age: Duration, idle: Duration) {
    rows.searched = age;
    rows.by_key.retain(|_, row| {
        let total = row.total();
        if row.seen.0 != total {
            row.seen = (total, age);
        }
        let is_idle = age.saturating_sub(row.seen.1) >= idle;
        !is_idle || row.retire()
    });
}
