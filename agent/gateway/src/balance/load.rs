//! What is known of one endpoint, shared by all workers.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How fast a latency fades.
const FADE: Duration = Duration::from_secs(10);
/// What a failure counts as, if it was not slower: who fails fast must not look fast.
const FAILURE: Duration = Duration::from_secs(1);
/// Nothing is known any more of an endpoint that was silent for so long: one request finds out
/// whether it still is what it was. Without this, one that failed once would get nothing for as long
/// as another is faster than what is left of the failure.
const FORGOTTEN: Duration = Duration::from_secs(30);
/// Cost of an endpoint that has not answered yet and has been asked: one request finds out.
const UNTRIED: f64 = 1e12;

/// Requests in flight and latency of an endpoint.
#[derive(Debug)]
pub struct Load {
    in_flight: AtomicU32,
    /// Latency in microseconds (`f32`, upper half; 0 when nothing is known) and when it was
    /// noted (milliseconds since `start`, lower half).
    latency: AtomicU64,
    start: Instant,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With an answer, of which the head took so long.
    Answered(Duration),
    /// With a failure of the endpoint after so long.
    Failed(Duration),
    /// By the client: it says nothing of the endpoint.
    Abandoned,
}

impl Load {
    /// Nothing is known yet.
    pub fn new(now: Instant) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            latency: AtomicU64::new(0),
            start: now,
        }
    }

    /// A request was sent.
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that [`begin`](Self::begin) was told of has ended.
    pub fn end(&self, outcome: Outcome, now: Instant) {
        let less = |n: u32| n.checked_sub(1);
        // Never below none, even if somebody ends twice.
        let _ = self
            .in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        match outcome {
            Outcome::Answered(latency) => self.answered(latency, now),
            Outcome::Failed(latency) => self.failed(latency, now),
            Outcome::Abandoned => {}
        }
    }

    /// Notes the latency of a request that goes on: its head is here, its body is not.
    pub fn answered(&self, latency: Duration, now: Instant) {
        self.note(latency, now);
    }

    /// Notes a failure of a request that has not been [`end`](Self::end)ed yet.
    pub fn failed(&self, latency: Duration, now: Instant) {
        self.note(latency.max(FAILURE), now);
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Latency as it counts now; `None` when nothing is known, or nothing any more.
    pub fn latency(&self, now: Instant) -> Option<Duration> {
        let (micros, noted) = unpack(self.latency.load(Ordering::Relaxed));
        let millis = self.millis(now);
        let passed = Duration::from_millis(millis.saturating_sub(noted).into());
        let faded = micros * fade(millis, noted);
        (micros > 0.0 && passed < FORGOTTEN).then(|| Duration::from_secs_f64(faded / 1e6))
    }

    /// Expected delay of one more request, in microseconds.
    pub(super) fn cost(&self, now: Instant) -> f64 {
        let in_flight = f64::from(self.in_flight());
        match self.latency(now) {
            Some(latency) => latency.as_secs_f64() * 1e6 * (in_flight + 1.0),
            None if in_flight == 0.0 => 0.0,
            None => UNTRIED + in_flight,
        }
    }

    fn note(&self, latency: Duration, now: Instant) {
        let millis = self.millis(now);
        let seen = (latency.as_secs_f64() * 1e6).max(1.0);
        let update = |packed| {
            let (known, noted) = unpack(packed);
            // A peak counts at once; what is less moves the average by the time that has passed.
            let next = if seen >= known {
                seen
            } else {
                seen + (known - seen) * fade(millis, noted)
            };
            Some(pack(next, millis.max(noted)))
        };
        let _ = self
            .latency
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }

    fn millis(&self, now: Instant) -> u32 {
        let millis = now.saturating_duration_since(self.start).as_millis();
        u32::try_from(millis).unwrap_or(u32::MAX)
    }
}

fn fade(now: u32, noted: u32) -> f64 {
    let passed = Duration::from_millis(now.saturating_sub(noted).into());
    (-passed.as_secs_f64() / FADE.as_secs_f64()).exp()
}

fn pack(micros: f64, millis: u32) -> u64 {
    u64::from((micros as f32).to_bits()) << 32 | u64::from(millis)
}

fn unpack(packed: u64) -> (f64, u32) {
    (
        f64::from(f32::from_bits((packed >> 32) as u32)),
        packed as u32,
    )
}
