//! The state as `culvert config-dump` shows it, with the keys that tools for Istio's data plane
//! read.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use agent_model::{
    Action, Authorization, GatewayAddress, GatewayTarget, Health, HealthPolicy, IpFamilies,
    LoadBalancing, LoadBalancingMode, Locality, LocalityScope, Match, NetworkMode, PolicyKey, Rule,
    Scope, Service, ServicePort, TunnelProtocol, Workload, WorkloadType,
};
use serde::Serialize;

use crate::Snapshot;

/// The parts of a config dump that come from the control plane.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// Sorted by uid.
    pub workloads: Vec<WorkloadView>,
    /// Sorted by namespace and host name.
    pub services: Vec<ServiceView>,
    /// Sorted by namespace and name.
    pub policies: Vec<PolicyView>,
    /// Endpoints of services that are not known, by service and uid.
    pub staged_services: BTreeMap<String, BTreeMap<Arc<str>, EndpointView>>,
}

impl View {
    /// The view of a snapshot. Takes time proportional to it; not for the data path.
    pub fn new(snapshot: &Snapshot) -> Self {
        let mut workloads: Vec<_> = snapshot.workloads().map(|w| WorkloadView::new(w)).collect();
        workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
        let mut services: Vec<_> = snapshot
            .services()
            .map(|service| ServiceView::new(snapshot, service))
            .collect();
        services.sort_by(|a, b| (&a.namespace, &a.hostname).cmp(&(&b.namespace, &b.hostname)));
        let policies = snapshot.policies().iter();
        let staged = snapshot.staged().map(|(key, endpoints)| {
            let endpoints = endpoints.values().map(|workload| {
                let ports = workload.services.get(key).map_or(&[][..], Vec::as_slice);
                let endpoint = EndpointView::new(key.to_string(), workload, ports);
                (Arc::clone(&workload.uid), endpoint)
            });
            (key.to_string(), endpoints.collect())
        });
        Self {
            workloads,
            services,
            policies: policies.map(|policy| PolicyView::new(policy)).collect(),
            staged_services: staged.collect(),
        }
    }
}

/// A workload.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of agent_model::Workload")]
pub struct WorkloadView {
    pub uid: Arc<str>,
    pub workload_ips: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<GatewayView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_gateway: Option<GatewayView>,
    pub protocol: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub native_tunnel: bool,
    pub network_mode: NetworkMode,
    pub network: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub trust_domain: Arc<str>,
    pub service_account: Arc<str>,
    pub workload_name: Arc<str>,
    pub workload_type: WorkloadType,
    pub canonical_name: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub hostname: Arc<str>,
    pub node: Arc<str>,
    pub authorization_policies: Vec<PolicyKey>,
    pub status: Health,
    pub cluster_id: Arc<str>,
    pub locality: Locality,
    pub services: Vec<String>,
    pub capacity: u32,
}

impl WorkloadView {
    fn new(workload: &Workload) -> Self {
        let workload = workload.clone();
        Self {
            uid: workload.uid,
            workload_ips: workload.addresses,
            waypoint: workload.waypoint.as_ref().map(GatewayView::new),
            network_gateway: workload.network_gateway.as_ref().map(GatewayView::new),
            protocol: match workload.tunnel_protocol {
                TunnelProtocol::None => "TCP",
                TunnelProtocol::Hbone => "HBONE",
            },
            native_tunnel: workload.native_tunnel,
            network_mode: workload.network_mode,
            network: workload.network,
            name: workload.name,
            namespace: workload.namespace,
            trust_domain: workload.trust_domain,
            service_account: workload.service_account,
            workload_name: workload.workload_name,
            workload_type: workload.workload_type,
            canonical_name: workload.canonical_name,
            canonical_revision: workload.canonical_revision,
            hostname: workload.hostname,
            node: workload.node,
            authorization_policies: workload.authorization_policies,
            status: workload.health,
            cluster_id: workload.cluster_id,
            locality: workload.locality,
            services: workload.services.keys().map(ToString::to_string).collect(),
            capacity: workload.capacity,
        }
    }
}

