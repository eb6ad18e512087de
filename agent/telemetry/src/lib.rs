//! What an operator can see of a node: log lines, metrics and recent refusals.
//!
//! [`init`] sets up logging. [`AccessLog`] takes a line for each request of a busy process. [`Metrics`] is the registry that a scrape reads. A [`Record`] follows
//! one connection from accept to close and then writes exactly one access-log line and updates the
//! metrics exactly once.
//!
//! Nothing here blocks a caller on a slow reader: log lines go through a bounded buffer with a drop
//! counter, and every label set, ring and map has a cap. Label values come from the control plane's
//! records and from certificates it issued, never from bytes a peer chose.

mod access;
mod clock;
mod escape;
mod event;
mod line;
mod logging;
mod metrics;
mod process;
mod record;
mod refusals;
mod requests;
mod samples;
mod spans;
mod traffic;
mod writer;

pub use access::AccessLog;
pub use line::{Line, LogFormat};
pub use logging::{Logging, init};
pub use metrics::{Limits, Metrics};
pub use record::{Ends, Record};
pub use refusals::{REFUSALS_KEPT, Refusal};
pub use requests::{
    Counter, Measured, Outcome, Reporter, RequestLabels, Requests, RouteFigures, RouteName, Shard,
    Via,
};
pub use samples::{MAX_SAMPLES_PER_METRIC, Samples};
pub use spans::{Collector, Span, Spans, Value};
pub use traffic::Direction;

/// What can go wrong while telemetry is set up. Running, it never fails: it counts what it drops.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The log filter is not one `tracing` understands.
    #[error("log filter {filter:?}: {source}")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The trace collector cannot be used.
    #[error("trace collector {address:?}: {what}")]
    Collector {
        /// Its address.
        address: String,
        /// What is wrong.
        what: String,
    },
    /// Logging is already set up in this process.
    #[error("logging is already set up")]
    AlreadySet,
    /// The writer thread could not be started.
    #[error("log writer thread: {0}")]
    Thread(#[source] std::io::Error),
}
