//! A gateway's configuration in the form requests are served from: indexed, compiled, immutable.
//!
//! Each object compiles alone. What of a rule cannot be used makes that rule answer 500 and is
//! reported; every other rule is as if the bad one were not there.

mod material;
mod origination;
mod rule;
mod services;
mod steps;
mod stream;
mod tls;
mod treatments;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use agent_model::gateway::{
    Backend as BackendSettings, Gateway, GatewayKey, Hostname, Listener, Parent, Protocol, Route,
    RouteKey, Rules,
};
use agent_model::{NamespacedHostname, PolicyKey};
use agent_telemetry::RouteName;
use rustls::ServerConfig;

use crate::access::{Guards, RequestPolicies};
use crate::place;
use crate::route::{Entry, HostMap, Index, effective_hostnames};
use crate::traffic::Policies as TrafficPolicies;
use crate::treatment::{Limits, Treatment};
use tls::Terminations;
use treatments::{Place, Plain, Treating};

pub use origination::{Inside, Origination, Originations, Reached};
pub use rule::{Backend, Destination, Rule};
pub use services::ServicePlan;
pub use steps::{HostChange, MirrorTo, Steps};
pub use stream::{StreamListener, StreamRule};

/// What a gateway serves, by port.
#[derive(Debug)]
pub struct Plan {
    ports: BTreeMap<u16, PortPlan>,
    datagrams: BTreeMap<u16, Arc<StreamListener>>,
    services: HashMap<NamespacedHostname, ServicePlan>,
    originations: Originations,
    terminations: Terminations,
    plain: Plain,
    limits: Limits,
    guards: Guards,
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
    listeners: HostMap<Served>,
}

/// What clients of a listener get.
#[derive(Debug, Clone)]
pub enum Served {
    /// An answer to each of their requests.
    Http(Arc<HttpListener>),
    /// A connection to a backend.
    Stream(Arc<StreamListener>),
}

/// What a port's clients begin with. Of two on one port the greater counts: it hides more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outer {
    /// Anything.
    Bytes,
    /// HTTP.
    Http,
    /// TLS, and HTTP or anything inside.
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
    /// A client that gets through its handshake has shown a certificate that was verified.
    pub proves_clients: bool,
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
    /// A policy of requests, which refuses what it is for, or tokens it would have accepted.
    Policy(PolicyKey),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listener(name) => write!(f, "listener {name}"),
            Self::Rule(route, number) => write!(f, "{route} rule {number}"),
            Self::Backend(service, None) => write!(f, "backend {service}"),
            Self::Backend(service, Some(port)) => write!(f, "backend {service}:{port}"),
            Self::Policy(policy) => write!(f, "policy {policy}"),
        }
    }
}

