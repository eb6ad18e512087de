//! What workloads and services have in common: ports, addresses in networks, gateways.

use agent_model::{
    AppProtocol, GatewayAddress, GatewayTarget, NamespacedHostname, NetworkAddress, ServicePort,
};
use proto::workload as wire;

use super::fields::{address, invalid, list, name, octets, port, port_or_zero, required};
use crate::Error;

pub(super) fn decode_ports(ports: &[wire::Port]) -> Result<Vec<ServicePort>, Error> {
    list("ports", ports, |message| {
        Ok(ServicePort {
            service_port: port("service_port", message.service_port)?,
            target_port: port_or_zero("target_port", message.target_port)?,
            app_protocol: decode_protocol(message.app_protocol),
        })
    })
}

pub(super) fn encode_ports(ports: &[ServicePort]) -> wire::PortList {
    let port = |port: &ServicePort| wire::Port {
        service_port: port.service_port.into(),
        target_port: port.target_port.into(),
        app_protocol: encode_protocol(port.app_protocol).into(),
    };
    wire::PortList {
        ports: ports.iter().map(port).collect(),
    }
}

/// What is not known yet is as if nothing had been said.
fn decode_protocol(protocol: i32) -> AppProtocol {
    match wire::AppProtocol::try_from(protocol).unwrap_or_default() {
        wire::AppProtocol::Unknown => AppProtocol::Unknown,
        wire::AppProtocol::Http11 => AppProtocol::Http1,
        wire::AppProtocol::Http2 => AppProtocol::Http2,
        wire::AppProtocol::Grpc => AppProtocol::Grpc,
        wire::AppProtocol::Tcp => AppProtocol::Tcp,
        wire::AppProtocol::Tls => AppProtocol::Tls,
    }
}

fn encode_protocol(protocol: AppProtocol) -> wire::AppProtocol {
    match protocol {
        AppProtocol::Unknown => wire::AppProtocol::Unknown,
        AppProtocol::Http1 => wire::AppProtocol::Http11,
        AppProtocol::Http2 => wire::AppProtocol::Http2,
        AppProtocol::Grpc => wire::AppProtocol::Grpc,
        AppProtocol::Tcp => wire::AppProtocol::Tcp,
        AppProtocol::Tls => wire::AppProtocol::Tls,
    }
}

pub(super) fn decode_gateway(message: &wire::GatewayAddress) -> Result<GatewayAddress, Error> {
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

pub(super) fn encode_gateway(gateway: &GatewayAddress) -> wire::GatewayAddress {
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

pub(super) fn decode_network_address(
    message: &wire::NetworkAddress,
) -> Result<NetworkAddress, Error> {
    let full_length = u32::try_from(message.address.len() * 8).unwrap_or(u32::MAX);
    if message.length.is_some_and(|length| length != full_length) {
        return Err(invalid("length", "address ranges are not supported"));
    }
    Ok(NetworkAddress {
        network: name("network", &message.network)?,
        address: address("address", &message.address)?,
    })
}

pub(super) fn encode_network_address(address: &NetworkAddress) -> wire::NetworkAddress {
    wire::NetworkAddress {
        network: address.network.to_string(),
        address: octets(address.address),
        length: None,
    }
}
