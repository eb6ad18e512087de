//! Time as a busy machine gives it: that in which work had to wait for a processor or a disk is not
//! the product's.

use std::fs;
use std::time::{Duration, Instant};

/// Measures how long something takes, less the time in which anything on the machine that could
/// have run was kept waiting (the kernel's `some`, `Documentation/accounting/psi.rst`). Alone on a
/// machine that is next to nothing; beside other work a bound of a second is still one of a second
/// of work. A kernel that does not tell measures everything.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    start: Instant,
    stalled: Duration,
}

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            stalled: stalled(),
        }
    }

    /// What it took so far.
    pub fn took(&self) -> Duration {
        let elapsed = self.start.elapsed();
        elapsed.saturating_sub(stalled().saturating_sub(self.stalled))
    }
}

/// Time that anything had to wait for a processor or a disk, since the machine was started.
fn stalled() -> Duration {
    let waited = ["/proc/pressure/cpu", "/proc/pressure/io"].map(|path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        waited(&text).unwrap_or_default()
    });
    waited.iter().sum()
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=MICROSECONDS` is the first line.
fn waited(text: &str) -> Option<Duration> {
    let some = text.lines().find(|line| line.starts_with("some "))?;
    let (_, total) = some.split_once("total=")?;
    Some(Duration::from_micros(total.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_tells_what_waited() {
        let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=2500000\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(waited(text), Some(Duration::from_millis(2500)));
        assert_eq!(waited(""), None);
    }

    #[test]
    fn never_more_than_what_passed() {
        let watch = Stopwatch::start();
        std::thread::sleep(Duration::from_millis(20));
        assert!(watch.took() <= watch.start.elapsed());
    }
}
