//! Whether a pod belongs into the mesh: one decision, for its node, for its tunnel protocol and
//! for the certificates its node may have. Pure.

use std::sync::Arc;

use agent_model::{Identity, Wanted, WantedPod};

use super::Scope;
use crate::source::decode::SIDECAR;
use crate::source::kubernetes::{Labels, Pod};

/// The label that enrols, on a namespace or a pod: `enabled` or `disabled`.
pub(super) const MESH: &str = "culvert.dev/mesh";
/// Its alias: `ambient` or `none`.
pub(super) const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";

/// The label that keeps the agent from answering a pod's questions for names, on a namespace or a
/// pod: `disabled`, or `enabled` where only the namespace has it off.
pub(super) const DNS_CAPTURE: &str = "culvert.dev/dns-capture";
/// Istio's word for it, an annotation of pods: `false` or `true`.
const ISTIO_DNS_CAPTURE: &str = "ambient.istio.io/dns-capture";

/// What is wanted of a pod and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) wanted: Wanted,
    pub(crate) reason: Why,
    /// A label opts it in, whatever came of that: its author is told.
    pub(crate) opted_in: bool,
}

/// Why a pod is wanted in the mesh, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its own label says so, one way or the other.
    PodLabel,
    /// Its namespace's label does.
    NamespaceLabel,
    /// No label does.
    NoLabel,
    /// It has succeeded or failed; its address may be another's.
    Completed,
    /// Its network namespace is the host's.
    HostNetwork,
    /// It is a part of Culvert: what the mesh needs to work cannot need the mesh.
    ControlPlane,
    /// It has a sidecar of its own: two meshes would fight over its traffic.
    Sidecar,
    /// Its service account makes no identity.
    NoIdentity,
}

impl Why {
    /// The word on the wire and in annotations.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::PodLabel => "pod-label",
            Self::NamespaceLabel => "namespace-label",
            Self::NoLabel => "not-labelled",
            Self::Completed => "completed",
            Self::HostNetwork => "host-network",
            Self::ControlPlane => "control-plane",
            Self::Sidecar => "sidecar",
            Self::NoIdentity => "no-identity",
        }
    }
}

/// Everything the decision is made of.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    /// What the pod's own labels say.
    pod: Option<bool>,
    /// What its namespace's say.
    namespace: Option<bool>,
    completed: bool,
    host_network: bool,
    control_plane: bool,
    sidecar: bool,
    no_identity: bool,
}

/// Decides on a pod.
pub(crate) fn decide(scope: &Scope<'_>, pod: &Pod) -> Decision {
    let account = pod.service_account();
    decide_on(Facts {
        pod: opted(&pod.metadata.labels),
        namespace: opted(scope.namespace_labels()),
        completed: pod.is_terminal(),
        host_network: pod.spec.host_network,
        control_plane: scope.is_root(),
        sidecar: pod.metadata.annotations.contains_key(SIDECAR),
        no_identity: Identity::new(&scope.mesh.trust_domain, scope.name, account).is_err(),
    })
}

/// Labels first: who did not ask is told nothing else. Then what can never be, then what is not.
fn decide_on(facts: Facts) -> Decision {
    let (opted_in, label) = match (facts.pod, facts.namespace) {
        (Some(opted), _) => (opted, Why::PodLabel),
        (None, Some(opted)) => (opted, Why::NamespaceLabel),
        (None, None) => (false, Why::NoLabel),
    };
    let obstacles = [
        (facts.completed, Why::Completed),
        (facts.host_network, Why::HostNetwork),
        (facts.control_plane, Why::ControlPlane),
        (facts.sidecar, Why::Sidecar),
        (facts.no_identity, Why::NoIdentity),
    ];
    let obstacle = obstacles.into_iter().find(|(stands, _)| *stands);
    let (wanted, reason) = match (opted_in, obstacle) {
        (true, None) => (Wanted::Enrol, label),
        (true, Some((_, why))) => (Wanted::Leave, why),
        (false, _) => (Wanted::Leave, label),
    };
    Decision {
        wanted,
        reason,
        opted_in,
    }
}

/// What the labels of one object say; ours before the alias.
pub(crate) fn opted(labels: &Labels) -> Option<bool> {
    let ours = match labels.get(MESH).map(String::as_str) {
        Some("enabled") => Some(true),
        Some("disabled") => Some(false),
        _ => None,
    };
    ours.or_else(|| match labels.get(DATAPLANE_MODE).map(String::as_str) {
        Some("ambient") => Some(true),
        Some("none") => Some(false),
        _ => None,
    })
}

/// Whether the pod's questions for names are answered on its node: its own word comes before its
/// namespace's.
fn captures_names(scope: &Scope<'_>, pod: &Pod) -> bool {
    let label = |labels: &Labels| match labels.get(DNS_CAPTURE).map(String::as_str) {
        Some("enabled") => Some(true),
        Some("disabled") => Some(false),
        _ => None,
    };
    let metadata = &pod.metadata;
    let annotation = || match metadata.annotations.get(ISTIO_DNS_CAPTURE)?.as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    };
    let own = label(&metadata.labels).or_else(annotation);
    own.or_else(|| label(scope.namespace_labels()))
        .unwrap_or(true)
}

