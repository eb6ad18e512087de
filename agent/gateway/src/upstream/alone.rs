//! A pod that is addressed itself, for one client: its connections end with the client's.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use agent_model::{NamespacedHostname, Workload};

use super::cluster::Cluster;
use super::group::Group;

/// The only endpoint of whatever goes there.
pub(crate) struct Alone {
    pub(super) cluster: Cluster,
}

impl Alone {
    /// A pod that serves at that address, under a name that no service has.
    pub(crate) fn new(
        name: NamespacedHostname,
        workload: Arc<Workload>,
        address: SocketAddr,
    ) -> Self {
        let group = Group::of_pod(name, workload, address);
        Self {
            cluster: Cluster::fixed(group),
        }
    }
}

impl fmt::Debug for Alone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = self.cluster.group();
        write!(f, "Alone({}:{})", group.service(), group.port())
    }
}
