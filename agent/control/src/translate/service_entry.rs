//! ServiceEntry -> one Service per host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agent_model::{
    HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, NamespacedHostname, NetworkAddress,
    Service, ServicePort, Visibility, Workload,
};

use super::given::Given;
use super::protocol::spoken;
use super::service::{preference, traffic_distribution};
use super::workload_entry::{Described, endpoint};
use super::{Note, Scope, waypoint};
use crate::code::Code;
use crate::source::istio::{Address, EntryEndpoint, EntryPort, Resolution, ServiceEntry};
use crate::source::kubernetes::Labels;
use crate::source::lenient::IpBlock;
use crate::source::{Kind, ObjectRef};

/// Turns the giving out of addresses off, with the value `false`.
const AUTO_ALLOCATE: &str = "networking.istio.io/enable-autoallocate-ip";
/// Names that Kubernetes gives.
const CLUSTER_DOMAIN: &str = ".svc.cluster.local";

/// Which entries of all namespaces name a host, the oldest first, and the addresses that hosts are
/// given.
#[derive(Debug, Default)]
pub(crate) struct EntryHosts(BTreeMap<Arc<str>, BTreeSet<Claim>>, Given);

/// Creation time, namespace, name, and whether it is for every namespace.
type Claim = (Option<String>, Arc<str>, Arc<str>, bool);

impl EntryHosts {
    pub(crate) const NONE: Self = Self(BTreeMap::new(), Given::NONE);

    /// Takes a change of an entry. Returns the namespaces that may become something else by it.
    pub(crate) fn put(
        &mut self,
        reference: &ObjectRef,
        old: Option<&ServiceEntry>,
        new: Option<&ServiceEntry>,
    ) -> BTreeSet<Arc<str>> {
        let mut touched = BTreeSet::new();
        let claim = |entry: &ServiceEntry| {
            let created = entry.metadata.creation_timestamp.clone();
            let (namespace, name) = (reference.namespace.clone(), reference.name.clone());
            (created, namespace, name, is_for_others(entry))
        };
        for host in old.iter().flat_map(|entry| &entry.spec.hosts) {
            if let Some(claims) = self.0.get_mut(host.as_str()) {
                old.map(|entry| claims.remove(&claim(entry)));
                touched.extend(claims.iter().map(|(_, namespace, ..)| namespace.clone()));
                if claims.is_empty() {
                    self.0.remove(host.as_str());
                }
            }
        }
        for host in new.iter().flat_map(|entry| &entry.spec.hosts) {
            let claims = self.0.entry(host.as_str().into()).or_default();
            claims.extend(new.map(claim));
            touched.extend(claims.iter().map(|(_, namespace, ..)| namespace.clone()));
        }
        for entry in [old, new].into_iter().flatten() {
            for host in &entry.spec.hosts {
                touched.extend(self.give(host));
            }
        }
        touched
    }

    /// Sees to it that a host has addresses for as long as there is an entry with it. Returns the
    /// namespaces with a host that has others now.
    fn give(&mut self, host: &str) -> BTreeSet<Arc<str>> {
        let oldest = self.0.get(host).and_then(BTreeSet::first);
        let moved = match oldest {
            Some((created, ..)) => self.1.put(host, created.clone()),
            None => self.1.remove(host),
        };
        let claims = moved.iter().filter_map(|host| self.0.get(host)).flatten();
        claims.map(|(_, namespace, ..)| namespace.clone()).collect()
    }

    /// Whether this entry is the one that stands for the host in namespaces without one. A name
    /// that Kubernetes gives is never an entry's.
    fn is_canonical(&self, host: &str, namespace: &str, name: &str) -> bool {
        let first = self.first(host);
        !host.ends_with(CLUSTER_DOMAIN)
            && first.is_some_and(|(_, of, entry, _)| **of == *namespace && **entry == *name)
    }

    /// The oldest of those that are for every namespace.
    fn first(&self, host: &str) -> Option<&Claim> {
        self.0
            .get(host)?
            .iter()
            .find(|(.., is_for_all)| *is_for_all)
    }

    /// The other namespace whose older entry stands for the host.
    fn elsewhere(&self, host: &str, namespace: &str) -> Option<&str> {
        let (_, of, ..) = self.first(host)?;
        (**of != *namespace).then_some(of)
    }
}

