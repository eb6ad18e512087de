//! Workloads and services.

use agent_model::{
    GatewayAddress, GatewayTarget, Health, HealthPolicy, IpFamilies, LoadBalancing,
    LoadBalancingMode, Locality, LocalityScope, NamespacedHostname, NetworkAddress, NetworkMode,
    PolicyKey, Service, ServiceMembership, ServicePort, TunnelProtocol, Visibility, Workload,
    WorkloadType,
};
use prost::Message;
use prost_types::Any;
use proto::workload as wire;

use super::any;
use super::fields::{
    MAX_STRING, address, bounded, invalid, known, list, name, name_or, octets, port, port_or_zero,
    required, text,
};
use crate::{Error, ResourceType};

/// What an Address resource can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A workload.
    Workload(Workload),
    /// A service.
    Service(Service),
}

impl Address {
    /// The name its resource must have.
    pub(crate) fn resource_name(&self) -> String {
        match self {
            Self::Workload(workload) => workload.uid.to_string(),
            Self::Service(service) => service.key().to_string(),
        }
    }
}

/// Reads an Address resource.
pub(crate) fn decode_address(bytes: &[u8]) -> Result<Address, Error> {
    match wire::Address::decode(bytes)?.r#type {
        Some(wire::address::Type::Workload(workload)) => {
            decode_workload(&workload).map(Address::Workload)
        }
        Some(wire::address::Type::Service(service)) => {
            decode_service(&service).map(Address::Service)
        }
        None => Err(Error::Missing("workload or service")),
    }
}

/// The Address resource of a workload.
pub(crate) fn encode_workload(workload: &Workload) -> Any {
    let message = wire::Workload {
        name: workload.name.to_string(),
        namespace: workload.namespace.to_string(),
        addresses: workload.addresses.iter().copied().map(octets).collect(),
        network: workload.network.to_string(),
        tunnel_protocol: match workload.tunnel_protocol {
            TunnelProtocol::None => wire::TunnelProtocol::None,
            TunnelProtocol::Hbone => wire::TunnelProtocol::Hbone,
        }
        .into(),
        trust_domain: workload.trust_domain.to_string(),
        service_account: workload.service_account.to_string(),
        waypoint: workload.waypoint.as_ref().map(encode_gateway),
        node: workload.node.to_string(),
        canonical_name: workload.canonical_name.to_string(),
        canonical_revision: workload.canonical_revision.to_string(),
        workload_type: match workload.workload_type {
            WorkloadType::Deployment => wire::WorkloadType::Deployment,
            WorkloadType::CronJob => wire::WorkloadType::Cronjob,
            WorkloadType::Pod => wire::WorkloadType::Pod,
            WorkloadType::Job => wire::WorkloadType::Job,
        }
        .into(),
        workload_name: workload.workload_name.to_string(),
        native_tunnel: workload.native_tunnel,
        authorization_policies: workload
            .authorization_policies
            .iter()
            .map(ToString::to_string)
            .collect(),
        status: match workload.health {
            Health::Healthy => wire::WorkloadStatus::Healthy,
            Health::Unhealthy => wire::WorkloadStatus::Unhealthy,
        }
        .into(),
        cluster_id: workload.cluster_id.to_string(),
        network_gateway: workload.network_gateway.as_ref().map(encode_gateway),
        uid: workload.uid.to_string(),
        hostname: workload.hostname.to_string(),
        services: workload
            .services
            .iter()
            .map(|(key, ports)| (key.to_string(), encode_ports(ports)))
            .collect(),
        application_tunnel: None,
        locality: (workload.locality != Locality::default()).then(|| wire::Locality {
            region: workload.locality.region.to_string(),
            zone: workload.locality.zone.to_string(),
            subzone: workload.locality.subzone.to_string(),
        }),
        network_mode: match workload.network_mode {
            NetworkMode::Standard => wire::NetworkMode::Standard,
            NetworkMode::HostNetwork => wire::NetworkMode::HostNetwork,
        }
        .into(),
        extensions: Vec::new(),
        capacity: (workload.capacity != 1).then_some(workload.capacity),
    };
    let message = wire::Address {
        r#type: Some(wire::address::Type::Workload(message)),
    };
    any(ResourceType::Address, &message)
}

