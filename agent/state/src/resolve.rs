//! The L4 decisions: where a connection goes, and whether a tunnel request is for this pod.
//!
//! Pure functions of a snapshot; what is random or counted comes in as an argument.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use agent_model::{
    AGENT_PORTS, GatewayAddress, GatewayTarget, HBONE_PORT, Identity, LoadBalancingMode, Reason,
    Service, ServicePort, TunnelProtocol, Workload,
};

use crate::Snapshot;
use crate::choose::{self, Wanted};

/// What endpoint choice needs from outside.
pub struct Chooser<'a> {
    /// A random number, uniform over all of `u64`.
    pub random: &'a mut dyn FnMut() -> u64,
    /// Connections that this worker has open to the workload of that uid.
    pub active: &'a dyn Fn(&str) -> u32,
    /// Uids of workloads that have failed for this connection already.
    pub tried: &'a [Arc<str>],
}

/// Where a captured connection goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Outbound {
    /// Not of the mesh: plain TCP to where the application wanted to go.
    Passthrough {
        /// The original destination.
        destination: SocketAddr,
    },
    /// Of the mesh's knowledge, without a tunnel: plain TCP.
    Direct {
        /// Address to dial.
        destination: SocketAddr,
        /// The endpoint; `None` when the service leaves the choice to the client.
        workload: Option<Arc<Workload>>,
        /// The service that was dialled.
        service: Option<Arc<Service>>,
    },
    /// Through a tunnel.
    Tunnel(Hop),
    /// Nowhere.
    Deny {
        /// Why, for log and metrics.
        reason: Reason,
        /// Why, for people.
        detail: String,
    },
}

/// One tunnel and what to ask of its far end.
#[derive(Debug, Clone, PartialEq)]
pub struct Hop {
    /// Address of the HBONE listener.
    pub peer: SocketAddr,
    /// The CONNECT authority: the endpoint's address and target port, or the original destination
    /// where a waypoint decides.
    pub authority: SocketAddr,
    /// Identities of which the peer must have one.
    pub expected: Vec<Identity>,
    /// The workload behind `peer`.
    pub workload: Arc<Workload>,
    /// The service that was dialled.
    pub service: Option<Arc<Service>>,
    /// The peer is a waypoint, not the destination.
    pub via_waypoint: bool,
}

/// A CONNECT authority as the tunnel server has parsed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityRef<'a> {
    /// An address.
    Ip(SocketAddr),
    /// A host name and a service port.
    Host(&'a str, u16),
}

/// What becomes of a tunnel request.
#[derive(Debug, Clone, PartialEq)]
pub enum Inbound {
    /// It is for this pod. Policy has yet to decide.
    Forward {
        /// The pod's address and the application's port.
        destination: SocketAddr,
        /// The service the peer named.
        service: Option<Arc<Service>>,
    },
    /// It is not.
    Reject {
        /// Why, for log and metrics.
        reason: Reason,
        /// HTTP status of the answer.
        status: u16,
        /// Why, for people.
        detail: String,
    },
}

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

/// Decides whether a tunnel request that reached `local` on `tcp_destination` is for it, and for
/// which port. The order of checks and the codes are those peers expect.
pub fn inbound(
    snapshot: &Snapshot,
    local: &Workload,
    tcp_destination: IpAddr,
    authority: &AuthorityRef<'_>,
) -> Inbound {
    let ip = tcp_destination.to_canonical();
    let (port, service) = match *authority {
        AuthorityRef::Ip(address) if address.ip().to_canonical() != ip => {
            let detail = format!("{address} is not an address of this pod ({ip})");
            return reject(Reason::AuthorityMismatch, 400, detail);
        }
        AuthorityRef::Ip(address) => (address.port(), None),
        AuthorityRef::Host(hostname, port) => {
            match resolve_hostname(snapshot, local, hostname, port) {
                Ok((port, service)) => (port, Some(service)),
                Err(detail) => return reject(Reason::AuthorityUnknown, 503, detail),
            }
        }
    };
    if !is_pod_address(ip) {
        let detail = format!("{ip} is never a pod's address");
        return reject(Reason::AuthorityMismatch, 400, detail);
    }
    let destination = SocketAddr::new(ip, port);
    if port == 0 {
        return reject(Reason::RequestInvalid, 400, "port 0".to_owned());
    }
    if AGENT_PORTS.contains(&port) {
        let detail = format!("{destination} is a port of the agent");
        return reject(Reason::AgentPort, 503, detail);
    }
    Inbound::Forward {
        destination,
        service,
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
        && !snapshot.is_gateway(source, gateway)
    {
        return to_waypoint(snapshot, source, gateway, None, destination, chooser);
    }
    if chooser.tried.contains(&workload.uid) {
        let detail = format!("{} has failed and has no alternative", workload.uid);
        return deny(Reason::NoEndpoint, detail);
    }
    to_endpoint(workload, None, destination)
}

fn to_service(
    snapshot: &Snapshot,
    source: &Workload,
    service: &Arc<Service>,
    destination: SocketAddr,
    chooser: &mut Chooser<'_>,
) -> Outbound {
    if let Some(gateway) = &service.waypoint
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
        Ok((workload, address)) => to_endpoint(&workload, Some(service), address),
        Err((reason, detail)) => deny(reason, detail),
    }
}

/// The last hop: `address` is of `workload`, with the port the application listens on.
fn to_endpoint(
    workload: &Arc<Workload>,
    service: Option<&Arc<Service>>,
    address: SocketAddr,
) -> Outbound {
    if workload.tunnel_protocol == TunnelProtocol::None {
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
        Ok((workload, peer)) => to_gateway(&workload, peer, Some(of_gateway), service, destination),
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

/// The port behind a host name authority, as this workload serves it.
fn resolve_hostname(
    snapshot: &Snapshot,
    local: &Workload,
    hostname: &str,
    port: u16,
) -> Result<(u16, Arc<Service>), String> {
    let service = snapshot
        .service_by_hostname(hostname, &local.namespace)
        .ok_or_else(|| format!("no service is called {hostname:?}"))?;
    let target = target_port(service, local, port)
        .ok_or_else(|| format!("{} has no usable port {port}", service.key()))?;
    Ok((target, Arc::clone(service)))
}

/// The port that `workload` serves `port` of `service` on: its own word first, then the service's.
/// `None` when the service has no such port or its name means nothing to the workload.
pub(crate) fn target_port(service: &Service, workload: &Workload, port: u16) -> Option<u16> {
    let of = |ports: &[ServicePort]| {
        let found = ports
            .iter()
            .find(|candidate| candidate.service_port == port);
        found.map(|found| found.target_port)
    };
    let of_service = of(&service.ports)?;
    let of_workload = workload
        .services
        .get(&service.key())
        .and_then(|ports| of(ports));
    let targets = of_workload.into_iter().chain([of_service]);
    targets.into_iter().find(|target| *target > 0)
}

/// False for addresses that no pod is known by. Forwarding to one would reach something else.
fn is_pod_address(ip: IpAddr) -> bool {
    let special = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !special && !link_local
}

fn agent_port(destination: SocketAddr) -> Outbound {
    let detail = format!("{destination} is a port of the agent");
    deny(Reason::AgentPort, detail)
}

fn deny(reason: Reason, detail: String) -> Outbound {
    Outbound::Deny { reason, detail }
}

fn reject(reason: Reason, status: u16, detail: String) -> Inbound {
    Inbound::Reject {
        reason,
        status,
        detail,
    }
}
