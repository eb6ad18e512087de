//! Services and the addresses they are reached by.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// `namespace/hostname`, the key of a service (hostname is the FQDN).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespacedHostname {
    /// Namespace the service lives in.
    pub namespace: Arc<str>,
    /// Fully qualified host name.
    pub hostname: Arc<str>,
}

impl NamespacedHostname {
    /// Makes a key of its two parts.
    pub fn new(namespace: &str, hostname: &str) -> Self {
        Self {
            namespace: namespace.into(),
            hostname: hostname.into(),
        }
    }

    /// Parses `namespace/hostname`; `None` when there is no `/` or a part is empty.
    pub fn parse(key: &str) -> Option<Self> {
        let (namespace, hostname) = key.split_once('/')?;
        (!namespace.is_empty() && !hostname.is_empty()).then(|| Self::new(namespace, hostname))
    }
}

impl fmt::Display for NamespacedHostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

/// An IP address in a named network (`""` is the default network).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NetworkAddress {
    /// Network name.
    pub network: Arc<str>,
    /// The address.
    pub address: IpAddr,
}

/// A virtual service: virtual IPs and ports in front of endpoint workloads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Kubernetes name.
    pub name: Arc<str>,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Fully qualified host name.
    pub hostname: Arc<str>,
    /// Virtual IPs; empty for a headless service.
    pub vips: Vec<NetworkAddress>,
    /// Ports of the service.
    pub ports: Vec<ServicePort>,
    /// Extra server identities (full SPIFFE URIs) that clients accept.
    pub subject_alt_names: Vec<String>,
    /// Waypoint in front of the service.
    pub waypoint: Option<GatewayAddress>,
    /// Gateways at the border go through the waypoint, too.
    pub ingress_use_waypoint: bool,
    /// How an endpoint is chosen.
    pub load_balancing: LoadBalancing,
    /// IP families of the service.
    pub ip_families: IpFamilies,
    /// Winner among services of one host name.
    pub canonical: bool,
    /// Who may see it.
    pub visibility: Visibility,
}

impl Service {
    /// The service's key.
    pub fn key(&self) -> NamespacedHostname {
        NamespacedHostname {
            namespace: Arc::clone(&self.namespace),
            hostname: Arc::clone(&self.hostname),
        }
    }
}

/// A port of a service, or of a service as one workload serves it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Port clients dial.
    pub service_port: u16,
    /// Port the workload listens on; 0 when it is named and only the workload knows.
    pub target_port: u16,
    /// What is spoken there, as the service says; workloads do not say it.
    #[serde(default, skip_serializing_if = "AppProtocol::is_unknown")]
    pub app_protocol: AppProtocol,
}

impl ServicePort {
    /// A port of which nobody says what is spoken.
    pub const fn new(service_port: u16, target_port: u16) -> Self {
        Self {
            service_port,
            target_port,
            app_protocol: AppProtocol::Unknown,
        }
    }

    /// The port that is dialled at a workload.
    pub fn target(&self) -> u16 {
        match self.target_port {
            0 => self.service_port,
            target => target,
        }
    }
}

/// What is spoken on a port of a service.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum AppProtocol {
    /// Nobody says.
    #[default]
    Unknown,
    Http1,
    Http2,
    Grpc,
    /// Bytes that are not HTTP.
    Tcp,
    Tls,
}

impl AppProtocol {
    /// True when nobody says what is spoken.
    pub fn is_unknown(&self) -> bool {
        *self == Self::Unknown
    }
}

/// How an endpoint of a service is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancing {
    /// Scopes that are compared with the client's own, most significant first.
    pub routing_preference: Vec<LocalityScope>,
    /// What the scopes mean.
    pub mode: LoadBalancingMode,
    /// Which endpoints count.
    pub health_policy: HealthPolicy,
}

/// What a routing preference compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names are Kubernetes topology words")]
pub enum LocalityScope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

/// What to do with the routing preference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LoadBalancingMode {
    /// No preference.
    #[default]
    Standard,
    /// Every scope must match.
    Strict,
    /// Best match first, others when there is none.
    Failover,
    /// No endpoint choice: plain TCP to the original destination.
    Passthrough,
}

/// Which endpoints of a service may be chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HealthPolicy {
    /// Ready endpoints.
    #[default]
    OnlyHealthy,
    /// All of them (`publishNotReadyAddresses`).
    AllowAll,
}

/// IP families of a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum IpFamilies {
    #[default]
    Automatic,
    Ipv4Only,
    Ipv6Only,
    Dual,
}

/// Who may see a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Visibility {
    /// Every namespace.
    #[default]
    Public,
    /// Its own namespace only.
    Namespace,
}

/// A waypoint or gateway and the port it speaks HBONE on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayAddress {
    /// By name or by address.
    pub target: GatewayTarget,
    /// HBONE port.
    pub hbone_mtls_port: u16,
}

/// How a gateway is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GatewayTarget {
    /// A service.
    Hostname(NamespacedHostname),
    /// An address.
    Address(NetworkAddress),
}

/// The services a workload serves, with the ports as this workload serves them.
pub type ServiceMembership = BTreeMap<NamespacedHostname, Vec<ServicePort>>;
