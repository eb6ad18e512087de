//! Conditions among those of others. Pure.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::decide::Condition;

/// Types that are ours; all others are left as they are.
const OURS: [&str; 4] = ["Accepted", "Enforced", "Programmed", "Conflicted"];

/// The list with our conditions in it; `None` when they are there already. The time of a
/// transition is that of the last change of its status.
pub(super) fn merged(
    current: &[Value],
    wanted: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Option<Vec<Value>> {
    let of_type = |kind: &str| current.iter().find(|condition| condition["type"] == kind);
    let ours = wanted.iter().map(|condition| {
        let status = if condition.status { "True" } else { "False" };
        let before = of_type(condition.kind).filter(|before| before["status"] == status);
        let since = before.and_then(|before| before["lastTransitionTime"].as_str());
        json!({
            "type": condition.kind,
            "status": status,
            "reason": condition.reason,
            "message": condition.message,
            "observedGeneration": generation,
            "lastTransitionTime": since.map_or_else(|| format!("{now:.0}"), str::to_owned),
        })
    });
    let others = current.iter().filter(|condition| {
        let kind = condition["type"].as_str().unwrap_or_default();
        !OURS.contains(&kind)
    });
    let list: Vec<Value> = others.cloned().chain(ours).collect();
    let same = |condition: &Value| current.contains(condition);
    let is_same = list.len() == current.len() && list.iter().all(same);
    (!is_same).then_some(list)
}
