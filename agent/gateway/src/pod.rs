//! A pod that is addressed itself, behind a waypoint for workloads.

use std::net::SocketAddr;
use std::sync::Arc;

use agent_model::{AppProtocol, NamespacedHostname, ServicePort, Workload};
use agent_state::Snapshot;

use crate::upstream::Alone;

/// A port of a pod, for one client.
#[derive(Debug)]
pub(crate) struct Pod {
    /// Stands for it where services are named; no service is called so.
    pub(crate) name: NamespacedHostname,
    /// Services that lead to the same port.
    pub(crate) services: Box<[NamespacedHostname]>,
    /// What these say is spoken there; nothing when they do not agree.
    pub(crate) spoken: AppProtocol,
    /// Where its requests go.
    pub(crate) endpoint: Alone,
}

impl Pod {
    /// What is known of a workload that has been addressed there.
    pub(crate) fn new(snapshot: &Snapshot, workload: &Arc<Workload>, address: SocketAddr) -> Self {
        let leads_here = |ports: &[ServicePort]| {
            let mut ports = ports.iter();
            ports.any(|port| port.target() == address.port())
        };
        let services = workload.services.iter();
        let services = services.filter(|(_, ports)| leads_here(ports));
        let name = NamespacedHostname::new(&workload.namespace, &address.ip().to_string());
        Self {
            spoken: spoken(snapshot, workload, address.port()),
            services: services.map(|(service, _)| service.clone()).collect(),
            endpoint: Alone::new(name.clone(), Arc::clone(workload), address),
            name,
        }
    }
}

fn spoken(snapshot: &Snapshot, workload: &Workload, port: u16) -> AppProtocol {
    let services = workload.services.iter();
    let mut said = services.flat_map(|(service, ports)| {
        let of = snapshot.service(service);
        let ports = ports.iter().filter(move |at| at.target() == port);
        ports.filter_map(move |at| {
            let mut ports = of?.ports.iter();
            let port = ports.find(|port| port.service_port == at.service_port)?;
            (!port.app_protocol.is_unknown()).then_some(port.app_protocol)
        })
    });
    match said.next() {
        Some(first) if said.all(|other| other == first) => first,
        _ => AppProtocol::Unknown,
    }
}
