//! One connection as log, metrics and status see it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use agent_model::{Identity, PolicyKey, Reason, Service, Workload};
use tracing::Level;

use crate::Metrics;
use crate::refusals::{Refusal, is_refusal, rfc3339};
use crate::traffic::{Direction, Flag, Labels, Series};

/// The two addresses of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes: outbound the original destination, inbound the address it came in on
    /// (`pod:15008` for HBONE).
    pub destination: SocketAddr,
}

/// Follows one connection. Open it as soon as the connection is accepted, add what becomes known,
/// and finish it with a Reason: that writes one access-log line and updates the metrics once. A
/// record that is dropped unfinished ends with [`Reason::Drained`].
#[derive(Debug)]
pub struct Record {
    metrics: Arc<Metrics>,
    opened_at: Instant,
    ends: Ends,
    labels: Labels,
    hbone_addr: Option<String>,
    policy: Option<PolicyKey>,
    series: Option<Arc<Series>>,
    from_client: u64,
    from_server: u64,
    finished: bool,
}

impl Record {
    /// Starts to follow a connection that was accepted at `now`.
    pub fn open(metrics: &Arc<Metrics>, direction: Direction, ends: Ends, now: Instant) -> Self {
        metrics.socket_opened(direction);
        Self {
            metrics: Arc::clone(metrics),
            opened_at: now,
            ends,
            labels: Labels::new(direction),
            hbone_addr: None,
            policy: None,
            series: None,
            from_client: 0,
            from_server: 0,
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

    /// The identity of a source that TLS proved, where no workload is known for it.
    pub fn source_identity(&mut self, identity: Identity) {
        self.labels.source_identity = Some(identity);
    }

    /// The destination workload, and the identity that is expected of it or that it has.
    pub fn destination(&mut self, workload: &Arc<Workload>, identity: Option<Identity>) {
        self.labels.destination = Some(Arc::clone(workload));
        if identity.is_some() {
            self.labels.destination_identity = identity;
        }
    }

    /// The service the client asked for.
    pub fn service(&mut self, service: &Arc<Service>) {
        self.labels.service = Some(Arc::clone(service));
    }

    /// The authority of the HBONE request.
    pub fn hbone_addr(&mut self, authority: impl ToString) {
        self.hbone_addr = Some(authority.to_string());
    }

    /// Whether the two agents speak mutual TLS for it. Identities are logged only then.
    pub fn mutual_tls(&mut self, mutual_tls: bool) {
        self.labels.mutual_tls = mutual_tls;
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

    /// Bytes carried since the start, in total. May be called again while the connection runs, so
    /// that counters of long connections move.
    pub fn transferred(&mut self, from_client: u64, from_server: u64) {
        if let Some(series) = &self.series {
            series.transferred(
                from_client.saturating_sub(self.from_client),
                from_server.saturating_sub(self.from_server),
            );
        }
        self.from_client = from_client;
        self.from_server = from_server;
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
            series.transferred(self.from_client, self.from_server);
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
            source: self.ends.source,
            source_workload: self.labels.source.as_ref().map(named),
            destination: self.ends.destination,
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
            src.addr = %record.ends.source,
            src.workload = source.as_deref().map(pod_name),
            src.namespace = source.as_deref().map(|w| &*w.namespace),
            src.identity = record.proven(&record.labels.source_identity).map(tracing::field::display),
            src.cluster = source.as_deref().map(|w| &*w.cluster_id),
            dst.addr = %record.ends.destination,
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
            bytes_sent = $record.bytes_sent(),
            bytes_recv = $record.bytes_received(),
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

    /// What this agent's side sent: outbound the client's bytes, inbound the server's.
    fn bytes_sent(&self) -> u64 {
        match self.labels.direction {
            Direction::Outbound => self.from_client,
            Direction::Inbound => self.from_server,
        }
    }

    fn bytes_received(&self) -> u64 {
        match self.labels.direction {
            Direction::Outbound => self.from_server,
            Direction::Inbound => self.from_client,
        }
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
