//! What nodes and gateways are offered: the catalog that the discovery sessions compare with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agent_model::gateway::{Gateway, GatewayKind, Parent, Route};
use agent_xds::{Catalog, Published, ResourceType};

use crate::collection::Collection;
use crate::gateway::Resolved;
use crate::translate::Translated;

/// A resource on offer.
type Name = (ResourceType, Arc<str>);

/// Turns translations into resources. No-ops end here: what encodes the same is not published.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// What each namespace has on offer.
    offered: BTreeMap<Arc<str>, BTreeSet<Name>>,
    /// What gateways have on offer, and of what that was made.
    of_gateways: BTreeSet<Name>,
    resolved: Option<Arc<Resolved>>,
    published: Published,
}

impl Snapshot {
    /// An empty one, and where it is published.
    pub(crate) fn new() -> (Self, Published) {
        let snapshot = Self::default();
        let published = snapshot.published.clone();
        (snapshot, published)
    }

    /// Takes over the namespaces that changed, and gateways when one did, and publishes once. True
    /// when somebody will see a difference.
    pub(crate) fn update(&mut self, collection: &Collection, changed: &[Arc<str>]) -> bool {
        let offered = &mut self.offered;
        let of_gateways = &mut self.of_gateways;
        let resolved = collection.gateways();
        let before = self.resolved.replace(Arc::clone(resolved));
        let is_same = before.is_some_and(|before| Arc::ptr_eq(&before, resolved));
        self.published.change(|catalog| {
            let mut differs = catalog.put_policy(&collection.built_in());
            for namespace in changed {
                let translated = collection.translated(namespace);
                differs |= update_namespace(catalog, offered, namespace, translated);
            }
            if !is_same {
                differs |= update_gateways(catalog, of_gateways, resolved);
            }
            differs
        })
    }
}

fn update_namespace(
    catalog: &mut Catalog,
    all_offered: &mut BTreeMap<Arc<str>, BTreeSet<Name>>,
    namespace: &Arc<str>,
    translated: Option<&Translated>,
) -> bool {
    let mut differs = false;
    let mut offered = BTreeSet::new();
    let workloads = translated.iter().flat_map(|to| &to.workloads);
    for workload in workloads {
        differs |= catalog.put_workload(workload);
        offered.insert((ResourceType::Address, Arc::clone(&workload.uid)));
    }
    let services = translated.iter().flat_map(|to| &to.services);
    for service in services {
        differs |= catalog.put_service(service);
        let name = service.key().to_string().into();
        offered.insert((ResourceType::Address, name));
    }
    let policies = translated.iter().flat_map(|to| &to.policies);
    for policy in policies {
        differs |= catalog.put_policy(policy);
        offered.insert((ResourceType::Authorization, policy.key().0));
    }
    let before = all_offered.remove(namespace).unwrap_or_default();
    for (kind, name) in before.difference(&offered) {
        differs |= catalog.remove(*kind, name);
    }
    if !offered.is_empty() {
        all_offered.insert(Arc::clone(namespace), offered);
    }
    differs
}

