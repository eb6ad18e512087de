//! Rules on who is in the mesh: namespaces that are half in it, STRICT beside plaintext, waypoints.

use agent_model::Wanted;

use super::finding::Found;
use super::view::{View, named};
use crate::code::Code;
use crate::source::kubernetes::Pod;
use crate::source::{Kind, ObjectRef};
use crate::translate::waypoint::{Bound, names_waypoint};
use crate::translate::{Translated, enrolment, peer_authentication, workload};

pub(super) fn check(view: &View<'_>, out: &mut Vec<Found>) {
    half_enrolled(view, out);
    strict_beside_plaintext(view, out);
    waypoints(view, out);
    accounts_of_pods(view, out);
}

fn half_enrolled(view: &View<'_>, out: &mut Vec<Found>) {
    let scope = &view.scope;
    if enrolment::opted(scope.namespace_labels()) != Some(true) || scope.is_root() {
        return;
    }
    let outside: Vec<String> = view
        .pods()
        .filter_map(|pod| {
            let why = why_outside(view, pod)?;
            Some(format!("{} ({why})", pod.metadata.name))
        })
        .collect();
    let total = view.pods().count();
    if !outside.is_empty() {
        let message = format!(
            "{} of {total} pods are not in the mesh: {}",
            outside.len(),
            named(&outside)
        );
        let object = ObjectRef::new(Kind::Namespace, "", scope.name);
        out.push(Found::new(object, Code::NamespaceHalfEnrolled, message));
    }
}

fn why_outside(view: &View<'_>, pod: &Pod) -> Option<&'static str> {
    let decision = view.decision(pod);
    if decision.wanted == Wanted::Leave {
        return Some(decision.reason.as_str());
    }
    // Its node says so a moment after it was enrolled; manifests say nothing of the kind.
    let is_ready = pod
        .status
        .conditions
        .iter()
        .any(|condition| condition.kind == "Ready" && condition.status == "True");
    let is_marked = pod.metadata.annotations.contains_key(workload::REDIRECTION);
    (view.inventory.is_whole() && is_ready && !is_marked).then_some("not enrolled by its node")
}

fn strict_beside_plaintext(view: &View<'_>, out: &mut Vec<Found>) {
    let modes = peer_authentication::resolve(&view.scope, &mut Translated::default());
    let is_strict = |pod: &Pod| modes.keys_for(&pod.metadata.labels).is_some();
    let pods = view.by_label().all();
    let strict = pods
        .iter()
        .filter(|seen| seen.is_wanted && is_strict(seen.pod));
    let strict = strict.count();
    let outside = pods
        .iter()
        .filter(|seen| !seen.pod.spec.host_network && !seen.is_meshed);
    let outside: Vec<String> = outside.map(|seen| seen.pod.metadata.name.clone()).collect();
    if strict > 0 && !outside.is_empty() {
        let message = format!(
            "{strict} pods refuse plaintext, and these of the same namespace speak nothing else: {}",
            named(&outside)
        );
        let object = ObjectRef::new(Kind::Namespace, "", view.scope.name);
        out.push(Found::new(object, Code::StrictShutsOut, message));
    }
}

/// Waypoints that are named and of no use: nobody gets through to what is behind one.
fn waypoints(view: &View<'_>, out: &mut Vec<Found>) {
    let objects = view.objects();
    let (namespace, of_namespace) = (view.scope.name, view.scope.namespace_labels());
    let waypoints = view.scope.waypoints;
    let mut note = |object: ObjectRef, bound: Option<Bound>| {
        if let Some(why) = bound.and_then(|bound| bound.lost) {
            let message = format!("{why}: connections to what is behind it are refused");
            out.push(Found::new(object, Code::WaypointMissing, message));
        }
    };
    let of_all = waypoints.of_service(of_namespace, namespace, of_namespace);
    note(ObjectRef::new(Kind::Namespace, "", namespace), of_all);
    for pod in view
        .pods()
        .filter(|pod| names_waypoint(&pod.metadata.labels))
    {
        let labels = &pod.metadata.labels;
        let bound = waypoints.of_workload(labels, namespace, of_namespace);
        note(view.object(Kind::Pod, &pod.metadata.name), bound);
    }
    let services = objects.services.values();
    let services = services.map(|service| (Kind::Service, &service.metadata));
    let entries = objects.service_entries.values();
    let entries = entries.map(|entry| (Kind::ServiceEntry, &entry.metadata));
    for (kind, metadata) in services.chain(entries) {
        let labels = &metadata.labels;
        if names_waypoint(labels) {
            let bound = waypoints.of_service(labels, namespace, of_namespace);
            note(view.object(kind, &metadata.name), bound);
        }
    }
}

fn accounts_of_pods(view: &View<'_>, out: &mut Vec<Found>) {
    for pod in view.pods() {
        let account = pod.service_account();
        if !view.may_have_account(account) {
            let message = format!("its service account {account:?} does not exist");
            let object = view.object(Kind::Pod, &pod.metadata.name);
            out.push(Found::new(object, Code::AccountUnknown, message));
        }
    }
}
