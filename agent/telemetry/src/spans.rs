//! Spans of traces, on their way to a collector: OTLP over gRPC.
//!
//! A thread that serves requests puts spans into a bounded queue and goes on; what finds no room is
//! dropped and counted. One task sends them in batches. A collector that is away costs spans, never
//! time.

mod export;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::{Samples, TelemetryError};

/// Spans that may wait to be sent.
const QUEUE: usize = 4096;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where spans go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// `http://host:port` or `https://host:port` of its OTLP/gRPC receiver.
    pub address: String,
    /// PEM bundle that its certificate must chain to, for https.
    pub root_cert: Option<PathBuf>,
    /// What sends them, as attributes such as `service.name`.
    pub resource: Vec<(&'static str, String)>,
    /// Version of the program.
    pub version: &'static str,
}

/// One request, as a part of its trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The trace.
    pub trace: [u8; 16],
    /// This part of it.
    pub id: [u8; 8],
    /// The part that asked for it.
    pub parent: Option<[u8; 8]>,
    /// The caller's `tracestate`.
    pub state: String,
    /// What it is; few different ones.
    pub name: String,
    /// When it began.
    pub start: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// What is known of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed, when it did.
    pub error: Option<String>,
}

/// Value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A number.
    Number(i64),
}

/// Takes spans. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Spans {
    queue: mpsc::Sender<Order>,
    counts: Arc<Counts>,
}

/// What the sending task is told.
#[derive(Debug)]
enum Order {
    Span(Box<Span>),
    /// Send what there is and say when that is done.
    Flush(oneshot::Sender<()>),
}

/// What became of spans.
#[derive(Debug, Default)]
struct Counts {
    exported: AtomicU64,
    /// No room in the queue.
    overflowed: AtomicU64,
    /// The collector was not reached, or did not want them.
    failed: AtomicU64,
}

impl Spans {
    /// Starts the task that sends. The collector is dialled when there is something to send.
    ///
    /// Fails when the address is none, or the roots cannot be read.
    pub fn start(collector: &Collector, runtime: &Handle) -> Result<Self, TelemetryError> {
        let endpoint = endpoint(collector)?;
        let (queue, orders) = mpsc::channel(QUEUE);
        let counts = Arc::new(Counts::default());
        let exporter = {
            // The channel starts a task of its own.
            let _inside = runtime.enter();
            export::Exporter::new(endpoint.connect_lazy(), collector, Arc::clone(&counts))
        };
        runtime.spawn(exporter.run(orders));
        Ok(Self { queue, counts })
    }

    /// Takes a span, or drops it when there is no room. Never waits.
    pub fn push(&self, span: Span) {
        if self.queue.try_send(Order::Span(Box::new(span))).is_err() {
            self.counts.overflowed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until the spans that were taken so far have been sent or given up, at most that long.
    pub async fn flush(&self, limit: Duration) {
        let (done, is_done) = oneshot::channel();
        let flushed = async {
            if self.queue.send(Order::Flush(done)).await.is_ok() {
                let _ = is_done.await;
            }
        };
        let _ = tokio::time::timeout(limit, flushed).await;
    }

    /// Adds what became of spans to a scrape.
    pub fn sample(&self, samples: &mut Samples) {
        let count = |value: &AtomicU64| value.load(Ordering::Relaxed);
        samples.counter(
            "culvert_spans_exported",
            "Spans that the collector took",
            &[],
            count(&self.counts.exported),
        );
        for (why, value) in [
            ("queue", &self.counts.overflowed),
            ("collector", &self.counts.failed),
        ] {
            samples.counter(
                "culvert_spans_dropped",
                "Spans that were lost: no room in the queue, or the collector did not take them",
                &[("why", why)],
                count(value),
            );
        }
    }
}

fn endpoint(collector: &Collector) -> Result<Endpoint, TelemetryError> {
    let unusable = |what: String| TelemetryError::Collector {
        address: collector.address.clone(),
        what,
    };
    let endpoint = Endpoint::from_shared(collector.address.clone())
        .map_err(|error| unusable(error.to_string()))?
        .connect_timeout(CONNECT_TIMEOUT);
    match (endpoint.uri().scheme_str(), &collector.root_cert) {
        (Some("http"), _) => Ok(endpoint),
        (Some("https"), Some(file)) => {
            let roots = std::fs::read(file)
                .map_err(|error| unusable(format!("{}: {error}", file.display())))?;
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots));
            endpoint
                .tls_config(tls)
                .map_err(|error| unusable(error.to_string()))
        }
        (Some("https"), None) => Err(unusable("https needs the roots to verify it by".to_owned())),
        _ => Err(unusable("not an http:// or https:// address".to_owned())),
    }
}

#[cfg(test)]
mod tests;
