//! Which workloads serve which services, with the ports as each workload serves them: from
//! EndpointSlices where a service has any, else, where nobody else keeps slices, from its
//! selector.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use agent_model::{
    Health, NamespacedHostname, NetworkMode, ServiceMembership, ServicePort, TunnelProtocol,
    Workload, WorkloadType,
};

use super::service::{key, ports};
use super::service_entry::InForce;
use super::{Endpoints, Note, Scope};
use crate::code::Code;
use crate::source::istio::EntryEndpoint;
use crate::source::kubernetes::{
    AddressType, Endpoint, EndpointSlice, Labels, Pod, Protocol, Service, TargetPort,
};
use crate::source::lenient::host_ip;
use crate::source::{Kind, ObjectRef};

/// The endpoints of a namespace's services.
#[derive(Debug, Default)]
pub(crate) struct Memberships {
    /// Services of each pod, by its name.
    pub(crate) of_pods: BTreeMap<Arc<str>, ServiceMembership>,
    /// Services of each WorkloadEntry, by its name.
    pub(crate) of_entries: BTreeMap<Arc<str>, ServiceMembership>,
    /// Endpoints that are no pods.
    pub(crate) extra: Vec<Workload>,
}

/// Finds them.
pub(super) fn find(
    scope: &Scope<'_>,
    entries: &[InForce<'_>],
    notes: &mut Vec<Note>,
) -> Memberships {
    let mut finder = Finder {
        scope,
        pods_by_ip: pods_by_ip(scope),
        pods_by_label: pods_by_label(scope),
        found: Memberships::default(),
        extra: BTreeMap::new(),
        notes,
    };
    let mut slices: BTreeMap<&str, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in scope.objects.slices.values() {
        match slice.service() {
            Some(service) => slices.entry(service).or_default().push(slice),
            None => finder.note(slice, "has no label kubernetes.io/service-name"),
        }
    }
    for service in scope.objects.services.values() {
        if service.spec.kind == "ExternalName" {
            continue;
        }
        match slices.get(service.metadata.name.as_str()) {
            Some(slices) => slices.iter().for_each(|slice| finder.slice(service, slice)),
            None if scope.mesh.endpoints == Endpoints::Derived => finder.selector(service),
            None => {}
        }
        finder.workload_entries(service);
    }
    for entry in entries {
        finder.entry(entry);
    }
    let mut found = finder.found;
    found.extra = finder.extra.into_values().collect();
    found
}

struct Finder<'a, 'n> {
    scope: &'a Scope<'a>,
    pods_by_ip: BTreeMap<IpAddr, &'a Pod>,
    pods_by_label: PodsByLabel<'a>,
    found: Memberships,
    extra: BTreeMap<Arc<str>, Workload>,
    notes: &'n mut Vec<Note>,
}

impl<'a> Finder<'a, '_> {
    fn selector(&mut self, service: &Service) {
        let selector: &Labels = &service.spec.selector;
        if selector.is_empty() {
            return;
        }
        // The rarest of the labels leaves the fewest pods to look at.
        let carrying = selector.iter().map(|(key, value)| {
            let values = self.pods_by_label.get(key.as_str());
            let pods = values.and_then(|values| values.get(value.as_str()));
            pods.map_or(&[][..], Vec::as_slice)
        });
        let rarest = carrying.min_by_key(|pods| pods.len());
        for pod in rarest.unwrap_or_default().to_vec() {
            let mut wanted = selector.iter();
            if wanted.all(|(key, value)| pod.metadata.labels.get(key) == Some(value)) {
                let ports = selected_ports(service, pod);
                self.join(pod, service, ports);
            }
        }
    }

    /// Nobody keeps slices for what runs outside of the cluster, so those are always selected.
    fn workload_entries(&mut self, service: &Service) {
        let selector: &Labels = &service.spec.selector;
        if selector.is_empty() {
            return;
        }
        for entry in self.scope.objects.workload_entries.values() {
            let labels = entry.labels();
            let mut wanted = selector.iter();
            if wanted.all(|(key, value)| labels.get(key) == Some(value)) {
                let ports = ports_outside(service, &entry.spec);
                let key = key(self.scope.name, &service.metadata.name);
                add(&mut self.found.of_entries, &entry.metadata.name, key, ports);
            }
        }
    }

    /// The pods and WorkloadEntries that a ServiceEntry selects.
    fn entry(&mut self, found: &InForce<'_>) {
        for pod in self.scope.objects.pods.values() {
            if found.selects(&pod.metadata.labels) {
                let key = found.key(self.scope);
                let name = &pod.metadata.name;
                add(&mut self.found.of_pods, name, key, found.ports());
            }
        }
        for entry in self.scope.objects.workload_entries.values() {
            if found.selects(&entry.labels()) {
                let key = found.key(self.scope);
                let ports = found.ports_at(&entry.spec);
                add(&mut self.found.of_entries, &entry.metadata.name, key, ports);
            }
        }
    }

    fn slice(&mut self, service: &Service, slice: &EndpointSlice) {
        if slice.address_type == AddressType::Fqdn {
            self.note(slice, "addressType FQDN is not supported");
            return;
        }
        let ports = slice_ports(service, slice);
        for endpoint in &slice.endpoints {
            if endpoint.conditions.ready == Some(false) {
                continue;
            }
            match &endpoint.target_ref {
                Some(target) if target.kind == "Pod" => {
                    let Some(pod) = self.scope.objects.pods.get(target.name.as_str()) else {
                        // A cluster's slices and pods are watched apart: the pod is coming, or
                        // the slice is going.
                        if self.scope.mesh.endpoints == Endpoints::Derived {
                            self.note(slice, &format!("names the unknown pod {:?}", target.name));
                        }
                        continue;
                    };
                    self.join(pod, service, ports.clone());
                }
                _ => self.addresses(service, slice, endpoint, &ports),
            }
        }
    }

    /// An endpoint given by address: a pod of this namespace after all, or something else.
    fn addresses(
        &mut self,
        service: &Service,
        slice: &EndpointSlice,
        endpoint: &Endpoint,
        ports: &[ServicePort],
    ) {
        for text in &endpoint.addresses {
            let ip = match host_ip(text) {
                Ok(ip) => ip,
                Err(message) => {
                    self.note(slice, &format!("an endpoint's address {message}"));
                    continue;
                }
            };
            if let Some(pod) = self.pods_by_ip.get(&ip).copied() {
                self.join(pod, service, ports.to_vec());
                continue;
            }
            let workload = extra_workload(self.scope, slice, endpoint, ip);
            let workload = self
                .extra
                .entry(Arc::clone(&workload.uid))
                .or_insert(workload);
            let key = key(self.scope.name, &service.metadata.name);
            workload.services.insert(key, ports.to_vec());
        }
    }

    fn join(&mut self, pod: &Pod, service: &Service, ports: Vec<ServicePort>) {
        let key = key(self.scope.name, &service.metadata.name);
        add(&mut self.found.of_pods, &pod.metadata.name, key, ports);
    }

    fn note(&mut self, slice: &EndpointSlice, message: &str) {
        let name = &slice.metadata.name;
        let object = ObjectRef::new(Kind::EndpointSlice, self.scope.name, name);
        let code = Code::EndpointSliceUnusable;
        self.notes.push(Note::new(object, code, message));
    }
}

