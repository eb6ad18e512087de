//! How often nodes are told: at once when little happens, and in batches when much does, so that
//! the work for hundreds of nodes does not grow with the number of changes.

use std::time::Duration;

use tokio::time::Instant;

/// Changes that follow each other this closely are translated together.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// Shortest time between two batches, for each open stream and in all: a batch is a message to
/// every one of them.
const BETWEEN_PER_STREAM: Duration = Duration::from_millis(1);
const BETWEEN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

/// When the last batch ended.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<Instant>,
}

impl Pace {
    /// Until when changes are gathered after the first one came at `now`, for so many streams.
    pub(crate) fn gather_until(&self, now: Instant, streams: usize) -> Instant {
        let soon = now + DEBOUNCE;
        let streams = u32::try_from(streams).unwrap_or(u32::MAX);
        let between = BETWEEN_PER_STREAM.saturating_mul(streams);
        let between = between.clamp(BETWEEN.0, BETWEEN.1);
        self.last.map_or(soon, |last| soon.max(last + between))
    }

    /// A batch is out.
    pub(crate) fn done(&mut self, now: Instant) {
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_change_goes_at_once_and_a_flood_in_batches() {
        let mut pace = Pace::default();
        let start = Instant::now();
        assert_eq!(pace.gather_until(start, 1000), start + DEBOUNCE);
        pace.done(start);
        assert_eq!(pace.gather_until(start, 0), start + BETWEEN.0);
        assert_eq!(pace.gather_until(start, 100), start + BETWEEN.1 / 2);
        assert_eq!(pace.gather_until(start, 1_000_000), start + BETWEEN.1);
        let later = start + Duration::from_secs(1);
        assert_eq!(pace.gather_until(later, 1000), later + DEBOUNCE);
    }
}
