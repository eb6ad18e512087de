//! What `culvert routes` shows: the configuration in force, and how its requests fare.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_gateway::circuit::Kind;
use agent_gateway::plan::{Fault, Subject};
use agent_gateway::{BackendView, CircuitView, EndpointView};
use agent_model::NamespacedHostname;
use agent_model::gateway::{
    BackendRef, Filter, GatewayKey, HttpMatch, HttpRule, Listener, NamedMatch, Parent, PathMatch,
    Protocol, Route, Rules, Target, ValueMatch, WeightedTarget,
};
use agent_state::{Reader, Snapshot, resolve};
use agent_telemetry::{Outcome, Requests, RouteFigures, RouteName};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::in_force::InForce;
use crate::admin::SCHEMA;

/// The routes of the gateway.
pub(super) struct RoutesView {
    pub(super) key: GatewayKey,
    pub(super) network: String,
    pub(super) in_force: watch::Receiver<InForce>,
    pub(super) mesh: Reader,
    pub(super) requests: Arc<Requests>,
    /// What is known of backends that were talked to.
    pub(super) talked: Box<dyn Fn() -> Vec<BackendView> + Send + Sync>,
}

/// What is known of each rule's requests.
type Figures = HashMap<RouteName, RouteFigures>;

impl RoutesView {
    /// The answer to `/routes`.
    pub(super) fn json(&self) -> Value {
        let now = self.in_force.borrow().clone();
        let figures: Figures = self.requests.routes().into_iter().collect();
        let snapshot = self.mesh.load();
        json!({
            "schema": SCHEMA,
            "role": "gateway",
            "gateway": self.key.to_string(),
            "listeners": now.listeners.iter().map(listener).collect::<Vec<_>>(),
            "routes": now.routes.values().map(|one| route(one, &figures, &now.faults)).collect::<Vec<_>>(),
            "backends": self.backends(&now, &snapshot),
        })
    }

    /// The endpoints of every service that a route names.
    fn backends(&self, now: &InForce, snapshot: &Snapshot) -> Vec<Value> {
        let mut services: BTreeMap<(&NamespacedHostname, u16), ()> = BTreeMap::new();
        for route in now.routes.values() {
            for target in targets(route) {
                if let Target::Service { service, port, .. } = target {
                    services.insert((service, *port), ());
                }
            }
        }
        let talked = (self.talked)();
        let services = services.into_keys().map(|(key, port)| {
            let of_port = |view: &&BackendView| view.service == *key && view.port == port;
            let view = talked.iter().find(of_port);
            let service = snapshot.service(key);
            let endpoints = service.map(|service| {
                let all = resolve::endpoints(snapshot, service, port, &self.network);
                let endpoints = all.into_iter().map(|(workload, address)| {
                    let known = view.and_then(|view| known(view, address));
                    endpoint(address, &workload.uid, known)
                });
                endpoints.collect::<Vec<_>>()
            });
            json!({
                "service": key.to_string(),
                "port": port,
                "known": service.is_some(),
                "endpoints": endpoints.unwrap_or_default(),
                "ejections": view.map_or(0, |view| view.ejections),
                "retries": view.map_or(0, |view| view.retries),
                "circuit": view.map_or_else(Vec::new, |view| circuit(&view.circuit)),
            })
        });
        services.collect()
    }
}

/// What is known of an endpoint that was talked to.
fn known(view: &BackendView, address: SocketAddr) -> Option<&EndpointView> {
    let mut endpoints = view.endpoints.iter();
    endpoints.find(|endpoint| endpoint.address == address)
}

fn endpoint(address: SocketAddr, workload: &str, known: Option<&EndpointView>) -> Value {
    let ejected = known.and_then(|endpoint| endpoint.ejected);
    let state = match (ejected, known) {
        (Some(_), _) => "ejected",
        (None, Some(endpoint)) if !endpoint.healthy => "unhealthy",
        (None, Some(endpoint)) if !endpoint.usable => "not used",
        _ => "ready",
    };
    json!({
        "address": address,
        "workload": workload,
        "state": state,
        "ejectedFor": ejected.map(|(_, cause)| cause.as_str()),
        "ejectedMs": ejected.map(|(left, _)| millis(left)),
        "inFlight": known.map(|endpoint| endpoint.in_flight),
        "latencyMs": known.and_then(|endpoint| endpoint.latency).map(millis),
    })
}

fn circuit(limits: &[CircuitView]) -> Vec<Value> {
    let limits = limits.iter().map(|limit| {
        json!({
            "kind": match limit.kind {
                Kind::Connections => "connections",
                Kind::Pending => "pending",
                Kind::Requests => "requests",
            },
            "limit": limit.limit,
            "held": limit.held,
            "refused": limit.refused,
        })
    });
    limits.collect()
}

/// The requests of all rules together: for `culvert status`.
pub(super) fn totals(requests: &Requests) -> Value {
    let routes = requests.routes();
    let all = |outcome| {
        routes
            .iter()
            .map(|(_, figures)| figures.with(outcome))
            .sum::<u64>()
    };
    json!({
        "success": all(Outcome::Success),
        "clientErrors": all(Outcome::ClientError),
        "serverErrors": all(Outcome::ServerError),
    })
}

