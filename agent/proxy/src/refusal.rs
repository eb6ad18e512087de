//! Why a connection was refused or cut, on its way to the access log.

use std::io;
use std::time::Instant;

use agent_hbone::HboneError;
use agent_model::{PolicyKey, Reason};
use agent_net::copy::{CopyError, Counters};
use agent_telemetry::Record;

/// Why a connection was refused or cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Refusal {
    /// The documented Reason.
    pub reason: Reason,
    /// What exactly happened, for the log's `error` field.
    pub detail: String,
    /// The policy that decided, if one did.
    pub policy: Option<PolicyKey>,
}

impl Refusal {
    /// A refusal that no policy made.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            policy: None,
        }
    }

    /// A refusal by policy.
    pub fn by_policy(reason: Reason, policy: Option<PolicyKey>) -> Self {
        let detail = match (&policy, reason) {
            (Some(key), Reason::PolicyNotAllowed) => {
                format!("ALLOW policies apply (such as {key}), none matched")
            }
            (Some(key), Reason::WaypointBypassed) => {
                format!("it did not pass the waypoint that {key} asks for")
            }
            (Some(key), Reason::PolicyUnknown) => format!("policy {key} is not known here"),
            (Some(key), _) => format!("denied by {key}"),
            (None, _) => "denied".to_owned(),
        };
        Self {
            reason,
            detail,
            policy,
        }
    }

    /// A TCP connect that failed.
    pub fn connect(error: &io::Error) -> Self {
        let reason = match error.kind() {
            io::ErrorKind::ConnectionRefused => Reason::ConnectRefused,
            io::ErrorKind::TimedOut => Reason::ConnectTimeout,
            _ => Reason::ConnectFailed,
        };
        Self::new(reason, format!("connect: {error}"))
    }
}

impl From<CopyError> for Refusal {
    fn from(error: CopyError) -> Self {
        let reason = match error.source.kind() {
            // A tunnel that ended under its stream; TCP resets are reported as such.
            io::ErrorKind::ConnectionAborted => Reason::TunnelLost,
            io::ErrorKind::TimedOut => Reason::IdleTimeout,
            _ => Reason::ConnectionReset,
        };
        Self::new(reason, error.to_string())
    }
}

impl From<HboneError> for Refusal {
    fn from(error: HboneError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}

/// The last verb of every path: one log line, one update of the metrics.
pub(crate) fn report(mut record: Record, counters: &Counters, outcome: Result<(), Refusal>) {
    record.transferred(counters.forward.get(), counters.backward.get());
    match outcome {
        Ok(()) => record.finish(Reason::Ok, None, Instant::now()),
        Err(Refusal {
            reason,
            detail,
            policy,
        }) => {
            if let Some(policy) = policy {
                record.policy(policy);
            }
            record.finish(reason, Some(detail), Instant::now());
        }
    }
}
