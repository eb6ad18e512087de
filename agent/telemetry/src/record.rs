//! One connection as log, metrics and status see it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use agent_model::{Identity, PolicyKey, Reason, Service, Workload};
use tracing::Level;

use crate::Metrics;
use crate::refusals::{Refusal, is_refusal, rfc3339};
use crate::traffic::{Direction, Flag, Labels, Series};

/// Follows one connection. Open it as soon as the connection is accepted, add what becomes known,
/// and finish it with a Reason: that writes one access-log line and updates the metrics once. A
/// record that is dropped unfinished ends with [`Reason::Drained`].
#[derive(Debug)]
pub struct Record {
    metrics: Arc<Metrics>,
    opened_at: Instant,
    source: SocketAddr,
    destination: SocketAddr,
    labels: Labels,
    hbone_addr: Option<String>,
    policy: Option<PolicyKey>,
    series: Option<Arc<Series>>,
    sent: u64,
    received: u64,
    finished: bool,
}

impl Record {
    /// Starts to follow a connection from `source` that was accepted at `now`. `destination` is
    /// the original destination of an outbound connection, and the address an inbound one came in
    /// on (`pod:15008` for HBONE).
    pub fn open(
        metrics: &Arc<Metrics>,
        direction: Direction,
        source: SocketAddr,
        destination: SocketAddr,
        now: Instant,
    ) -> Self {
        metrics.socket_opened(direction);
        Self {
            metrics: Arc::clone(metrics),
            opened_at: now,
            source,
            destination,
            labels: Labels::new(direction),
            hbone_addr: None,
            policy: None,
            series: None,
            sent: 0,
            received: 0,
            finished: false,
        }
    }

    /// The source workload, and its identity where TLS proved it.
    pub fn source(&mut self, workload: &Arc<Workload>, identity: Option<Identity>) {
        self.labels.source = Some(Arc::clone(workload));
        if identity.is_some() {
            self.labels.source_identity = identity;
        }
    }

    /// The destination workload and the service the client asked for, as far as they are known.
    pub fn destination(
        &mut self,
        workload: Option<&Arc<Workload>>,
        service: Option<&Arc<Service>>,
    ) {
        self.labels.destination = workload.cloned();
        self.labels.destination_identity = workload.and_then(|w| w.identity().ok());
        self.labels.service = service.cloned();
    }

    /// An inbound tunnel: who the peer's certificate says it is, what the mesh knows of its
    /// address, and the authority it asked for.
    pub fn tunnel_source(
        &mut self,
        workload: Option<&Arc<Workload>>,
        identity: &Identity,
        authority: impl ToString,
    ) {
        self.labels.source = workload.cloned();
        self.tunnel(authority, identity);
    }

    /// The connection travels in mutual TLS under the source's `identity`, to `authority`.
    /// Identities are logged for such connections only.
    pub fn tunnel(&mut self, authority: impl ToString, identity: &Identity) {
        self.hbone_addr = Some(authority.to_string());
        self.labels.source_identity = Some(identity.clone());
        self.labels.mutual_tls = true;
    }

    /// The policy that decided against it.
    pub fn policy(&mut self, policy: PolicyKey) {
        self.policy = Some(policy);
    }

    /// Both ends are known: counts the connection as opened and logs so at debug level. What is
    /// added later reaches the log line but no longer the labels of the metrics. Without this call
    /// [`Record::finish`] counts opening and closing together.
    pub fn established(&mut self, now: Instant) {
        if self.series.is_none() {
            let age = self.metrics.age(now);
            self.series = Some(self.metrics.traffic().open(&self.labels, age));
            self.log_opened();
        }
    }

    /// Bytes since the start, in total: `sent` away from the local pod's application or on its
    /// behalf (outbound the client's bytes, inbound the server's), `received` the other way. May
    /// be called again while the connection runs, so that counters of long connections move.
    pub fn bytes(&mut self, sent: u64, received: u64) {
        let direction = self.labels.direction;
        if let Some(series) = &self.series {
            let more_sent = sent.saturating_sub(self.sent);
            let more_received = received.saturating_sub(self.received);
            series.transferred(direction, more_sent, more_received);
        }
        self.sent = sent;
        self.received = received;
    }

    /// Ends the record: one log line, metrics once, and a place in the list of recent refusals
    /// where `reason` is one.
    pub fn finish(mut self, reason: Reason, error: Option<String>, now: Instant) {
        self.end(reason, error, now);
    }

