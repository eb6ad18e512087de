//! The objects of the Gateway API, of all namespaces.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::source::gateway_api::{
    BackendTlsPolicy, ConfigMap, Gateway, GatewayClass, ListenerSet, ReferenceGrant, Route, Secret,
};
use crate::source::traffic::TrafficPolicyObject;
use crate::source::{Kind, Object, ObjectRef};

/// Namespace and name.
pub(crate) type Key = (Arc<str>, Arc<str>);

/// The objects, by kind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables {
    pub(super) classes: BTreeMap<Arc<str>, Arc<GatewayClass>>,
    pub(super) gateways: BTreeMap<Key, Arc<Gateway>>,
    pub(super) sets: BTreeMap<Key, Arc<ListenerSet>>,
    pub(super) routes: BTreeMap<(Kind, Arc<str>, Arc<str>), Arc<Route>>,
    pub(super) grants: BTreeMap<Key, Arc<ReferenceGrant>>,
    pub(super) policies: BTreeMap<Key, Arc<BackendTlsPolicy>>,
    pub(super) traffic: BTreeMap<Key, Arc<TrafficPolicyObject>>,
    pub(super) secrets: BTreeMap<Key, Arc<Secret>>,
    pub(super) config_maps: BTreeMap<Key, Arc<ConfigMap>>,
}

impl Tables {
    /// Takes a new, changed or (`None`) deleted object. False when it is of no kind that belongs
    /// here.
    pub(crate) fn put(&mut self, reference: &ObjectRef, object: Option<&Object>) -> bool {
        let key = || (reference.namespace.clone(), reference.name.clone());
        macro_rules! set {
            ($table:ident, $key:expr, $pattern:pat => $object:ident) => {{
                let key = $key;
                match object {
                    Some($pattern) => {
                        self.$table.insert(key, Arc::clone($object));
                    }
                    _ => {
                        self.$table.remove(&key);
                    }
                }
            }};
        }
        match reference.kind {
            Kind::GatewayClass => {
                set!(classes, reference.name.clone(), Object::GatewayClass(it) => it);
            }
            Kind::Gateway => set!(gateways, key(), Object::Gateway(it) => it),
            Kind::ListenerSet => set!(sets, key(), Object::ListenerSet(it) => it),
            kind if Kind::ROUTES.contains(&kind) => {
                let (namespace, name) = key();
                set!(routes, (kind, namespace, name), Object::Route(_, it) => it);
            }
            Kind::ReferenceGrant => set!(grants, key(), Object::ReferenceGrant(it) => it),
            Kind::BackendTLSPolicy => set!(policies, key(), Object::BackendTLSPolicy(it) => it),
            Kind::TrafficPolicy => set!(traffic, key(), Object::TrafficPolicy(it) => it),
            Kind::Secret => set!(secrets, key(), Object::Secret(it) => it),
            Kind::ConfigMap => set!(config_maps, key(), Object::ConfigMap(it) => it),
            _ => return false,
        }
        true
    }

    /// True when nothing is to be resolved, whatever else there is: there is no class of ours.
    pub(crate) fn is_idle(&self) -> bool {
        !self
            .classes
            .values()
            .any(|class| super::class::is_ours(class))
    }

    pub(crate) fn has_class(&self, name: &str) -> bool {
        self.classes.contains_key(name)
    }

    /// Number of objects held, by kind.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (Kind, usize)> {
        let routes = Kind::ROUTES.map(|kind| {
            let of_kind = self.routes.keys().filter(|(of, ..)| *of == kind);
            (kind, of_kind.count())
        });
        let others = [
            (Kind::GatewayClass, self.classes.len()),
            (Kind::Gateway, self.gateways.len()),
            (Kind::ListenerSet, self.sets.len()),
            (Kind::ReferenceGrant, self.grants.len()),
            (Kind::BackendTLSPolicy, self.policies.len()),
            (Kind::TrafficPolicy, self.traffic.len()),
            (Kind::Secret, self.secrets.len()),
            (Kind::ConfigMap, self.config_maps.len()),
        ];
        routes.into_iter().chain(others)
    }
}
