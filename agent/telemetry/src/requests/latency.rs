//! Durations in buckets that grow with them, for quantiles: four to each doubling.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::sharded::add;

/// Buckets to each doubling, as a power of two.
const FINE: u32 = 2;
/// Everything up to this is one bucket: 2^6 microseconds.
const FIRST: u32 = 6;
/// Everything from here on is the last one: 2^27 microseconds, a good two minutes.
const LAST: u32 = 27;
const BUCKETS: usize = ((LAST - FIRST) << FINE) as usize + 2;

/// Counts of durations, in cells that one thread writes.
#[derive(Debug)]
pub(super) struct Latency([AtomicU64; BUCKETS]);

impl Default for Latency {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Latency {
    pub(super) fn count(&self, duration: Duration) {
        add(&self.0[bucket(duration)], 1);
    }

    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|cell| cell.load(Ordering::Relaxed)).sum()
    }
}

/// Cells of several threads, added up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quantiles([u64; BUCKETS]);

impl Quantiles {
    pub(super) fn of<'a>(cells: impl Iterator<Item = &'a Latency>) -> Self {
        let mut all = [0; BUCKETS];
        for one in cells {
            for (sum, cell) in all.iter_mut().zip(&one.0) {
                *sum += cell.load(Ordering::Relaxed);
            }
        }
        Self(all)
    }

    /// The duration that the share `of` (0 to 1) of all stays within, at most a fifth too high;
    /// `None` when nothing was counted.
    pub(super) fn within(&self, of: f64) -> Option<Duration> {
        let total: u64 = self.0.iter().sum();
        let wanted = (total as f64 * of).ceil().max(1.0) as u64;
        let mut seen = 0;
        let place = self.0.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        place.map(|place| Duration::from_micros(bound(place)))
    }
}

fn bucket(duration: Duration) -> usize {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    // A bucket holds its upper bound.
    let value = micros.saturating_sub(1);
    let Some(octave) = value.checked_ilog2().filter(|octave| *octave >= FIRST) else {
        return 0;
    };
    if octave >= LAST {
        return BUCKETS - 1;
    }
    let within = (value >> (octave - FINE)) & ((1 << FINE) - 1);
    1 + (((octave - FIRST) << FINE) as usize) + within as usize
}

/// The longest duration of a bucket, in microseconds; of the last one, the shortest.
fn bound(place: usize) -> u64 {
    let Some(place) = place.checked_sub(1) else {
        return 1 << FIRST;
    };
    if place + 2 == BUCKETS {
        return 1 << LAST;
    }
    let (octave, within) = (place >> FINE, place & ((1 << FINE) - 1));
    let start = 1_u64 << (octave as u32 + FIRST);
    start + (start >> FINE) * (within as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_ends_where_the_next_begins() {
        let at = |micros| bucket(Duration::from_micros(micros));
        assert_eq!((at(0), at(64), at(65)), (0, 0, 1));
        for place in 0..BUCKETS - 1 {
            assert_eq!(at(bound(place)), place);
            assert_eq!(at(bound(place) + 1), place + 1);
        }
        assert_eq!(at(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_at_most_a_fifth_too_high() {
        let latency = Latency::default();
        for micros in 1..=10_000 {
            latency.count(Duration::from_micros(micros));
        }
        let all = Quantiles::of([&latency].into_iter());
        for (of, exact) in [(0.5, 5_000.0), (0.9, 9_000.0), (0.99, 9_900.0)] {
            let told = all.within(of).unwrap().as_micros() as f64;
            assert!((exact..exact * 1.2).contains(&told), "{of}: {told}");
        }
        assert_eq!(Quantiles::of([].into_iter()).within(0.5), None);
    }
}
