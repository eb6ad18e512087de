//! What the control plane has told this gateway, kept until it says otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agent_model::access::Access;
use agent_model::authentication::Authentication;
use agent_model::gateway::traffic::TrafficPolicy;
use agent_model::gateway::{Backend, Filter, Gateway, Route, Rules};
use agent_state::Writer;
use agent_xds::{Apply, Rejection, ResourceType, Update};
use tokio::sync::watch;

use crate::names::Names;

/// The gateway's own part of what it is told; clones share it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The gateway, once and as long as the control plane knows it.
    pub gateway: Option<Arc<Gateway>>,
    /// Routes by the name of their resource.
    pub routes: BTreeMap<String, Arc<Route>>,
    /// Settings of backends by the name of their resource.
    pub backends: BTreeMap<String, Arc<Backend>>,
    /// Request policies by the name of their resource.
    pub access: BTreeMap<String, Arc<Access>>,
    /// What says which tokens count, by the name of its resource.
    pub authentications: BTreeMap<String, Arc<Authentication>>,
    /// Traffic policies by the name of their resource.
    pub traffic: BTreeMap<String, Arc<TrafficPolicy>>,
    /// Policies that were sent and cannot be read.
    pub unreadable: BTreeSet<(ResourceType, String)>,
}

/// Takes updates: addresses go to the mesh, everything else is kept here. A batch is told as a
/// whole, and only when it changed something.
#[derive(Debug)]
pub struct Follower {
    mesh: Names,
    told: watch::Sender<Told>,
}

impl Follower {
    /// A follower that knows nothing yet, and what it will know.
    pub fn new(mesh: Writer) -> (Self, watch::Receiver<Told>) {
        let (told, receiver) = watch::channel(Told::default());
        let mesh = Names::new(mesh);
        (Self { mesh, told }, receiver)
    }

    /// The endpoints that are known by name, for whoever looks names up.
    pub fn names(&self) -> Names {
        self.mesh.clone()
    }
}

impl Apply for Follower {
    fn apply(&mut self, updates: Vec<Update>) -> Vec<Rejection> {
        let (own, mesh): (Vec<_>, Vec<_>) = updates.into_iter().partition(is_of_gateway);
        // Endpoints before the routes that lead to them.
        let rejections = self.mesh.apply(mesh);
        self.told.send_if_modified(|told| {
            let mut has_changed = false;
            for update in own {
                has_changed |= told.take(update);
            }
            has_changed
        });
        rejections
    }
}

fn is_of_gateway(update: &Update) -> bool {
    matches!(
        update,
        Update::Gateway(_)
            | Update::Route(..)
            | Update::Backend(..)
            | Update::Access(..)
            | Update::Authentication(..)
            | Update::TrafficPolicy(..)
            | Update::RejectedOfGateway(..)
            | Update::RemoveOfGateway(..)
    )
}

impl Told {
    /// The routes. Where policies for requests are told, every rule is invalid: they are not
    /// enforced yet, and nothing may pass them by.
    pub fn routes(&self) -> impl Iterator<Item = Arc<Route>> {
        let is_guarded = self.is_guarded();
        self.routes.values().map(move |route| {
            if !is_guarded {
                return Arc::clone(route);
            }
            let mut changed = Route::clone(route);
            if let Rules::Http(rules) = &mut changed.rules {
                for rule in rules {
                    let why = "policies for requests are not enforced yet";
                    rule.filters.insert(0, Filter::Invalid(why.into()));
                }
            }
            Arc::new(changed)
        })
    }

    /// What is said of backends.
    pub fn backends(&self) -> impl Iterator<Item = Arc<Backend>> {
        self.backends.values().cloned()
    }

    /// True when somebody wants to say who may send requests.
    fn is_guarded(&self) -> bool {
        !(self.access.is_empty() && self.authentications.is_empty() && self.unreadable.is_empty())
    }

    /// True when it is news.
    fn take(&mut self, update: Update) -> bool {
        let name = update.resource_name();
        match update {
            Update::Gateway(gateway) => replace(&mut self.gateway, Some(Arc::from(gateway))),
            Update::Route(_, route) => put(&mut self.routes, name, Arc::from(route)),
            Update::Backend(_, backend) => put(&mut self.backends, name, Arc::from(backend)),
            Update::Access(_, policy) => {
                self.unreadable
                    .remove(&(ResourceType::Access, name.clone()));
                put(&mut self.access, name, Arc::from(policy))
            }
            Update::Authentication(_, policy) => {
                let key = (ResourceType::Authentication, name.clone());
                self.unreadable.remove(&key);
                put(&mut self.authentications, name, Arc::from(policy))
            }
            Update::TrafficPolicy(_, policy) => put(&mut self.traffic, name, Arc::from(policy)),
            Update::RejectedOfGateway(kind, name) => self.unreadable.insert((kind, name)),
            Update::RemoveOfGateway(kind @ ResourceType::Access, name) => {
                let was_unreadable = self.unreadable.remove(&(kind, name.clone()));
                self.access.remove(&name).is_some() || was_unreadable
            }
            Update::RemoveOfGateway(kind @ ResourceType::Authentication, name) => {
                let was_unreadable = self.unreadable.remove(&(kind, name.clone()));
                self.authentications.remove(&name).is_some() || was_unreadable
            }
            Update::RemoveOfGateway(ResourceType::Gateway, _) => replace(&mut self.gateway, None),
            Update::RemoveOfGateway(ResourceType::Route, _) => self.routes.remove(&name).is_some(),
            Update::RemoveOfGateway(ResourceType::TrafficPolicy, _) => {
                self.traffic.remove(&name).is_some()
            }
            Update::RemoveOfGateway(ResourceType::Backend, _) => {
                self.backends.remove(&name).is_some()
            }
            _ => false,
        }
    }
}

