//! Which events are to be seen on objects. Pure.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::check::Found;
use crate::code::{Code, Severity};
use crate::source::{ObjectRef, Problem};

/// Events that stand at one time.
const MAX_NOTICES: usize = 5_000;
/// Longest note of an event, in bytes (the API's limit is 1 KiB).
const MAX_NOTE: usize = 1_000;
/// Longest part of an object's name in an event's.
const MAX_NAME: usize = 200;
/// Who says it.
const CONTROLLER: &str = "culvert.dev/control";

/// Something that is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Notice {
    pub(super) object: ObjectRef,
    pub(super) code: Code,
    pub(super) note: String,
}

/// One for every error.
pub(super) fn notices(found: &[Found], problems: &[Problem]) -> BTreeSet<Notice> {
    let errors = found
        .iter()
        .filter(|found| found.code.severity() == Severity::Error);
    let errors =
        errors.map(|found| notice(&found.object, found.code, &found.field, &found.message));
    let problems = problems.iter().filter_map(|problem| {
        let object = problem.object.as_ref()?;
        Some(notice(
            object,
            Code::Invalid,
            &problem.field,
            &problem.message,
        ))
    });
    problems.chain(errors).take(MAX_NOTICES).collect()
}

fn notice(object: &ObjectRef, code: Code, field: &str, message: &str) -> Notice {
    let place = match field {
        "" => String::new(),
        field => format!("{field}: "),
    };
    let mut note = format!("{place}{message}");
    let mut end = note.len().min(MAX_NOTE);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note.truncate(end);
    Notice {
        object: object.clone(),
        code,
        note,
    }
}

impl Notice {
    /// The event, as `events.k8s.io/v1` has it. Its name is that of what it says, so that another
    /// replica that says the same finds it there.
    pub(super) fn event(
        &self,
        api_version: &str,
        uid: &str,
        instance: &str,
        at: Timestamp,
    ) -> Value {
        let Self { object, code, note } = self;
        let text = format!("{uid}/{}/{note}", code.as_str());
        let hash: String = digest(&SHA256, text.as_bytes()).as_ref()[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let name: String = object.name.chars().take(MAX_NAME).collect();
        // What is cut off may leave an end that no part of a name may have.
        let name = name.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let mut regarding = json!({
            "apiVersion": api_version,
            "kind": format!("{:?}", object.kind),
            "name": &*object.name,
            "uid": uid,
        });
        if !object.namespace.is_empty() {
            regarding["namespace"] = json!(&*object.namespace);
        }
        json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": format!("{name}.{hash}"), "namespace": self.namespace()},
            "eventTime": format!("{at:.6}"),
            "reportingController": CONTROLLER,
            "reportingInstance": instance,
            "action": "Check",
            "reason": code.reason(),
            "regarding": regarding,
            "note": note,
            "type": "Warning",
        })
    }

    /// Events of objects without a namespace are kept in `default`.
    pub(super) fn namespace(&self) -> &str {
        match &*self.object.namespace {
            "" => "default",
            namespace => namespace,
        }
    }
}
