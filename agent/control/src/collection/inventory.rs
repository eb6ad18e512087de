//! The objects as they are at one moment, for whoever looks at all of them for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::source::Object;
use crate::source::istio::MeshConfigObject;
use crate::source::kubernetes::{Namespace, Node};
use crate::translate::service_entry::EntryHosts;
use crate::translate::waypoint::Waypoints;
use crate::translate::{ByName, Captured, Endpoints, Mesh, Objects, Scope};

/// The objects, shared with the collection they are of.
#[derive(Debug, Clone)]
pub(crate) struct Inventory {
    pub(crate) mesh: Mesh,
    pub(crate) namespaces: ByName<Namespace>,
    pub(crate) objects: BTreeMap<Arc<str>, Arc<Objects>>,
    pub(crate) mesh_config: Option<Arc<MeshConfigObject>>,
    pub(crate) waypoints: Arc<Waypoints>,
}

impl Inventory {
    /// True when what is not here is nowhere: a cluster is seen as a whole, while manifests may
    /// be some of many.
    pub(crate) fn is_whole(&self) -> bool {
        self.mesh.endpoints == Endpoints::Given
    }

    /// The objects of a namespace.
    pub(crate) fn of(&self, namespace: &str) -> Option<&Objects> {
        self.objects.get(namespace).map(|objects| &**objects)
    }

    /// Every namespace that is an object or has one.
    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        let names = self.namespaces.keys().chain(self.objects.keys());
        let names: BTreeSet<&Arc<str>> = names.collect();
        names.into_iter().cloned().collect()
    }

    /// A namespace as translation sees it, but for nodes, networks, and what other namespaces or
    /// the nodes' reports say.
    pub(crate) fn scope<'a>(&'a self, namespace: &'a str) -> Scope<'a> {
        static NOTHING: Objects = Objects::NONE;
        static NODES: ByName<Node> = ByName::new();
        static CAPTURED: Captured = Captured(BTreeMap::new());
        static HOSTS: EntryHosts = EntryHosts::NONE;
        Scope {
            mesh: &self.mesh,
            name: namespace,
            namespace: self.namespaces.get(namespace).map(|object| &**object),
            nodes: &NODES,
            objects: self.of(namespace).unwrap_or(&NOTHING),
            root: self.of(&self.mesh.root_namespace).unwrap_or(&NOTHING),
            network: "",
            captured: &CAPTURED,
            entry_hosts: &HOSTS,
            waypoints: &self.waypoints,
        }
    }

    /// Lays an object over those that are here.
    pub(crate) fn lay_over(&mut self, object: &Object) {
        let reference = object.reference();
        let name = reference.name;
        if let Object::Namespace(namespace) = object {
            self.namespaces.insert(name, Arc::clone(namespace));
            return;
        }
        let objects = self.objects.entry(reference.namespace).or_default();
        let objects = Arc::make_mut(objects);
        match object {
            Object::Pod(pod) => {
                objects.pods.insert(name, Arc::clone(pod));
            }
            Object::AuthorizationPolicy(policy) => {
                let table = &mut objects.authorization_policies;
                table.insert(name, Arc::clone(policy));
            }
            Object::PeerAuthentication(policy) => {
                let table = &mut objects.peer_authentications;
                table.insert(name, Arc::clone(policy));
            }
            Object::RequestAuthentication(policy) => {
                let table = &mut objects.request_authentications;
                table.insert(name, Arc::clone(policy));
            }
            Object::ServiceEntry(entry) => {
                objects.service_entries.insert(name, Arc::clone(entry));
            }
            Object::WorkloadEntry(entry) => {
                objects.workload_entries.insert(name, Arc::clone(entry));
            }
            // The rest decides nothing here that is asked of a laid over object.
            _ => {}
        }
    }
}
