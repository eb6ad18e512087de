//! A gateway's configuration in the form requests are served from: indexed, compiled, immutable.
//!
//! Each object compiles alone. What of a rule cannot be used makes that rule answer 500 and is
//! reported; every other rule is as if the bad one were not there.

mod material;
mod origination;
mod rule;
mod services;
mod steps;
mod tls;
mod treatments;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use agent_model::NamespacedHostname;
use agent_model::gateway::{
    Backend as BackendSettings, Gateway, Hostname, Listener, Parent, Protocol, Route, RouteKey,
    Rules,
};
use rustls::ServerConfig;

use crate::route::{Entry, HostMap, Index, effective_hostnames};
use crate::traffic::Policies as TrafficPolicies;
use crate::treatment::{Limits, Treatment};
use treatments::{Place, Plain, Treating};

pub use origination::{Inside, Origination, Originations, Reached};
pub use rule::{Backend, Destination, Rule};
pub use services::ServicePlan;
pub use steps::{HostChange, MirrorTo, Steps};

/// What a gateway serves, by port.
#[derive(Debug, Default)]
pub struct Plan {
    ports: BTreeMap<u16, PortPlan>,
    services: HashMap<NamespacedHostname, ServicePlan>,
    originations: Originations,
    plain: Plain,
    limits: Limits,
}

/// What a plan is compiled of.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// The gateway.
    pub gateway: &'a Gateway,
    /// Routes, those of others among them.
    pub routes: &'a [Arc<Route>],
    /// How endpoints of services are reached, where that is said.
    pub backends: &'a [Arc<BackendSettings>],
    /// Traffic policies.
    pub policies: &'a TrafficPolicies,
    /// The plan in force: what has not changed since is taken from it.
    pub before: Option<&'a Plan>,
}

/// What one port is for.
#[derive(Debug)]
pub struct PortPlan {
    spoken: Outer,
    listeners: HostMap<Arc<HttpListener>>,
}

/// What a port's clients begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outer {
    /// HTTP.
    Http,
    /// TLS, and HTTP inside.
    Tls,
    /// The mesh's tunnels, and anything inside.
    Tunnel,
}

/// A listener and its routes.
#[derive(Debug)]
pub struct HttpListener {
    /// Name of the listener.
    pub name: Arc<str>,
    /// Its rules.
    pub rules: Index<Arc<Rule>>,
    /// Its TLS, for HTTPS.
    pub tls: Option<Arc<ServerConfig>>,
}

/// Something that cannot be used as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub subject: Subject,
    /// What is wrong, for people.
    pub what: String,
}

/// What a [`Fault`] is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A listener, which does not serve.
    Listener(Arc<str>),
    /// A rule, by its number in its route.
    Rule(RouteKey, usize),
    /// What is said of a service's endpoints, or of those behind one port: nothing is sent there.
    Backend(NamespacedHostname, Option<u16>),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listener(name) => write!(f, "listener {name}"),
            Self::Rule(route, number) => write!(f, "{route} rule {number}"),
            Self::Backend(service, None) => write!(f, "backend {service}"),
            Self::Backend(service, Some(port)) => write!(f, "backend {service}:{port}"),
        }
    }
}

impl Plan {
    /// Compiles a gateway with the routes that attach to it.
    pub fn compile(sources: Sources<'_>) -> (Self, Vec<Fault>) {
        let Sources {
            gateway,
            routes,
            backends,
            policies,
            before,
        } = sources;
        let mut treating = Treating::new(policies, &gateway.key);
        let mut faults = Vec::new();
        let shown = gateway.backend_client_certificate.as_ref();
        let nothing = Originations::default();
        let known = before.map_or(&nothing, |plan| &plan.originations);
        let originations = Originations::compile(backends, shown, known);
        faults.extend(originations.unusable().map(|(service, port, why)| Fault {
            subject: Subject::Backend(service.clone(), port),
            what: why.to_string(),
        }));
        let mut ports: BTreeMap<u16, Vec<_>> = BTreeMap::new();
        let mut tunnels = BTreeSet::new();
        for listener in &gateway.listeners {
            let tls = match listener.protocol {
                Protocol::Http => Ok(None),
                Protocol::Https => tls::terminate(listener.tls.as_ref(), &tls::HTTP).map(Some),
                Protocol::Hbone => {
                    tunnels.insert(listener.port);
                    continue;
                }
                Protocol::Tls | Protocol::Tcp | Protocol::Udp => continue,
            };
            match tls {
                Ok(tls) => {
                    let compiled = compile_listener(
                        gateway,
                        listener,
                        tls,
                        routes,
                        &mut treating,
                        &mut faults,
                    );
                    let named = (listener.hostname.clone(), Arc::new(compiled));
                    ports.entry(listener.port).or_default().push(named);
                }
                Err(what) => faults.push(Fault {
                    subject: Subject::Listener(Arc::clone(&listener.name)),
                    what,
                }),
            }
        }
        let services = services::compile(routes, &mut treating, &mut faults);
        let plain = treating.plain(&mut |unusable| {
            tracing::warn!(problem = %unusable, "a change of a traffic policy is left out");
        });
        // A rule that attaches to several listeners is wrong once.
        faults.sort_by(|a, b| (&a.subject, &a.what).cmp(&(&b.subject, &b.what)));
        faults.dedup();
        let ports = ports.into_iter().map(|(port, mut listeners)| {
            // Of two for one name the first wins, and the map keeps the last.
            listeners.reverse();
            let is_secure = listeners.iter().any(|(_, listener)| listener.tls.is_some());
            // A port speaks one protocol; where two claim it, the one that hides more wins.
            listeners.retain(|(_, listener)| listener.tls.is_some() == is_secure);
            let port_plan = PortPlan {
                spoken: match is_secure {
                    true => Outer::Tls,
                    false => Outer::Http,
                },
                listeners: listeners.into_iter().collect(),
            };
            (port, port_plan)
        });
        let tunnels = tunnels.into_iter().map(|port| (port, PortPlan::tunnel()));
        let plan = Self {
            ports: ports.chain(tunnels).collect(),
            services,
            originations,
            plain,
            limits: treating.into_limits(),
        };
        (plan, faults)
    }

