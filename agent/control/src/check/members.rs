//! Rules on who is in the mesh: namespaces that are half in it, STRICT beside plaintext, waypoints.

use agent_model::Wanted;

use super::finding::Found;
use super::view::{View, named};
use crate::code::Code;
use crate::source::kubernetes::{Labels, Pod};
use crate::source::{Kind, ObjectRef};
use crate::translate::{Translated, enrolment, peer_authentication, workload};

/// Names the waypoint that connections to it go through.
const WAYPOINT: &str = "istio.io/use-waypoint";

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

fn waypoints(view: &View<'_>, out: &mut Vec<Found>) {
    let objects = view.objects();
    let mut look = |kind: Kind, namespace: &str, name: &str, labels: &Labels| {
        let Some(waypoint) = labels.get(WAYPOINT).filter(|name| *name != "none") else {
            return;
        };
        let message = format!("waypoint {waypoint:?}: connections to it go there without one");
        let object = ObjectRef::new(kind, namespace, name);
        out.push(Found::new(object, Code::WaypointMissing, message));
    };
    let namespace = view.scope.name;
    look(
        Kind::Namespace,
        "",
        namespace,
        view.scope.namespace_labels(),
    );
    for pod in view.pods() {
        look(
            Kind::Pod,
            namespace,
            &pod.metadata.name,
            &pod.metadata.labels,
        );
    }
    for service in objects.services.values() {
        let metadata = &service.metadata;
        look(Kind::Service, namespace, &metadata.name, &metadata.labels);
    }
    for entry in objects.service_entries.values() {
        let metadata = &entry.metadata;
        look(
            Kind::ServiceEntry,
            namespace,
            &metadata.name,
            &metadata.labels,
        );
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
