//! Waiting for something to become true, with a deadline and the last reason why it was not.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Calls `attempt` every few milliseconds until it succeeds; after `limit` gives its last error.
pub fn until<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= limit => {
                return Err(error).with_context(|| format!("{what}: not within {limit:?}"));
            }
            Err(_) => thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
