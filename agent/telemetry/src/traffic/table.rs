//! The series and their life: made at first use, capped in number, removed when idle.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::{Direction, Flag, Labels};

/// The users count of a series that has left the table; nobody may count in it any more.
const RETIRED: u32 = u32::MAX;

/// The counters of one label set. Held by every connection that counts in it.
#[derive(Debug)]
pub(crate) struct Series {
    labels: Labels,
    opened: AtomicU64,
    closed: [AtomicU64; Flag::ALL.len()],
    /// Client to server.
    received: AtomicU64,
    /// Server to client.
    sent: AtomicU64,
    /// Connections that hold it, or [`RETIRED`].
    users: AtomicU32,
    /// When it was last used, in seconds since the table was made.
    used: AtomicU64,
}

impl Series {
    fn new(labels: Labels) -> Self {
        Self {
            labels,
            opened: AtomicU64::new(0),
            closed: Default::default(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            users: AtomicU32::new(0),
            used: AtomicU64::new(0),
        }
    }

    /// Counts transferred bytes. The metrics call what the client sends "received", whoever
    /// reports it.
    pub(crate) fn transferred(&self, from_client: u64, from_server: u64) {
        self.received.fetch_add(from_client, Ordering::Relaxed);
        self.sent.fetch_add(from_server, Ordering::Relaxed);
    }

    /// Counts the end of a connection and lets go of the series. `age` is the table's age.
    pub(crate) fn close(&self, flag: Flag, age: Duration) {
        self.closed[flag as usize].fetch_add(1, Ordering::Relaxed);
        self.used.fetch_max(age.as_secs(), Ordering::Relaxed);
        self.users.fetch_sub(1, Ordering::Release);
    }

    /// Counts one more user; false when the series has been retired in the meantime.
    fn enter(&self, age: Duration) -> bool {
        let entered = self
            .users
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |users| {
                (users != RETIRED).then(|| users + 1)
            })
            .is_ok();
        if entered {
            self.opened.fetch_add(1, Ordering::Relaxed);
            self.used.fetch_max(age.as_secs(), Ordering::Relaxed);
        }
        entered
    }

    fn retire_if_idle(&self, age: Duration, idle: Duration) -> bool {
        let last_used = Duration::from_secs(self.used.load(Ordering::Relaxed));
        age.saturating_sub(last_used) >= idle
            && self
                .users
                .compare_exchange(0, RETIRED, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    fn closed(&self, flag: Flag) -> u64 {
        self.closed[flag as usize].load(Ordering::Relaxed)
    }
}

/// All series. Ages are the time since the table was made.
#[derive(Debug)]
pub(crate) struct Table {
    series: RwLock<HashMap<Labels, Arc<Series>>>,
    inbound_overflow: Arc<Series>,
    outbound_overflow: Arc<Series>,
    limit: usize,
    idle: Duration,
    /// Age, in seconds, at which a full table was last searched for idle series.
    searched: AtomicU64,
}

impl Table {
    pub(crate) fn new(limit: usize, idle: Duration) -> Self {
        let overflow = |direction| Arc::new(Series::new(Labels::overflow(direction)));
        Self {
            series: RwLock::default(),
            inbound_overflow: overflow(Direction::Inbound),
            outbound_overflow: overflow(Direction::Outbound),
            limit,
            idle,
            searched: AtomicU64::new(0),
        }
    }

    /// Counts an opened connection and returns the series to count the rest of it in.
    pub(crate) fn open(&self, labels: &Labels, age: Duration) -> Arc<Series> {
        {
            let known = self.series.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(series) = known.get(labels).filter(|series| series.enter(age)) {
                return Arc::clone(series);
            }
        }
        self.open_new(labels, age)
    }

    fn open_new(&self, labels: &Labels, age: Duration) -> Arc<Series> {
        let mut known = self.write();
        if let Some(series) = known.get(labels).filter(|series| series.enter(age)) {
            return Arc::clone(series);
        }
        if known.len() >= self.limit && !self.make_room(&mut known, age) {
            return self.open_overflow(labels.direction, age);
        }
        let series = Arc::new(Series::new(labels.clone()));
        series.enter(age);
        known.insert(labels.clone(), Arc::clone(&series));
        series
    }

    fn open_overflow(&self, direction: Direction, age: Duration) -> Arc<Series> {
        let overflow = match direction {
            Direction::Inbound => &self.inbound_overflow,
            Direction::Outbound => &self.outbound_overflow,
        };
        overflow.enter(age);
        Arc::clone(overflow)
    }

    /// Searches a full table for idle series, at most once a minute because it is a full walk.
    fn make_room(&self, known: &mut HashMap<Labels, Arc<Series>>, age: Duration) -> bool {
        let searched = Duration::from_secs(self.searched.load(Ordering::Relaxed));
        if age.saturating_sub(searched) < Duration::from_secs(60) {
            return false;
        }
        self.searched.store(age.as_secs(), Ordering::Relaxed);
        remove_idle(known, age, self.idle);
        known.len() < self.limit
    }

    /// Removes the series nobody has used for the idle limit.
    pub(crate) fn expire(&self, age: Duration) {
        remove_idle(&mut self.write(), age, self.idle);
    }

    /// The number of series, the overflow ones not counted.
    pub(crate) fn len(&self) -> usize {
        self.series
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    pub(crate) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let rows = self.rows();
        counter(
            encoder,
            "istio_tcp_connections_opened",
            "Connections opened.",
            rows.iter().map(|s| (s, Flag::None, load(&s.opened))),
        )?;
        counter(
            encoder,
            "istio_tcp_connections_closed",
            "Connections closed, failed ones included.",
            rows.iter().flat_map(closed),
        )?;
        counter(
            encoder,
            "istio_tcp_connections_failed",
            "Connections that failed.",
            rows.iter()
                .flat_map(closed)
                .filter(|(_, flag, _)| *flag != Flag::None),
        )?;
        counter(
            encoder,
            "istio_tcp_received_bytes",
            "Bytes from client to server.",
            rows.iter().map(|s| (s, Flag::None, load(&s.received))),
        )?;
        counter(
            encoder,
            "istio_tcp_sent_bytes",
            "Bytes from server to client.",
            rows.iter().map(|s| (s, Flag::None, load(&s.sent))),
        )
    }

    /// Every series that has counted something.
    fn rows(&self) -> Vec<Arc<Series>> {
        let known = self.series.read().unwrap_or_else(PoisonError::into_inner);
        known
            .values()
            .chain([&self.inbound_overflow, &self.outbound_overflow])
            .filter(|series| load(&series.opened) > 0)
            .cloned()
            .collect()
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Labels, Arc<Series>>> {
        self.series.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove_idle(known: &mut HashMap<Labels, Arc<Series>>, age: Duration, idle: Duration) {
    known.retain(|_, series| !series.retire_if_idle(age, idle));
}

fn load(value: &AtomicU64) -> u64 {
    value.load(Ordering::Relaxed)
}

/// The closed connections of a series by flag; only flags that occurred.
fn closed(series: &Arc<Series>) -> impl Iterator<Item = (&Arc<Series>, Flag, u64)> {
    Flag::ALL
        .into_iter()
        .map(move |flag| (series, flag, series.closed(flag)))
        .filter(|(_, _, count)| *count > 0)
}

fn counter<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: impl Iterator<Item = (&'a Arc<Series>, Flag, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (series, flag, value) in rows {
        metric
            .encode_family(&series.labels.with_flag(flag))?
            .encode_counter::<NoLabelSet, _, f64>(&value, None)?;
    }
    Ok(())
}
