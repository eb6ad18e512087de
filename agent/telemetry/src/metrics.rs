//! The registry of a process: what a scrape sees and what `culvert status` asks for.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use agent_model::Reason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;

use crate::refusals::{Refusal, Ring};
use crate::requests::Requests;
use crate::traffic::{Direction, Table};
use crate::{Samples, process};

/// Bounds of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Traffic series; connections past it are counted in one overflow series per reporter.
    pub series: usize,
    /// How long an unused traffic series is kept.
    pub idle: Duration,
}

impl Default for Limits {
    /// 4096 series, 30 minutes.
    fn default() -> Self {
        Self {
            series: 4096,
            idle: Duration::from_secs(30 * 60),
        }
    }
}

type Sampler = Box<dyn Fn(&mut Samples) + Send + Sync>;

/// Metrics of a process. Shared by every thread; counting takes no exclusive lock on the data path
/// once a pair of workloads has been seen.
pub struct Metrics {
    started: Instant,
    version: &'static str,
    traffic: Arc<Table>,
    requests: Arc<Requests>,
    refusals: Mutex<Ring>,
    refused: [ByReason; 2],
    sockets: [AtomicU64; 2],
    access_log: AtomicBool,
    samplers: RwLock<Vec<Sampler>>,
}

type ByReason = [AtomicU64; Reason::ALL.len()];

impl Metrics {
    /// Makes an empty registry for a program of `version`, alive since `now`.
    pub fn new(version: &'static str, limits: Limits, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            started: now,
            version,
            traffic: Arc::new(Table::new(limits.series, limits.idle)),
            requests: Requests::new(now),
            refusals: Mutex::default(),
            refused: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
            sockets: Default::default(),
            access_log: AtomicBool::new(true),
            samplers: RwLock::default(),
        })
    }

    /// Adds a sampler that every scrape calls. It must not block and must not call back into
    /// these metrics.
    pub fn sample_with(&self, sampler: impl Fn(&mut Samples) + Send + Sync + 'static) {
        self.samplers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(sampler));
    }

    /// Switches access-log lines on (the default) or off; metrics and refusals go on.
    pub fn set_access_log(&self, on: bool) {
        self.access_log.store(on, Ordering::Relaxed);
    }

    /// The most recent refusals, newest first.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.ring().newest()
    }

    /// Connections in progress on the outbound and the inbound paths.
    pub fn connections(&self, direction: Direction) -> u64 {
        self.sockets[direction as usize].load(Ordering::Relaxed)
    }

    /// How long the process has been alive at `now`.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// The counters of requests, for a process that serves some.
    pub fn requests(&self) -> &Arc<Requests> {
        &self.requests
    }

    /// Everything in the OpenMetrics text format, idle traffic series removed first.
    pub fn encode(&self, now: Instant) -> String {
        self.traffic.expire(self.age(now));
        self.requests.expire(now);
        let mut samples = Samples::default();
        self.sample_own(&mut samples);
        process::sample(&mut samples);
        for sampler in &*self.samplers.read().unwrap_or_else(PoisonError::into_inner) {
            sampler(&mut samples);
        }
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape {
            traffic: Arc::clone(&self.traffic),
            requests: Arc::clone(&self.requests),
            samples,
        }));
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }

    pub(crate) fn traffic(&self) -> &Table {
        &self.traffic
    }

    pub(crate) fn logs_access(&self) -> bool {
        self.access_log.load(Ordering::Relaxed)
    }

    pub(crate) fn socket_opened(&self, direction: Direction) {
        self.sockets[direction as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn socket_closed(&self, direction: Direction, reason: Reason) {
        self.sockets[direction as usize].fetch_sub(1, Ordering::Relaxed);
        if reason != Reason::Ok {
            self.refused[direction as usize][reason as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn remember(&self, refusal: Refusal) {
        self.ring().push(refusal);
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sample_own(&self, samples: &mut Samples) {
        samples.gauge(
            "istio_build",
            "What is running",
            &[("component", "culvert"), ("tag", self.version)],
            1.0,
        );
        for direction in [Direction::Inbound, Direction::Outbound] {
            samples.gauge(
                "istio_tcp_sockets_open",
                "Connections in progress",
                &[("reporter", direction.reporter())],
                self.connections(direction) as f64,
            );
            self.sample_refused(direction, samples);
        }
        samples.gauge(
            "culvert_traffic_series",
            "Traffic series kept",
            &[],
            self.traffic.len() as f64,
        );
        let of_requests = self.requests.len();
        if of_requests > 0 {
            samples.gauge(
                "culvert_request_series",
                "Series of requests kept",
                &[],
                of_requests as f64,
            );
        }
    }

    fn sample_refused(&self, direction: Direction, samples: &mut Samples) {
        for reason in Reason::ALL {
            let count = self.refused[direction as usize][*reason as usize].load(Ordering::Relaxed);
            if count > 0 {
                samples.counter(
                    "culvert_connections_refused",
                    "Connections that ended otherwise than ok, by Reason",
                    &[
                        ("direction", direction.as_str()),
                        ("reason", reason.as_str()),
                    ],
                    count,
                );
            }
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Scrape {
    traffic: Arc<Table>,
    requests: Arc<Requests>,
    samples: Samples,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.traffic.encode(&mut encoder)?;
        self.requests.encode(&mut encoder)?;
        self.samples.encode(&mut encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_row(text: &str, row: &str) -> bool {
        text.lines().any(|line| line == row)
    }

    #[test]
    fn a_scrape_has_build_process_and_samples() {
        let metrics = Metrics::new("1.2.3", Limits::default(), Instant::now());
        metrics.sample_with(|samples| {
            samples.counter("culvert_test", "A test", &[("kind", "a")], 5);
            samples.gauge("culvert_level", "A level", &[], 1.5);
            let busy = Duration::from_millis(1250);
            samples.seconds("culvert_busy_seconds", "A time", &[], busy);
        });
        let text = metrics.encode(Instant::now());
        for row in [
            "istio_build{component=\"culvert\",tag=\"1.2.3\"} 1",
            "culvert_test_total{kind=\"a\"} 5",
            "culvert_level 1.5",
            "culvert_busy_seconds_total 1.25",
            "istio_tcp_sockets_open{reporter=\"source\"} 0",
            "# EOF",
        ] {
            assert!(has_row(&text, row), "{row} in\n{text}");
        }
        assert!(text.contains("process_open_fds "), "{text}");
    }

    #[test]
    fn a_sampler_cannot_grow_a_scrape_without_end() {
        let metrics = Metrics::new("1", Limits::default(), Instant::now());
        metrics.sample_with(|samples| {
            for n in 0..10_000 {
                samples.gauge("culvert_many", "Many", &[("n", &n.to_string())], 0.0);
            }
        });
        let rows = metrics.encode(Instant::now());
        let rows = rows.lines().filter(|l| l.starts_with("culvert_many{"));
        assert_eq!(rows.count(), crate::MAX_SAMPLES_PER_METRIC);
    }

    #[test]
    fn reasons_index_their_counters() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index, "{reason}");
        }
    }
}
