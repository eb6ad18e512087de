//! One access-log line per request, and a span where it is traced; one line per connection that
//! nobody looked into.

use std::sync::Arc;
use std::time::SystemTime;

use agent_gateway::{Passage, Record, Records, Transport};
use agent_telemetry::{AccessLog, Line, Spans};

use super::spans::span;
use super::trials::Trials;

/// Longest path that is logged, in bytes.
const MAX_PATH: usize = 512;

/// Writes the lines, and passes spans on.
pub(super) struct Observer {
    pub(super) access: AccessLog,
    pub(super) spans: Option<Spans>,
    pub(super) trials: Arc<Trials>,
}

impl Records for Observer {
    fn take(&self, record: &Record) {
        if let (Some(spans), Some(trace)) = (&self.spans, &record.trace) {
            spans.push(span(record, trace, SystemTime::now()));
        }
        self.access
            .write("request complete", |line| fields(line, record));
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

/// The fields of a request's line, in the order in which README has them.
fn fields(line: &mut Line<'_>, record: &Record) {
    let source = record.source.workload.as_deref();
    let destination = record.destination.as_deref();
    let label = record.rule.as_ref().and_then(|rule| rule.label.as_ref());
    // The query is left out: it may hold what is nobody's business.
    let path = record.target.path();
    let path = &path[..path.floor_char_boundary(MAX_PATH)];
    let head = (!record.is_unread).then_some(record);
    line.address("src.addr", record.client);
    line.text("src.workload", source.map(|from| &*from.workload_name));
    line.text("src.namespace", source.map(|from| &*from.namespace));
    line.display("src.identity", record.source.identity.as_ref());
    line.address("dst.addr", record.endpoint);
    let service = record.service.as_ref();
    line.text("dst.service", service.map(|service| &*service.hostname));
    line.text("dst.workload", destination.map(|to| &*to.name));
    line.text("dst.namespace", destination.map(|to| &*to.namespace));
    line.number("listener.port", u64::from(record.port));
    line.text("http.method", head.map(|head| head.method.as_str()));
    line.text("http.host", record.authority());
    line.text("http.path", head.map(|_| path));
    line.debug("http.version", head.map(|head| head.version));
    let status = record.status.map_or(0, |status| status.as_u16());
    line.number("http.status", u64::from(status));
    line.number("grpc.status", record.grpc_status.map(u64::from));
    line.text("route", label.map(|label| &*label.route));
    line.text("rule", label.map(|label| &*label.rule));
    line.number("bytes_recv", record.received);
    line.number("bytes_sent", record.sent);
    line.millis("duration", record.duration);
    line.hex("trace.id", record.trace.as_ref().map(|trace| &trace.id[..]));
    line.text("reason", record.reason.as_str());
    let error = Some(&*record.detail).filter(|detail| !detail.is_empty());
    line.text("error", error);
}
