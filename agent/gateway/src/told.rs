//! What the control plane has told this gateway, kept until it says otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agent_model::PolicyKey;
use agent_model::access::Access;
use agent_model::authentication::Authentication;
use agent_model::gateway::traffic::TrafficPolicy;
use agent_model::gateway::{Backend, Gateway, Route};
use agent_state::Writer;
use agent_xds::{Apply, Rejection, ResourceType, Update};
use tokio::sync::watch;

use crate::access::RequestPolicies;
use crate::names::Names;
use crate::plan::{Fault, Plan, Sources};
use crate::traffic;

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
    /// What is to be served, and what of it cannot be used as it is written. What has not changed
    /// since `before` is taken from it. Without a gateway everything is refused.
    pub fn plan(&self, before: Option<&Plan>) -> (Plan, Vec<Fault>) {
        let Some(gateway) = &self.gateway else {
            return (Plan::closed(before), Vec::new());
        };
        let routes: Vec<_> = self.routes.values().cloned().collect();
        let backends: Vec<_> = self.backends.values().cloned().collect();
        let (plan, mut faults) = Plan::compile(Sources {
            gateway,
            routes: &routes,
            backends: &backends,
            policies: &traffic::Policies::new(self.traffic.values()),
            before,
        });
        let (plan, wrong) = plan.guarded(&gateway.key, &self.policies());
        faults.extend(wrong);
        (plan, faults)
    }

    /// The policies. Of one that came in a form that cannot be read the last good version counts;
    /// where there is none, it is not known what it is for.
    fn policies(&self) -> RequestPolicies<'_> {
        let has_good = |kind: &ResourceType, name: &String| match kind {
            ResourceType::Access => self.access.contains_key(name),
            _ => self.authentications.contains_key(name),
        };
        let unreadable = self.unreadable.iter();
        let unreadable = unreadable.filter(|(kind, name)| !has_good(kind, name));
        RequestPolicies {
            access: self.access.values().map(AsRef::as_ref).collect(),
            authentications: self.authentications.values().map(AsRef::as_ref).collect(),
            unreadable: unreadable.map(|(_, name)| key_of(name)).collect(),
        }
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

/// The policy that a resource's name is about: what follows the gateway.
fn key_of(name: &str) -> PolicyKey {
    PolicyKey(name.rsplit('|').next().unwrap_or(name).into())
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
    use agent_model::gateway::{BackendTls, GatewayKey, GatewayKind, RouteKey, RouteKind, Rules};
    use agent_model::{NamespacedHostname, Reason, Workload};

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
    fn without_a_gateway_everything_is_refused_and_endpoints_are_reached_as_before() {
        let (writer, _mesh) = agent_state::channel();
        let (mut follower, told) = Follower::new(writer);
        let (nothing, faults) = told.borrow().plan(None);
        assert!(faults.is_empty() && nothing.guards().refusal().is_some());
        let service = NamespacedHostname::new("shop", "web");
        let secured = Backend {
            service: service.clone(),
            port: None,
            tls: Some(BackendTls::Invalid("no such roots".into())),
        };
        follower.apply(vec![gateway(), Update::Backend(key(), Box::new(secured))]);
        let (served, _) = told.borrow().plan(Some(&nothing));
        assert!(served.guards().refusal().is_none());
        assert!(served.origination(&service, 80).is_some());
        let gone = |kind, name: &str| Update::RemoveOfGateway(kind, name.to_owned());
        follower.apply(vec![
            gone(ResourceType::Gateway, "shop/edge"),
            gone(ResourceType::Backend, "shop/edge|shop/web"),
        ]);
        let (closed, _) = told.borrow().plan(Some(&served));
        let refusal = closed.guards().refusal().unwrap();
        assert_eq!(refusal.reason, Reason::WaypointUnavailable);
        assert!(closed.origination(&service, 80).is_some(), "never without");
        assert_eq!(closed.places().count(), 0);
    }

    #[test]
    fn an_unreadable_policy_refuses_until_it_is_gone_unless_a_good_version_is_held() {
        let (writer, _mesh) = agent_state::channel();
        let (mut follower, told) = Follower::new(writer);
        follower.apply(vec![gateway()]);
        let refuses = || {
            let (plan, faults) = told.borrow().plan(None);
            assert_eq!(faults, []);
            let guard = plan.guards().of_gateway();
            guard.is_some_and(|guard| guard.refuses_everything().is_some())
        };
        assert!(!refuses());
        for kind in [ResourceType::Access, ResourceType::Authentication] {
            let name = "shop/edge|shop/p".to_owned();
            follower.apply(vec![Update::RejectedOfGateway(kind, name.clone())]);
            assert!(refuses());
            follower.apply(vec![Update::RemoveOfGateway(kind, name)]);
            assert!(!refuses());
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
        let name = "shop/edge|shop/p".to_owned();
        follower.apply(vec![Update::RejectedOfGateway(ResourceType::Access, name)]);
        assert!(!refuses(), "the last good version is in force");
    }
}
