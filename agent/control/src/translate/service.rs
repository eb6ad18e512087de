//! Service -> Service.

use std::net::IpAddr;

use agent_model::{
    HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, LocalityScope, NamespacedHostname,
    NetworkAddress, Service, ServicePort, Visibility,
};

use super::protocol::spoken;
use super::{Scope, waypoint};
use crate::source::kubernetes::{
    self, InternalTrafficPolicy, IpFamily, Metadata, Protocol, TargetPort,
};
use crate::source::lenient::HostIp;

/// Carries the preference where the field of the spec is not used.
const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

/// The service as nodes see it; `None` for an ExternalName, which is a matter of DNS alone.
pub(crate) fn translate(scope: &Scope<'_>, service: &kubernetes::Service) -> Option<Service> {
    let spec = &service.spec;
    if spec.kind == "ExternalName" {
        return None;
    }
    let key = key(scope.name, &service.metadata.name);
    let vips = virtual_ips(service)
        .into_iter()
        .map(|address| NetworkAddress {
            network: scope.network.into(),
            address,
        });
    Some(Service {
        name: service.metadata.name.as_str().into(),
        namespace: key.namespace,
        hostname: key.hostname,
        vips: vips.collect(),
        ports: ports(service).map(port).collect(),
        subject_alt_names: Vec::new(),
        waypoint: waypoint::of_service(scope, &service.metadata).map(|bound| bound.address),
        ingress_use_waypoint: false,
        load_balancing: load_balancing(scope, service),
        ip_families: ip_families(&spec.ip_families),
        canonical: true,
        visibility: Visibility::Public,
    })
}

/// The key of a service in discovery.
pub(crate) fn key(namespace: &str, name: &str) -> NamespacedHostname {
    NamespacedHostname::new(namespace, &format!("{name}.{namespace}.svc.cluster.local"))
}

/// The ports of a service: those of TCP, and those of UDP whose number TCP has not. The mesh leaves
/// UDP alone, gateways serve it; where both have a number, the target of TCP counts.
pub(crate) fn ports(
    service: &kubernetes::Service,
) -> impl Iterator<Item = &kubernetes::ServicePort> {
    let ports = service.spec.ports.iter();
    ports.filter(|port| match port.protocol {
        Protocol::Tcp => true,
        Protocol::Udp => !tcp_ports(service).any(|other| other.port == port.port),
        Protocol::Sctp => false,
    })
}

/// The ports a node handles.
pub(crate) fn tcp_ports(
    service: &kubernetes::Service,
) -> impl Iterator<Item = &kubernetes::ServicePort> {
    let ports = service.spec.ports.iter();
    ports.filter(|port| port.protocol == Protocol::Tcp)
}

fn port(port: &kubernetes::ServicePort) -> ServicePort {
    ServicePort {
        service_port: port.port,
        target_port: match &port.target_port {
            None => port.port,
            Some(TargetPort::Number(number)) => *number,
            Some(TargetPort::Name(_)) => 0,
        },
        app_protocol: spoken(&port.app_protocol, &port.name, port.port),
    }
}

/// Without repetition; `clusterIPs` repeats `clusterIP` as its first.
pub(crate) fn virtual_ips(service: &kubernetes::Service) -> Vec<IpAddr> {
    let mut ips = Vec::with_capacity(2);
    let spec = &service.spec;
    for address in [spec.cluster_ip].iter().chain(&spec.cluster_ips) {
        if let Some(HostIp(ip)) = address.0
            && !ips.contains(&ip)
        {
            ips.push(ip);
        }
    }
    ips
}

fn load_balancing(scope: &Scope<'_>, service: &kubernetes::Service) -> LoadBalancing {
    let spec = &service.spec;
    let (mode, routing_preference) = match spec.internal_traffic_policy {
        InternalTrafficPolicy::Local => (LoadBalancingMode::Strict, vec![LocalityScope::Node]),
        InternalTrafficPolicy::Cluster => {
            let distribution = match spec.traffic_distribution.as_str() {
                "" => traffic_distribution(scope, &service.metadata),
                of_spec => of_spec,
            };
            preference(distribution)
        }
    };
    LoadBalancing {
        routing_preference,
        mode,
        health_policy: if spec.publish_not_ready_addresses {
            HealthPolicy::AllowAll
        } else {
            HealthPolicy::OnlyHealthy
        },
    }
}

/// What the annotations of an object say, else those of its namespace.
pub(super) fn traffic_distribution<'a>(scope: &Scope<'a>, metadata: &'a Metadata) -> &'a str {
    let own = metadata.annotations.get(TRAFFIC_DISTRIBUTION);
    let namespace = scope.namespace;
    let inherited =
        namespace.and_then(|namespace| namespace.metadata.annotations.get(TRAFFIC_DISTRIBUTION));
    own.or(inherited).map_or("", String::as_str)
}

/// What a traffic distribution asks for.
pub(super) fn preference(distribution: &str) -> (LoadBalancingMode, Vec<LocalityScope>) {
    use LocalityScope::{Network, Node, Region, Subzone, Zone};
    match distribution {
        "PreferClose" | "PreferSameZone" => {
            (LoadBalancingMode::Failover, vec![Network, Region, Zone])
        }
        "PreferSameNode" => (
            LoadBalancingMode::Failover,
            vec![Network, Region, Zone, Subzone, Node],
        ),
        _ => (LoadBalancingMode::Standard, Vec::new()),
    }
}

fn ip_families(families: &[IpFamily]) -> IpFamilies {
    match (
        families.contains(&IpFamily::V4),
        families.contains(&IpFamily::V6),
    ) {
        (true, true) => IpFamilies::Dual,
        (true, false) => IpFamilies::Ipv4Only,
        (false, true) => IpFamilies::Ipv6Only,
        (false, false) => IpFamilies::Automatic,
    }
}
