//! Holds the objects and keeps their translation up to date. What a namespace becomes depends on
//! its own objects, the nodes and the root namespace, so a change redoes the namespaces it
//! touches and no others. Pure: events in, translation out.

mod gateways;
mod guards;
mod inventory;
mod placement;
mod put;
#[cfg(test)]
mod tests;

use gateways::Gateways;
use guards::Changing;
pub(crate) use inventory::Inventory;
pub(crate) use placement::{Placement, PodsOfNode};

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use agent_model::gateway::GatewayKey;
use agent_model::{Authorization, Identity, PodProgress, PodReport};

use crate::code::Code;
use crate::gateway::{Heard, Resolved};
use crate::source::istio::MeshConfigObject;
use crate::source::kubernetes::{Namespace, Node};
use crate::source::{Event, Kind, ObjectRef};
use crate::translate::service_entry::EntryHosts;
use crate::translate::{
    self, ByName, Captured, Mesh, Note, Objects, Scope, Translated, enrolment, guard,
    peer_authentication, workload,
};

/// Names the network of a cluster, on the root namespace.
const NETWORK_LABEL: &str = "topology.istio.io/network";

/// The objects and what they become.
#[derive(Debug)]
pub(crate) struct Collection {
    mesh: Mesh,
    namespaces: ByName<Namespace>,
    nodes: ByName<Node>,
    mesh_config: Option<Arc<MeshConfigObject>>,
    entry_hosts: EntryHosts,
    /// Shared with whoever looks at all of them for a while; see [`Self::inventory`].
    objects: BTreeMap<Arc<str>, Arc<Objects>>,
    translated: BTreeMap<Arc<str>, Translated>,
    node_identities: NodeIdentities,
    placement: Placement,
    is_placement_new: bool,
    captured: Captured,
    gateways: Gateways,
    guards: Changing,
    dirty: BTreeSet<Arc<str>>,
    all_dirty: bool,
}

/// Identities of the pods scheduled on each node, by namespace for cheap replacement.
type NodeIdentities = BTreeMap<Arc<str>, BTreeMap<Arc<str>, BTreeSet<Identity>>>;

/// What a namespace becomes: for all nodes, the identities on each node, the pods of each node,
/// and whether it is meshed.
type Redone = (
    Translated,
    Vec<(Arc<str>, Identity)>,
    Vec<(Arc<str>, enrolment::NodePod)>,
    bool,
);

impl Collection {
    pub(crate) fn new(mesh: Mesh) -> Self {
        Self {
            mesh,
            namespaces: ByName::new(),
            nodes: ByName::new(),
            mesh_config: None,
            entry_hosts: EntryHosts::default(),
            objects: BTreeMap::new(),
            translated: BTreeMap::new(),
            node_identities: NodeIdentities::new(),
            placement: Placement::default(),
            is_placement_new: false,
            captured: Captured::default(),
            gateways: Gateways::default(),
            guards: Changing::default(),
            dirty: BTreeSet::new(),
            all_dirty: false,
        }
    }

    /// Takes a change; [`Self::settle`] makes it count.
    pub(crate) fn apply(&mut self, event: Event) {
        match event {
            Event::Apply(object) => {
                let reference = object.reference();
                self.put(&reference, Some(object));
            }
            Event::Delete(reference) => self.put(&reference, None),
        }
    }

    /// [`Self::settle_at`] this moment.
    pub(crate) fn settle(&mut self) -> Vec<Arc<str>> {
        self.settle_at(Instant::now())
    }

    /// Redoes what changes touched. Returns the namespaces whose translation is different now; at
    /// [`Self::next_turn`] more may be.
    pub(crate) fn settle_at(&mut self, now: Instant) -> Vec<Arc<str>> {
        self.dirty.extend(self.guards.due(now));
        let are_moved = self
            .gateways
            .settle(&self.mesh, &self.namespaces, &self.objects);
        self.all_dirty |= are_moved;
        let dirty = mem::take(&mut self.dirty);
        let mut todo: BTreeSet<Arc<str>> = dirty;
        if mem::take(&mut self.all_dirty) {
            todo.extend(self.objects.keys().chain(self.namespaces.keys()).cloned());
            todo.extend(self.translated.keys().cloned());
        }
        let mut changed = Vec::new();
        for namespace in todo {
            self.forget_captured(&namespace);
            let (mut translated, identities, pods, is_meshed) = self.translate(&namespace);
            let wanted = mem::take(&mut translated.guards);
            let before = self.translated.get(&namespace);
            let guards = self.guards.replace(&namespace, wanted, before, now);
            guard::enforce(&self.mesh, &namespace, &guards, &mut translated);
            self.replace_identities(&namespace, identities);
            self.is_placement_new |= self.placement.replace(&namespace, pods, is_meshed);
            if self.translated.get(&namespace) == Some(&translated) {
                continue;
            }
            if translated == Translated::default() {
                if self.translated.remove(&namespace).is_none() {
                    continue;
                }
            } else {
                self.translated.insert(Arc::clone(&namespace), translated);
            }
            changed.push(namespace);
        }
        changed
    }

