//! Workloads: what runs behind an IP address.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{GatewayAddress, Identity, InvalidIdentity, PolicyKey, ServiceMembership};

/// A pod (or another endpoint) as the control plane describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Primary key, `<cluster>//Pod/<namespace>/<name>` for pods.
    pub uid: Arc<str>,
    /// Name of the pod.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its trust domain.
    pub trust_domain: Arc<str>,
    /// Its service account.
    pub service_account: Arc<str>,
    /// Its addresses; empty when it is reached by host name or gateway only.
    pub addresses: Vec<IpAddr>,
    /// Network it lives in (`""` is the default).
    pub network: Arc<str>,
    /// How peers reach it.
    pub tunnel_protocol: TunnelProtocol,
    /// It speaks HBONE itself and is not captured.
    pub native_tunnel: bool,
    /// Waypoint in front of traffic addressed to this workload.
    pub waypoint: Option<GatewayAddress>,
    /// Gateway of its network.
    pub network_gateway: Option<GatewayAddress>,
    /// Node it runs on.
    pub node: Arc<str>,
    /// Canonical service name (the `app` of metrics).
    pub canonical_name: Arc<str>,
    /// Canonical revision.
    pub canonical_revision: Arc<str>,
    /// Kind of its owner.
    pub workload_type: WorkloadType,
    /// Name of its owner.
    pub workload_name: Arc<str>,
    /// Keys of the selector-scoped policies that apply to it.
    pub authorization_policies: Vec<PolicyKey>,
    /// Ready or not.
    pub health: Health,
    /// Cluster it runs in.
    pub cluster_id: Arc<str>,
    /// Host name to resolve when it has no addresses.
    pub hostname: Arc<str>,
    /// Services it belongs to.
    pub services: ServiceMembership,
    /// Where it runs.
    pub locality: Locality,
    /// Own or host network.
    pub network_mode: NetworkMode,
    /// Weight in endpoint choice, at least 1 unless it takes no traffic.
    pub capacity: u32,
}

impl Workload {
    /// The identity peers must see. Fails when a part is not a valid SPIFFE path segment.
    pub fn identity(&self) -> Result<Identity, InvalidIdentity> {
        Identity::new(&self.trust_domain, &self.namespace, &self.service_account)
    }
}

impl Default for Workload {
    /// A healthy, un-meshed workload without addresses, with the defaults the wire format gives
    /// to empty fields.
    fn default() -> Self {
        let empty: Arc<str> = "".into();
        Self {
            uid: Arc::clone(&empty),
            name: Arc::clone(&empty),
            namespace: Arc::clone(&empty),
            trust_domain: "cluster.local".into(),
            service_account: "default".into(),
            addresses: Vec::new(),
            network: Arc::clone(&empty),
            tunnel_protocol: TunnelProtocol::None,
            native_tunnel: false,
            waypoint: None,
            network_gateway: None,
            node: Arc::clone(&empty),
            canonical_name: Arc::clone(&empty),
            canonical_revision: Arc::clone(&empty),
            workload_type: WorkloadType::Pod,
            workload_name: Arc::clone(&empty),
            authorization_policies: Vec::new(),
            health: Health::Healthy,
            cluster_id: "Kubernetes".into(),
            hostname: empty,
            services: ServiceMembership::new(),
            locality: Locality::default(),
            network_mode: NetworkMode::Standard,
            capacity: 1,
        }
    }
}

/// How peers reach a workload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TunnelProtocol {
    /// Plain TCP.
    #[default]
    None,
    /// mTLS HTTP/2 CONNECT on port 15008.
    Hbone,
}

/// Kind of a workload's owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "Kubernetes kinds")]
pub enum WorkloadType {
    Deployment,
    CronJob,
    #[default]
    Pod,
    Job,
}

impl WorkloadType {
    /// The word that stands in `k8s.<word>.name` of baggage.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
            Self::Job => "job",
        }
    }
}

/// Readiness of a workload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Health {
    #[default]
    Healthy,
    Unhealthy,
}

/// Network of a workload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// Its own network namespace.
    #[default]
    Standard,
    /// The node's: its IP says nothing about who it is.
    HostNetwork,
}

/// Region, zone and subzone; empty parts are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "Kubernetes topology words")]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
}
