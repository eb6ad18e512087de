//! From Kubernetes objects to the model, one file per kind. Pure: what is read comes in as
//! [`Scope`], what is made goes out as values.

pub(crate) mod access;
pub(crate) mod authorization;
pub(crate) mod enrolment;
mod given;
pub(crate) mod guard;
pub(crate) mod membership;
pub(crate) mod peer_authentication;
mod protocol;
pub(crate) mod service;
pub(crate) mod service_entry;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod waypoint;
pub(crate) mod workload;
mod workload_entry;

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_model::{Authorization, Service, Workload};
use guard::{Fronts, Guards};
use service_entry::EntryHosts;
use waypoint::Waypoints;

use crate::code::{Code, Severity};
use crate::source::ObjectRef;
use crate::source::istio::{
    AuthorizationPolicy, PeerAuthentication, RequestAuthentication, ServiceEntry, WorkloadEntry,
};
use crate::source::kubernetes::{self, EndpointSlice, Labels, Namespace, Node, Pod};

/// What is the same for every object of the mesh.
#[derive(Debug, Clone)]
pub(crate) struct Mesh {
    pub(crate) trust_domain: Arc<str>,
    pub(crate) cluster_id: Arc<str>,
    /// Policies of this namespace apply to all.
    pub(crate) root_namespace: Arc<str>,
    /// Who says which pods serve a service.
    pub(crate) endpoints: Endpoints,
    /// Peers tunnel to a pod only once it is known to be captured; see `workload`.
    pub(crate) waits_for_capture: bool,
}

/// Who says which pods serve a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoints {
    /// The cluster, by its EndpointSlices: a service without any has no endpoint.
    Given,
    /// Its selector, where nobody has written an EndpointSlice for it.
    Derived,
}

/// The pods that nodes have said to be captured, by namespace and name, with their UIDs.
#[derive(Debug, Default)]
pub(crate) struct Captured(pub(crate) BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<str>>>);

impl Captured {
    /// True when this very pod is.
    pub(crate) fn is_captured(&self, namespace: &str, pod: &Pod) -> bool {
        let of_namespace = self.0.get(namespace);
        let uid = of_namespace.and_then(|pods| pods.get(pod.metadata.name.as_str()));
        uid.is_some_and(|uid| uid.is_empty() || **uid == *pod.metadata.uid)
    }
}

/// Objects of one kind and namespace, by name.
pub(crate) type ByName<T> = BTreeMap<Arc<str>, Arc<T>>;

/// Everything that the translation of one namespace reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) mesh: &'a Mesh,
    pub(crate) name: &'a str,
    pub(crate) namespace: Option<&'a Namespace>,
    pub(crate) nodes: &'a ByName<Node>,
    pub(crate) objects: &'a Objects,
    /// The objects of the root namespace (the same ones when this is it).
    pub(crate) root: &'a Objects,
    /// The network all pods are in, `""` by default.
    pub(crate) network: &'a str,
    pub(crate) captured: &'a Captured,
    pub(crate) entry_hosts: &'a EntryHosts,
    pub(crate) waypoints: &'a Waypoints,
}

impl Scope<'_> {
    pub(crate) fn is_root(&self) -> bool {
        *self.name == *self.mesh.root_namespace
    }

    pub(crate) fn namespace_labels(&self) -> &Labels {
        static NONE: Labels = Labels::new();
        self.namespace
            .map_or(&NONE, |namespace| &namespace.metadata.labels)
    }
}

/// The namespaced objects of one namespace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Objects {
    pub(crate) pods: ByName<Pod>,
    pub(crate) services: ByName<kubernetes::Service>,
    pub(crate) slices: ByName<EndpointSlice>,
    pub(crate) authorization_policies: ByName<AuthorizationPolicy>,
    pub(crate) peer_authentications: ByName<PeerAuthentication>,
    pub(crate) request_authentications: ByName<RequestAuthentication>,
    pub(crate) service_accounts: ByName<kubernetes::ServiceAccount>,
    pub(crate) service_entries: ByName<ServiceEntry>,
    pub(crate) workload_entries: ByName<WorkloadEntry>,
}

