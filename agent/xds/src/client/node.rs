//! What a node says of itself.

use std::net::{IpAddr, Ipv4Addr};

use prost_types::{Struct, Value, value::Kind};
use proto::discovery::Node;

/// What a node says of itself in the first request of each type. Nothing here is trusted by our
/// control plane, which goes by the token; Istio's compares the namespace with the token's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Name of the Kubernetes node.
    pub node_name: String,
    /// Cluster id.
    pub cluster_id: String,
    /// Network; empty is the default one.
    pub network: String,
    /// Name of the agent's pod.
    pub pod_name: String,
    /// Namespace of the agent's pod.
    pub pod_namespace: String,
    /// Address of the agent's pod.
    pub instance_ip: IpAddr,
}

impl NodeFacts {
    /// The facts of an agent that knows no more than its node.
    pub fn new(node_name: &str, cluster_id: &str, network: &str) -> Self {
        Self {
            node_name: node_name.to_owned(),
            cluster_id: cluster_id.to_owned(),
            network: network.to_owned(),
            pod_name: format!("culvert-{node_name}"),
            pod_namespace: "culvert-system".to_owned(),
            // The address that stands for "not known" in node ids.
            instance_ip: IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1)),
        }
    }

    /// The wire form. The kind `ztunnel` is what selects ambient resources at an Istio server.
    pub(crate) fn to_wire(&self) -> Node {
        let Self {
            node_name,
            cluster_id,
            network,
            pod_name,
            pod_namespace,
            instance_ip,
        } = self;
        let ip = instance_ip.to_string();
        let fields = [
            ("NAME", pod_name),
            ("NAMESPACE", pod_namespace),
            ("INSTANCE_IPS", &ip),
            ("NODE_NAME", node_name),
            ("CLUSTER_ID", cluster_id),
            ("NETWORK", network),
        ];
        let fields = fields.map(|(key, value)| {
            let kind = Some(Kind::StringValue(value.clone()));
            (key.to_owned(), Value { kind })
        });
        Node {
            id: format!(
                "ztunnel~{ip}~{pod_name}.{pod_namespace}~{pod_namespace}.svc.cluster.local"
            ),
            cluster: String::new(),
            metadata: Some(Struct {
                fields: fields.into_iter().collect(),
            }),
        }
    }
}