/// The Address resource of a service.
pub(crate) fn encode_service(service: &Service) -> Any {
    let message = wire::Service {
        name: service.name.to_string(),
        namespace: service.namespace.to_string(),
        hostname: service.hostname.to_string(),
        addresses: service.vips.iter().map(encode_network_address).collect(),
        ports: encode_ports(&service.ports).ports,
        subject_alt_names: service.subject_alt_names.clone(),
        waypoint: service.waypoint.as_ref().map(encode_gateway),
        load_balancing: encode_load_balancing(&service.load_balancing),
        ip_families: match service.ip_families {
            IpFamilies::Automatic => wire::IpFamilies::Automatic,
            IpFamilies::Ipv4Only => wire::IpFamilies::Ipv4Only,
            IpFamilies::Ipv6Only => wire::IpFamilies::Ipv6Only,
            IpFamilies::Dual => wire::IpFamilies::Dual,
        }
        .into(),
        extensions: Vec::new(),
        canonical: service.canonical,
        ingress_use_waypoint: false,
        weighted_waypoints: Vec::new(),
        visibility: match service.visibility {
            Visibility::Public => wire::service::Visibility::Public,
            Visibility::Namespace => wire::service::Visibility::Namespace,
        }
        .into(),
    };
    let message = wire::Address {
        r#type: Some(wire::address::Type::Service(message)),
    };
    any(ResourceType::Address, &message)
}

fn decode_workload(message: &wire::Workload) -> Result<Workload, Error> {
    if message.uid.is_empty() {
        return Err(Error::Missing("uid"));
    }
    Ok(Workload {
        uid: text("uid", &message.uid, MAX_STRING)?.into(),
        name: name("name", &message.name)?,
        namespace: name("namespace", &message.namespace)?,
        trust_domain: name_or("trust_domain", &message.trust_domain, "cluster.local")?,
        service_account: name_or("service_account", &message.service_account, "default")?,
        addresses: list("addresses", &message.addresses, |bytes| {
            address("addresses", bytes)
        })?,
        network: name("network", &message.network)?,
        tunnel_protocol: decode_tunnel_protocol(message.tunnel_protocol)?,
        native_tunnel: message.native_tunnel,
        waypoint: message.waypoint.as_ref().map(decode_gateway).transpose()?,
        network_gateway: message
            .network_gateway
            .as_ref()
            .map(decode_gateway)
            .transpose()?,
        node: name("node", &message.node)?,
        canonical_name: name("canonical_name", &message.canonical_name)?,
        canonical_revision: name("canonical_revision", &message.canonical_revision)?,
        workload_type: known("workload_type", message.workload_type, |value| {
            Some(match value {
                wire::WorkloadType::Deployment => WorkloadType::Deployment,
                wire::WorkloadType::Cronjob => WorkloadType::CronJob,
                wire::WorkloadType::Pod => WorkloadType::Pod,
                wire::WorkloadType::Job => WorkloadType::Job,
            })
        })?,
        workload_name: name("workload_name", &message.workload_name)?,
        authorization_policies: list(
            "authorization_policies",
            &message.authorization_policies,
            |key| {
                let key = text("authorization_policies", key, MAX_STRING)?;
                Ok(PolicyKey(key.into()))
            },
        )?,
        health: known("status", message.status, |value| {
            Some(match value {
                wire::WorkloadStatus::Healthy => Health::Healthy,
                wire::WorkloadStatus::Unhealthy => Health::Unhealthy,
            })
        })?,
        cluster_id: name_or("cluster_id", &message.cluster_id, "Kubernetes")?,
        hostname: name("hostname", &message.hostname)?,
        services: decode_membership(message)?,
        locality: decode_locality(message.locality.as_ref())?,
        network_mode: known("network_mode", message.network_mode, |value| {
            Some(match value {
                wire::NetworkMode::Standard => NetworkMode::Standard,
                wire::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
            })
        })?,
        capacity: message.capacity.unwrap_or(1),
    })
}

fn decode_tunnel_protocol(value: i32) -> Result<TunnelProtocol, Error> {
    match wire::TunnelProtocol::try_from(value) {
        Ok(wire::TunnelProtocol::None) => Ok(TunnelProtocol::None),
        Ok(wire::TunnelProtocol::Hbone) => Ok(TunnelProtocol::Hbone),
        Ok(wire::TunnelProtocol::LegacyIstioMtls) => Err(Error::UnknownEnum(
            "unsupported tunnel protocol: legacy istio mtls".to_owned(),
        )),
        Err(_) => Err(Error::UnknownEnum(format!("tunnel_protocol {value}"))),
    }
}

