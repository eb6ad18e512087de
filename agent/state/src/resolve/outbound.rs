//! Where a captured connection goes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use agent_model::{
    AGENT_PORTS, GatewayAddress, GatewayTarget, HBONE_PORT, LoadBalancingMode, NamespacedHostname,
    Reason, Service, TunnelProtocol, Workload,
};

use super::choose::{self, Dial, Wanted};
use super::{Chooser, Hop, Named, Outbound};
use crate::Snapshot;

/// Decides where a connection of the local workload `source` to `destination` goes.
///
/// To fail over, ask again with the uid of the failed workload added to `tried`; a `Deny` is then
/// the end, and the earlier failure the one to report.
pub fn outbound(
    snapshot: &Snapshot,
    source: &Workload,
    destination: SocketAddr,
    chooser: &mut Chooser<'_>,
) -> Outbound {
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    let (ip, port) = (destination.ip(), destination.port());
    if (ip.is_loopback() || ip.is_unspecified()) && AGENT_PORTS.contains(&port) {
        return agent_port(destination);
    }
    if let Some(workload) = snapshot.workload_by_ip(&source.network, ip) {
        return to_workload(snapshot, source, workload, destination, chooser);
    }
    match snapshot.service_by_vip(&source.network, ip, &source.namespace) {
        Some(service) => to_service(snapshot, source, service, destination, chooser),
        None => Outbound::Passthrough { destination },
    }
}

/// Goes on where an endpoint's name leads to: `address` is one of those that were found for it. What
/// is found there counts, be it a pod of the mesh or a service; what nobody knows is outside of it.
pub fn named(
    snapshot: &Snapshot,
    source: &Workload,
    named: &Named,
    address: IpAddr,
    chooser: &mut Chooser<'_>,
) -> Outbound {
    let address = SocketAddr::new(address.to_canonical(), named.port);
    // The address of an entry is often the one that its own host has.
    let service = snapshot.service_by_vip(&source.network, address.ip(), &source.namespace);
    let is_own = service.is_some_and(|service| service.key() == named.service.key());
    let found = match is_own {
        true => None,
        false => Some(outbound(snapshot, source, address, chooser)),
    };
    match found {
        None | Some(Outbound::Passthrough { .. }) => {
            let Named {
                workload, service, ..
            } = named;
            to_chosen(snapshot, source, workload, service, address, chooser)
        }
        Some(Outbound::Named(other)) => deny(
            Reason::DnsFailed,
            format!("{} leads to another name, {}", named.host, other.host),
        ),
        Some(found) => found,
    }
}

fn to_workload(
    snapshot: &Snapshot,
    source: &Workload,
    workload: &Arc<Workload>,
    destination: SocketAddr,
    chooser: &mut Chooser<'_>,
) -> Outbound {
    if let Some(gateway) = &workload.waypoint
        && is_meshed(source)
        && !snapshot.is_gateway(source, gateway)
    {
        return to_waypoint(snapshot, source, gateway, None, destination, chooser);
    }
    if chooser.tried.contains(&workload.uid) {
        let detail = format!("{} has failed and has no alternative", workload.uid);
        return deny(Reason::NoEndpoint, detail);
    }
    to_endpoint(source, workload, None, destination)
}

fn to_service(
    snapshot: &Snapshot,
    source: &Workload,
    service: &Arc<Service>,
    destination: SocketAddr,
    chooser: &mut Chooser<'_>,
) -> Outbound {
    if let Some(gateway) = &service.waypoint
        && is_meshed(source)
        && !snapshot.is_gateway(source, gateway)
    {
        return to_waypoint(
            snapshot,
            source,
            gateway,
            Some(service),
            destination,
            chooser,
        );
    }
    if service.load_balancing.mode == LoadBalancingMode::Passthrough {
        return Outbound::Direct {
            destination,
            workload: None,
            service: Some(Arc::clone(service)),
        };
    }
    let wanted = Wanted {
        service,
        port: destination.port(),
        dialled: destination.ip(),
    };
    match choose::endpoint(snapshot, source, wanted, chooser) {
        Ok((workload, Dial::Address(address))) => {
            to_chosen(snapshot, source, &workload, service, address, chooser)
        }
        Ok((workload, Dial::Name(port))) => Outbound::Named(Named {
            host: Arc::clone(&workload.hostname),
            port,
            workload,
            service: Arc::clone(service),
        }),
        Err((reason, detail)) => deny(reason, detail),
    }
}

