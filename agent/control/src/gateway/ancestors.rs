//! The status of policies that are attached to something (GEP-713): what holds for each ancestor.

use super::Resolved;
use super::status::{ObjectStatus, ParentStatus, Reported};
use crate::source::gateway_api::Marks;
use crate::source::kubernetes::Metadata;
use crate::source::{Kind, ObjectRef};

/// Most that a status has room for, in the schema of the Gateway API.
const MAX_ANCESTORS: usize = 16;

/// Reports a policy. One that has no ancestor of ours has no status of ours, but for taking away
/// what was said before.
pub(super) fn report(
    kind: Kind,
    (metadata, marks): (&Metadata, &Marks),
    ancestors: impl Iterator<Item = ParentStatus>,
    out: &mut Resolved,
) {
    let ancestors: Vec<ParentStatus> = ancestors.take(MAX_ANCESTORS).collect();
    if ancestors.is_empty() && !marks.is_ours() {
        return;
    }
    let object = ObjectRef::new(kind, &metadata.namespace, &metadata.name);
    let status = ObjectStatus::Policy { ancestors };
    out.statuses.insert(object, Reported::new(metadata, status));
}
