//! Services.

use agent_model::{
    GatewayAddress, HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, LocalityScope,
    Service, Visibility,
};
use prost_types::Any;
use proto::workload as wire;

use super::any;
use super::fields::{MAX_STRING, bounded, known, list, name, required, text};
use super::network::{
    decode_gateway, decode_network_address, decode_ports, encode_gateway, encode_network_address,
    encode_ports,
};
use crate::{Error, ResourceType};

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
        ingress_use_waypoint: service.ingress_use_waypoint,
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

pub(super) fn decode_service(message: &wire::Service) -> Result<Service, Error> {
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
        ingress_use_waypoint: message.ingress_use_waypoint,
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