/// A service and its endpoints.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of agent_model::Service")]
pub struct ServiceView {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub hostname: Arc<str>,
    /// `network/ip`.
    pub vips: Vec<String>,
    pub ports: BTreeMap<u16, u16>,
    pub endpoints: BTreeMap<Arc<str>, EndpointView>,
    pub subject_alt_names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<GatewayView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerView>,
    pub ip_families: IpFamilies,
    pub canonical: bool,
}

impl ServiceView {
    fn new(snapshot: &Snapshot, service: &Service) -> Self {
        let key = service.key();
        let endpoints = snapshot.endpoints(&key).map(|workload| {
            let ports = workload.services.get(&key).map_or(&[][..], Vec::as_slice);
            let endpoint = EndpointView::new(key.to_string(), workload, ports);
            (Arc::clone(&workload.uid), endpoint)
        });
        let vips = service.vips.iter();
        Self {
            name: Arc::clone(&service.name),
            namespace: Arc::clone(&service.namespace),
            hostname: Arc::clone(&service.hostname),
            vips: vips
                .map(|vip| format!("{}/{}", vip.network, vip.address))
                .collect(),
            ports: port_map(&service.ports),
            endpoints: endpoints.collect(),
            subject_alt_names: service.subject_alt_names.clone(),
            waypoint: service.waypoint.as_ref().map(GatewayView::new),
            load_balancer: LoadBalancerView::new(&service.load_balancing),
            ip_families: service.ip_families,
            canonical: service.canonical,
        }
    }
}

/// A workload as an endpoint of one service.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it")]
pub struct EndpointView {
    pub workload_uid: Arc<str>,
    pub service: String,
    pub port: BTreeMap<u16, u16>,
    pub status: Health,
}

impl EndpointView {
    fn new(service: String, workload: &Workload, ports: &[ServicePort]) -> Self {
        Self {
            workload_uid: Arc::clone(&workload.uid),
            service,
            port: port_map(ports),
            status: workload.health,
        }
    }
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the fields are those of agent_model::LoadBalancing"
)]
pub struct LoadBalancerView {
    pub mode: LoadBalancingMode,
    pub routing_preferences: Vec<LocalityScope>,
    pub health_policy: HealthPolicy,
}

impl LoadBalancerView {
    fn new(load_balancing: &LoadBalancing) -> Option<Self> {
        (*load_balancing != LoadBalancing::default()).then(|| Self {
            mode: load_balancing.mode,
            routing_preferences: load_balancing.routing_preference.clone(),
            health_policy: load_balancing.health_policy,
        })
    }
}

/// A waypoint or gateway.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayView {
    /// `namespace/hostname` or `network/ip`.
    pub destination: String,
    /// HBONE port.
    pub hbone_mtls_port: u16,
}

impl GatewayView {
    fn new(gateway: &GatewayAddress) -> Self {
        Self {
            destination: match &gateway.target {
                GatewayTarget::Hostname(key) => key.to_string(),
                GatewayTarget::Address(vip) => format!("{}/{}", vip.network, vip.address),
            },
            hbone_mtls_port: gateway.hbone_mtls_port,
        }
    }
}

/// A policy.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyView {
    /// Name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// What it applies to.
    pub scope: Scope,
    /// What a match does.
    pub action: Action,
    /// Rules of clauses of matches.
    pub rules: Vec<Vec<Vec<Match>>>,
    /// Logged only.
    pub dry_run: bool,
}

impl PolicyView {
    fn new(policy: &Authorization) -> Self {
        let clauses = |rule: &Rule| {
            let clauses = rule.clauses.iter();
            clauses.map(|clause| clause.matches.clone()).collect()
        };
        Self {
            name: Arc::clone(&policy.name),
            namespace: Arc::clone(&policy.namespace),
            scope: policy.scope,
            action: policy.action,
            rules: policy.rules.iter().map(clauses).collect(),
            dry_run: policy.dry_run,
        }
    }
}

fn port_map(ports: &[ServicePort]) -> BTreeMap<u16, u16> {
    let pairs = ports
        .iter()
        .map(|port| (port.service_port, port.target_port));
    pairs.collect()
}
