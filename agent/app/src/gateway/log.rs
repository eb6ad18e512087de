//! One access-log line per request, and per connection that nobody looked into.

use std::sync::Arc;

use agent_gateway::{Passage, Record, Records, Transport};

use super::trials::Trials;

/// Writes the lines.
pub(super) struct AccessLog {
    pub(super) trials: Arc<Trials>,
}

impl Records for AccessLog {
    fn take(&self, record: &Record) {
        let status = record.status.map_or(0, |status| status.as_u16());
        let route = record.rule.as_ref().map(|rule| rule.route.to_string());
        let endpoint = record.endpoint.map(|endpoint| endpoint.to_string());
        tracing::event!(
            target: "access",
            tracing::Level::INFO,
            src.addr = %record.client,
            dst.addr = endpoint,
            listener.port = record.port,
            http.method = %record.method,
            http.version = ?record.version,
            http.status = status,
            route = route,
            bytes_sent = record.sent,
            duration = ?record.duration,
            reason = record.reason.as_str(),
            detail = record.detail,
            "request complete"
        );
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
