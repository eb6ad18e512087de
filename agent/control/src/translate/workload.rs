//! Pod -> Workload.

use agent_model::{
    Health, Identity, Locality, NetworkMode, TunnelProtocol, Wanted, Workload, WorkloadType,
};

use super::enrolment::{self, DATAPLANE_MODE, DNS_CAPTURE, MESH, Why, opted};
use super::{Note, Scope};
use crate::code::Code;
use crate::source::kubernetes::{Labels, Metadata, Node, Pod};
use crate::source::{Kind, ObjectRef};

/// Istio's mark of a captured pod; what sets it is the node's word on the pod's status.
pub(crate) const REDIRECTION: &str = "ambient.istio.io/redirection";
/// A pod that speaks HBONE by itself names its protocols here.
const TUNNEL: &str = "networking.istio.io/tunnel";

/// The workload of a pod; `None` while it has no address or when it is over.
///
/// `is_strict`: plaintext to the pod is refused.
pub(crate) fn translate(
    scope: &Scope<'_>,
    pod: &Pod,
    is_strict: bool,
    notes: &mut Vec<Note>,
) -> Option<Workload> {
    let metadata = &pod.metadata;
    let reference = ObjectRef::new(Kind::Pod, scope.name, &metadata.name);
    let addresses = pod.addresses();
    if pod.is_terminal() || addresses.is_empty() {
        return None;
    }
    let mode = network_mode(pod);
    let is_native = speaks_for_itself(&metadata.labels);
    let has_identity = check_identity(scope, pod, &reference, notes);
    let decision = enrolment::decide(scope, pod);
    let is_meshed = decision.wanted == Wanted::Enrol && is_captured(scope, pod, is_strict);
    let node = scope.nodes.get(pod.spec.node_name.as_str());
    let speaks_hbone = mode == NetworkMode::Standard && has_identity && (is_native || is_meshed);
    if decision.reason == Why::HostNetwork && opted(&metadata.labels) == Some(true) {
        let message = "a hostNetwork pod cannot join the mesh";
        notes.push(Note::new(reference, Code::HostNetworkOptedIn, message));
    }
    let name = owner_name(metadata);
    Some(Workload {
        uid: format!(
            "{}//Pod/{}/{}",
            scope.mesh.cluster_id, scope.name, metadata.name
        )
        .into(),
        name: metadata.name.as_str().into(),
        namespace: scope.name.into(),
        trust_domain: scope.mesh.trust_domain.clone(),
        service_account: pod.service_account().into(),
        addresses,
        network: scope.network.into(),
        tunnel_protocol: if speaks_hbone {
            TunnelProtocol::Hbone
        } else {
            TunnelProtocol::None
        },
        native_tunnel: speaks_hbone && is_native,
        node: pod.spec.node_name.as_str().into(),
        canonical_name: canonical_name(&metadata.labels, &name).into(),
        canonical_revision: canonical_revision(&metadata.labels).into(),
        workload_type: WorkloadType::Pod,
        workload_name: name.into(),
        health: health(pod),
        cluster_id: scope.mesh.cluster_id.clone(),
        locality: locality(node.map(|node| &**node)),
        network_mode: mode,
        ..Workload::default()
    })
}

/// The identity a node may obtain a certificate for because this pod is scheduled on it: that of
/// a pod that takes part in the mesh and is not over.
pub(crate) fn node_identity(scope: &Scope<'_>, pod: &Pod) -> Option<Identity> {
    let takes_part = enrolment::decide(scope, pod).wanted == Wanted::Enrol;
    if !takes_part || pod.spec.node_name.is_empty() {
        return None;
    }
    Identity::new(&scope.mesh.trust_domain, scope.name, pod.service_account()).ok()
}

/// Says where a label has a value that means nothing: its author believes something is protected.
pub(crate) fn opt_in_notes(scope: &Scope<'_>, notes: &mut Vec<Note>) {
    let namespace = scope.namespace.map(|namespace| {
        let reference = ObjectRef::new(Kind::Namespace, "", scope.name);
        (reference, &namespace.metadata.labels)
    });
    let pods = scope.objects.pods.values().map(|pod| {
        let reference = ObjectRef::new(Kind::Pod, scope.name, &pod.metadata.name);
        (reference, &pod.metadata.labels)
    });
    for (object, labels) in namespace.into_iter().chain(pods) {
        let values = [
            (MESH, ["enabled", "disabled"]),
            (DATAPLANE_MODE, ["ambient", "none"]),
            (DNS_CAPTURE, ["enabled", "disabled"]),
        ];
        for (label, known) in values {
            let Some(value) = labels.get(label) else {
                continue;
            };
            if !known.contains(&value.as_str()) {
                let message = format!(
                    "label {label} has the unknown value {value:?} and counts as not set \
                     (values: {}, {})",
                    known[0], known[1]
                );
                notes.push(Note::new(object.clone(), Code::LabelValueUnknown, message));
            }
        }
    }
}

