//! What the CNI plugin and the node agent say to each other: one JSON object and a newline each
//! way over the agent's unix socket.
//!
//! Also what the control plane and the node agent tell each other of the pods of a node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A pod as a container runtime or the agent's own persisted list names it.
///
/// Nothing here is trusted for identity: namespace and service account of the workload come from
/// the control plane's record of the pod that owns the IPs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodInfo {
    /// Container (sandbox) id of the runtime; the key of enrolment.
    pub container_id: String,
    /// Kubernetes pod UID, when the runtime gave it.
    #[serde(default)]
    pub uid: String,
    /// Pod name.
    pub name: String,
    /// Pod namespace.
    pub namespace: String,
    /// Path of the network namespace.
    pub netns: String,
    /// Addresses the pod must hold.
    pub ips: Vec<IpAddr>,
}

/// A call of the plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniRequest {
    /// What to do.
    pub verb: CniVerb,
    /// With which pod.
    pub pod: PodInfo,
}

/// CNI commands that reach the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CniVerb {
    /// Enrol; answered only when the pod is captured and verified.
    Add,
    /// Un-enrol; idempotent.
    Del,
    /// Verify again.
    Check,
}

/// The agent's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniReply {
    /// What went wrong; absent on success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Which way the control plane wants a pod to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// Captured and served.
    Enrol,
    /// Not captured.
    Leave,
}

/// A pod that is bound to this node, as the control plane knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WantedPod {
    /// Kubernetes UID; empty when the control plane has none.
    pub uid: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Its addresses; none before the runtime has set up its network.
    pub ips: Vec<IpAddr>,
    /// What is wanted of it.
    pub wanted: Wanted,
    /// Why, in one word.
    pub reason: String,
    /// Its questions for names are answered, where its node does that at all.
    #[serde(default = "yes")]
    pub dns_capture: bool,
}

/// What those who know nothing else go by.
fn yes() -> bool {
    true
}

impl WantedPod {
    /// True when a runtime's or the agent's own record means this very pod: a name may come back
    /// with another UID.
    pub fn is(&self, pod: &PodInfo) -> bool {
        let same_uid = self.uid.is_empty() || pod.uid.is_empty() || self.uid == pod.uid;
        self.name == pod.name && self.namespace == pod.namespace && same_uid
    }
}

/// What the control plane wants of one node: all of it, not a change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeWishes {
    /// Every pod bound to the node.
    pub pods: Vec<WantedPod>,
    /// Namespaces of the whole cluster that opt in, or have a pod that does.
    pub meshed_namespaces: BTreeSet<String>,
}

/// How far the enrolment of a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodProgress {
    /// Wanted, and its turn has not come.
    Pending,
    /// Captured and closed: not, or no longer, seen to work.
    Enrolled,
    /// Captured, seen to work, served.
    Verified,
    /// The last try failed; there will be another.
    Failed,
}

impl PodProgress {
    /// The word for it in annotations and status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Enrolled => "enrolled",
            Self::Verified => "verified",
            Self::Failed => "failed",
        }
    }
}

/// What a node says of one of its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodReport {
    /// Kubernetes UID, when it is known.
    pub uid: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// How far it is.
    pub state: PodProgress,
    /// Why it is no further; for people.
    pub detail: String,
}
