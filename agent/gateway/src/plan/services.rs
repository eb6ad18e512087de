//! Services behind a waypoint and the routes that attach to them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use agent_model::NamespacedHostname;
use agent_model::gateway::{Parent, Route};

use super::treatments::{Place, Treating};
use super::{Fault, Rule, index, rules_of};
use crate::route::Index;

/// The rules for one service.
#[derive(Debug, Default)]
pub struct ServicePlan {
    /// For everybody (producer routes).
    everybody: ByPort,
    /// For clients of a namespace (consumer routes); they replace the others there.
    consumers: HashMap<Arc<str>, ByPort>,
}

#[derive(Debug, Default)]
struct ByPort {
    /// Ports that routes name, with the routes that name none.
    named: BTreeMap<u16, Index<Arc<Rule>>>,
    /// Every other port.
    others: Option<Index<Arc<Rule>>>,
    /// Those that routes name.
    asked: BTreeSet<u16>,
}

impl ServicePlan {
    /// The rules for a port, as a client of a namespace is served.
    pub fn rules(&self, port: u16, client_namespace: &str) -> Option<&Index<Arc<Rule>>> {
        let ports = self.ports(client_namespace);
        ports.named.get(&port).or(ports.others.as_ref())
    }

    /// True where one of them is of a route that names the port.
    pub fn is_named(&self, port: u16, client_namespace: &str) -> bool {
        self.ports(client_namespace).asked.contains(&port)
    }

    fn ports(&self, client_namespace: &str) -> &ByPort {
        let ports = self.consumers.get(client_namespace);
        ports.unwrap_or(&self.everybody)
    }
}

impl ServicePlan {
    /// Every index of rules.
    pub(super) fn indices(&self) -> impl Iterator<Item = &Index<Arc<Rule>>> {
        let all = self.consumers.values().chain([&self.everybody]);
        all.flat_map(|ports| ports.named.values().chain(&ports.others))
    }
}

/// A route, and the port of the service it is for.
type Attached<'a> = (&'a Route, Option<u16>);

pub(super) fn compile(
    routes: &[Arc<Route>],
    treating: &mut Treating<'_>,
    faults: &mut Vec<Fault>,
) -> HashMap<NamespacedHostname, ServicePlan> {
    let mut attached: HashMap<_, HashMap<Option<&Arc<str>>, Vec<Attached<'_>>>> = HashMap::new();
    for route in routes {
        for parent in &route.parents {
            if let Parent::Service {
                service,
                port,
                consumer_namespace,
            } = parent
            {
                let of_service = attached.entry(service).or_default();
                let of_clients = of_service.entry(consumer_namespace.as_ref()).or_default();
                of_clients.push((route, *port));
            }
        }
    }
    let services = attached.into_iter().map(|(service, by_clients)| {
        let mut plan = ServicePlan::default();
        for (clients, attached) in by_clients {
            let ports = by_port(service, clients.is_some(), &attached, treating, faults);
            match clients {
                None => plan.everybody = ports,
                Some(namespace) => {
                    plan.consumers.insert(Arc::clone(namespace), ports);
                }
            }
        }
        (service.clone(), plan)
    });
    services.collect()
}

fn by_port(
    service: &NamespacedHostname,
    is_of_consumers: bool,
    attached: &[Attached<'_>],
    treating: &mut Treating<'_>,
    faults: &mut Vec<Fault>,
) -> ByPort {
    let asked: BTreeSet<u16> = attached.iter().filter_map(|(_, port)| *port).collect();
    let named = asked.iter().copied().chain(treating.ports_of(service));
    let named: BTreeSet<u16> = named.collect();
    let mut compiled = |wanted: Option<u16>| {
        let takes = |port: &Option<u16>| port.is_none() || *port == wanted;
        let routes: Vec<_> = attached.iter().filter(|(_, port)| takes(port)).collect();
        let entries = routes.iter().flat_map(|(route, _)| {
            let place = match is_of_consumers {
                true => Place::Consumer,
                false => Place::Service(service, wanted),
            };
            rules_of(route, &[], place, treating, faults)
        });
        let entries = entries.collect();
        (!routes.is_empty()).then(|| index(entries, faults))
    };
    ByPort {
        others: compiled(None),
        named: named
            .into_iter()
            .filter_map(|port| Some((port, compiled(Some(port))?)))
            .collect(),
        asked,
    }
}
