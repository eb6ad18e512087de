//! Metrics of requests: `istio_requests_total` and its histograms by who asked whom, and figures
//! by route.
//!
//! Each worker counts in cells of its own, through a [`Shard`]; nothing is locked and nothing is
//! shared while a request is counted. A scrape adds the cells up. Only the first request of a new
//! combination of labels takes a lock.

mod counts;
mod histogram;
mod labels;
mod latency;
mod route;
mod sharded;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::encoding::DescriptorEncoder;

use counts::RequestCounts;
use route::RouteCounts;
use sharded::Sharded;

pub use labels::{Reporter, RequestLabels, Via};
pub use route::{Outcome, RouteFigures, RouteName};

/// Label sets of requests; further ones are counted in one overflow series. One is about 40 rows
/// of a scrape.
const MAX_SERIES: usize = 1024;
/// How long a label set without requests is kept.
const IDLE: Duration = Duration::from_secs(30 * 60);
/// Rules of routes that have figures of their own; further ones share theirs.
const MAX_ROUTES: usize = 8192;

/// The counters of requests of a process.
pub struct Requests {
    started: Instant,
    shards: AtomicUsize,
    series: Sharded<RequestLabels, RequestCounts>,
    routes: Sharded<RouteName, RouteCounts>,
}

/// What is measured of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// From its head to the end of its response.
    pub duration: Duration,
    /// Bytes of its body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
}

impl Requests {
    /// Counters that are all zero.
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            started: now,
            shards: AtomicUsize::new(0),
            series: Sharded::new(MAX_SERIES, Some(IDLE)),
            routes: Sharded::new(MAX_ROUTES, None),
        })
    }

    /// The part that one thread counts in.
    pub fn shard(self: &Arc<Self>) -> Shard {
        Shard {
            requests: Arc::clone(self),
            number: self.shards.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// What is known of the rules that had requests, by name.
    pub fn routes(&self) -> Vec<(RouteName, RouteFigures)> {
        let mut routes: Vec<_> = self.routes.rows(|counts: &[_]| RouteFigures::sum(counts));
        routes.sort_by(|(a, _), (b, _)| a.cmp(b));
        routes
    }

    /// Forgets the figures of rules that are not served any more.
    pub fn keep_routes(&self, is_served: impl Fn(&RouteName) -> bool) {
        self.routes.retain(is_served);
    }

    /// How many label sets are kept.
    pub(crate) fn len(&self) -> usize {
        self.series.len()
    }

    /// Forgets label sets that have not been used for long.
    pub(crate) fn expire(&self, now: Instant) {
        self.series.expire(self.age(now));
    }

    pub(crate) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let rows = self.series.rows(counts::sum);
        counts::encode(&rows, encoder)?;
        route::encode(&self.routes(), encoder)
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

/// Where one thread counts.
#[derive(Debug)]
pub struct Shard {
    requests: Arc<Requests>,
    number: usize,
}

impl Shard {
    /// The counter for requests with these labels and of this rule. Takes a lock: keep what it
    /// returns, until it [is retired](Counter::is_retired).
    pub fn counter(
        &self,
        labels: RequestLabels,
        route: Option<RouteName>,
        now: Instant,
    ) -> Counter {
        let Requests { series, routes, .. } = &*self.requests;
        let age = self.requests.age(now);
        let outcome = labels.outcome();
        Counter {
            series: series.cells(labels, self.number, age),
            route: route.map(|name| (routes.cells(name, self.number, age), outcome)),
        }
    }
}

/// Counts requests that have their labels and their rule in common. One thread's.
#[derive(Debug)]
pub struct Counter {
    series: Arc<sharded::Cells<RequestCounts>>,
    route: Option<(Arc<sharded::Cells<RouteCounts>>, Outcome)>,
}

impl Counter {
    /// Counts a request.
    pub fn count(&self, measured: Measured) {
        self.series.counts.count(measured);
        if let Some((route, outcome)) = &self.route {
            route.counts.count(*outcome, measured.duration);
        }
    }

    /// True when what is counted here is no longer shown: the label set was idle for long, or the
    /// rule is gone. Ask for another one.
    pub fn is_retired(&self) -> bool {
        let of_route = self.route.as_ref();
        self.series.is_retired() || of_route.is_some_and(|(route, _)| route.is_retired())
    }
}

#[cfg(test)]
mod tests;