/// Whether peers shall tunnel to a pod of the mesh. In a folder everything is as it shall be; in
/// a cluster a pod may run long before its label, and until it is captured nobody would answer:
/// then its node's word or Istio's mark counts. A pod that refuses plaintext is no such exception:
/// peers that were told to send plaintext would be heard.
fn is_captured(scope: &Scope<'_>, pod: &Pod, is_strict: bool) -> bool {
    if !scope.mesh.waits_for_capture || is_strict {
        return true;
    }
    let mark = pod.metadata.annotations.get(REDIRECTION);
    mark.is_some_and(|mark| mark == "enabled") || scope.captured.is_captured(scope.name, pod)
}

/// It speaks HBONE without being captured.
pub(crate) fn speaks_for_itself(labels: &Labels) -> bool {
    let protocols = labels.get(TUNNEL);
    protocols.is_some_and(|protocols| protocols.contains("http"))
}

fn check_identity(scope: &Scope<'_>, pod: &Pod, object: &ObjectRef, notes: &mut Vec<Note>) -> bool {
    let account = pod.service_account();
    let identity = Identity::new(&scope.mesh.trust_domain, scope.name, account);
    if identity.is_err() {
        let message =
            format!("service account {account:?} makes no valid identity; not in the mesh");
        notes.push(Note::new(object.clone(), Code::IdentityInvalid, message));
    }
    identity.is_ok()
}

fn network_mode(pod: &Pod) -> NetworkMode {
    if pod.spec.host_network {
        NetworkMode::HostNetwork
    } else {
        NetworkMode::Standard
    }
}

/// Ready by its condition and not being deleted. A manifest written by hand may have no condition
/// at all; then a phase other than Pending will do.
fn health(pod: &Pod) -> Health {
    let ready = pod
        .status
        .conditions
        .iter()
        .find(|condition| condition.kind == "Ready");
    let is_ready = match ready {
        Some(condition) => condition.status == "True",
        None => matches!(pod.status.phase.as_str(), "" | "Running"),
    };
    if is_ready && pod.metadata.deletion_timestamp.is_none() {
        Health::Healthy
    } else {
        Health::Unhealthy
    }
}

/// Where a node is: all that is read of it.
pub(crate) fn locality(node: Option<&Node>) -> Locality {
    let label = |key: &str| {
        let value = node.and_then(|node| node.metadata.labels.get(key));
        value.map_or("", String::as_str).into()
    };
    Locality {
        region: label("topology.kubernetes.io/region"),
        zone: label("topology.kubernetes.io/zone"),
        subzone: label("topology.istio.io/subzone"),
    }
}

/// Name of what a person deployed: the Deployment behind the ReplicaSet, the CronJob behind the
/// Job, else the controller itself, else the pod.
fn owner_name(metadata: &Metadata) -> String {
    let Some(owner) = metadata
        .owner_references
        .iter()
        .find(|owner| owner.controller)
    else {
        return metadata.name.clone();
    };
    let trimmed = match owner.kind.as_str() {
        "ReplicaSet" => metadata
            .labels
            .get("pod-template-hash")
            .and_then(|hash| owner.name.strip_suffix(hash.as_str()))
            .and_then(|name| name.strip_suffix('-')),
        "Job" => owner.name.rsplit_once('-').and_then(|(name, run)| {
            let is_run = (8..=10).contains(&run.len()) && run.bytes().all(|b| b.is_ascii_digit());
            is_run.then_some(name)
        }),
        _ => None,
    };
    match trimmed {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => owner.name.clone(),
    }
}

pub(super) fn canonical_name(labels: &Labels, owner: &str) -> String {
    let keys = [
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ];
    first_label(labels, &keys).unwrap_or(owner).to_owned()
}

pub(super) fn canonical_revision(labels: &Labels) -> String {
    let keys = [
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ];
    first_label(labels, &keys).unwrap_or("latest").to_owned()
}

fn first_label<'a>(labels: &'a Labels, keys: &[&str]) -> Option<&'a str> {
    let values = keys.iter().filter_map(|key| labels.get(*key));
    values.map(String::as_str).find(|value| !value.is_empty())
}