/// A host that an entry stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct InForce<'a> {
    pub(super) entry: &'a ServiceEntry,
    host: &'a str,
}

/// The hosts of a namespace's entries. Of several with the same host the oldest counts, and a
/// Service of Kubernetes before any.
pub(super) fn in_force<'a>(scope: &Scope<'a>, notes: &mut Vec<Note>) -> Vec<InForce<'a>> {
    let entries = scope.objects.service_entries.values();
    let mut entries: Vec<&ServiceEntry> = entries.map(|entry| &**entry).collect();
    entries.sort_by_key(|entry| (&entry.metadata.creation_timestamp, &entry.metadata.name));
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    let mut found = Vec::new();
    for entry in entries {
        for host in &entry.spec.hosts {
            let name = entry.metadata.name.as_str();
            if is_service(scope, host) {
                let message = format!("{host:?} is a Service of this namespace; no effect");
                notes.push(note(scope, entry, Code::HostConflict, message));
            } else if let Some(owner) = owners.get(host.as_str()) {
                if *owner != name {
                    let message = format!("{host:?} is {owner:?}'s, which is older; no effect");
                    notes.push(note(scope, entry, Code::HostConflict, message));
                }
            } else {
                owners.insert(host, name);
                found.push(InForce { entry, host });
                notes.extend(of_another(scope, entry, host));
            }
        }
    }
    found
}

/// Somebody else's host: nobody but clients of this namespace is led here.
fn of_another(scope: &Scope<'_>, entry: &ServiceEntry, host: &str) -> Option<Note> {
    let reach = "only clients of this namespace go by this entry";
    let message = if host.ends_with(CLUSTER_DOMAIN) {
        format!("{host:?} is a name that Kubernetes gives; {reach}")
    } else if !is_for_others(entry) {
        return None;
    } else {
        let owner = scope.entry_hosts.elsewhere(host, scope.name)?;
        format!("{host:?} is in an older entry of namespace {owner:?}; {reach}")
    };
    Some(note(scope, entry, Code::HostElsewhere, message))
}

/// Whether its hosts are told to clients of other namespaces. Discovery knows its own namespace and all
/// of them, so that one for some is told to all: to hide it protects nothing.
fn is_for_others(entry: &ServiceEntry) -> bool {
    let mut named = entry.spec.named_others(&entry.metadata.namespace);
    entry.spec.is_for_all() || named.next().is_some()
}

fn is_service(scope: &Scope<'_>, host: &str) -> bool {
    let name = host.strip_suffix(CLUSTER_DOMAIN);
    let name = name.and_then(|name| name.strip_suffix(scope.name)?.strip_suffix('.'));
    name.is_some_and(|name| scope.objects.services.contains_key(name))
}

impl InForce<'_> {
    pub(super) fn key(&self, scope: &Scope<'_>) -> NamespacedHostname {
        NamespacedHostname::new(scope.name, self.host)
    }

    pub(super) fn selects(&self, labels: &Labels) -> bool {
        let selector = self.entry.spec.workload_selector.as_ref();
        selector.is_some_and(|selector| selector.matches(labels))
    }

    /// Its ports as a pod serves them.
    pub(super) fn ports(&self) -> Vec<ServicePort> {
        tcp_ports(self.entry).map(service_port).collect()
    }

    /// Its ports as an endpoint that may say otherwise serves them.
    pub(super) fn ports_at(&self, endpoint: &EntryEndpoint) -> Vec<ServicePort> {
        let ports = tcp_ports(self.entry).map(|port| {
            ServicePort::new(
                port.number,
                endpoint.target(&port.name, port.target_port, port.number),
            )
        });
        ports.collect()
    }

    /// The service as nodes see it.
    pub(super) fn service(&self, scope: &Scope<'_>) -> Service {
        let Self { entry, host } = *self;
        let spec = &entry.spec;
        let key = self.key(scope);
        let load_balancing = if spec.resolution == Resolution::None {
            LoadBalancing {
                routing_preference: Vec::new(),
                mode: LoadBalancingMode::Passthrough,
                health_policy: HealthPolicy::AllowAll,
            }
        } else {
            let (mode, routing_preference) =
                preference(traffic_distribution(scope, &entry.metadata));
            LoadBalancing {
                routing_preference,
                mode,
                health_policy: HealthPolicy::OnlyHealthy,
            }
        };
        Service {
            name: entry.metadata.name.as_str().into(),
            namespace: key.namespace,
            hostname: key.hostname,
            vips: self.addresses(scope),
            ports: tcp_ports(entry).map(spoken_port).collect(),
            subject_alt_names: spec.subject_alt_names.clone(),
            waypoint: waypoint::of_service(scope, &entry.metadata).map(|bound| bound.address),
            ingress_use_waypoint: false,
            load_balancing,
            ip_families: IpFamilies::Automatic,
            canonical: scope
                .entry_hosts
                .is_canonical(host, scope.name, &entry.metadata.name),
            visibility: match is_for_others(entry) {
                true => Visibility::Public,
                false => Visibility::Namespace,
            },
        }
    }

    /// The entry's own addresses, else those that Istio's control plane has given to the host, else
    /// those that this one gives.
    fn addresses(&self, scope: &Scope<'_>) -> Vec<NetworkAddress> {
        let Self { entry, host } = *self;
        let own = entry.spec.addresses.iter().filter_map(single);
        let mut addresses: Vec<_> = own.collect();
        if entry.spec.addresses.is_empty() && may_be_given(entry, host) {
            let given = entry.status.addresses.iter();
            addresses.extend(given.filter_map(|given| given.of(host)));
            // Istio's control plane has not given it any.
            if addresses.is_empty() {
                addresses.extend(scope.entry_hosts.1.of(host).into_iter().flatten());
            }
        }
        let in_network = addresses.into_iter().map(|address| NetworkAddress {
            network: scope.network.into(),
            address,
        });
        in_network.collect()
    }
}

