//! What keeps traffic away from a workload that did not pass its waypoint: a DENY policy of
//! everybody but that waypoint, which the workload lists like any other policy.
//!
//! A workload is guarded whole when it is itself behind a waypoint, and on the ports of a service
//! when that is behind one where a policy is attached: what the policy is to hold would otherwise
//! be had at the pod's own address. A waypoint of services without a policy guards nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agent_model::{
    Action, Authorization, Clause, Identity, Match, NamespacedHostname, PolicyKey, Rule,
    Scope as PolicyScope, Service, ServicePort, StringMatch, Workload,
};

use super::service_entry::InForce;
use super::waypoint::{self, Bound};
use super::{Mesh, Objects, Scope, Translated, service};
use crate::source::istio::PolicyAction;
use crate::source::kubernetes::Metadata;

/// Guards of workloads, by uid.
pub(crate) type Guards = BTreeMap<Arc<str>, Guard>;

/// Namespace and name of a Gateway.
type GatewayName = (Arc<str>, Arc<str>);

/// Who alone may connect to a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guard {
    /// Waypoints that may. Each runs as the service account of its own name.
    through: BTreeSet<GatewayName>,
    /// The ports this is about, as the workload listens on them; `None` for all of them.
    ports: Option<BTreeSet<u16>>,
}

impl Guard {
    #[cfg(test)]
    pub(crate) fn of(through: &[(&str, &str)], ports: Option<&[u16]>) -> Self {
        let through = through.iter();
        Self {
            through: through
                .map(|(namespace, name)| ((*namespace).into(), (*name).into()))
                .collect(),
            ports: ports.map(|ports| ports.iter().copied().collect()),
        }
    }

    /// What satisfies this one or the other satisfies it. `None` when nothing is asked for.
    pub(crate) fn or_also(&self, other: &Self) -> Option<Self> {
        let ports = match (&self.ports, &other.ports) {
            (ports, None) | (None, ports) => ports.clone(),
            (Some(a), Some(b)) => Some(a & b),
        };
        let asks = ports.as_ref().is_none_or(|ports| !ports.is_empty());
        asks.then(|| Self {
            through: &self.through | &other.through,
            ports,
        })
    }

    /// The policy that holds it. Its name says all there is in it, so that workloads share it and
    /// none ever lists one that means something else to a node that has not heard of a change.
    fn policy(&self, mesh: &Mesh, namespace: &str) -> Authorization {
        let names = self.through.iter();
        let names: Vec<_> = names.map(|(of, name)| format!("{of}_{name}")).collect();
        let ports = self.ports.iter().flatten();
        let ports: String = ports.map(|port| format!("_{port}")).collect();
        let key = PolicyKey::waypoint_guard(namespace, &format!("{}{ports}", names.join("__")));
        let identities = self
            .through
            .iter()
            .filter_map(|(of, name)| Identity::new(&mesh.trust_domain, of, name).ok());
        let mut others = Match {
            not_principals: identities
                .map(|identity| StringMatch::Exact(identity.principal()))
                .collect(),
            destination_ports: self.ports.iter().flatten().copied().collect(),
            ..Match::default()
        };
        if others.is_empty() {
            // No waypoint has a name that makes an identity: nobody may.
            others.source_ips = [[0; 4].into(), [0; 16].into()]
                .map(|ip: std::net::IpAddr| ipnet::IpNet::new_assert(ip, 0))
                .into();
        }
        Authorization {
            name: key.name().into(),
            namespace: namespace.into(),
            scope: PolicyScope::WorkloadSelector,
            action: Action::Deny,
            rules: vec![Rule {
                clauses: vec![Clause {
                    matches: vec![others],
                }],
            }],
            dry_run: false,
        }
    }
}

/// The waypoints in front of the services of a namespace.
#[derive(Debug, Default)]
pub(super) struct Fronts(BTreeMap<NamespacedHostname, Front>);

#[derive(Debug)]
struct Front {
    gateway: GatewayName,
    /// A policy is attached there, to the waypoint or to the service.
    is_policed: bool,
    /// Gateways at the border go through it.
    takes_ingress: bool,
}

