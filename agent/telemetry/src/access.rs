//! The access log of a busy process: lines are formatted once, where they arise, and written by
//! the log's thread in batches.

use std::cell::Cell;
use std::sync::Arc;
use std::time::SystemTime;

use tracing::Level;

use crate::line::{Head, Line, LogFormat};
use crate::writer::{Buffer, Haste};

/// Capacity that a thread keeps for its next line, in bytes; few lines are longer.
const KEPT: usize = 4096;

thread_local! {
    static SCRATCH: Cell<String> = Cell::default();
}

/// Where lines of the access log go, among those of `tracing` and in their order. A line costs no
/// allocation, no system call and no wait; one that finds no room is dropped and counted.
#[derive(Debug, Clone)]
pub struct AccessLog {
    format: LogFormat,
    buffer: Arc<Buffer>,
}

impl AccessLog {
    pub(crate) fn new(format: LogFormat, buffer: Arc<Buffer>) -> Self {
        Self { format, buffer }
    }

    /// Writes a line (target `access`, level info) with the fields that `fields` gives it, unless
    /// the filter is against it. It is read up to 100 ms later.
    pub fn write(&self, message: &str, fields: impl FnOnce(&mut Line<'_>)) {
        if tracing::enabled!(target: "access", Level::INFO) {
            self.push(SystemTime::now(), message, fields);
        }
    }

    fn push(&self, time: SystemTime, message: &str, fields: impl FnOnce(&mut Line<'_>)) {
        let head = Head {
            level: Level::INFO,
            time,
            scope: "access",
            message,
        };
        // A thread that is ending has no such place any more.
        let mut scratch = SCRATCH.try_with(Cell::take).unwrap_or_default();
        let mut line = Line::begin(&mut scratch, self.format, &head);
        fields(&mut line);
        if line.end().is_ok() {
            self.buffer.push(scratch.as_bytes(), Haste::Batched);
        }
        scratch.clear();
        scratch.shrink_to(KEPT);
        let _ = SCRATCH.try_with(|place| place.set(scratch));
    }
}

#[cfg(test)]
mod tests;
