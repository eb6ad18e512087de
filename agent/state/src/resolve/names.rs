//! Which names a decision looks up, for a node that asks the control plane by name.

use std::net::{IpAddr, SocketAddr};

use agent_model::{GatewayAddress, GatewayTarget, Workload};
use agent_xds::address_name;

use super::AuthorityRef;
use super::outbound::is_meshed;
use crate::Snapshot;

/// The names that a decision looks up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The snapshot knows them.
    pub known: Vec<String>,
    /// The snapshot does not know them. There may be more behind these.
    pub unknown: Vec<String>,
}

impl Names {
    fn add(&mut self, name: String, is_known: bool) {
        if is_known {
            self.known.push(name);
        } else {
            self.unknown.push(name);
        }
    }
}

/// What [`super::outbound`] looks up: the destination, and the waypoint in front of it.
pub fn outbound_names(snapshot: &Snapshot, source: &Workload, destination: SocketAddr) -> Names {
    let mut names = Names::default();
    let ip = destination.ip().to_canonical();
    if !is_asked_for(ip) {
        return names;
    }
    let workload = snapshot.workload_by_ip(&source.network, ip);
    let service = || snapshot.service_by_vip(&source.network, ip, &source.namespace);
    let (is_known, waypoint) = match (workload, workload.is_none().then(service).flatten()) {
        (Some(workload), _) => (true, workload.waypoint.as_ref()),
        (None, Some(service)) => (true, service.waypoint.as_ref()),
        (None, None) => (false, None),
    };
    names.add(address_name(&source.network, ip), is_known);
    if !is_meshed(source) {
        return names;
    }
    if let Some(gateway) = waypoint {
        add_gateway(snapshot, source, gateway, &mut names);
    } else if let (None, Some(service)) = (workload, service()) {
        // Endpoints mostly are behind the same one, if any.
        let mut gateways: Vec<&GatewayAddress> = Vec::new();
        for endpoint in snapshot.endpoints(&service.key()) {
            if let Some(gateway) = &endpoint.waypoint
                && !gateways.contains(&gateway)
            {
                gateways.push(gateway);
                add_gateway(snapshot, source, gateway, &mut names);
            }
        }
    }
    names
}

/// What [`super::speaks_for_clients`] looks up: the peer, by its address.
pub fn peer_names(snapshot: &Snapshot, network: &str, peer: IpAddr) -> Names {
    let mut names = Names::default();
    let ip = peer.to_canonical();
    if is_asked_for(ip) {
        let is_known = snapshot.workload_by_ip(network, ip).is_some();
        names.add(address_name(network, ip), is_known);
    }
    names
}

/// What [`super::inbound`] looks up: of the services of the local workload those of that name.
pub fn inbound_names(snapshot: &Snapshot, local: &Workload, authority: &AuthorityRef<'_>) -> Names {
    let mut names = Names::default();
    if let AuthorityRef::Host(hostname, _) = *authority {
        let services = local.services.keys();
        for key in services.filter(|key| *key.hostname == *hostname) {
            names.add(key.to_string(), snapshot.service(key).is_some());
        }
    }
    names
}

fn add_gateway(
    snapshot: &Snapshot,
    source: &Workload,
    gateway: &GatewayAddress,
    names: &mut Names,
) {
    match &gateway.target {
        GatewayTarget::Hostname(key) => {
            names.add(key.to_string(), snapshot.service(key).is_some());
        }
        GatewayTarget::Address(address) => {
            let (network, ip) = (&address.network, address.address);
            let is_known = snapshot.workload_by_ip(network, ip).is_some()
                || snapshot
                    .service_by_vip(network, ip, &source.namespace)
                    .is_some();
            names.add(address_name(network, ip), is_known);
        }
    }
}

/// False for addresses that nothing in a mesh has.
fn is_asked_for(ip: IpAddr) -> bool {
    !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast()
}