fn add(
    table: &mut BTreeMap<Arc<str>, ServiceMembership>,
    name: &str,
    service: NamespacedHostname,
    ports: Vec<ServicePort>,
) {
    let services = table.entry(name.into()).or_default();
    let listed = services.entry(service).or_default();
    listed.extend(ports);
    listed.sort_unstable();
    listed.dedup();
}

/// The ports of a service as something outside of the cluster serves them.
fn ports_outside(service: &Service, endpoint: &EntryEndpoint) -> Vec<ServicePort> {
    let ports = ports(service).filter_map(|port| {
        let target = match &port.target_port {
            None => None,
            Some(TargetPort::Number(number)) => Some(*number),
            // Known to the endpoint by the name of the service's port, or of the target.
            Some(TargetPort::Name(name)) => {
                let own = endpoint.ports.get(&port.name);
                Some(*own.or_else(|| endpoint.ports.get(name))?)
            }
        };
        Some(ServicePort::new(
            port.port,
            endpoint.target(&port.name, target, port.port),
        ))
    });
    ports.collect()
}

fn pods_by_ip<'a>(scope: &Scope<'a>) -> BTreeMap<IpAddr, &'a Pod> {
    let pods = scope.objects.pods.values();
    let pods = pods.filter(|pod| !pod.is_terminal() && !pod.spec.host_network);
    pods.flat_map(|pod| pod.addresses().into_iter().map(|ip| (ip, &**pod)))
        .collect()
}

