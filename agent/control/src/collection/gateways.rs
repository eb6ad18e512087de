//! The objects of the Gateway API, which are resolved together, and when that is to be done again.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use crate::gateway::{
    GATEWAY_NAME, Heard, Resolved, Tables, World, resolve, waypoints, without_gateways,
};
use crate::source::kubernetes::{Metadata, Namespace};
use crate::source::{Kind, Object, ObjectRef};
use crate::translate::waypoint::Waypoints;
use crate::translate::{ByName, Mesh, Objects};

/// The objects and what they come to.
#[derive(Debug, Default)]
pub(super) struct Gateways {
    tables: Tables,
    waypoints: Arc<Waypoints>,
    resolved: Arc<Resolved>,
    /// What gateways have taken of which nobody knows the pods.
    heard: Heard,
    is_dirty: bool,
}

impl Gateways {
    /// Takes a change; [`Self::settle`] makes it count. True when the object is of a kind that is
    /// held here, false when it only may matter.
    pub(super) fn put(
        &mut self,
        reference: &ObjectRef,
        object: Option<&Object>,
        before: Option<&Arc<Objects>>,
    ) -> bool {
        if self.tables.put(reference, object) {
            self.is_dirty = true;
            return true;
        }
        self.is_dirty |= match reference.kind {
            Kind::Namespace | Kind::Service | Kind::ServiceEntry => true,
            // They say who enforces what, and with it what a waypoint is for.
            Kind::AuthorizationPolicy | Kind::RequestAuthentication => true,
            // There are many, and hardly any is of a gateway.
            Kind::Pod => {
                let of_gateway = |metadata: &Metadata| metadata.labels.contains_key(GATEWAY_NAME);
                let before = before.and_then(|objects| objects.pods.get(&reference.name));
                before.is_some_and(|pod| of_gateway(&pod.metadata))
                    || object.is_some_and(|object| of_gateway(object.metadata()))
            }
            _ => false,
        };
        false
    }

    /// Takes what is heard of gateways; [`Self::settle`] makes it count. True when it is news.
    pub(super) fn hear(&mut self, heard: Heard) -> bool {
        let is_news = self.heard != heard;
        self.heard = heard;
        self.is_dirty |= is_news;
        is_news
    }

    /// Resolves what changes touched. True when what is behind a waypoint may be another now.
    pub(super) fn settle(
        &mut self,
        mesh: &Mesh,
        namespaces: &ByName<Namespace>,
        objects: &BTreeMap<Arc<str>, Arc<Objects>>,
    ) -> bool {
        if !mem::take(&mut self.is_dirty) {
            return false;
        }
        let world = World {
            tables: &self.tables,
            mesh,
            namespaces,
            objects,
            heard: &self.heard,
        };
        let (found, resolved) = if self.tables.is_idle() {
            (Waypoints::NONE, without_gateways(&world))
        } else {
            (waypoints(&world), resolve(&world))
        };
        if *self.resolved != resolved {
            self.resolved = Arc::new(resolved);
        }
        let are_moved = *self.waypoints != found;
        if are_moved {
            self.waypoints = Arc::new(found);
        }
        are_moved
    }

    pub(super) fn waypoints(&self) -> &Arc<Waypoints> {
        &self.waypoints
    }

    pub(super) fn resolved(&self) -> &Arc<Resolved> {
        &self.resolved
    }

    pub(super) fn has_class(&self, name: &str) -> bool {
        self.tables.has_class(name)
    }

    /// Number of objects held, by kind.
    pub(super) fn counts(&self) -> impl Iterator<Item = (Kind, usize)> {
        self.tables.counts()
    }
}
