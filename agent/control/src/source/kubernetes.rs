//! Kubernetes objects reduced to the fields that decide something here. Unknown fields pass: the
//! API grows, and a manifest for a newer cluster is no error.

use std::collections::BTreeMap;

use agent_model::PodReport;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::lenient::{HostIp, nullable, optional_ip, port};

/// On the API object that a kubelet makes of a static pod: the UID by which the node knows the pod,
/// in its cgroup and to its runtime.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

/// Labels or annotations.
pub(crate) type Labels = BTreeMap<String, String>;

/// `metadata`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) namespace: String,
    /// Absent in manifests written by hand.
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) uid: String,
    /// Counts changes of the specification; 0 in manifests written by hand.
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) generation: i64,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) labels: Labels,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) annotations: Labels,
    /// RFC 3339 in UTC, so that text order is time order.
    #[serde(default)]
    pub(crate) creation_timestamp: Option<String>,
    #[serde(default)]
    pub(crate) deletion_timestamp: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) owner_references: Vec<OwnerReference>,
}

impl Metadata {
    /// Sorts the oldest first, and what is as old by its name: of several objects that cannot all
    /// have what they ask for, the first has it (GEP-713, and the conflicts of listeners and routes).
    pub(crate) fn seniority(&self) -> (Option<&str>, &str, &str) {
        let created = self.creation_timestamp.as_deref();
        (created, &self.namespace, &self.name)
    }
}

/// One of `metadata.ownerReferences`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OwnerReference {
    #[serde(default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) controller: bool,
}

/// `v1 Namespace`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Namespace {
    #[serde(default)]
    pub(crate) metadata: Metadata,
}

/// `v1 Node`; only its labels count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Node {
    #[serde(default)]
    pub(crate) metadata: Metadata,
}

/// `v1 ServiceAccount`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct ServiceAccount {
    #[serde(default)]
    pub(crate) metadata: Metadata,
}

/// `v1 Pod`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Pod {
    #[serde(default)]
    pub(crate) metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) spec: PodSpec,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) status: PodStatus,
}

impl Pod {
    /// Succeeded or Failed: its address may already belong to another pod.
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Its service account, `default` when none is named.
    pub(crate) fn service_account(&self) -> &str {
        [&self.spec.service_account_name, &self.spec.service_account]
            .into_iter()
            .find(|name| !name.is_empty())
            .map_or("default", String::as_str)
    }

    /// The UID by which its node knows it: that of the object, but for a static pod, whose object is
    /// only the kubelet's picture of it.
    pub(crate) fn uid_on_node(&self) -> &str {
        let mirrored = self.metadata.annotations.get(MIRROR);
        let mirrored = mirrored.filter(|uid| !uid.is_empty());
        mirrored.unwrap_or(&self.metadata.uid)
    }

    /// True when a node's word on a pod of this name is on this very pod.
    pub(crate) fn is_meant_by(&self, report: &PodReport) -> bool {
        let uid = self.uid_on_node();
        report.uid.is_empty() || uid.is_empty() || report.uid == uid
    }

    /// Its addresses without repetition, the primary one first.
    pub(crate) fn addresses(&self) -> Vec<std::net::IpAddr> {
        let mut addresses = Vec::with_capacity(2);
        let listed = self.status.pod_ips.iter().filter_map(|entry| entry.ip);
        for HostIp(ip) in self.status.pod_ip.into_iter().chain(listed) {
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        addresses
    }
}

/// `spec` of a Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) node_name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) host_network: bool,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) service_account_name: String,
    /// The deprecated name of the same; an API server always writes both.
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) service_account: String,
    #[serde(default, deserialize_with = "with_ports")]
    pub(crate) containers: Vec<Container>,
    #[serde(default, deserialize_with = "with_ports")]
    pub(crate) init_containers: Vec<Container>,
}

/// A container, for its named ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Container {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) ports: Vec<ContainerPort>,
    /// `Always` makes an init container a sidecar that keeps serving.
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) restart_policy: String,
}

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerPort {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) name: String,
    #[serde(deserialize_with = "port")]
    pub(crate) container_port: u16,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) protocol: Protocol,
}

/// Transport of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

/// `status` of a Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodStatus {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) phase: String,
    #[serde(default, rename = "podIP", deserialize_with = "optional_ip")]
    pub(crate) pod_ip: Option<HostIp>,
    #[serde(default, rename = "podIPs", deserialize_with = "nullable")]
    pub(crate) pod_ips: Vec<PodIp>,
    /// `Ready` only.
    #[serde(default, deserialize_with = "ready_only")]
    pub(crate) conditions: Vec<Condition>,
}

/// One of `status.podIPs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct PodIp {
    #[serde(default, deserialize_with = "optional_ip")]
    pub(crate) ip: Option<HostIp>,
}

/// One of `status.conditions`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Condition {
    #[serde(default, rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) status: String,
}