fn decode_membership(message: &wire::Workload) -> Result<ServiceMembership, Error> {
    bounded("services", message.services.len())?;
    let services = message.services.iter().map(|(key, ports)| {
        let key = text("services", key, MAX_STRING)?;
        let key = NamespacedHostname::parse(key)
            .ok_or_else(|| invalid("services", format!("{key:?} is not namespace/hostname")))?;
        Ok((key, decode_ports(&ports.ports)?))
    });
    services.collect()
}

fn decode_locality(message: Option<&wire::Locality>) -> Result<Locality, Error> {
    let Some(message) = message else {
        return Ok(Locality::default());
    };
    Ok(Locality {
        region: name("locality.region", &message.region)?,
        zone: name("locality.zone", &message.zone)?,
        subzone: name("locality.subzone", &message.subzone)?,
    })
}

fn decode_service(message: &wire::Service) -> Result<Service, Error> {
    Ok(Service {
        name: name("name", &message.name)?,
        namespace: required("namespace", &message.namespace)?,
        hostname: required("hostname", &message.hostname)?,
        vips: list("addresses", &message.addresses, decode_network_address)?,
        ports: decode_ports(&message.ports)?,
        subject_alt_names: list("subject_alt_names", &message.subject_alt_names, |san| {
            text("subject_alt_names", san, MAX_STRING).map(str::to_owned)
        })?,
        waypoint: decode_waypoint(message)?,
        load_balancing: decode_load_balancing(message.load_balancing.as_ref())?,
        ip_families: known("ip_families", message.ip_families, |value| {
            Some(match value {
                wire::IpFamilies::Automatic => IpFamilies::Automatic,
                wire::IpFamilies::Ipv4Only => IpFamilies::Ipv4Only,
                wire::IpFamilies::Ipv6Only => IpFamilies::Ipv6Only,
                wire::IpFamilies::Dual => IpFamilies::Dual,
            })
        })?,
        canonical: message.canonical,
        visibility: match wire::service::Visibility::try_from(message.visibility) {
            Ok(wire::service::Visibility::Namespace) => Visibility::Namespace,
            // Visibility is no protection, so a value of the future does not hide the service.
            Ok(wire::service::Visibility::Public) | Err(_) => Visibility::Public,
        },
    })
}

/// The one waypoint of a service. Of several weighted ones the heaviest stands for all: traffic
/// must not go around a waypoint because there is a choice.
fn decode_waypoint(message: &wire::Service) -> Result<Option<GatewayAddress>, Error> {
    bounded("weighted_waypoints", message.weighted_waypoints.len())?;
    let heaviest = message
        .weighted_waypoints
        .iter()
        .max_by_key(|waypoint| waypoint.weight);
    let waypoint = match heaviest {
        Some(heaviest) => Some(
            heaviest
                .destination
                .as_ref()
                .ok_or(Error::Missing("weighted_waypoints.destination"))?,
        ),
        None => message.waypoint.as_ref(),
    };
    waypoint.map(decode_gateway).transpose()
}

fn decode_load_balancing(message: Option<&wire::LoadBalancing>) -> Result<LoadBalancing, Error> {
    use wire::load_balancing::{HealthPolicy as Policy, Mode, Scope};
    let Some(message) = message else {
        return Ok(LoadBalancing::default());
    };
    let scope = |value: &i32| {
        known("routing_preference", *value, |scope| match scope {
            Scope::UnspecifiedScope => None,
            Scope::Region => Some(LocalityScope::Region),
            Scope::Zone => Some(LocalityScope::Zone),
            Scope::Subzone => Some(LocalityScope::Subzone),
            Scope::Node => Some(LocalityScope::Node),
            Scope::Cluster => Some(LocalityScope::Cluster),
            Scope::Network => Some(LocalityScope::Network),
        })
    };
    Ok(LoadBalancing {
        routing_preference: list("routing_preference", &message.routing_preference, scope)?,
        mode: known("mode", message.mode, |mode| {
            Some(match mode {
                Mode::UnspecifiedMode => LoadBalancingMode::Standard,
                Mode::Strict => LoadBalancingMode::Strict,
                Mode::Failover => LoadBalancingMode::Failover,
                Mode::Passthrough => LoadBalancingMode::Passthrough,
            })
        })?,
        health_policy: known("health_policy", message.health_policy, |policy| {
            Some(match policy {
                Policy::OnlyHealthy => HealthPolicy::OnlyHealthy,
                Policy::AllowAll => HealthPolicy::AllowAll,
            })
        })?,
    })
}

