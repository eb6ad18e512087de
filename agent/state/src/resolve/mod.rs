//! The L4 decisions: where a connection goes, and whether a tunnel request is for this pod.
//!
//! Pure functions of a snapshot; what is random or counted comes in as an argument.

mod choose;
mod inbound;
mod names;
mod outbound;
mod peer;
#[cfg(test)]
mod tests;

pub use choose::endpoints;
pub use inbound::inbound;
pub use names::{Names, inbound_names, outbound_names, peer_names};
pub use outbound::{named, onward, outbound};
pub use peer::speaks_for_clients;

use std::net::SocketAddr;
use std::sync::Arc;

use agent_model::{Identity, Reason, Service, ServicePort, Workload};

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
    /// To an endpoint that has a host name and no address: [`named`] goes on from the addresses
    /// of that name.
    Named(Named),
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

/// An endpoint that is known by its host name.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// The name.
    pub host: Arc<str>,
    /// The port the endpoint listens on.
    pub port: u16,
    /// The endpoint.
    pub workload: Arc<Workload>,
    /// The service that was dialled.
    pub service: Arc<Service>,
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

/// The port that `workload` serves `port` of `service` on: its own word first, then the service's.
/// `None` when the service has no such port or its name means nothing to the workload.
fn target_port(service: &Service, workload: &Workload, port: u16) -> Option<u16> {
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
