//! Outlier detection: endpoints that fail more than their siblings get no requests for a while.
//!
//! Workers count in atomics ([`Tally`]); one owner per service judges ([`Outliers`]) when a tally
//! says so and at intervals. Ejections never take the last endpoint, nor more than their part.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// When an endpoint is ejected, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Failures in a row that eject; `None` does not look at them.
    pub consecutive: Option<u32>,
    /// Ejects by success rate; `None` does not look at it.
    pub success_rate: Option<SuccessRate>,
    /// How often success rates are compared.
    pub interval: Duration,
    /// The first ejection; the next ones are two, three ... times as long.
    pub ejection: Duration,
    /// The longest.
    pub ejection_most: Duration,
    /// Most endpoints out at a time, in percent; one always may be, the last never.
    pub percent: u8,
}

/// Ejects who succeeds clearly less often than the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SuccessRate {
    /// Endpoints with enough requests that there have to be.
    pub endpoints: usize,
    /// Requests in an interval that are enough.
    pub requests: u32,
    /// How many standard deviations below the mean are too many.
    pub deviations: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            consecutive: Some(5),
            success_rate: None,
            interval: Duration::from_secs(10),
            ejection: Duration::from_secs(30),
            ejection_most: Duration::from_secs(300),
            percent: 10,
        }
    }
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self {
            endpoints: 5,
            requests: 100,
            deviations: 1.9,
        }
    }
}

/// What happened at one endpoint, counted by all workers.
#[derive(Debug, Default)]
pub struct Tally {
    in_a_row: AtomicU32,
    good: AtomicU32,
    bad: AtomicU32,
}

impl Tally {
    /// Counts a request: a failure is an answer 5xx, a broken or timed-out connection, or none at
    /// all. True for the failure that completes `limit` in a row: then [`Outliers::failed`] has to
    /// be told.
    pub fn note(&self, is_good: bool, limit: Option<u32>) -> bool {
        if is_good {
            self.in_a_row.store(0, Ordering::Relaxed);
            self.good.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.bad.fetch_add(1, Ordering::Relaxed);
        let in_a_row = self
            .in_a_row
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        // Again at every multiple: the first ejection may have been one too many at the time.
        limit.is_some_and(|limit| in_a_row.is_multiple_of(limit.max(1)))
    }

    /// Good and all requests since the last time.
    fn take(&self) -> (u32, u32) {
        let good = self.good.swap(0, Ordering::Relaxed);
        (
            good,
            good.saturating_add(self.bad.swap(0, Ordering::Relaxed)),
        )
    }
}

/// An endpoint goes or comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub key: u64,
    /// Until when it is out, and why; `None` when it is back.
    pub ejected: Option<(Instant, Cause)>,
}

/// Why an endpoint is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Failures in a row.
    Consecutive,
    /// It succeeds less often than the others.
    SuccessRate,
}

impl Cause {
    /// For logs and status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive-failures",
            Self::SuccessRate => "success-rate",
        }
    }
}

/// The judge of one service.
#[derive(Debug)]
pub struct Outliers {
    settings: Settings,
    members: BTreeMap<u64, Member>,
    next: Instant,
}

#[derive(Debug)]
struct Member {
    tally: Arc<Tally>,
    until: Option<Instant>,
    cause: Cause,
    /// How long it is out next, in times [`Settings::ejection`], less one.
    times: u32,
}