    /// When [`Self::settle`] has to be called again though nothing was applied.
    pub(crate) fn next_turn(&self) -> Option<Instant> {
        self.guards.next_turn()
    }

    /// What a namespace becomes; `None` when it has nothing.
    pub(crate) fn translated(&self, namespace: &str) -> Option<&Translated> {
        self.translated.get(namespace)
    }

    /// Every namespace that is not on its way out.
    pub(crate) fn live_namespaces(&self) -> impl Iterator<Item = Arc<str>> {
        let live = self
            .namespaces
            .iter()
            .filter(|(_, namespace)| namespace.metadata.deletion_timestamp.is_none());
        live.map(|(name, _)| Arc::clone(name))
    }

    /// The nodes with a pod that runs, or is to run, as one of these accounts (namespace, name).
    pub(crate) fn nodes_of<'a>(
        &self,
        accounts: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> BTreeSet<Arc<str>> {
        let mut nodes = BTreeSet::new();
        for (namespace, name) in accounts {
            let pods = self.objects.get(namespace).map(|objects| &objects.pods);
            let pods = pods.into_iter().flat_map(BTreeMap::values).filter(|pod| {
                pod.service_account() == name
                    && !pod.spec.node_name.is_empty()
                    && !pod.is_terminal()
                    && pod.metadata.deletion_timestamp.is_none()
            });
            nodes.extend(pods.map(|pod| pod.spec.node_name.as_str().into()));
        }
        nodes
    }