/// A pod and what was decided on it, for its node.
#[derive(Debug, Clone)]
pub(crate) struct NodePod {
    pub(crate) namespace: Arc<str>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) decision: Decision,
    /// Its questions for names are answered.
    pub(crate) dns_capture: bool,
}

impl NodePod {
    /// As the node is told of it.
    pub(crate) fn wish(&self) -> WantedPod {
        WantedPod {
            uid: self.pod.uid_on_node().to_owned(),
            namespace: self.namespace.to_string(),
            name: self.pod.metadata.name.clone(),
            ips: self.pod.addresses(),
            wanted: self.decision.wanted,
            reason: self.decision.reason.as_str().to_owned(),
            dns_capture: self.dns_capture,
        }
    }
}

impl PartialEq for NodePod {
    /// Cheap: an object that was not touched is the same one.
    fn eq(&self, other: &Self) -> bool {
        self.decision == other.decision
            && self.dns_capture == other.dns_capture
            && (Arc::ptr_eq(&self.pod, &other.pod) || self.pod == other.pod)
            && self.namespace == other.namespace
    }
}

/// What a namespace's pods are to their nodes, with the node of each. In a cluster every pod has a
/// namespace, and one that is not heard of yet may have a label: until then nodes are told nothing
/// of a pod without a label of its own, which waits there.
pub(crate) fn of_nodes(scope: &Scope<'_>, namespace: &Arc<str>) -> Vec<(Arc<str>, NodePod)> {
    let is_told = scope.namespace.is_some() || !scope.mesh.waits_for_capture;
    let pods = scope.objects.pods.values();
    let bound = pods.filter(|pod| !pod.spec.node_name.is_empty());
    bound
        .filter(|pod| is_told || opted(&pod.metadata.labels).is_some())
        .map(|pod| {
            let of_node = NodePod {
                namespace: Arc::clone(namespace),
                pod: Arc::clone(pod),
                decision: decide(scope, pod),
                dns_capture: captures_names(scope, pod),
            };
            (pod.spec.node_name.as_str().into(), of_node)
        })
        .collect()
}

/// True when new pods of the namespace may be wanted in the mesh: it opts in, or a pod of it does.
pub(crate) fn is_meshed(scope: &Scope<'_>) -> bool {
    let by_pod = |pod: &Arc<Pod>| decide(scope, pod).wanted == Wanted::Enrol;
    let by_label = opted(scope.namespace_labels()) == Some(true) && !scope.is_root();
    by_label || scope.objects.pods.values().any(by_pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `pod namespace obstacle -> wanted reason opted-in`, labels as `+`, `-` or `.`.
    const TABLE: &str = "
        . . none          -> leave not-labelled    no
        + . none          -> enrol pod-label       yes
        - . none          -> leave pod-label       no
        . + none          -> enrol namespace-label yes
        . - none          -> leave namespace-label no
        + - none          -> enrol pod-label       yes
        - + none          -> leave pod-label       no
        + + none          -> enrol pod-label       yes
        - - none          -> leave pod-label       no
        . + completed     -> leave completed       yes
        . + host-network  -> leave host-network    yes
        . + control-plane -> leave control-plane   yes
        . + sidecar       -> leave sidecar         yes
        . + no-identity   -> leave no-identity     yes
        + . host-network  -> leave host-network    yes
        . . host-network  -> leave not-labelled    no
        - + completed     -> leave pod-label       no
        . - control-plane -> leave namespace-label no
    ";

    #[test]
    fn every_row_of_the_table() {
        let label = |text: &str| match text {
            "+" => Some(true),
            "-" => Some(false),
            _ => None,
        };
        for row in TABLE.lines().filter(|row| row.contains("->")) {
            let words: Vec<&str> = row.split_whitespace().collect();
            let obstacle = words[2];
            let decision = decide_on(Facts {
                pod: label(words[0]),
                namespace: label(words[1]),
                completed: obstacle == "completed",
                host_network: obstacle == "host-network",
                control_plane: obstacle == "control-plane",
                sidecar: obstacle == "sidecar",
                no_identity: obstacle == "no-identity",
            });
            let wanted = match decision.wanted {
                Wanted::Enrol => "enrol",
                Wanted::Leave => "leave",
            };
            let opted_in = if decision.opted_in { "yes" } else { "no" };
            let found = [wanted, decision.reason.as_str(), opted_in];
            assert_eq!(found, words[4..7], "{row}");
        }
    }

    #[test]
    fn our_label_comes_before_the_alias_and_unknown_values_count_as_none() {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            let pairs = pairs.iter();
            pairs
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        for (pairs, expected) in [
            (
                &[(MESH, "enabled"), (DATAPLANE_MODE, "none")][..],
                Some(true),
            ),
            (
                &[(MESH, "disabled"), (DATAPLANE_MODE, "ambient")],
                Some(false),
            ),
            (&[(MESH, "yes"), (DATAPLANE_MODE, "ambient")], Some(true)),
            (&[(DATAPLANE_MODE, "none")], Some(false)),
            (&[(MESH, "true")], None),
            (&[], None),
        ] {
            assert_eq!(opted(&labels(pairs)), expected, "{pairs:?}");
        }
    }
}
