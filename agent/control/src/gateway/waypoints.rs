//! The waypoints among our Gateways, for whatever is to be bound to one.

use agent_model::gateway::{GatewayKey, GatewayKind};

use super::owned::{self, Owned};
use super::{World, class};
use crate::translate::guard::targets;
use crate::translate::waypoint::{Waypoint, Waypoints};

/// Finds them.
pub(crate) fn waypoints(world: &World<'_>) -> Waypoints {
    let classes = class::ours(world, &mut Default::default());
    of(world, &owned::find(world, &classes))
}

/// One without a listener for tunnels is none: what is bound to it is lost.
pub(super) fn of(world: &World<'_>, gateways: &[Owned<'_>]) -> Waypoints {
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
            is_policed: is_policed(world, &key),
        };
        Some(((key.namespace, key.name), waypoint))
    });
    Waypoints::new(found.collect())
}

/// True when a policy is attached to the Gateway, which one of its own namespace alone can be.
fn is_policed(world: &World<'_>, gateway: &GatewayKey) -> bool {
    let objects = world.objects.get(&gateway.namespace);
    let mut targets = objects.into_iter().flat_map(|objects| targets(objects));
    targets.any(|target| target == ("Gateway", &*gateway.name))
}