fn replace<T: PartialEq>(place: &mut T, value: T) -> bool {
    let is_news = *place != value;
    *place = value;
    is_news
}

fn put<T: PartialEq>(map: &mut BTreeMap<String, T>, name: String, value: T) -> bool {
    if map.get(&name) == Some(&value) {
        return false;
    }
    map.insert(name, value);
    true
}

#[cfg(test)]
mod tests {
    use agent_model::gateway::{GatewayKey, GatewayKind, HttpRule, RouteKey, RouteKind};
    use agent_model::{NamespacedHostname, Workload};

    use super::*;

    fn key() -> GatewayKey {
        GatewayKey::new("shop", "edge")
    }

    fn gateway() -> Update {
        Update::Gateway(Box::new(Gateway {
            key: key(),
            kind: GatewayKind::Edge,
            listeners: Vec::new(),
            backend_client_certificate: None,
        }))
    }

    fn route(created: u64) -> Update {
        let route = Route {
            key: RouteKey::new(RouteKind::Http, "shop", "web"),
            created,
            hostnames: Vec::new(),
            parents: Vec::new(),
            rules: Rules::Http(Vec::new()),
        };
        Update::Route(key(), Box::new(route))
    }

    fn backend() -> Update {
        let backend = Backend {
            service: NamespacedHostname::new("shop", "web"),
            port: None,
            tls: None,
        };
        Update::Backend(key(), Box::new(backend))
    }

    fn traffic() -> Update {
        let policy = TrafficPolicy {
            namespace: "shop".into(),
            name: "p".into(),
            ..TrafficPolicy::default()
        };
        Update::TrafficPolicy(key(), Box::new(policy))
    }

    #[test]
    fn what_is_told_is_kept_until_it_is_taken_back() {
        let (writer, mesh) = agent_state::channel();
        let (mut follower, mut told) = Follower::new(writer);
        let workload = Update::Workload(Box::new(Workload {
            uid: "w".into(),
            ..Workload::default()
        }));
        assert!(follower.apply(vec![workload]).is_empty());
        assert!(mesh.load().workload("w").is_some());
        assert!(!told.has_changed().unwrap(), "addresses are the mesh's");

        follower.apply(vec![backend(), traffic(), gateway(), route(1)]);
        let known = told.borrow_and_update().clone();
        assert!(known.gateway.is_some());
        assert_eq!((known.routes.len(), known.backends.len()), (1, 1));
        assert_eq!(known.traffic.len(), 1);

        follower.apply(vec![backend(), gateway(), route(1)]);
        assert!(!told.has_changed().unwrap(), "nothing new was told");
        follower.apply(vec![route(2)]);
        assert!(told.has_changed().unwrap());

        let gone = |kind, name: &str| Update::RemoveOfGateway(kind, name.to_owned());
        follower.apply(vec![
            gone(ResourceType::Route, "shop/edge|HTTPRoute/shop/web"),
            gone(ResourceType::Gateway, "shop/edge"),
            gone(ResourceType::Backend, "shop/edge|shop/web"),
            gone(ResourceType::TrafficPolicy, "shop/edge|shop/p"),
        ]);
        assert_eq!(*told.borrow(), Told::default());
    }

    #[test]
    fn nothing_passes_a_policy_by_that_is_not_enforced() {
        let (writer, _mesh) = agent_state::channel();
        let (mut follower, told) = Follower::new(writer);
        let with_rule = |created| match route(created) {
            Update::Route(key, mut route) => {
                route.rules = Rules::Http(vec![HttpRule::default()]);
                Update::Route(key, route)
            }
            other => other,
        };
        follower.apply(vec![with_rule(1)]);
        let is_open = || {
            let routes: Vec<_> = told.borrow().routes().collect();
            let Rules::Http(rules) = &routes[0].rules else {
                panic!("{routes:?}");
            };
            rules[0].filters.is_empty()
        };
        assert!(is_open());
        for kind in [ResourceType::Access, ResourceType::Authentication] {
            let name = "shop/edge|shop/p".to_owned();
            follower.apply(vec![Update::RejectedOfGateway(kind, name.clone())]);
            assert!(!is_open());
            follower.apply(vec![Update::RemoveOfGateway(kind, name)]);
            assert!(is_open());
        }
        let policy = Access {
            name: "p".into(),
            namespace: "shop".into(),
            targets: Vec::new(),
            action: agent_model::Action::Deny,
            rules: Vec::new(),
            dry_run: false,
        };
        follower.apply(vec![Update::Access(key(), Box::new(policy))]);
        assert!(!is_open());
    }
}