/// Pods by label and its value.
type PodsByLabel<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Vec<&'a Pod>>>;

fn pods_by_label<'a>(scope: &Scope<'a>) -> PodsByLabel<'a> {
    let mut index = PodsByLabel::new();
    for pod in scope.objects.pods.values() {
        for (key, value) in &pod.metadata.labels {
            let values = index.entry(key).or_default();
            values.entry(value).or_default().push(&**pod);
        }
    }
    index
}

/// A port by name is left out for a pod that has no port of that name.
fn selected_ports(service: &Service, pod: &Pod) -> Vec<ServicePort> {
    let ports = ports(service).filter_map(|port| {
        let target_port = match &port.target_port {
            None => port.port,
            Some(TargetPort::Number(number)) => *number,
            Some(TargetPort::Name(name)) => port_named(pod, name, port.protocol)?,
        };
        Some(ServicePort::new(port.port, target_port))
    });
    ports.collect()
}

/// The number of a pod's TCP port of this name.
pub(crate) fn named_port(pod: &Pod, name: &str) -> Option<u16> {
    port_named(pod, name, Protocol::Tcp)
}

fn port_named(pod: &Pod, name: &str, protocol: Protocol) -> Option<u16> {
    let sidecars = pod.spec.init_containers.iter();
    let sidecars = sidecars.filter(|container| container.restart_policy == "Always");
    pod.spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| &container.ports)
        .find(|port| port.protocol == protocol && port.name == name)
        .map(|port| port.container_port)
}

/// Ports of a service and of its slices belong together by name.
fn slice_ports(service: &Service, slice: &EndpointSlice) -> Vec<ServicePort> {
    let ports = ports(service).filter_map(|port| {
        let mut of_slice = slice.ports.iter();
        let target = of_slice
            .find(|candidate| candidate.protocol == port.protocol && candidate.name == port.name)?;
        Some(ServicePort::new(
            port.port,
            target.port.filter(|port| *port != 0)?,
        ))
    });
    ports.collect()
}

/// An endpoint that is no pod: nobody knows who answers there, so it is plain TCP and its address
/// says nothing of its identity.
fn extra_workload(
    scope: &Scope<'_>,
    slice: &EndpointSlice,
    endpoint: &Endpoint,
    ip: IpAddr,
) -> Workload {
    let cluster = &scope.mesh.cluster_id;
    let name = &slice.metadata.name;
    Workload {
        uid: format!(
            "{cluster}/discovery.k8s.io/EndpointSlice/{}/{name}/{ip}",
            scope.name
        )
        .into(),
        name: name.as_str().into(),
        namespace: scope.name.into(),
        trust_domain: scope.mesh.trust_domain.clone(),
        addresses: vec![ip],
        network: scope.network.into(),
        tunnel_protocol: TunnelProtocol::None,
        node: endpoint.node_name.as_str().into(),
        canonical_name: name.as_str().into(),
        canonical_revision: "latest".into(),
        workload_type: WorkloadType::Pod,
        workload_name: name.as_str().into(),
        health: Health::Healthy,
        cluster_id: cluster.clone(),
        network_mode: NetworkMode::HostNetwork,
        ..Workload::default()
    }
}