/// The waypoint that a gateway goes through to an endpoint that it has chosen: that of the service,
/// where gateways are to go through it, else that of the workload. `None` when it goes to the
/// endpoint itself, as a waypoint does to what is behind it. `source` is the gateway; by its
/// identity it knows itself among the endpoints of a waypoint.
pub fn onward(
    snapshot: &Snapshot,
    source: &Workload,
    (service, port): (&NamespacedHostname, u16),
    (workload, address): (&Workload, SocketAddr),
    chooser: &mut Chooser<'_>,
) -> Option<Outbound> {
    let service = snapshot.service(service);
    let of_service = service.and_then(|service| Some((service, service.waypoint.as_ref()?)));
    if of_service.is_some_and(|(_, gateway)| is_itself(snapshot, source, gateway)) {
        return None;
    }
    if let Some((service, gateway)) = of_service.filter(|(of, _)| of.ingress_use_waypoint) {
        let mut vips = service.vips.iter();
        let vip = vips.find(|vip| *vip.network == *source.network);
        // Who dials a headless service dials its pods.
        if let Some(vip) = vip {
            let dialled = SocketAddr::new(vip.address, port);
            let to = to_waypoint(snapshot, source, gateway, Some(service), dialled, chooser);
            return Some(to);
        }
    }
    let gateway = workload.waypoint.as_ref()?;
    if is_itself(snapshot, source, gateway) {
        return None;
    }
    let to = to_waypoint(snapshot, source, gateway, service, address, chooser);
    Some(to)
}

fn is_itself(snapshot: &Snapshot, source: &Workload, gateway: &GatewayAddress) -> bool {
    let runs_as_it = |key| {
        let mut endpoints = snapshot.endpoints(key);
        endpoints.any(|endpoint| endpoint.identity() == source.identity())
    };
    snapshot.is_gateway(source, gateway)
        || matches!(&gateway.target, GatewayTarget::Hostname(key) if runs_as_it(key))
}

/// True for the waypoint of an endpoint, and for that of the service it was chosen for.
fn is_in_front(
    snapshot: &Snapshot,
    source: &Workload,
    service: &Service,
    of_endpoint: &GatewayAddress,
) -> bool {
    let of_service = service.waypoint.iter();
    let mut gateways = of_service.chain([of_endpoint]);
    gateways.any(|gateway| snapshot.is_gateway(source, gateway))
}

/// To the endpoint that was chosen for a service. It takes nothing but what passed its waypoint,
/// whichever way it was addressed; for a service's own waypoint it makes an exception.
fn to_chosen(
    snapshot: &Snapshot,
    source: &Workload,
    workload: &Arc<Workload>,
    service: &Arc<Service>,
    address: SocketAddr,
    chooser: &mut Chooser<'_>,
) -> Outbound {
    match &workload.waypoint {
        Some(gateway) if is_meshed(source) && !is_in_front(snapshot, source, service, gateway) => {
            to_waypoint(snapshot, source, gateway, Some(service), address, chooser)
        }
        _ => to_endpoint(source, workload, Some(service), address),
    }
}

/// False for a pod that is captured, because one CNI configuration serves a whole node, and was not
/// opted in: it has no identity to open a tunnel with. It talks as it would without a mesh, and
/// the destination decides about a peer without identity.
pub(super) fn is_meshed(source: &Workload) -> bool {
    source.tunnel_protocol != TunnelProtocol::None
}

