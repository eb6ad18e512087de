//! Local rate limits: one bucket of tokens per key, in bounded memory, shared by all workers.
//!
//! A bucket is the time at which it will be full again (the generic cell rate algorithm), so that
//! a bucket nobody used for as long as it takes to fill is the same as none, and is forgotten.
//! Time is monotonic and an argument: steps of the wall clock change nothing.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much somebody may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// So many requests; 0 allows none.
    pub requests: u32,
    /// In so long.
    pub per: Duration,
    /// So many at once; at least one.
    pub burst: u32,
}

/// The limit of one rule.
#[derive(Debug)]
pub struct Limiter {
    rate: Rate,
    /// Nanoseconds in which one token comes.
    token: u64,
    /// Nanoseconds in which a bucket fills.
    full: u64,
    /// Most keys of a generation of a shard.
    room: usize,
    hasher: RandomState,
    start: Instant,
    shards: Box<[Mutex<Shard>]>,
}

/// What one request gets, with what `RateLimit` headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// It passes; a request that does not takes no token.
    pub is_allowed: bool,
    /// Requests that would pass now.
    pub remaining: u32,
    /// Until the bucket is full.
    pub reset: Duration,
    /// Until the next request passes; zero where one does now.
    pub retry_after: Duration,
}

const SHARDS: usize = 16;
/// Buckets of a shard that keys share while its table is full.
const SHARED: usize = 64;

/// Buckets by hash: the time (nanoseconds since the limiter's start) at which each is full.
#[derive(Debug)]
struct Shard {
    young: HashMap<u64, u64>,
    /// Those that were not used since `turned`. When as much time has passed as a bucket needs to
    /// fill, all of them are full.
    old: HashMap<u64, u64>,
    turned: u64,
    shared: [u64; SHARED],
}

impl Limiter {
    /// With memory for so many keys (24 bytes each). Keys that come while it is full share
    /// buckets with each other: they get less, never more.
    pub fn new(rate: Rate, keys: usize, now: Instant) -> Self {
        let token = match rate.requests {
            0 => u64::MAX,
            requests => (nanos(rate.per) / u64::from(requests)).max(1),
        };
        let shard = || {
            Mutex::new(Shard {
                young: HashMap::new(),
                old: HashMap::new(),
                turned: 0,
                shared: [0; SHARED],
            })
        };
        Self {
            rate,
            token,
            full: token.saturating_mul(u64::from(rate.burst.max(1))),
            room: keys / (2 * SHARDS),
            hasher: RandomState::new(),
            start: now,
            shards: (0..SHARDS).map(|_| shard()).collect(),
        }
    }

    /// The rate.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes a token of a key's bucket, if there is one. A limit for everybody has one key.
    pub fn check(&self, key: &[u8], now: Instant) -> Verdict {
        let now = nanos(now.saturating_duration_since(self.start));
        if self.rate.requests == 0 {
            return Verdict {
                is_allowed: false,
                remaining: 0,
                reset: self.rate.per,
                retry_after: self.rate.per,
            };
        }
        let hash = self.hasher.hash_one(key);
        let place = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
        let shard = self.shards[place].lock();
        let mut shard = shard.unwrap_or_else(PoisonError::into_inner);
        shard.turn(now, self.full);
        let bucket = shard.bucket(hash / SHARDS as u64, self.room);
        let full_at = (*bucket).max(now);
        let after = full_at.saturating_add(self.token);
        let is_allowed = after - now <= self.full;
        if is_allowed {
            *bucket = after;
        }
        self.verdict(is_allowed, if is_allowed { after } else { full_at } - now)
    }

    /// Keys held.
    pub fn len(&self) -> usize {
        let shards = self.shards.iter().map(|shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.young.len() + shard.old.len()
        });
        shards.sum()
    }

    /// True when no key is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Of a bucket that is full after so many nanoseconds.
    fn verdict(&self, is_allowed: bool, until_full: u64) -> Verdict {
        let remaining = self.full.saturating_sub(until_full) / self.token;
        let missing = until_full
            .saturating_add(self.token)
            .saturating_sub(self.full);
        Verdict {
            is_allowed,
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            reset: Duration::from_nanos(until_full),
            retry_after: Duration::from_nanos(missing),
        }
    }
}

impl Shard {
    /// Forgets the buckets that are full by now.
    fn turn(&mut self, now: u64, full: u64) {
        let passed = now.saturating_sub(self.turned);
        if passed < full {
            return;
        }
        self.old = std::mem::take(&mut self.young);
        if passed >= full.saturating_mul(2) {
            self.old = HashMap::new();
        }
        self.turned = now;
    }

    fn bucket(&mut self, key: u64, room: usize) -> &mut u64 {
        let is_young = self.young.contains_key(&key);
        if !is_young && self.young.len() >= room {
            let place = usize::try_from(key % SHARED as u64).unwrap_or(0);
            let shared = &mut self.shared[place];
            // What it took on its own counts.
            *shared = (*shared).max(self.old.remove(&key).unwrap_or(0));
            return shared;
        }
        let known = self.old.remove(&key).unwrap_or(0);
        self.young.entry(key).or_insert(known)
    }
}

/// Saturates after 584 years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
