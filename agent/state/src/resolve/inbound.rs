//! Whether a tunnel request is for this pod.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use agent_model::{AGENT_PORTS, Reason, Service, Workload};

use super::{AuthorityRef, Inbound, target_port};
use crate::Snapshot;

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
    // A certificate opens a pod's services, not every name of the mesh at this pod's ports.
    if !local.services.contains_key(&service.key()) {
        return Err(format!("this pod is no endpoint of {}", service.key()));
    }
    let target = target_port(service, local, port)
        .ok_or_else(|| format!("{} has no usable port {port}", service.key()))?;
    Ok((target, Arc::clone(service)))
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

fn reject(reason: Reason, status: u16, detail: String) -> Inbound {
    Inbound::Reject {
        reason,
        status,
        detail,
    }
}
