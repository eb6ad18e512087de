//! Who asks, as metrics and logs name it.

use std::net::IpAddr;
use std::sync::Arc;

use agent_model::{Identity, Workload};
use agent_state::Snapshot;

/// Who the requests of a connection are counted for.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The workload, where the mesh knows it.
    pub workload: Option<Arc<Workload>>,
    /// Its identity, where it is proved.
    pub identity: Option<Identity>,
}

impl Source {
    /// Whoever proved to be `identity` and comes from `address`. The address names the workload
    /// only as far as the identity agrees.
    pub(crate) fn peer(
        snapshot: &Snapshot,
        network: &str,
        address: IpAddr,
        identity: &Identity,
    ) -> Self {
        let workload = snapshot.workload_by_ip(network, address);
        let is_it = |workload: &&Arc<Workload>| {
            workload
                .identity()
                .is_ok_and(|expected| expected == *identity)
        };
        Self {
            workload: workload.filter(is_it).cloned(),
            identity: Some(identity.clone()),
        }
    }
}
