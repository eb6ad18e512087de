//! What the CNI plugin and the node agent say to each other: one JSON object and a newline each
//! way over the agent's unix socket.

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