    /// What is served on a port.
    pub fn port(&self, port: u16) -> Option<&PortPlan> {
        self.ports.get(&port)
    }

    /// The rules for a port of a service behind this waypoint, as a client of a namespace is
    /// served: those of routes in its own namespace, else those of everybody. `None` when there
    /// are none, and the service is to be reached as if there were no waypoint.
    pub fn service(
        &self,
        service: &NamespacedHostname,
        port: u16,
        client_namespace: &str,
    ) -> Option<&Index<Arc<Rule>>> {
        self.services.get(service)?.rules(port, client_namespace)
    }

    /// How the endpoints behind a port of a service are reached, where it is said.
    pub fn origination(&self, service: &NamespacedHostname, port: u16) -> Option<&Reached> {
        self.originations.of(service, port)
    }

    /// What traffic policies do to requests to a service that has no rules.
    pub fn treatment(&self, service: &NamespacedHostname, port: u16) -> &Arc<Treatment> {
        self.plain.of(service, port)
    }

    /// What is done to requests that no traffic policy is for.
    pub(crate) fn untreated(&self) -> &Arc<Treatment> {
        self.plain.nothing()
    }

    /// Limits that are the same as in an earlier plan go on counting.
    pub fn inherit(&self, earlier: &Self) {
        for (key, limit) in &self.limits {
            if let Some(before) = earlier.limits.get(key) {
                limit.inherit(before);
            }
        }
    }

    /// Every port that is served.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.ports.keys().copied()
    }
}

impl PortPlan {
    fn tunnel() -> Self {
        Self {
            spoken: Outer::Tunnel,
            listeners: HostMap::from_iter([]),
        }
    }

    /// What clients have to begin with.
    pub fn spoken(&self) -> Outer {
        self.spoken
    }

    /// The listener that takes requests for a host.
    pub fn listener(&self, host: &str) -> Option<&Arc<HttpListener>> {
        self.listeners.best(host)
    }
}

fn compile_listener(
    gateway: &Gateway,
    listener: &Listener,
    tls: Option<Arc<ServerConfig>>,
    routes: &[Arc<Route>],
    treating: &mut Treating<'_>,
    faults: &mut Vec<Fault>,
) -> HttpListener {
    let mut entries = Vec::new();
    let attached = routes.iter().filter(|route| {
        route.parents.iter().any(|parent| match parent {
            Parent::Listener { gateway: key, name } => {
                *key == gateway.key && *name == listener.name
            }
            Parent::Service { .. } => false,
        })
    });
    for route in attached {
        let names = effective_hostnames(listener.hostname.as_ref(), &route.hostnames);
        if let Some(hostnames) = names {
            let place = Place::Listener(&listener.name);
            entries.extend(rules_of(route, &hostnames, place, treating, faults));
        }
    }
    let rules = index(entries, faults);
    HttpListener {
        name: Arc::clone(&listener.name),
        rules,
        tls,
    }
}

/// The compiled HTTP rules of a route.
fn rules_of<'a>(
    route: &'a Route,
    hostnames: &[Hostname],
    place: Place<'_>,
    treating: &mut Treating<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<Entry<'a, Arc<Rule>>> {
    let Rules::Http(rules) = &route.rules else {
        return Vec::new();
    };
    let rules = rules.iter().enumerate();
    let entries = rules.map(|(number, rule)| {
        let mut fault = |what: String| {
            faults.push(Fault {
                subject: Subject::Rule(route.key.clone(), number),
                what,
            });
        };
        Entry {
            hostnames: hostnames.to_vec(),
            created: route.created,
            route: &route.key,
            rule: number,
            matches: &rule.matches,
            value: Arc::new(Rule {
                treatment: Some(treating.rule(place, &route.key, rule, &mut |unusable| {
                    fault(unusable.to_string());
                })),
                ..Rule::compile(&route.key, rule, &mut fault)
            }),
        }
    });
    entries.collect()
}

fn index(entries: Vec<Entry<'_, Arc<Rule>>>, faults: &mut Vec<Fault>) -> Index<Arc<Rule>> {
    let (rules, unusable) = Index::build(entries);
    faults.extend(unusable.into_iter().map(|fault| Fault {
        subject: Subject::Rule(fault.route, fault.rule),
        what: fault.why.to_string(),
    }));
    rules
}
