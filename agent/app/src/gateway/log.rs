//! One access-log line per request, and a span where it is traced; one line per connection that
//! nobody looked into.

use std::sync::Arc;
use std::time::SystemTime;

use agent_gateway::{Passage, Record, Records, Transport, hex};
use agent_telemetry::Spans;

use super::spans::span;
use super::trials::Trials;

/// Longest path that is logged, in bytes.
const MAX_PATH: usize = 512;

/// Writes the lines, and passes spans on.
pub(super) struct Observer {
    pub(super) spans: Option<Spans>,
    pub(super) trials: Arc<Trials>,
}

impl Records for Observer {
    fn take(&self, record: &Record) {
        if let (Some(spans), Some(trace)) = (&self.spans, &record.trace) {
            spans.push(span(record, trace, SystemTime::now()));
        }
        log(record);
        self.trials.take(record);
    }

    fn passage(&self, passage: &Passage) {
        let route = passage.rule.as_ref().map(|rule| rule.route.to_string());
        let endpoint = passage.endpoint.map(|endpoint| endpoint.to_string());
        let transport = match passage.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        tracing::event!(
            target: "access",
            tracing::Level::INFO,
            src.addr = %passage.client,
            dst.addr = endpoint,
            listener.port = passage.port,
            listener.transport = transport,
            tls.sni = passage.name,
            route = route,
            bytes_received = passage.received,
            bytes_sent = passage.sent,
            duration = ?passage.duration,
            reason = passage.reason.as_str(),
            detail = passage.detail,
            "connection complete"
        );
    }
}

fn log(record: &Record) {
    if !tracing::enabled!(target: "access", tracing::Level::INFO) {
        return;
    }
    let status = record.status.map_or(0, |status| status.as_u16());
    let source = record.source.workload.as_deref();
    let destination = record.destination.as_deref();
    let label = record.rule.as_ref().and_then(|rule| rule.label.as_ref());
    // The query is left out: it may hold what is nobody's business.
    let path = record.target.path();
    let path = &path[..path.floor_char_boundary(MAX_PATH)];
    let head = (!record.is_unread).then_some(record);
    let error = Some(&*record.detail).filter(|detail| !detail.is_empty());
    tracing::event!(
        target: "access",
        tracing::Level::INFO,
        src.addr = %record.client,
        src.workload = source.map(|workload| &*workload.workload_name),
        src.namespace = source.map(|workload| &*workload.namespace),
        src.identity = record.source.identity.as_ref().map(tracing::field::display),
        dst.addr = record.endpoint.map(tracing::field::display),
        dst.service = record.service.as_ref().map(|service| &*service.hostname),
        dst.workload = destination.map(|workload| &*workload.name),
        dst.namespace = destination.map(|workload| &*workload.namespace),
        listener.port = record.port,
        http.method = head.map(|record| record.method.as_str()),
        http.host = record.authority(),
        http.path = head.map(|_| path),
        http.version = head.map(|record| tracing::field::debug(record.version)),
        http.status = status,
        grpc.status = record.grpc_status,
        route = label.map(|label| &*label.route),
        rule = label.map(|label| &*label.rule),
        bytes_recv = record.received,
        bytes_sent = record.sent,
        duration = tracing::field::display(format_args!(
            "{}.{:03}ms",
            record.duration.as_millis(),
            record.duration.subsec_micros() % 1000
        )),
        trace.id = record.trace.as_ref().map(|trace| hex(&trace.id)),
        reason = record.reason.as_str(),
        error = error,
        "request complete"
    );
}
