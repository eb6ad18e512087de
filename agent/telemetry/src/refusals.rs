//! The most recent refusals, for `culvert status`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::SystemTime;

use agent_model::{PolicyKey, Reason};
use serde::{Deserialize, Serialize};

use crate::Direction;
use crate::clock;

/// Refusals kept; an older one gives way.
pub const REFUSALS_KEPT: usize = 256;
/// Longest detail kept, in bytes.
const MAX_DETAIL: usize = 256;

/// One connection that was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// Which path of the agent refused it.
    pub direction: Direction,
    /// Address it came from.
    pub source: SocketAddr,
    /// `namespace/name` of the source workload, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_workload: Option<String>,
    /// Address it wanted.
    pub destination: SocketAddr,
    /// `namespace/name` of the destination workload or service, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_workload: Option<String>,
    /// Why.
    pub reason: Reason,
    /// The policy that refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyKey>,
    /// The error behind the Reason, cut at 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// True for the Reasons that say "this connection was refused or could not be made", false for
/// those by which connections that worked end every day.
pub(crate) fn is_refusal(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::Ok | Reason::ConnectionReset | Reason::Drained | Reason::PodRemoved
    )
}

/// RFC 3339 of `time`, in UTC with microseconds.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    clock::with_text(time, str::to_owned)
}

/// The last [`REFUSALS_KEPT`] refusals, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Ring(VecDeque<Refusal>);

impl Ring {
    pub(crate) fn push(&mut self, mut refusal: Refusal) {
        if let Some(detail) = &mut refusal.detail {
            cut(detail, MAX_DETAIL);
        }
        if self.0.len() == REFUSALS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(refusal);
    }

    /// Newest first.
    pub(crate) fn newest(&self) -> Vec<Refusal> {
        self.0.iter().rev().cloned().collect()
    }
}

/// Cuts `text` to at most `limit` bytes, on a character boundary.
fn cut(text: &mut String, limit: usize) {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(port: u16, detail: Option<String>) -> Refusal {
        Refusal {
            time: rfc3339(SystemTime::UNIX_EPOCH),
            direction: Direction::Inbound,
            source: SocketAddr::from(([10, 0, 0, 1], port)),
            source_workload: None,
            destination: SocketAddr::from(([10, 0, 0, 2], 80)),
            destination_workload: None,
            reason: Reason::PolicyDenied,
            policy: Some(PolicyKey::new("shop", "deny")),
            detail,
        }
    }

    #[test]
    fn the_ring_keeps_the_newest() {
        let mut ring = Ring::default();
        for port in 0..300 {
            ring.push(refusal(port, None));
        }
        let ports: Vec<u16> = ring.newest().iter().map(|r| r.source.port()).collect();
        assert_eq!(ports, (44..300).rev().collect::<Vec<u16>>());
    }

    #[test]
    fn long_details_are_cut_between_characters() {
        let mut ring = Ring::default();
        ring.push(refusal(1, Some("ü".repeat(200) + "x")));
        let detail = ring.newest()[0].detail.clone().unwrap();
        assert_eq!(detail, "ü".repeat(128));
    }

    #[test]
    fn the_json_form_uses_reason_names() {
        let value = serde_json::to_value(refusal(1, None)).unwrap();
        assert_eq!(value["reason"], "policy-denied");
        assert_eq!(value["direction"], "inbound");
        assert_eq!(value["policy"], "shop/deny");
        assert_eq!(value["time"], "1970-01-01T00:00:00.000000Z");
    }
}