/// Each gateway is offered itself, the routes that attach to it, the settings of backends, and the
/// policies of requests that concern it.
fn update_gateways(
    catalog: &mut Catalog,
    all_offered: &mut BTreeSet<Name>,
    resolved: &Resolved,
) -> bool {
    let mut differs = false;
    let mut offered = BTreeSet::new();
    for gateway in &resolved.gateways {
        differs |= catalog.put_gateway(gateway);
        let name = gateway.key.to_string().into();
        offered.insert((ResourceType::Gateway, name));
        let routes = resolved.routes.iter();
        for route in routes.filter(|route| concerns(gateway, route)) {
            differs |= catalog.put_route(&gateway.key, route);
            let name = agent_xds::route_name(&gateway.key, &route.key).into();
            offered.insert((ResourceType::Route, name));
        }
        let traffic = resolved.traffic.iter();
        for (_, policy) in traffic.filter(|(of, _)| *of == gateway.key) {
            differs |= catalog.put_traffic_policy(&gateway.key, policy);
            let name = agent_xds::policy_name(&gateway.key, &policy.key()).into();
            offered.insert((ResourceType::TrafficPolicy, name));
        }
        for backend in &resolved.backends {
            differs |= catalog.put_backend(&gateway.key, backend);
            let name = agent_xds::backend_name(&gateway.key, backend).into();
            offered.insert((ResourceType::Backend, name));
        }
    }
    for (gateway, policy) in &resolved.access {
        differs |= catalog.put_access(gateway, policy);
        let name = agent_xds::policy_name(gateway, &policy.key()).into();
        offered.insert((ResourceType::Access, name));
    }
    for (gateway, policy) in &resolved.authentications {
        differs |= catalog.put_authentication(gateway, policy);
        let name = agent_xds::policy_name(gateway, &policy.key()).into();
        offered.insert((ResourceType::Authentication, name));
    }
    for (kind, name) in all_offered.difference(&offered) {
        differs |= catalog.remove(*kind, name);
    }
    *all_offered = offered;
    differs
}

/// Routes of services concern every waypoint: which of them serves a service may change any moment,
/// and it must know the routes by then.
fn concerns(gateway: &Gateway, route: &Route) -> bool {
    let is_waypoint = matches!(gateway.kind, GatewayKind::Waypoint(_));
    route.parents.iter().any(|parent| match parent {
        Parent::Listener { gateway: key, .. } => *key == gateway.key,
        Parent::Service { .. } => is_waypoint,
    })
}

#[cfg(test)]
mod tests {
    use agent_model::NamespacedHostname;
    use agent_model::gateway::{Backend, GatewayKey, RouteKey, RouteKind, Rules, WaypointFor};

    use super::*;

    fn gateway(name: &str, kind: GatewayKind) -> Gateway {
        Gateway {
            key: GatewayKey::new("shop", name),
            kind,
            listeners: Vec::new(),
            backend_client_certificate: None,
        }
    }

    fn route(name: &str, parent: Parent) -> Route {
        Route {
            key: RouteKey::new(RouteKind::Http, "shop", name),
            created: 0,
            hostnames: Vec::new(),
            parents: vec![parent],
            rules: Rules::Http(Vec::new()),
        }
    }

    fn names(catalog: &Catalog, kind: ResourceType) -> Vec<String> {
        catalog.names(kind).map(ToString::to_string).collect()
    }

    #[test]
    fn each_gateway_is_offered_what_concerns_it_until_that_is_gone() {
        let service = NamespacedHostname::new("shop", "web");
        let at_edge = Parent::Listener {
            gateway: GatewayKey::new("shop", "edge"),
            name: "http".into(),
        };
        let in_mesh = Parent::Service {
            service: service.clone(),
            port: None,
            consumer_namespace: None,
        };
        let resolved = Resolved {
            gateways: vec![
                gateway("edge", GatewayKind::Edge),
                gateway("way", GatewayKind::Waypoint(WaypointFor::Service)),
            ],
            routes: vec![route("out", at_edge), route("in", in_mesh)],
            backends: vec![Backend {
                service,
                port: None,
                tls: None,
            }],
            ..Resolved::default()
        };
        let (mut catalog, mut offered) = (Catalog::default(), BTreeSet::new());
        assert!(update_gateways(&mut catalog, &mut offered, &resolved));
        let gateways = names(&catalog, ResourceType::Gateway);
        assert_eq!(gateways, ["shop/edge", "shop/way"]);
        assert_eq!(
            names(&catalog, ResourceType::Route),
            ["shop/edge|HTTPRoute/shop/out", "shop/way|HTTPRoute/shop/in"]
        );
        assert_eq!(names(&catalog, ResourceType::Backend).len(), 2);
        assert!(!update_gateways(&mut catalog, &mut offered, &resolved));
        let nothing = Resolved::default();
        assert!(update_gateways(&mut catalog, &mut offered, &nothing));
        assert!(catalog.is_empty());
    }
}