    /// Namespaces that become something.
    #[cfg(test)]
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.translated.keys().map(|namespace| &**namespace)
    }

    /// The pods of each node, when [`Self::settle`] changed them since the last call.
    pub(crate) fn new_placement(&mut self) -> Option<Placement> {
        mem::take(&mut self.is_placement_new).then(|| self.placement.clone())
    }

    /// Takes a node's word on its pods; [`Self::settle`] makes it count. A pod counts as captured
    /// from then on until its node says otherwise: that a node's stream ended changes nothing.
    pub(crate) fn report(&mut self, node: &str, reports: &[PodReport]) {
        let is_captured = |report: &&PodReport| {
            matches!(report.state, PodProgress::Enrolled | PodProgress::Verified)
        };
        let captured: BTreeMap<(&str, &str), &PodReport> = reports
            .iter()
            .filter(is_captured)
            .map(|report| ((&*report.namespace, &*report.name), report))
            .collect();
        // A node has a say on the pods that are bound to it, and on no others.
        for (namespace, pods) in &*self.placement.of_node(node) {
            let known = self.captured.0.entry(Arc::clone(namespace)).or_default();
            let mut differs = false;
            for of_node in &**pods {
                let metadata = &of_node.pod.metadata;
                let report = captured.get(&(&**namespace, metadata.name.as_str()));
                let report = report.filter(|report| of_node.pod.is_meant_by(report));
                differs |= match report {
                    Some(_) => {
                        let uid: Arc<str> = metadata.uid.as_str().into();
                        let before = known.insert(metadata.name.as_str().into(), Arc::clone(&uid));
                        before != Some(uid)
                    }
                    None => known.remove(metadata.name.as_str()).is_some(),
                };
            }
            if differs && self.mesh.waits_for_capture {
                self.dirty.insert(Arc::clone(namespace));
            }
        }
    }

    /// Takes what is heard of gateways; [`Self::settle`] makes it count. True when it is news.
    pub(crate) fn hear(&mut self, heard: Heard) -> bool {
        self.gateways.hear(heard)
    }

    /// Forgets that pods were captured that are no more.
    fn forget_captured(&mut self, namespace: &str) {
        let Some(known) = self.captured.0.get_mut(namespace) else {
            return;
        };
        let pods = self.objects.get(namespace).map(|objects| &objects.pods);
        known.retain(|name, _| pods.is_some_and(|pods| pods.contains_key(name)));
        if known.is_empty() {
            self.captured.0.remove(namespace);
        }
    }

    /// Policies of no namespace in particular.
    pub(crate) fn built_in(&self) -> Authorization {
        peer_authentication::static_strict(&self.mesh)
    }

    /// True when a pod of the mesh with this identity is scheduled on the node.
    pub(crate) fn is_on_node(&self, node: &str, identity: &Identity) -> bool {
        let namespaces = self.node_identities.get(node);
        let identities = namespaces.and_then(|by_namespace| by_namespace.get(identity.namespace()));
        identities.is_some_and(|identities| identities.contains(identity))
    }

    /// True for the identity of a gateway that exists: the service account it runs as has its name.
    pub(crate) fn is_of_gateway(&self, gateway: &GatewayKey, identity: &Identity) -> bool {
        let own = Identity::new(&self.mesh.trust_domain, &gateway.namespace, &gateway.name);
        own.as_ref() == Ok(identity) && self.has_gateway(gateway)
    }

    /// True for a Gateway of one of our classes.
    pub(crate) fn has_gateway(&self, key: &GatewayKey) -> bool {
        let mut gateways = self.gateways().gateways.iter();
        gateways.any(|known| known.key == *key)
    }

    /// True when there is a GatewayClass of this name, whoever serves it.
    pub(crate) fn has_gateway_class(&self, name: &str) -> bool {
        self.gateways.has_class(name)
    }

    /// Everything authors should know, by object.
    pub(crate) fn notes(&self) -> Vec<Note> {
        let translated = self.translated.values();
        let notes = translated.flat_map(|translated| translated.notes.iter().cloned());
        let of_gateways = self.gateways().notes.iter().cloned();
        notes
            .chain(of_gateways)
            .chain(self.mesh_config_note())
            .collect()
    }

    /// What the Gateway API comes to.
    pub(crate) fn gateways(&self) -> &Arc<Resolved> {
        self.gateways.resolved()
    }

    /// Everything held, as it is now. Cheap: what is in a namespace is copied when it changes.
    pub(crate) fn inventory(&self) -> Inventory {
        Inventory {
            mesh: self.mesh.clone(),
            namespaces: self.namespaces.clone(),
            objects: self.objects.clone(),
            mesh_config: self.mesh_config.clone(),
            waypoints: Arc::clone(self.gateways.waypoints()),
        }
    }

    /// Number of objects held, by kind.
    pub(crate) fn counts(&self) -> BTreeMap<Kind, usize> {
        let mut counts = BTreeMap::from([
            (Kind::Namespace, self.namespaces.len()),
            (Kind::Node, self.nodes.len()),
            (Kind::MeshConfig, usize::from(self.mesh_config.is_some())),
        ]);
        for objects in self.objects.values() {
            let of_kind = [
                (Kind::Pod, objects.pods.len()),
                (Kind::Service, objects.services.len()),
                (Kind::EndpointSlice, objects.slices.len()),
                (Kind::ServiceAccount, objects.service_accounts.len()),
                (
                    Kind::AuthorizationPolicy,
                    objects.authorization_policies.len(),
                ),
                (Kind::PeerAuthentication, objects.peer_authentications.len()),
                (
                    Kind::RequestAuthentication,
                    objects.request_authentications.len(),
                ),
                (Kind::ServiceEntry, objects.service_entries.len()),
                (Kind::WorkloadEntry, objects.workload_entries.len()),
            ];
            for (kind, count) in of_kind {
                *counts.entry(kind).or_default() += count;
            }
        }
        counts.extend(self.gateways.counts());
        counts
    }

    fn mesh_config_note(&self) -> Option<Note> {
        mesh_config_note(&self.mesh, self.mesh_config.as_ref()?)
    }

    /// The network all pods are in.
    pub(crate) fn network(&self) -> &str {
        let root = self.namespaces.get(&self.mesh.root_namespace);
        let network = root.and_then(|root| root.metadata.labels.get(NETWORK_LABEL));
        network.map_or("", String::as_str)
    }

    fn translate(&self, namespace: &Arc<str>) -> Redone {
        let nothing = Objects::default();
        let scope = Scope {
            mesh: &self.mesh,
            name: namespace,
            namespace: self.namespaces.get(namespace).map(|namespace| &**namespace),
            nodes: &self.nodes,
            objects: self
                .objects
                .get(namespace)
                .map_or(&nothing, |objects| &**objects),
            root: self
                .objects
                .get(&self.mesh.root_namespace)
                .map_or(&nothing, |root| &**root),
            network: self.network(),
            captured: &self.captured,
            entry_hosts: &self.entry_hosts,
            waypoints: self.gateways.waypoints(),
        };
        let identities = scope.objects.pods.values().filter_map(|pod| {
            let identity = workload::node_identity(&scope, pod)?;
            Some((pod.spec.node_name.as_str().into(), identity))
        });
        (
            translate::namespace(&scope),
            identities.collect(),
            enrolment::of_nodes(&scope, namespace),
            enrolment::is_meshed(&scope),
        )
    }

    fn replace_identities(&mut self, namespace: &Arc<str>, identities: Vec<(Arc<str>, Identity)>) {
        for by_namespace in self.node_identities.values_mut() {
            by_namespace.remove(namespace);
        }
        for (node, identity) in identities {
            let by_namespace = self.node_identities.entry(node).or_default();
            let of_namespace = by_namespace.entry(Arc::clone(namespace)).or_default();
            of_namespace.insert(identity);
        }
        self.node_identities
            .retain(|_, by_namespace| !by_namespace.is_empty());
    }
}

/// The trust domain is part of every identity and of the root, so it is a flag; a MeshConfig may
/// only repeat it.
pub(crate) fn mesh_config_note(mesh: &Mesh, config: &MeshConfigObject) -> Option<Note> {
    let wanted = config.spec.trust_domain.as_ref()?;
    (**wanted != *mesh.trust_domain).then(|| {
        let object = ObjectRef::new(Kind::MeshConfig, "", &config.metadata.name);
        let message = format!(
            "spec.trustDomain {wanted:?} has no effect: the control plane was started with \
             --trust-domain {}",
            mesh.trust_domain
        );
        Note::new(object, Code::TrustDomainDiffers, message)
    })
}
