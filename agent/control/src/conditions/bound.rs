//! What is said of a waypoint on whatever is bound to it, in the words of Istio. Pure.

use super::decide::Verdict;
use crate::check::View;
use crate::condition::Condition;
use crate::source::kubernetes::Labels;
use crate::source::{Kind, ObjectRef};
use crate::translate::waypoint::{Standing, State};

/// The type of the condition.
pub(super) const BOUND: &str = "istio.io/WaypointBound";

/// The condition of what has these labels: a service, or else a workload. `None` where no waypoint
/// is named.
pub(super) fn condition(view: &View<'_>, labels: &Labels, is_service: bool) -> Option<Condition> {
    let scope = &view.scope;
    let place = (scope.name, scope.namespace_labels());
    let standing = scope.waypoints.standing(labels, place, is_service)?;
    let Standing { waypoint, state } = standing;
    let (reason, message) = match state {
        State::InFront => (
            "WaypointAccepted",
            format!("it is behind waypoint {waypoint}"),
        ),
        State::Missing => (
            "WaypointIsNotReady",
            format!(
                "there is no waypoint {waypoint}: connections to what is behind it are refused"
            ),
        ),
        State::Refused => (
            "AttachmentDenied",
            format!(
                "waypoint {waypoint} does not let this namespace in (allowedRoutes): connections are refused"
            ),
        ),
        State::ForOthers => (
            "UnsupportedTrafficType",
            format!(
                "waypoint {waypoint} is for other traffic (waypoint-for): it has no effect here"
            ),
        ),
    };
    let is_bound = state == State::InFront;
    Some(Condition::new(BOUND, is_bound, reason, &message))
}

/// What the Services of a namespace are told: those that name a waypoint, and those that did and
/// still say so.
pub(super) fn of_services(view: &View<'_>) -> Vec<(ObjectRef, Verdict)> {
    let services = view.objects().services.values();
    let told = services.filter_map(|service| {
        let metadata = &service.metadata;
        let condition = condition(view, &metadata.labels, true);
        let mut known = service.status.conditions.iter();
        if condition.is_none() && !known.any(|known| known.kind == BOUND) {
            return None;
        }
        let verdict = Verdict {
            generation: Some(metadata.generation),
            conditions: condition.into_iter().collect(),
            status: None,
        };
        Some((view.object(Kind::Service, &metadata.name), verdict))
    });
    told.collect()
}