fn single(IpBlock(block): &IpBlock) -> Option<std::net::IpAddr> {
    (block.prefix_len() == block.max_prefix_len()).then(|| block.addr())
}

fn may_be_given(entry: &ServiceEntry, host: &str) -> bool {
    let resolution = entry.spec.resolution;
    let is_off = entry.metadata.labels.get(AUTO_ALLOCATE).map(String::as_str) == Some("false");
    let is_wildcard = host.starts_with("*.");
    resolution != Resolution::None
        && !is_off
        && !host.ends_with(CLUSTER_DOMAIN)
        && tcp_ports(entry).next().is_some()
        && (!is_wildcard || resolution == Resolution::DynamicDns)
}

fn tcp_ports(entry: &ServiceEntry) -> impl Iterator<Item = &EntryPort> {
    entry.spec.ports.iter().filter(|port| port.is_tcp())
}

fn service_port(port: &EntryPort) -> ServicePort {
    ServicePort::new(port.number, port.target_port.unwrap_or(port.number))
}

fn spoken_port(port: &EntryPort) -> ServicePort {
    ServicePort {
        app_protocol: spoken(&port.protocol, &port.name, port.number),
        ..service_port(port)
    }
}

/// The endpoints that the entries name themselves, each with the hosts it serves.
pub(super) fn endpoints(
    scope: &Scope<'_>,
    in_force: &[InForce<'_>],
    notes: &mut Vec<Note>,
) -> Vec<Workload> {
    let mut entries: BTreeMap<&str, Vec<InForce<'_>>> = BTreeMap::new();
    for found in in_force {
        let of_entry = entries.entry(found.entry.metadata.name.as_str());
        of_entry.or_default().push(*found);
    }
    let mut workloads = BTreeMap::new();
    for hosts in entries.values() {
        let Some(entry) = hosts.first().map(|found| found.entry) else {
            continue;
        };
        author_notes(scope, hosts, notes);
        for Named {
            endpoint: named,
            described,
            hosts,
        } in named(scope, entry, hosts)
        {
            let Some(mut workload) = endpoint(scope, &named, &described, notes) else {
                continue;
            };
            let services = hosts
                .iter()
                .map(|found| (found.key(scope), found.ports_at(&named)));
            workload.services.extend(services);
            // The same address twice is one endpoint.
            workloads.entry(workload.uid.clone()).or_insert(workload);
        }
    }
    workloads.into_values().collect()
}

/// An endpoint that an entry names, and the hosts it serves.
struct Named<'a> {
    endpoint: EntryEndpoint,
    described: Described<'a>,
    hosts: Vec<InForce<'a>>,
}