impl Objects {
    pub(crate) const NONE: Self = Self {
        pods: ByName::new(),
        services: ByName::new(),
        slices: ByName::new(),
        authorization_policies: ByName::new(),
        peer_authentications: ByName::new(),
        request_authentications: ByName::new(),
        service_accounts: ByName::new(),
        service_entries: ByName::new(),
        workload_entries: ByName::new(),
    };

    pub(crate) fn is_empty(&self) -> bool {
        self.pods.is_empty()
            && self.services.is_empty()
            && self.slices.is_empty()
            && self.authorization_policies.is_empty()
            && self.peer_authentications.is_empty()
            && self.request_authentications.is_empty()
            && self.service_accounts.is_empty()
            && self.service_entries.is_empty()
            && self.workload_entries.is_empty()
    }
}

/// What one namespace becomes.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Translated {
    pub(crate) workloads: Vec<Workload>,
    pub(crate) services: Vec<Service>,
    pub(crate) policies: Vec<Authorization>,
    pub(crate) notes: Vec<Note>,
    /// What workloads are to be reached through, by uid. Not in force yet: see [`guard::enforce`].
    pub(crate) guards: Guards,
}

/// Something the author of an object should know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub(crate) struct Note {
    pub(crate) object: ObjectRef,
    pub(crate) severity: Severity,
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Note {
    pub(crate) fn new(object: ObjectRef, code: Code, message: impl Into<String>) -> Self {
        Self {
            object,
            severity: code.severity(),
            code,
            message: message.into(),
        }
    }
}

/// The notes on what people write into a namespace, without those on pods and their services.
pub(crate) fn author_notes(scope: &Scope<'_>) -> Vec<Note> {
    let mut out = Translated::default();
    peer_authentication::resolve(scope, &mut out);
    authorization::translate(scope, &mut out);
    let entries = service_entry::in_force(scope, &mut out.notes);
    service_entry::endpoints(scope, &entries, &mut out.notes);
    for entry in scope.objects.workload_entries.values() {
        workload_entry::translate(scope, entry, &mut out.notes);
    }
    out.notes
}

/// Translates one namespace.
pub(crate) fn namespace(scope: &Scope<'_>) -> Translated {
    let mut out = Translated::default();
    workload::opt_in_notes(scope, &mut out.notes);
    let peer_modes = peer_authentication::resolve(scope, &mut out);
    let policies = authorization::translate(scope, &mut out);
    let entries = service_entry::in_force(scope, &mut out.notes);
    let memberships = membership::find(scope, &entries, &mut out.notes);
    let fronts = Fronts::find(scope, &entries);
    for pod in scope.objects.pods.values() {
        let labels = &pod.metadata.labels;
        let modes = peer_modes.keys_for(labels);
        let Some(mut workload) = workload::translate(scope, pod, modes.is_some(), &mut out.notes)
        else {
            continue;
        };
        if let Some(services) = memberships.of_pods.get(&workload.name) {
            workload.services = services.clone();
        }
        workload.authorization_policies = policies.selecting(labels);
        workload.authorization_policies.extend(modes);
        fronts.put_behind(
            &mut workload,
            waypoint::of_workload(scope, labels),
            &mut out.guards,
        );
        out.workloads.push(workload);
    }
    for entry in scope.objects.workload_entries.values() {
        let Some(mut workload) = workload_entry::translate(scope, entry, &mut out.notes) else {
            continue;
        };
        if let Some(services) = memberships.of_entries.get(&workload.name) {
            workload.services = services.clone();
        }
        let labels = entry.labels();
        workload.authorization_policies = policies.selecting(&labels);
        let modes = peer_modes.keys_for(&labels);
        workload.authorization_policies.extend(modes);
        fronts.put_behind(
            &mut workload,
            waypoint::of_workload(scope, &labels),
            &mut out.guards,
        );
        out.workloads.push(workload);
    }
    let endpoints = service_entry::endpoints(scope, &entries, &mut out.notes);
    out.workloads
        .extend(memberships.extra.into_iter().chain(endpoints));
    let services = scope.objects.services.values();
    let services = services.filter_map(|service| service::translate(scope, service));
    let of_entries = entries.iter().map(|found| found.service(scope));
    out.services = services.chain(of_entries).collect();
    for service in &mut out.services {
        fronts.lead_ingress(service);
    }
    out
}
