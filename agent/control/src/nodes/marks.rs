//! What the annotations of a pod shall say, and the patch that makes them say so. Pure.

use agent_model::{PodProgress, PodReport, Wanted};
use serde_json::{Map, Value};

use crate::source::kubernetes::Labels;
use crate::translate::enrolment::NodePod;
use crate::translate::workload::REDIRECTION;

/// Ours: how far the pod is, or why it is not in the mesh.
const STATUS: &str = "culvert.dev/status";
/// What captured pods have under [`REDIRECTION`].
const ENABLED: &str = "enabled";
/// Longest value written, in bytes.
const MAX_VALUE: usize = 200;

/// The changes to a pod's annotations, as the `annotations` of a merge patch; `None` when they
/// say what they should. `report` is what the pod's node says of it.
pub(super) fn difference(pod: &NodePod, report: Option<&PodReport>) -> Option<Value> {
    let annotations = &pod.pod.metadata.annotations;
    let is_captured = report.is_some_and(|report| {
        matches!(report.state, PodProgress::Enrolled | PodProgress::Verified)
    });
    let is_leaving = pod.decision.wanted == Wanted::Leave && is_captured;
    if is_leaving {
        // Its node has yet to let go of it; until then nothing has changed for its peers.
        return None;
    }
    let mut patch = Map::new();
    let status = status(pod, report);
    set(&mut patch, annotations, STATUS, status);
    if is_captured {
        set(
            &mut patch,
            annotations,
            REDIRECTION,
            Some(ENABLED.to_owned()),
        );
    } else if annotations.contains_key(STATUS) {
        // Never another mesh's mark: ours come in pairs.
        set(&mut patch, annotations, REDIRECTION, None);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// The word before the first colon of what a patch writes: changes of the rest can wait.
pub(super) fn word(patch: &Value) -> &str {
    let text = patch.get(STATUS).and_then(Value::as_str).unwrap_or("");
    text.split(':').next().unwrap_or("")
}

/// How far the pod is; `None` for one that never asked to be in the mesh.
fn status(pod: &NodePod, report: Option<&PodReport>) -> Option<String> {
    if pod.decision.wanted == Wanted::Leave {
        let why = pod.decision.reason.as_str();
        return pod
            .decision
            .opted_in
            .then(|| format!("not-enrolled: {why}"));
    }
    let state = report.map_or(PodProgress::Pending, |report| report.state);
    let detail = report.map_or("", |report| report.detail.trim());
    Some(match detail {
        "" => state.as_str().to_owned(),
        detail => {
            let mut text = format!("{}: {detail}", state.as_str());
            text.truncate(text.floor_char_boundary(MAX_VALUE));
            text
        }
    })
}

fn set(patch: &mut Map<String, Value>, annotations: &Labels, key: &str, wanted: Option<String>) {
    if annotations.get(key) != wanted.as_ref() {
        patch.insert(key.to_owned(), wanted.map_or(Value::Null, Value::String));
    }
}
