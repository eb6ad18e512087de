//! What the agent holds of the mesh: all of it, or what its pods dial.

use agent_net::drain::Watcher;
use agent_xds::{ClientStatus, Demand, client};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::xds_config;
use crate::config::NodeConfig;

/// Starts following the control plane until the drain begins.
pub(super) fn follow(
    config: &NodeConfig,
    control: &Runtime,
    status: watch::Sender<ClientStatus>,
    draining: &Watcher,
) -> agent_state::Reader {
    let (writer, reader) = agent_state::channel();
    let (server, draining) = (xds_config(config), draining.clone());
    if !config.xds_on_demand {
        control.spawn(client::run(server, writer, status, draining));
        return reader;
    }
    let demand = Demand::new();
    let asking = demand.clone();
    control.spawn(client::run_on_demand(
        server, asking, writer, status, draining,
    ));
    reader.on_demand(demand)
}
