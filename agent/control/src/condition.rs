//! A condition of an object's status.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// Longest message, in bytes; the API's convention.
const MAX_MESSAGE: usize = 1_024;

/// One condition, but for what depends on the one that is there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Its type.
    pub(crate) kind: &'static str,
    pub(crate) status: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Condition {
    pub(crate) fn new(
        kind: &'static str,
        status: bool,
        reason: &'static str,
        message: &str,
    ) -> Self {
        let mut end = message.len().min(MAX_MESSAGE);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        Self {
            kind,
            status,
            reason,
            message: message[..end].to_owned(),
        }
    }
}

/// A list of conditions with ours in it: those of other types stay, those of `types`, which are
/// ours, are what is wanted. The time of a transition is that of the last change of its status;
/// none is written where there is no `now`.
pub(crate) fn merged(
    current: &[Value],
    wanted: &[Condition],
    types: &[&str],
    generation: i64,
    now: Option<Timestamp>,
) -> Vec<Value> {
    let of_type = |kind: &str| current.iter().find(|condition| condition["type"] == kind);
    let ours = wanted.iter().map(|condition| {
        let status = if condition.status { "True" } else { "False" };
        let before = of_type(condition.kind).filter(|before| before["status"] == status);
        let since = before.and_then(|before| before["lastTransitionTime"].as_str());
        let since = since.map(str::to_owned);
        let since = since.or_else(|| now.map(|now| format!("{now:.0}")));
        let mut made = json!({
            "type": condition.kind,
            "status": status,
            "reason": condition.reason,
            "message": condition.message,
            "observedGeneration": generation,
        });
        if let Some(since) = since {
            made["lastTransitionTime"] = Value::String(since);
        }
        made
    });
    let others = current.iter().filter(|condition| {
        let kind = condition["type"].as_str().unwrap_or_default();
        !types.contains(&kind)
    });
    others.cloned().chain(ours).collect()
}