/// The last hop: `address` is of `workload`, with the port the application listens on.
fn to_endpoint(
    source: &Workload,
    workload: &Arc<Workload>,
    service: Option<&Arc<Service>>,
    address: SocketAddr,
) -> Outbound {
    if workload.tunnel_protocol == TunnelProtocol::None || !is_meshed(source) {
        return Outbound::Direct {
            destination: address,
            workload: Some(Arc::clone(workload)),
            service: service.cloned(),
        };
    }
    if AGENT_PORTS.contains(&address.port()) {
        return agent_port(address);
    }
    let hop = Hop {
        peer: SocketAddr::new(address.ip(), HBONE_PORT),
        authority: address,
        expected: Vec::new(),
        workload: Arc::clone(workload),
        service: service.cloned(),
        via_waypoint: false,
    };
    tunnel(hop, service)
}

/// Traffic for `destination` goes to the waypoint, or nowhere: going around it would go around
/// its policy.
fn to_waypoint(
    snapshot: &Snapshot,
    source: &Workload,
    gateway: &GatewayAddress,
    service: Option<&Arc<Service>>,
    destination: SocketAddr,
    chooser: &mut Chooser<'_>,
) -> Outbound {
    let unavailable = |detail: String| deny(Reason::WaypointUnavailable, detail);
    let port = gateway.hbone_mtls_port;
    let of_gateway = match &gateway.target {
        GatewayTarget::Hostname(key) => match snapshot.service(key) {
            Some(service) => service,
            None => return unavailable(format!("waypoint {key} is not known")),
        },
        GatewayTarget::Address(address) => {
            let (network, ip) = (&address.network, address.address);
            if let Some(workload) = snapshot.workload_by_ip(network, ip) {
                if **network != *source.network || chooser.tried.contains(&workload.uid) {
                    return unavailable(format!("waypoint {ip} cannot be reached"));
                }
                let peer = SocketAddr::new(ip, port);
                return to_gateway(workload, peer, None, service, destination);
            }
            match snapshot.service_by_vip(network, ip, &source.namespace) {
                Some(service) => service,
                None => return unavailable(format!("waypoint {ip} is not known")),
            }
        }
    };
    let wanted = Wanted {
        service: of_gateway,
        port,
        dialled: destination.ip(),
    };
    match choose::endpoint(snapshot, source, wanted, chooser) {
        Ok((workload, Dial::Address(peer))) => {
            to_gateway(&workload, peer, Some(of_gateway), service, destination)
        }
        Ok((workload, Dial::Name(_))) => {
            unavailable(format!("waypoint {} has no address", workload.uid))
        }
        Err((_, detail)) => unavailable(format!("waypoint {}: {detail}", of_gateway.key())),
    }
}

fn to_gateway(
    workload: &Arc<Workload>,
    peer: SocketAddr,
    of_gateway: Option<&Arc<Service>>,
    service: Option<&Arc<Service>>,
    destination: SocketAddr,
) -> Outbound {
    let hop = Hop {
        peer,
        authority: destination,
        expected: Vec::new(),
        workload: Arc::clone(workload),
        service: service.cloned(),
        via_waypoint: true,
    };
    tunnel(hop, of_gateway)
}

/// Completes a hop with the identities its peer may have: the workload's own, and those that the
/// service in front of it vouches for.
fn tunnel(mut hop: Hop, vouching: Option<&Arc<Service>>) -> Outbound {
    let names = vouching
        .into_iter()
        .flat_map(|service| &service.subject_alt_names);
    hop.expected = names.filter_map(|name| name.parse().ok()).collect();
    hop.expected.extend(hop.workload.identity().ok());
    hop.expected.sort();
    hop.expected.dedup();
    if hop.expected.is_empty() {
        let detail = format!("{} has no valid identity", hop.workload.uid);
        return deny(Reason::PeerIdentityMismatch, detail);
    }
    Outbound::Tunnel(hop)
}

fn agent_port(destination: SocketAddr) -> Outbound {
    let detail = format!("{destination} is a port of the agent");
    deny(Reason::AgentPort, detail)
}

fn deny(reason: Reason, detail: String) -> Outbound {
    Outbound::Deny { reason, detail }
}