fn encode_load_balancing(load_balancing: &LoadBalancing) -> Option<wire::LoadBalancing> {
    use wire::load_balancing::{HealthPolicy as Policy, Mode, Scope};
    let scope = |scope: &LocalityScope| match scope {
        LocalityScope::Region => Scope::Region,
        LocalityScope::Zone => Scope::Zone,
        LocalityScope::Subzone => Scope::Subzone,
        LocalityScope::Node => Scope::Node,
        LocalityScope::Cluster => Scope::Cluster,
        LocalityScope::Network => Scope::Network,
    };
    (*load_balancing != LoadBalancing::default()).then(|| wire::LoadBalancing {
        routing_preference: load_balancing
            .routing_preference
            .iter()
            .map(|value| scope(value).into())
            .collect(),
        mode: match load_balancing.mode {
            LoadBalancingMode::Standard => Mode::UnspecifiedMode,
            LoadBalancingMode::Strict => Mode::Strict,
            LoadBalancingMode::Failover => Mode::Failover,
            LoadBalancingMode::Passthrough => Mode::Passthrough,
        }
        .into(),
        health_policy: match load_balancing.health_policy {
            HealthPolicy::OnlyHealthy => Policy::OnlyHealthy,
            HealthPolicy::AllowAll => Policy::AllowAll,
        }
        .into(),
    })
}

fn decode_ports(ports: &[wire::Port]) -> Result<Vec<ServicePort>, Error> {
    list("ports", ports, |message| {
        Ok(ServicePort {
            service_port: port("service_port", message.service_port)?,
            target_port: port_or_zero("target_port", message.target_port)?,
        })
    })
}

fn encode_ports(ports: &[ServicePort]) -> wire::PortList {
    let port = |port: &ServicePort| wire::Port {
        service_port: port.service_port.into(),
        target_port: port.target_port.into(),
        app_protocol: wire::AppProtocol::Unknown.into(),
    };
    wire::PortList {
        ports: ports.iter().map(port).collect(),
    }
}

fn decode_gateway(message: &wire::GatewayAddress) -> Result<GatewayAddress, Error> {
    use wire::gateway_address::Destination;
    let target = match &message.destination {
        Some(Destination::Hostname(key)) => GatewayTarget::Hostname(NamespacedHostname {
            namespace: required("gateway namespace", &key.namespace)?,
            hostname: required("gateway hostname", &key.hostname)?,
        }),
        Some(Destination::Address(address)) => {
            GatewayTarget::Address(decode_network_address(address)?)
        }
        None => return Err(Error::Missing("gateway destination")),
    };
    Ok(GatewayAddress {
        target,
        hbone_mtls_port: port("hbone_mtls_port", message.hbone_mtls_port)?,
    })
}

fn encode_gateway(gateway: &GatewayAddress) -> wire::GatewayAddress {
    use wire::gateway_address::Destination;
    let destination = match &gateway.target {
        GatewayTarget::Hostname(key) => Destination::Hostname(wire::NamespacedHostname {
            namespace: key.namespace.to_string(),
            hostname: key.hostname.to_string(),
        }),
        GatewayTarget::Address(address) => Destination::Address(encode_network_address(address)),
    };
    wire::GatewayAddress {
        destination: Some(destination),
        hbone_mtls_port: gateway.hbone_mtls_port.into(),
    }
}

fn decode_network_address(message: &wire::NetworkAddress) -> Result<NetworkAddress, Error> {
    let full_length = u32::try_from(message.address.len() * 8).unwrap_or(u32::MAX);
    if message.length.is_some_and(|length| length != full_length) {
        return Err(invalid("length", "address ranges are not supported"));
    }
    Ok(NetworkAddress {
        network: name("network", &message.network)?,
        address: address("address", &message.address)?,
    })
}

fn encode_network_address(address: &NetworkAddress) -> wire::NetworkAddress {
    wire::NetworkAddress {
        network: address.network.to_string(),
        address: octets(address.address),
        length: None,
    }
}
