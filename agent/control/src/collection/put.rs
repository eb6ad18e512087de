//! One object into the collection or out of it, and which namespaces have to be redone for it.

use std::sync::Arc;

use super::Collection;
use crate::source::istio::MeshConfigObject;
use crate::source::kubernetes::{Namespace, Node};
use crate::source::{Kind, Object, ObjectRef};
use crate::translate::{ByName, Translated, workload};

impl Collection {
    /// Takes an object as it is now; `None` is one that is gone.
    pub(super) fn put(&mut self, reference: &ObjectRef, object: Option<Object>) {
        let name = &reference.name;
        let before = self.objects.get(&reference.namespace);
        if self.gateways.put(reference, object.as_ref(), before) {
            return;
        }
        match reference.kind {
            Kind::Namespace => {
                let network = self.network().to_owned();
                set(&mut self.namespaces, name, object, as_namespace);
                self.dirty.insert(Arc::clone(name));
                self.all_dirty |= self.network() != network;
                return;
            }
            Kind::Node => {
                let before = workload::locality(self.nodes.get(name).map(|node| &**node));
                set(&mut self.nodes, name, object, as_node);
                if workload::locality(self.nodes.get(name).map(|node| &**node)) != before {
                    self.mark_pods_of(name);
                }
                return;
            }
            Kind::MeshConfig => {
                self.mesh_config = object.and_then(|object| as_mesh_config(&object));
                return;
            }
            _ => {}
        }
        let namespace = &reference.namespace;
        self.dirty.insert(Arc::clone(namespace));
        // Nothing else of the root namespace is read for another one; its pods, the agents among
        // them, come and go like all others.
        let is_policy = matches!(
            reference.kind,
            Kind::AuthorizationPolicy | Kind::PeerAuthentication
        );
        self.all_dirty |= is_policy && **namespace == *self.mesh.root_namespace;
        let objects = self.objects.entry(Arc::clone(namespace)).or_default();
        let objects = Arc::make_mut(objects);
        match reference.kind {
            Kind::Pod => set(&mut objects.pods, name, object, as_pod),
            Kind::Service => set(&mut objects.services, name, object, as_service),
            Kind::EndpointSlice => set(&mut objects.slices, name, object, as_slice),
            Kind::ServiceAccount => {
                set(
                    &mut objects.service_accounts,
                    name,
                    object,
                    as_service_account,
                );
            }
            Kind::AuthorizationPolicy => {
                set(
                    &mut objects.authorization_policies,
                    name,
                    object,
                    as_authorization,
                );
            }
            Kind::PeerAuthentication => {
                set(
                    &mut objects.peer_authentications,
                    name,
                    object,
                    as_peer_authentication,
                );
            }
            Kind::RequestAuthentication => {
                set(
                    &mut objects.request_authentications,
                    name,
                    object,
                    as_request_authentication,
                );
            }
            Kind::ServiceEntry => {
                let old = objects.service_entries.get(name).cloned();
                set(&mut objects.service_entries, name, object, as_service_entry);
                let new = objects.service_entries.get(name).map(|new| &**new);
                let touched = self.entry_hosts.put(reference, old.as_deref(), new);
                self.dirty.extend(touched);
            }
            Kind::WorkloadEntry => {
                set(
                    &mut objects.workload_entries,
                    name,
                    object,
                    as_workload_entry,
                );
            }
            _ => {}
        }
        if objects.is_empty() {
            self.objects.remove(namespace);
        }
    }

    /// Marks the namespaces with a workload on the node. Who has none yet is marked for its own
    /// sake.
    fn mark_pods_of(&mut self, node: &str) {
        let has_one = |translated: &Translated| {
            let mut workloads = translated.workloads.iter();
            workloads.any(|workload| *workload.node == *node)
        };
        let with_one = self.translated.iter().filter(|(_, of)| has_one(of));
        self.dirty
            .extend(with_one.map(|(namespace, _)| Arc::clone(namespace)));
    }
}

fn set<T>(
    table: &mut ByName<T>,
    name: &Arc<str>,
    object: Option<Object>,
    pick: impl Fn(&Object) -> Option<Arc<T>>,
) {
    match object.and_then(|object| pick(&object)) {
        Some(object) => {
            table.insert(Arc::clone(name), object);
        }
        None => {
            table.remove(name);
        }
    }
}

macro_rules! picks {
    ($($name:ident: $variant:ident -> $kind:ty;)*) => {$(
        fn $name(object: &Object) -> Option<Arc<$kind>> {
            match object {
                Object::$variant(object) => Some(Arc::clone(object)),
                _ => None,
            }
        }
    )*};
}

picks! {
    as_namespace: Namespace -> Namespace;
    as_node: Node -> Node;
    as_request_authentication: RequestAuthentication -> crate::source::istio::RequestAuthentication;
    as_mesh_config: MeshConfig -> MeshConfigObject;
    as_pod: Pod -> crate::source::kubernetes::Pod;
    as_service: Service -> crate::source::kubernetes::Service;
    as_slice: EndpointSlice -> crate::source::kubernetes::EndpointSlice;
    as_service_account: ServiceAccount -> crate::source::kubernetes::ServiceAccount;
    as_authorization: AuthorizationPolicy -> crate::source::istio::AuthorizationPolicy;
    as_peer_authentication: PeerAuthentication -> crate::source::istio::PeerAuthentication;
    as_service_entry: ServiceEntry -> crate::source::istio::ServiceEntry;
    as_workload_entry: WorkloadEntry -> crate::source::istio::WorkloadEntry;
}
