//! Exponential back-off with jitter.

use std::time::Duration;

/// Delays that double from `first` to `cap`, each shortened or lengthened by up to 20 %.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first` and never exceeds `cap` by more than the jitter.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            next: first,
        }
    }

    /// The next delay; `random` is uniform in `0.0..1.0`.
    pub fn next(&mut self, random: f64) -> Duration {
        let delay = self.next;
        self.next = (self.next * 2).min(self.cap);
        delay.mul_f64(0.8 + 0.4 * random.clamp(0.0, 1.0))
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        let delays: Vec<u128> = (0..4).map(|_| backoff.next(0.5).as_millis()).collect();
        assert_eq!(delays, [100, 200, 350, 350]);
        backoff.reset();
        assert_eq!(backoff.next(0.0).as_millis(), 80);
    }
}