/// Where names are resolved and no endpoint is given, each host is its own endpoint.
fn named<'a>(scope: &Scope<'_>, entry: &'a ServiceEntry, hosts: &[InForce<'a>]) -> Vec<Named<'a>> {
    static NO_LABELS: Labels = Labels::new();
    let spec = &entry.spec;
    let name = entry.metadata.name.as_str();
    let describe = |address: &str, labels: &'a Labels| Described {
        uid: format!(
            "{}/networking.istio.io/ServiceEntry/{}/{name}/{address}",
            scope.mesh.cluster_id, scope.name
        ),
        name,
        workload_name: name,
        labels,
        is_captured: false,
        object: reference(scope, entry),
    };
    if spec.resolution.is_by_name() && spec.endpoints.is_empty() && spec.workload_selector.is_none()
    {
        let plain = hosts.iter().filter(|found| !found.host.starts_with("*."));
        return plain
            .map(|found| {
                let endpoint = EntryEndpoint {
                    address: Address::Host(found.host.to_owned()),
                    ..EntryEndpoint::default()
                };
                Named {
                    endpoint,
                    described: describe(found.host, &NO_LABELS),
                    hosts: vec![*found],
                }
            })
            .collect();
    }
    let endpoints = spec.endpoints.iter().enumerate();
    endpoints
        .map(|(index, endpoint)| {
            let address = match &endpoint.address {
                Address::Ip(ip) => ip.to_string(),
                Address::Host(host) => host.clone(),
                Address::Missing | Address::Unix => index.to_string(),
            };
            Named {
                endpoint: endpoint.clone(),
                described: describe(&address, &endpoint.labels),
                hosts: hosts.to_vec(),
            }
        })
        .collect()
}

/// What an author may expect and not get.
fn author_notes(scope: &Scope<'_>, hosts: &[InForce<'_>], notes: &mut Vec<Note>) {
    let Some(entry) = hosts.first().map(|found| found.entry) else {
        return;
    };
    let spec = &entry.spec;
    let mut say = |code, message: &str| {
        notes.push(note(scope, entry, code, message.to_owned()));
    };
    if spec.addresses.iter().any(|block| single(block).is_none()) {
        let message = "spec.addresses: blocks of addresses are not supported, only single ones; \
                       connections to the others go out without the mesh";
        say(Code::AddressBlock, message);
    }
    let others: Vec<&str> = spec.named_others(scope.name).collect();
    if !others.is_empty() {
        let message = format!(
            "spec.exportTo lists {}: routes of other namespaces may not name its hosts, but clients of \
             every namespace know them",
            others.join(", ")
        );
        say(Code::ExportList, &message);
    }
    let has_names = |endpoint: &EntryEndpoint| matches!(endpoint.address, Address::Host(_));
    let has_own = spec.addresses.iter().any(|block| single(block).is_some());
    let is_given = hosts.iter().any(|found| may_be_given(entry, found.host));
    if !has_own && (!is_given || !spec.addresses.is_empty()) {
        let message = "no address: clients resolve its hosts themselves and connect without the \
                       mesh";
        say(Code::EntryWithoutAddress, message);
        return;
    }
    let is_any = hosts.iter().any(|found| found.host.starts_with("*."));
    let has_none = spec.endpoints.is_empty() && spec.workload_selector.is_none();
    let leads_on = waypoint::of_service(scope, &entry.metadata).is_some();
    if spec.resolution.is_by_name() && is_any && has_none && !leads_on {
        let message = "a wildcard host without endpoints: which of its names a connection is for \
                       only a waypoint can tell, and there is none";
        say(Code::EndpointByName, message);
    }
    if spec.resolution == Resolution::Static {
        if spec.endpoints.iter().any(has_names) {
            say(
                Code::StaticWithoutAddress,
                "an endpoint's address is a name although resolution is STATIC",
            );
        }
        if spec.endpoints.is_empty() && spec.workload_selector.is_none() {
            let message = "resolution is STATIC and there is no endpoint: connections to its \
                           addresses are refused";
            say(Code::StaticWithoutAddress, message);
        }
    }
}

fn reference(scope: &Scope<'_>, entry: &ServiceEntry) -> ObjectRef {
    ObjectRef::new(Kind::ServiceEntry, scope.name, &entry.metadata.name)
}

fn note(scope: &Scope<'_>, entry: &ServiceEntry, code: Code, message: String) -> Note {
    Note::new(reference(scope, entry), code, message)
}