fn listener(listener: &Listener) -> Value {
    let protocol = match listener.protocol {
        Protocol::Http => "HTTP",
        Protocol::Https => "HTTPS",
        Protocol::Tls => "TLS",
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Hbone => "HBONE",
    };
    json!({
        "name": listener.name,
        "port": listener.port,
        "protocol": protocol,
        "hostname": listener.hostname.as_ref().map(ToString::to_string),
    })
}

fn route(route: &Route, figures: &Figures, faults: &[Fault]) -> Value {
    let rules: Vec<Value> = match &route.rules {
        Rules::Http(rules) => {
            let rules = rules.iter().enumerate();
            let rules = rules.map(|(place, rule)| {
                let name = RouteName::of(&route.key.to_string(), rule.name.as_deref(), place);
                let subject = Subject::Rule(route.key.clone(), place);
                let fault = faults.iter().find(|fault| fault.subject == subject);
                http_rule(rule, &name, figures.get(&name), fault)
            });
            rules.collect()
        }
        Rules::L4(rules) => {
            let rules = rules.iter().enumerate();
            let rules = rules.map(|(place, rule)| {
                let name = RouteName::of(&route.key.to_string(), rule.name.as_deref(), place);
                let backends = rule.backends.iter();
                let backends =
                    backends.map(|WeightedTarget { weight, target }| backend(*weight, target));
                json!({
                    "rule": name.rule,
                    "backends": backends.collect::<Vec<_>>(),
                })
            });
            rules.collect()
        }
    };
    json!({
        "route": route.key.to_string(),
        "hostnames": route.hostnames.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "parents": route.parents.iter().map(parent).collect::<Vec<_>>(),
        "rules": rules,
    })
}

fn parent(parent: &Parent) -> String {
    match parent {
        Parent::Listener { name, .. } => format!("listener {name}"),
        Parent::Service {
            service,
            port,
            consumer_namespace,
        } => {
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            let clients = consumer_namespace.as_ref();
            let clients = clients.map(|from| format!(" for clients of {from}"));
            format!("service {service}{port}{}", clients.unwrap_or_default())
        }
    }
}

fn http_rule(
    rule: &HttpRule,
    name: &RouteName,
    figures: Option<&RouteFigures>,
    fault: Option<&Fault>,
) -> Value {
    let backends = rule.backends.iter();
    let backends = backends.map(|BackendRef { weight, target, .. }| backend(*weight, target));
    let with = |outcome| figures.map_or(0, |figures| figures.with(outcome));
    let within = |share| {
        figures
            .and_then(|figures| figures.within(share))
            .map(millis)
    };
    json!({
        "rule": name.rule,
        "matches": rule.matches.iter().map(match_text).collect::<Vec<_>>(),
        "filters": rule.filters.iter().map(filter).collect::<Vec<_>>(),
        "backends": backends.collect::<Vec<_>>(),
        "problem": fault.map(|fault| &fault.what),
        "requests": figures.map_or(0, RouteFigures::requests),
        "clientErrors": with(Outcome::ClientError),
        "serverErrors": with(Outcome::ServerError),
        "success": figures.and_then(RouteFigures::success),
        "latencyMs": {
            "p50": within(0.5),
            "p90": within(0.9),
            "p99": within(0.99),
        },
    })
}

fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

fn backend(weight: u32, target: &Target) -> Value {
    match target {
        Target::Service { service, port, .. } => json!({
            "weight": weight,
            "service": service.to_string(),
            "port": port,
        }),
        Target::Invalid(why) => json!({ "weight": weight, "problem": why }),
    }
}

fn targets(route: &Route) -> Vec<&Target> {
    match &route.rules {
        Rules::Http(rules) => {
            let backends = rules.iter().flat_map(|rule| &rule.backends);
            backends.map(|backend| &backend.target).collect()
        }
        Rules::L4(rules) => {
            let backends = rules.iter().flat_map(|rule| &rule.backends);
            backends.map(|backend| &backend.target).collect()
        }
    }
}

/// A match in the few words of a table: `GET /shop* x-version=b ?q=1`.
fn match_text(one: &HttpMatch) -> String {
    let path = match &one.path {
        PathMatch::Exact(path) => path.to_string(),
        PathMatch::Prefix(path) => format!("{}/*", path.trim_end_matches('/')),
        PathMatch::Regex(pattern) => format!("~{pattern}"),
    };
    let named = |one: &NamedMatch| match &one.value {
        ValueMatch::Exact(value) => format!("{}={value}", one.name),
        ValueMatch::Regex(pattern) => format!("{}=~{pattern}", one.name),
    };
    let method = one.method.iter().map(ToString::to_string);
    let headers = one.headers.iter().map(named);
    let query = one.query.iter().map(|one| format!("?{}", named(one)));
    let words: Vec<String> = method.chain([path]).chain(headers).chain(query).collect();
    words.join(" ")
}

fn filter(filter: &Filter) -> &'static str {
    match filter {
        Filter::RequestHeaders(_) => "requestHeaders",
        Filter::ResponseHeaders(_) => "responseHeaders",
        Filter::Redirect(_) => "redirect",
        Filter::Rewrite(_) => "rewrite",
        Filter::Mirror(_) => "mirror",
        Filter::Cors(_) => "cors",
        Filter::Invalid(_) => "invalid",
    }
}

#[cfg(test)]
mod tests;
