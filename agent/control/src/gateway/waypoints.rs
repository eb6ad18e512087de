//! The waypoints among our Gateways, for whatever is to be bound to one.

use agent_model::gateway::{GatewayKey, GatewayKind};

use super::owned::{self, Owned};
use super::{World, class, policies};
use crate::translate::waypoint::{Waypoint, Waypoints};

/// Finds them, with what policies are attached to each.
pub(crate) fn waypoints(world: &World<'_>) -> Waypoints {
    let classes = class::ours(world, &mut Default::default());
    let gateways = owned::find(world, &classes);
    let mut found = of(&gateways);
    for GatewayKey { namespace, name } in policies::attached(world, &gateways) {
        found.police(&(namespace, name));
    }
    found
}

/// Where they are. One without a listener for tunnels is none: what is bound to it is lost.
pub(super) fn of(gateways: &[Owned<'_>]) -> Waypoints {
    let found = gateways.iter().filter_map(|gateway| {
        let GatewayKind::Waypoint(reach) = gateway.kind else {
            return None;
        };
        let spec = &gateway.object.spec;
        let listener = spec.listeners.iter().find(|of| of.protocol == "HBONE")?;
        let key = gateway.key();
        let waypoint = Waypoint {
            reach,
            port: listener.port,
            allowed: listener.allowed_routes.namespaces.clone(),
            is_policed: false,
        };
        Some(((key.namespace, key.name), waypoint))
    });
    Waypoints::new(found.collect())
}