impl Fronts {
    pub(super) fn find(scope: &Scope<'_>, entries: &[InForce<'_>]) -> Self {
        let policed: BTreeSet<_> = targets(scope.objects).collect();
        let front = |bound: Bound, kind: &str, metadata: &Metadata| {
            let name = metadata.name.as_str();
            let is_policed = bound.is_policed || policed.contains(&(kind, name));
            // Where a policy is attached the pods take nothing that comes another way.
            let told = waypoint::takes_ingress(&metadata.labels, scope.namespace_labels());
            Front {
                gateway: bound.gateway,
                is_policed,
                takes_ingress: told.unwrap_or(is_policed),
            }
        };
        let services = scope.objects.services.values().filter_map(|object| {
            let name = &object.metadata.name;
            let bound = waypoint::of_service(scope, &object.metadata)?;
            let key = service::key(scope.name, name);
            Some((key, front(bound, "Service", &object.metadata)))
        });
        let entries = entries.iter().filter_map(|found| {
            let metadata = &found.entry.metadata;
            let bound = waypoint::of_service(scope, metadata)?;
            Some((found.key(scope), front(bound, "ServiceEntry", metadata)))
        });
        Self(services.chain(entries).collect())
    }

    /// Says of a service whether gateways at the border go through its waypoint.
    pub(super) fn lead_ingress(&self, service: &mut Service) {
        let front = self.0.get(&service.key());
        service.ingress_use_waypoint = front.is_some_and(|front| front.takes_ingress);
    }

    /// Puts a workload behind its own waypoint, and notes its guard.
    pub(super) fn put_behind(&self, workload: &mut Workload, own: Option<Bound>, to: &mut Guards) {
        if let Some(guard) = self.guard(workload, own.as_ref()) {
            to.insert(Arc::clone(&workload.uid), guard);
        }
        workload.waypoint = own.map(|bound| bound.address);
    }

    fn guard(&self, workload: &Workload, own: Option<&Bound>) -> Option<Guard> {
        let services = workload.services.iter();
        let fronts = services.filter_map(|(key, ports)| Some((self.0.get(key)?, ports)));
        if let Some(own) = own {
            // What was addressed to a service passed that one's waypoint instead.
            let others = fronts.map(|(front, _)| front.gateway.clone());
            return Some(Guard {
                through: others.chain([own.gateway.clone()]).collect(),
                ports: None,
            });
        }
        let (mut through, mut guarded) = (BTreeSet::new(), BTreeSet::new());
        for (front, ports) in fronts.filter(|(front, _)| front.is_policed) {
            through.insert(front.gateway.clone());
            guarded.extend(ports.iter().map(ServicePort::target));
        }
        (!guarded.is_empty()).then_some(Guard {
            through,
            ports: Some(guarded),
        })
    }
}

/// Has guards held: the policies, and who lists them.
pub(crate) fn enforce(mesh: &Mesh, namespace: &str, guards: &Guards, on: &mut Translated) {
    let mut policies = BTreeMap::new();
    for workload in &mut on.workloads {
        let Some(guard) = guards.get(&workload.uid) else {
            continue;
        };
        let policy = guard.policy(mesh, namespace);
        workload.authorization_policies.push(policy.key());
        policies.insert(policy.key(), policy);
    }
    on.policies.extend(policies.into_values());
}

/// What the policies in force of a namespace are attached to: kind and name.
fn targets(objects: &Objects) -> impl Iterator<Item = (&str, &str)> {
    let policies = objects.authorization_policies.values();
    let in_force = policies.filter(|policy| {
        let decides = matches!(policy.spec.action, PolicyAction::Allow | PolicyAction::Deny);
        decides && !policy.is_dry_run()
    });
    let targets = in_force.flat_map(|policy| {
        let spec = &policy.spec;
        spec.target_refs.iter().chain(&spec.target_ref)
    });
    // A token that is refused at the waypoint must not count at the pod's own address.
    let tokens = objects.request_authentications.values().flat_map(|policy| {
        let spec = &policy.spec;
        spec.target_refs.iter().chain(&spec.target_ref)
    });
    targets
        .chain(tokens)
        .map(|target| (target.kind.as_str(), target.name.as_str()))
}