impl Plan {
    /// Of no gateway: nothing is served, and what comes over connections that are open is refused.
    /// What is under way ends as it began: endpoints are reached as the plan `before` has it.
    pub fn closed(before: Option<&Self>) -> Self {
        Self {
            ports: BTreeMap::new(),
            datagrams: BTreeMap::new(),
            services: HashMap::new(),
            originations: before
                .map_or_else(Originations::default, |plan| plan.originations.clone()),
            terminations: Terminations::default(),
            plain: Plain::default(),
            limits: Limits::default(),
            guards: Guards::closed(),
        }
    }

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
        let mut ports: BTreeMap<u16, Vec<Named>> = BTreeMap::new();
        let mut datagrams = BTreeMap::new();
        let nothing = Terminations::default();
        let known = before.map_or(&nothing, |plan| &plan.terminations);
        let mut terminations = Terminations::default();
        for listener in &gateway.listeners {
            let tls = terminations.take(listener, known);
            let tls = match tls {
                Ok(tls) => tls,
                Err(what) => {
                    faults.push(Fault {
                        subject: Subject::Listener(Arc::clone(&listener.name)),
                        what,
                    });
                    continue;
                }
            };
            let stream = |tls| {
                let compiled = StreamListener::compile(gateway, listener, tls, routes);
                Arc::new(compiled)
            };
            let (spoken, served) = match listener.protocol {
                Protocol::Http | Protocol::Https => {
                    let spoken = match tls {
                        Some(_) => Outer::Tls,
                        None => Outer::Http,
                    };
                    let compiled = compile_listener(
                        gateway,
                        listener,
                        tls,
                        routes,
                        &mut treating,
                        &mut faults,
                    );
                    (spoken, Some(Served::Http(Arc::new(compiled))))
                }
                Protocol::Tls => (Outer::Tls, Some(Served::Stream(stream(tls)))),
                Protocol::Tcp => (Outer::Bytes, Some(Served::Stream(stream(None)))),
                Protocol::Hbone => (Outer::Tunnel, None),
                Protocol::Udp => {
                    // Of two listeners the first wins.
                    let port = datagrams.entry(listener.port);
                    port.or_insert_with(|| stream(None));
                    continue;
                }
            };
            ports.entry(listener.port).or_default().push(Named {
                spoken,
                hostname: listener.hostname.clone(),
                served,
            });
        }
        let services = services::compile(routes, &mut treating, &mut faults);
        let plain = treating.plain(&mut |unusable| {
            tracing::warn!(problem = %unusable, "a change of a traffic policy is left out");
        });
        // A rule that attaches to several listeners is wrong once.
        faults.sort_by(|a, b| (&a.subject, &a.what).cmp(&(&b.subject, &b.what)));
        faults.dedup();
        let ports = ports.into_iter();
        let plan = Self {
            ports: ports
                .map(|(port, listeners)| (port, PortPlan::new(listeners)))
                .collect(),
            datagrams,
            services,
            originations,
            terminations,
            plain,
            limits: treating.into_limits(),
            guards: Guards::default(),
        };
        (plan, faults)
    }

    /// The same plan with these policies of the gateway before its requests.
    pub fn guarded(
        self,
        gateway: &GatewayKey,
        policies: &RequestPolicies<'_>,
    ) -> (Self, Vec<Fault>) {
        let (guards, wrong) = Guards::compile(gateway, policies);
        let faults = wrong.into_iter().map(|(policy, what)| Fault {
            subject: Subject::Policy(policy),
            what,
        });
        (Self { guards, ..self }, faults.collect())
    }

    /// What stands before requests.
    pub fn guards(&self) -> &Guards {
        &self.guards
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

    /// True where one of these rules is of a route that names the port, rather than of one for every port
    /// that speaks HTTP.
    pub fn is_named(
        &self,
        service: &NamespacedHostname,
        port: u16,
        client_namespace: &str,
    ) -> bool {
        let service = self.services.get(service);
        service.is_some_and(|service| service.is_named(port, client_namespace))
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

    /// The listener for datagrams on a port.
    pub fn datagrams(&self, port: u16) -> Option<&Arc<StreamListener>> {
        self.datagrams.get(&port)
    }

    /// What requests are counted under, of every rule.
    pub(crate) fn labels(&self) -> HashSet<RouteName> {
        let ports = self.ports.values();
        let served = ports.flat_map(|port| port.listeners.values());
        let indices = served.filter_map(|served| match served {
            Served::Http(listener) => Some(&listener.rules),
            Served::Stream(_) => None,
        });
        let indices = indices.chain(self.services.values().flat_map(ServicePlan::indices));
        let rules = indices.flat_map(Index::values);
        rules.filter_map(|rule| rule.label.clone()).collect()
    }

    /// Every port that is served.
    pub fn places(&self) -> impl Iterator<Item = place::Place> {
        let datagrams = self.datagrams.keys().copied().map(place::Place::udp);
        let ports = self.ports.keys().copied().map(place::Place::tcp);
        ports.chain(datagrams)
    }
}

impl PortPlan {
    fn new(mut listeners: Vec<Named>) -> Self {
        let spoken = listeners.iter().map(|listener| listener.spoken).max();
        let spoken = spoken.unwrap_or(Outer::Bytes);
        // A port begins with one protocol.
        listeners.retain(|listener| listener.spoken == spoken);
        // Of two for one name the first wins, and the map keeps the last.
        let listeners = listeners.into_iter().rev();
        Self {
            spoken,
            listeners: listeners
                .filter_map(|listener| Some((listener.hostname, listener.served?)))
                .collect(),
        }
    }

    /// What clients have to begin with.
    pub fn spoken(&self) -> Outer {
        self.spoken
    }

    /// The listener that takes requests for a host.
    pub fn listener(&self, host: &str) -> Option<&Arc<HttpListener>> {
        match self.listeners.best(host)? {
            Served::Http(listener) => Some(listener),
            Served::Stream(_) => None,
        }
    }

    /// The listener that takes connections for a name.
    pub fn stream(&self, name: &str) -> Option<&Arc<StreamListener>> {
        match self.listeners.best(name)? {
            Served::Http(_) => None,
            Served::Stream(listener) => Some(listener),
        }
    }

    /// True where TLS of some names is routed by the name (TLSRoutes).
    pub fn has_streams(&self) -> bool {
        let mut served = self.listeners.values();
        served.any(|served| matches!(served, Served::Stream(_)))
    }

    /// What clients get that ask for a name.
    pub fn served(&self, name: &str) -> Option<&Served> {
        self.listeners.best(name)
    }
}

/// A listener of a port that others may share.
struct Named {
    spoken: Outer,
    hostname: Option<Hostname>,
    /// `None` for tunnels.
    served: Option<Served>,
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
        proves_clients: listener.tls.as_ref().is_some_and(tls::proves_clients),
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
        let treatment = treating.rule(place, &route.key, rule, &mut |unusable| {
            fault(unusable.to_string());
        });
        let (treatment, consumer) = match place {
            Place::Consumer => (None, Some(treatment)),
            Place::Listener(_) | Place::Service(..) => (Some(treatment), None),
        };
        Entry {
            hostnames: hostnames.to_vec(),
            created: route.created,
            route: &route.key,
            rule: number,
            matches: &rule.matches,
            value: Arc::new(Rule {
                listener: match place {
                    Place::Listener(name) => Some(Arc::clone(name)),
                    Place::Service(..) | Place::Consumer => None,
                },
                treatment,
                consumer,
                ..Rule::compile(&route.key, rule, &mut fault).labelled(number)
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
