//! How often nodes are told: at once when little happens, and in batches when much does, so that
//! the work for hundreds of nodes does not grow with the number of changes.

use std::time::Duration;

use tokio::time::Instant;

/// Changes that follow each other this closely are translated together.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// Shortest time between two batches. Each batch is a message to every node.
const BETWEEN: Duration = Duration::from_millis(200);

/// When the last batch ended.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<Instant>,
}

impl Pace {
    /// Until when changes are gathered after the first one came at `now`.
    pub(crate) fn gather_until(&self, now: Instant) -> Instant {
        let soon = now + DEBOUNCE;
        self.last.map_or(soon, |last| soon.max(last + BETWEEN))
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
        assert_eq!(pace.gather_until(start), start + DEBOUNCE);
        pace.done(start);
        assert_eq!(pace.gather_until(start), start + BETWEEN);
        let later = start + Duration::from_secs(1);
        assert_eq!(pace.gather_until(later), later + DEBOUNCE);
    }
}
