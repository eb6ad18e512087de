//! Conditions among those of others. Pure.

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::bound::BOUND;
use crate::condition::{self, Condition};

/// Types that are ours; all others are left as they are.
const OURS: [&str; 5] = ["Accepted", "Enforced", "Programmed", "Conflicted", BOUND];

/// The list with our conditions in it; `None` when they are there already.
pub(super) fn merged(
    current: &[Value],
    wanted: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Option<Vec<Value>> {
    let list = condition::merged(current, wanted, &OURS, generation, Some(now));
    let same = |condition: &Value| current.contains(condition);
    let is_same = list.len() == current.len() && list.iter().all(same);
    (!is_same).then_some(list)
}
