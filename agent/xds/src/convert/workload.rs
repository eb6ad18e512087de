//! Workloads.

use agent_model::{
    Health, Locality, NamespacedHostname, NetworkMode, PolicyKey, ServiceMembership,
    TunnelProtocol, Workload, WorkloadType,
};
use prost_types::Any;
use proto::workload as wire;

use super::any;
use super::fields::{
    MAX_STRING, address, bounded, invalid, known, list, name, name_or, octets, text,
};
use super::network::{decode_gateway, decode_ports, encode_gateway, encode_ports};
use crate::{Error, ResourceType};

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

pub(super) fn decode_workload(message: &wire::Workload) -> Result<Workload, Error> {
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