impl Outliers {
    /// Of nobody yet.
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self {
            settings,
            members: BTreeMap::new(),
            next: now + settings.interval,
        }
    }

    /// Holds exactly these endpoints; who was known keeps what is known.
    pub fn hold(&mut self, members: impl IntoIterator<Item = (u64, Arc<Tally>)>) {
        let mut before = std::mem::take(&mut self.members);
        for (key, tally) in members {
            let known = before.remove(&key);
            let new = (None, Cause::Consecutive, 0);
            let (until, cause, times) =
                known.map_or(new, |known| (known.until, known.cause, known.times));
            let member = Member {
                tally,
                until,
                cause,
                times,
            };
            self.members.insert(key, member);
        }
    }

    /// A tally is full of failures in a row.
    pub fn failed(&mut self, key: u64, now: Instant) -> Option<Change> {
        self.eject(key, Cause::Consecutive, now)
    }

    /// Lets back who has been out for long enough, and compares success rates when it is time.
    pub fn tick(&mut self, now: Instant) -> Vec<Change> {
        let mut changes = self.let_back(now);
        if now < self.next {
            return changes;
        }
        self.next = now + self.settings.interval;
        let rates = self.rates();
        // Who was in for a whole interval is forgiven one ejection.
        for (key, member) in &mut self.members {
            let is_back = changes.iter().any(|change| change.key == *key);
            if member.until.is_none() && !is_back {
                member.times = member.times.saturating_sub(1);
            }
        }
        let unlike = self
            .settings
            .success_rate
            .map(|s| unlike_the_others(&rates, s));
        for key in unlike.unwrap_or_default() {
            changes.extend(self.eject(key, Cause::SuccessRate, now));
        }
        changes
    }

    /// When [`tick`](Self::tick) has something to do.
    pub fn next_tick(&self) -> Instant {
        let returns = self.members.values().filter_map(|member| member.until);
        returns.fold(self.next, Instant::min)
    }

    /// Whether an endpoint is out.
    pub fn is_ejected(&self, key: u64) -> bool {
        self.members
            .get(&key)
            .is_some_and(|member| member.until.is_some())
    }

    /// Until when an endpoint is out, and why.
    pub fn ejection(&self, key: u64) -> Option<(Instant, Cause)> {
        let member = self.members.get(&key)?;
        member.until.map(|until| (until, member.cause))
    }

    /// Judges by other settings from now on. Who is out stays out as long as was said.
    pub fn judge_by(&mut self, settings: Settings, now: Instant) {
        self.settings = settings;
        self.next = self.next.min(now + settings.interval);
    }

    /// Number of endpoints that are out.
    pub fn ejected(&self) -> usize {
        self.members
            .values()
            .filter(|member| member.until.is_some())
            .count()
    }

    fn eject(&mut self, key: u64, cause: Cause, now: Instant) -> Option<Change> {
        let is_one_too_many = self.ejected() >= self.most();
        let member = self.members.get_mut(&key)?;
        if member.until.is_some() || is_one_too_many {
            return None;
        }
        member.times = member.times.saturating_add(1);
        let long = self.settings.ejection.saturating_mul(member.times);
        let until = now + long.min(self.settings.ejection_most);
        member.until = Some(until);
        member.cause = cause;
        let ejected = Some((until, cause));
        Some(Change { key, ejected })
    }

    fn most(&self) -> usize {
        let part = self.members.len() * usize::from(self.settings.percent.min(100)) / 100;
        part.max(1).min(self.members.len().saturating_sub(1))
    }

    fn let_back(&mut self, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        for (key, member) in &mut self.members {
            if member.until.is_some_and(|until| until <= now) {
                member.until = None;
                // It starts with a clean record: what it did before was punished.
                member.tally.in_a_row.store(0, Ordering::Relaxed);
                changes.push(Change {
                    key: *key,
                    ejected: None,
                });
            }
        }
        changes
    }

    /// Good and all requests of those that are in.
    fn rates(&self) -> Vec<(u64, u32, u32)> {
        let members = self.members.iter();
        let rates = members.map(|(key, member)| {
            let (good, all) = member.tally.take();
            (*key, good, if member.until.is_none() { all } else { 0 })
        });
        rates.collect()
    }
}

/// Those whose success rate is too far below the mean, the worst first.
fn unlike_the_others(rates: &[(u64, u32, u32)], settings: SuccessRate) -> Vec<u64> {
    let busy = rates
        .iter()
        .filter(|(_, _, all)| *all >= settings.requests.max(1));
    let rates: Vec<(u64, f64)> = busy
        .map(|(key, good, all)| (*key, f64::from(*good) / f64::from(*all)))
        .collect();
    if rates.is_empty() || rates.len() < settings.endpoints {
        return Vec::new();
    }
    let count = u32::try_from(rates.len()).map_or(f64::MAX, f64::from);
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let square = |(_, rate): &(u64, f64)| (rate - mean) * (rate - mean);
    let deviation = (rates.iter().map(square).sum::<f64>() / count).sqrt();
    let least = mean - settings.deviations * deviation;
    let mut unlike: Vec<_> = rates
        .into_iter()
        .filter(|(_, rate)| *rate < least)
        .collect();
    unlike.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    unlike.into_iter().map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests;
