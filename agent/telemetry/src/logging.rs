//! Log set-up of a process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::TelemetryError;
use crate::access::AccessLog;
use crate::event::LineFormat;
use crate::line::LogFormat;
use crate::writer::{BATCH_PAUSE, BUFFER_BYTES, Buffer, MakeLineWriter};

/// Keeps the log's writer thread; dropping it writes the last lines (waits 2 s at most).
#[derive(Debug)]
pub struct Logging {
    format: LogFormat,
    buffer: Arc<Buffer>,
}

impl Logging {
    /// Takes lines of the access log that are written in batches.
    pub fn access(&self) -> AccessLog {
        AccessLog::new(self.format, Arc::clone(&self.buffer))
    }

    /// Counts the log lines that were dropped because the reader of the log was too slow.
    pub fn dropped_lines(&self) -> Arc<AtomicU64> {
        self.buffer.dropped()
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.buffer.close();
    }
}

/// Sends every event that `filter` (the syntax of `RUST_LOG`, such as `info,access=off`) lets
/// through to standard error, as lines of `format`.
///
/// Fails on a filter that does not parse and when called twice in a process.
pub fn init(filter: &str, format: LogFormat) -> Result<Logging, TelemetryError> {
    let directives =
        EnvFilter::builder()
            .parse(filter)
            .map_err(|source| TelemetryError::Filter {
                filter: filter.to_owned(),
                source,
            })?;
    let buffer =
        Buffer::start(BUFFER_BYTES, BATCH_PAUSE, io::stderr()).map_err(TelemetryError::Thread)?;
    let layer = tracing_subscriber::fmt::layer()
        .event_format(LineFormat(format))
        .with_writer(MakeLineWriter(Arc::clone(&buffer)));
    tracing_subscriber::registry()
        .with(directives)
        .with(layer)
        .try_init()
        .map_err(|_| TelemetryError::AlreadySet)?;
    Ok(Logging { format, buffer })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        let error = init("access=shouting", LogFormat::Text).unwrap_err();
        assert!(error.to_string().contains("access=shouting"), "{error}");
    }
}
