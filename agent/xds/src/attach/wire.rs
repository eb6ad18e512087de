//! Between the messages of `node.proto` and the model.

use std::net::IpAddr;

use agent_model::{NodeWishes, PodProgress, PodReport, Wanted, WantedPod};
use proto::node::{
    self, ControlMessage, Hello, NodeMessage, Pod, Pods, Report, control_message, node_message,
};

use crate::Error;

/// Pods one message may name, either way; a kubelet runs some hundred. One that names more is refused
/// whole.
pub const MAX_PODS: usize = 4_096;
/// Longest detail that is kept, in bytes.
const MAX_DETAIL: usize = 512;

/// The roots certificates of peers may come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustBundle {
    /// PEM, one certificate after the other.
    pub pem: String,
    /// Names the set of roots, as `proto/node.proto` says.
    pub sha256: String,
}

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeReport {
    /// Every pod that is wanted or captured.
    pub pods: Vec<PodReport>,
    /// Hash of the trust bundle in use; empty while there is none.
    pub trust_bundle_hash: String,
}

/// One message of the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The pods of the node.
    Wishes(NodeWishes),
    /// The roots.
    Trust(TrustBundle),
    /// Something of a later release.
    Unknown,
}

/// The first message of an agent.
pub fn hello(version: &str, instance: &str) -> NodeMessage {
    let hello = Hello {
        version: version.to_owned(),
        instance: instance.to_owned(),
    };
    NodeMessage {
        message: Some(node_message::Message::Hello(hello)),
    }
}

/// Reads a message of the control plane. An entry that makes no sense is refused alone.
pub fn said(message: ControlMessage) -> Result<Said, Error> {
    Ok(match message.message {
        Some(control_message::Message::Pods(pods)) => Said::Wishes(wishes_from_wire(pods)?),
        Some(control_message::Message::TrustBundle(bundle)) => Said::Trust(TrustBundle {
            pem: bundle.pem,
            sha256: bundle.sha256,
        }),
        None => Said::Unknown,
    })
}

/// Reads the pods of a node. Entries that make no sense are left out: a pod that is not known
/// waits, and one bad entry keeps no other from being known.
pub fn wishes_from_wire(pods: Pods) -> Result<NodeWishes, Error> {
    bounded("pods", pods.pods.len())?;
    Ok(NodeWishes {
        pods: pods.pods.into_iter().filter_map(pod_from_wire).collect(),
        meshed_namespaces: pods.meshed_namespaces.into_iter().collect(),
    })
}

fn pod_from_wire(pod: Pod) -> Option<WantedPod> {
    let wanted = match pod.wanted() {
        node::Wanted::Enrol => Wanted::Enrol,
        node::Wanted::Leave => Wanted::Leave,
        node::Wanted::Unspecified => {
            tracing::warn!(
                namespace = pod.namespace,
                pod = pod.name,
                "unknown wish for a pod"
            );
            return None;
        }
    };
    let ips: Result<Vec<IpAddr>, _> = pod.ips.iter().map(|ip| ip.parse()).collect();
    let Ok(ips) = ips else {
        tracing::warn!(namespace = pod.namespace, pod = pod.name, ips = ?pod.ips, "not addresses");
        return None;
    };
    let is_named = !pod.name.is_empty() && !pod.namespace.is_empty();
    is_named.then_some(WantedPod {
        uid: pod.uid,
        namespace: pod.namespace,
        name: pod.name,
        ips,
        wanted,
        reason: pod.reason,
        dns_capture: !pod.dns_capture_off,
    })
}

/// Writes the pods of a node.
pub fn wishes_to_wire(wishes: &NodeWishes) -> Pods {
    let pod = |pod: &WantedPod| Pod {
        uid: pod.uid.clone(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        ips: pod.ips.iter().map(ToString::to_string).collect(),
        wanted: match pod.wanted {
            Wanted::Enrol => node::Wanted::Enrol,
            Wanted::Leave => node::Wanted::Leave,
        }
        .into(),
        reason: pod.reason.clone(),
        dns_capture_off: !pod.dns_capture,
    };
    Pods {
        pods: wishes.pods.iter().map(pod).collect(),
        meshed_namespaces: wishes.meshed_namespaces.iter().cloned().collect(),
    }
}

/// Writes the roots.
pub fn trust_to_wire(bundle: &TrustBundle) -> node::TrustBundle {
    node::TrustBundle {
        pem: bundle.pem.clone(),
        sha256: bundle.sha256.clone(),
    }
}

/// Reads a report; a state of a later release counts as pending.
pub fn report_from_wire(report: Report) -> Result<NodeReport, Error> {
    bounded("pods", report.pods.len())?;
    let pod = |pod: node::PodReport| PodReport {
        state: match pod.state() {
            node::PodState::Unspecified | node::PodState::Pending => PodProgress::Pending,
            node::PodState::Enrolled => PodProgress::Enrolled,
            node::PodState::Verified => PodProgress::Verified,
            node::PodState::Failed => PodProgress::Failed,
        },
        uid: pod.uid,
        namespace: pod.namespace,
        name: pod.name,
        detail: cut(pod.detail),
    };
    Ok(NodeReport {
        pods: report.pods.into_iter().map(pod).collect(),
        trust_bundle_hash: report.trust_bundle_hash,
    })
}

/// Writes a report.
pub fn report_to_wire(report: &NodeReport) -> NodeMessage {
    let pod = |pod: &PodReport| node::PodReport {
        uid: pod.uid.clone(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        state: match pod.state {
            PodProgress::Pending => node::PodState::Pending,
            PodProgress::Enrolled => node::PodState::Enrolled,
            PodProgress::Verified => node::PodState::Verified,
            PodProgress::Failed => node::PodState::Failed,
        }
        .into(),
        detail: cut(pod.detail.clone()),
    };
    let report = Report {
        pods: report.pods.iter().map(pod).collect(),
        trust_bundle_hash: report.trust_bundle_hash.clone(),
    };
    NodeMessage {
        message: Some(node_message::Message::Report(report)),
    }
}

fn bounded(field: &'static str, found: usize) -> Result<(), Error> {
    if found > MAX_PODS {
        return Err(Error::TooLarge {
            field,
            found,
            limit: MAX_PODS,
        });
    }
    Ok(())
}

fn cut(mut detail: String) -> String {
    let end = detail.floor_char_boundary(MAX_DETAIL);
    detail.truncate(end);
    detail
}