    fn end(&mut self, reason: Reason, error: Option<String>, now: Instant) {
        self.finished = true;
        self.metrics.socket_closed(self.labels.direction, reason);
        self.count_closed(reason, now);
        if self.metrics.logs_access() {
            let took = now.saturating_duration_since(self.opened_at);
            self.log_closed(reason, error.as_deref(), took);
        }
        if is_refusal(reason) {
            self.metrics.remember(self.refusal(reason, error));
        }
    }

    /// A connection that failed before anything was known about it appears in no traffic series:
    /// all its labels would be `unknown`.
    fn count_closed(&mut self, reason: Reason, now: Instant) {
        let age = self.metrics.age(now);
        if self.series.is_none() && self.is_described() {
            let series = self.metrics.traffic().open(&self.labels, age);
            series.transferred(self.labels.direction, self.sent, self.received);
            self.series = Some(series);
        }
        if let Some(series) = self.series.take() {
            series.close(Flag::from(reason), age);
        }
    }

    fn is_described(&self) -> bool {
        let labels = &self.labels;
        labels.source.is_some() || labels.destination.is_some() || labels.service.is_some()
    }

    fn refusal(&self, reason: Reason, detail: Option<String>) -> Refusal {
        let named = |w: &Arc<Workload>| format!("{}/{}", w.namespace, w.name);
        let service = || {
            let service = self.labels.service.as_ref()?;
            Some(format!("{}/{}", service.namespace, service.name))
        };
        Refusal {
            time: rfc3339(SystemTime::now()),
            direction: self.labels.direction,
            source: self.source,
            source_workload: self.labels.source.as_ref().map(named),
            destination: self.destination,
            destination_workload: self.labels.destination.as_ref().map(named).or_else(service),
            reason,
            policy: self.policy.clone(),
            detail,
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.finished {
            let error = Some("closed by the agent before its end".to_owned());
            self.end(Reason::Drained, error, Instant::now());
        }
    }
}

/// One access-log event; the fields are those of the ambient data plane, in its order.
macro_rules! access {
    ($level:expr, $record:expr, $message:literal $(, $name:ident = $value:expr)*) => {{
        let record: &Record = $record;
        let (source, destination) = (&record.labels.source, &record.labels.destination);
        tracing::event!(
            target: "access",
            $level,
            src.addr = %record.source,
            src.workload = source.as_deref().map(pod_name),
            src.namespace = source.as_deref().map(|w| &*w.namespace),
            src.identity = record.proven(&record.labels.source_identity).map(tracing::field::display),
            src.cluster = source.as_deref().map(|w| &*w.cluster_id),
            dst.addr = %record.destination,
            dst.hbone_addr = record.hbone_addr.as_deref(),
            dst.service = record.labels.service.as_deref().map(|s| &*s.hostname),
            dst.workload = destination.as_deref().map(pod_name),
            dst.namespace = destination.as_deref().map(|w| &*w.namespace),
            dst.identity = record.proven(&record.labels.destination_identity).map(tracing::field::display),
            dst.cluster = destination.as_deref().map(|w| &*w.cluster_id),
            direction = record.labels.direction.as_str(),
            $($name = $value,)*
            $message
        )
    }};
}

/// The end of a connection at one level.
macro_rules! access_closed {
    ($level:expr, $record:expr, $message:literal, $reason:expr, $error:expr, $took:expr) => {
        access!(
            $level,
            $record,
            $message,
            bytes_sent = $record.sent,
            bytes_recv = $record.received,
            duration = tracing::field::display(format_args!("{}ms", $took.as_millis())),
            reason = $reason.as_str(),
            policy = $record.policy.as_ref().map(tracing::field::display),
            error = $error
        )
    };
}

impl Record {
    fn log_opened(&self) {
        if self.metrics.logs_access() {
            access!(Level::DEBUG, self, "connection opened");
        }
    }

    fn log_closed(&self, reason: Reason, error: Option<&str>, took: Duration) {
        if reason == Reason::Ok {
            access_closed!(
                Level::INFO,
                self,
                "connection complete",
                reason,
                error,
                took
            );
        } else if self.is_described() {
            access_closed!(
                Level::ERROR,
                self,
                "connection complete",
                reason,
                error,
                took
            );
        } else {
            access_closed!(Level::WARN, self, "connection failed", reason, error, took);
        }
    }

    /// Identities count as known to the log only where TLS proved them.
    fn proven<'a>(&self, identity: &'a Option<Identity>) -> Option<&'a Identity> {
        identity.as_ref().filter(|_| self.labels.mutual_tls)
    }
}

/// The pod's name, or what stands for it where the control plane knows no pod.
fn pod_name(workload: &Workload) -> &str {
    if workload.name.is_empty() {
        &workload.canonical_name
    } else {
        &workload.name
    }
}

#[cfg(test)]
mod tests;