/// The containers that name ports; there are a hundred thousand pods, and nobody asks about the
/// others.
fn with_ports<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Container>, D::Error> {
    let mut containers: Vec<Container> = nullable(from)?;
    containers.retain(|container| !container.ports.is_empty());
    containers.shrink_to_fit();
    Ok(containers)
}

fn ready_only<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Condition>, D::Error> {
    let mut conditions: Vec<Condition> = nullable(from)?;
    conditions.retain(|condition| condition.kind == "Ready");
    conditions.shrink_to_fit();
    Ok(conditions)
}

/// `v1 Service`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Service {
    #[serde(default)]
    pub(crate) metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) spec: ServiceSpec,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) status: ServiceStatus,
}

impl Service {
    /// Number of the port of this name.
    pub(crate) fn port_named(&self, name: &str) -> Option<u16> {
        let mut ports = self.spec.ports.iter();
        Some(ports.find(|port| port.name == name)?.port)
    }
}

/// `status` of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceStatus {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) load_balancer: LoadBalancerStatus,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) conditions: Vec<Condition>,
}

/// `status.loadBalancer`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct LoadBalancerStatus {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) ingress: Vec<LoadBalancerIngress>,
}

/// Where a load balancer can be reached. Text: a status is no reason to refuse an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct LoadBalancerIngress {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) ip: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) hostname: String,
}

/// `spec` of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceSpec {
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub(crate) kind: String,
    #[serde(default, rename = "clusterIP", deserialize_with = "nullable")]
    pub(crate) cluster_ip: ClusterIp,
    #[serde(default, rename = "clusterIPs", deserialize_with = "nullable")]
    pub(crate) cluster_ips: Vec<ClusterIp>,
    /// Text, as only Gateways look at them.
    #[serde(default, rename = "externalIPs", deserialize_with = "nullable")]
    pub(crate) external_ips: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) ports: Vec<ServicePort>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) selector: Labels,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) ip_families: Vec<IpFamily>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) internal_traffic_policy: InternalTrafficPolicy,
    /// Kubernetes leaves values it does not know to the implementation, so any text is valid.
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) traffic_distribution: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) publish_not_ready_addresses: bool,
}

/// `clusterIP`: an address, or `None`/`""` for a service without one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ClusterIp(pub(crate) Option<HostIp>);

impl<'de> Deserialize<'de> for ClusterIp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match String::deserialize(from)?.as_str() {
            "" | "None" => Ok(Self(None)),
            text => super::lenient::host_ip(text)
                .map(|ip| Self(Some(HostIp(ip))))
                .map_err(D::Error::custom),
        }
    }
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServicePort {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) name: String,
    #[serde(deserialize_with = "port")]
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) target_port: Option<TargetPort>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) protocol: Protocol,
    /// What is spoken there, such as `kubernetes.io/h2c`.
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) app_protocol: String,
}

/// `targetPort`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TargetPort {
    Number(u16),
    Name(String),
}

impl<'de> Deserialize<'de> for TargetPort {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(from)? {
            serde_json::Value::String(name) if !name.is_empty() => Ok(Self::Name(name)),
            serde_json::Value::Number(number) => {
                match number
                    .as_u64()
                    .and_then(|number| u16::try_from(number).ok())
                {
                    Some(port) if port != 0 => Ok(Self::Number(port)),
                    _ => Err(D::Error::custom(format!(
                        "{number} is not a port (1 to 65535)"
                    ))),
                }
            }
            _ => Err(D::Error::custom("neither a port number nor a port name")),
        }
    }
}

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum IpFamily {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

/// `internalTrafficPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum InternalTrafficPolicy {
    #[default]
    Cluster,
    Local,
}

/// `discovery.k8s.io/v1 EndpointSlice`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointSlice {
    #[serde(default)]
    pub(crate) metadata: Metadata,
    #[serde(default)]
    pub(crate) address_type: AddressType,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) ports: Vec<EndpointPort>,
}

impl EndpointSlice {
    /// The Service it belongs to.
    pub(crate) fn service(&self) -> Option<&str> {
        let label = self.metadata.labels.get("kubernetes.io/service-name")?;
        (!label.is_empty()).then_some(label)
    }
}

/// `addressType`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum AddressType {
    #[default]
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
    #[serde(rename = "FQDN")]
    Fqdn,
}

/// One of `endpoints`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Endpoint {
    /// Text, because FQDN slices hold names; translation parses the rest.
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) addresses: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) conditions: EndpointConditions,
    #[serde(default)]
    pub(crate) target_ref: Option<TargetRef>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) node_name: String,
}

/// `conditions` of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct EndpointConditions {
    /// Absent means ready, by the API.
    #[serde(default)]
    pub(crate) ready: Option<bool>,
}

/// `targetRef` of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct TargetRef {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) kind: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) namespace: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) name: String,
}

/// A port of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct EndpointPort {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) port: Option<u16>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) protocol: Protocol,
}
