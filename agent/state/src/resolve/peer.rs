//! Who may say for whom it connects.

use std::net::IpAddr;

use agent_model::{Identity, Workload};

use crate::Snapshot;

/// True when a peer is believed that says for whom it connects to `local`: it is a waypoint in
/// front of that workload or of a service that the workload serves. Both count, the identity that
/// it has proved and the address it comes from: whoever else runs as that account is no waypoint.
pub fn speaks_for_clients(
    snapshot: &Snapshot,
    network: &str,
    local: &Workload,
    peer: &Identity,
    address: IpAddr,
) -> bool {
    let Some(workload) = snapshot.workload_by_ip(network, address) else {
        return false;
    };
    if workload.identity().as_ref() != Ok(peer) {
        return false;
    }
    let services = local.services.keys();
    let of_services = services.filter_map(|key| snapshot.service(key)?.waypoint.as_ref());
    let mut gateways = of_services.chain(&local.waypoint);
    gateways.any(|gateway| snapshot.is_gateway(workload, gateway))
}
