//! The task that sends spans.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::otlp::any_value::Value as WireValue;
use proto::otlp::trace_service_client::TraceServiceClient;
use proto::otlp::{
    AnyValue, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans,
    ScopeSpans, Span as WireSpan, SpanKind, Status, StatusCode,
};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use super::{Collector, Counts, Order, Span, Value};

/// Spans of one message at most.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const DELAY: Duration = Duration::from_secs(1);
/// How long the collector may take to answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a collector that failed is left alone, for the first failure in a row and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The flag of W3C trace context for a span that is recorded.
const SAMPLED: u32 = 1;

pub(super) struct Exporter {
    client: TraceServiceClient<Channel>,
    resource: Resource,
    scope: InstrumentationScope,
    counts: Arc<Counts>,
    failures: u32,
}

impl Exporter {
    pub(super) fn new(channel: Channel, collector: &Collector, counts: Arc<Counts>) -> Self {
        let attributes = collector.resource.iter();
        let attributes = attributes.map(|(key, value)| attribute(key, Value::Text(value.clone())));
        Self {
            client: TraceServiceClient::new(channel),
            resource: Resource {
                attributes: attributes.collect(),
            },
            scope: InstrumentationScope {
                name: "culvert".to_owned(),
                version: collector.version.to_owned(),
            },
            counts,
            failures: 0,
        }
    }

    /// Sends until nobody can add spans any more.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut batch = Vec::new();
        let mut waiting = Vec::new();
        while let Some(order) = orders.recv().await {
            take(order, &mut batch, &mut waiting);
            if waiting.is_empty() {
                let more = fill(&mut orders, &mut batch, &mut waiting);
                let _ = timeout(DELAY, more).await;
            }
            self.send(std::mem::take(&mut batch)).await;
            let flushes = std::mem::take(&mut waiting);
            if flushes.is_empty() {
                self.pause().await;
            }
            for done in flushes {
                let _ = done.send(());
            }
        }
    }

    async fn send(&mut self, batch: Vec<Span>) {
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u64;
        let scope_spans = ScopeSpans {
            scope: Some(self.scope.clone()),
            spans: batch.into_iter().map(wire).collect(),
        };
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![scope_spans],
            }],
        };
        let exported = timeout(REQUEST_TIMEOUT, self.client.export(request)).await;
        let rejected = match exported {
            Ok(Ok(answer)) => {
                self.failures = 0;
                let partial = answer.into_inner().partial_success.unwrap_or_default();
                u64::try_from(partial.rejected_spans)
                    .unwrap_or(0)
                    .min(count)
            }
            Ok(Err(status)) => {
                self.failed(status.message());
                count
            }
            Err(_) => {
                self.failed("no answer in time");
                count
            }
        };
        self.counts.failed.fetch_add(rejected, Ordering::Relaxed);
        let counts = &self.counts;
        counts
            .exported
            .fetch_add(count - rejected, Ordering::Relaxed);
    }

    fn failed(&mut self, why: &str) {
        // The first of a row is worth a line; the rest is in the metrics.
        if self.failures == 0 {
            tracing::warn!(why, "the trace collector does not take spans");
        }
        self.failures = self.failures.saturating_add(1);
    }

    async fn pause(&self) {
        if let Some(doublings) = self.failures.checked_sub(1) {
            sleep((FIRST_PAUSE * (1 << doublings.min(6))).min(LONGEST_PAUSE)).await;
        }
    }
}

/// Adds orders until the batch is full or somebody waits for it.
async fn fill(
    orders: &mut mpsc::Receiver<Order>,
    batch: &mut Vec<Span>,
    waiting: &mut Vec<tokio::sync::oneshot::Sender<()>>,
) {
    while batch.len() < BATCH && waiting.is_empty() {
        match orders.recv().await {
            Some(order) => take(order, batch, waiting),
            None => return,
        }
    }
}

fn take(order: Order, batch: &mut Vec<Span>, waiting: &mut Vec<tokio::sync::oneshot::Sender<()>>) {
    match order {
        Order::Span(span) => batch.push(*span),
        Order::Flush(done) => waiting.push(done),
    }
}

fn wire(span: Span) -> WireSpan {
    let nanos = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    };
    let attributes = span.attributes.into_iter();
    WireSpan {
        trace_id: span.trace.to_vec(),
        span_id: span.id.to_vec(),
        trace_state: span.state,
        parent_span_id: span.parent.map(|id| id.to_vec()).unwrap_or_default(),
        flags: SAMPLED,
        name: span.name,
        kind: SpanKind::Server.into(),
        start_time_unix_nano: nanos(span.start),
        end_time_unix_nano: nanos(span.start + span.duration),
        attributes: attributes
            .map(|(key, value)| attribute(key, value))
            .collect(),
        status: span.error.map(|message| Status {
            message,
            code: StatusCode::Error.into(),
        }),
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => WireValue::StringValue(text),
        Value::Number(number) => WireValue::IntValue(number),
    };
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}
