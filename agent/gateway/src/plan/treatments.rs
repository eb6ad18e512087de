//! What traffic policies do, for each rule of a plan.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use agent_model::NamespacedHostname;
use agent_model::gateway::traffic::TrafficTarget;
use agent_model::gateway::{GatewayKey, HttpRule, RouteKey, Target};

use crate::filter::Unusable;
use crate::traffic::{Policies, scopes_of_gateway, scopes_of_rule, scopes_of_service};
use crate::treatment::{Limits, Treatment};

/// Compiles treatments, which share their limits.
pub(super) struct Treating<'a> {
    policies: &'a Policies,
    gateway: &'a GatewayKey,
    limits: Limits,
}

/// Where a rule's requests come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// A listener of the gateway.
    Listener(&'a Arc<str>),
    /// A port of a service behind the waypoint; `None` is every port without rules of its own.
    Service(&'a NamespacedHostname, Option<u16>),
    /// The same, for clients of the route's namespace only.
    Consumer,
}

/// Of a port of a service; `None` is every port without a treatment of its own.
type OfPort = (Option<u16>, Arc<Treatment>);

/// Treatments of requests to services that have no rules.
#[derive(Debug, Default)]
pub(super) struct Plain {
    services: HashMap<NamespacedHostname, Vec<OfPort>>,
    others: Arc<Treatment>,
    nothing: Arc<Treatment>,
}

impl<'a> Treating<'a> {
    pub(super) fn new(policies: &'a Policies, gateway: &'a GatewayKey) -> Self {
        Self {
            policies,
            gateway,
            limits: Limits::new(),
        }
    }

    pub(super) fn into_limits(self) -> Limits {
        self.limits
    }

    /// Of a rule: itself, its route, the service, the listener, the gateway; of a rule for consumers only
    /// itself and its route. Where no service was
    /// dialled the service counts that all of the rule's traffic goes to.
    pub(super) fn rule(
        &mut self,
        place: Place<'_>,
        route: &RouteKey,
        rule: &HttpRule,
        fault: &mut impl FnMut(Unusable),
    ) -> Arc<Treatment> {
        if self.policies.is_empty() {
            return Arc::default();
        }
        let mut scopes: Vec<_> = scopes_of_rule(route, rule.name.as_ref()).collect();
        match place {
            Place::Listener(name) => {
                if let Some((service, port)) = only_service(rule) {
                    scopes.extend(scopes_of(service, port));
                }
                scopes.extend(scopes_of_gateway(self.gateway, Some(name)));
            }
            Place::Service(service, port) => {
                scopes.extend(scopes_of(service, port));
                scopes.extend(scopes_of_gateway(self.gateway, None));
            }
            // What is said of the service counts behind it, and in full.
            Place::Consumer => {}
        }
        self.compile(&scopes, fault)
    }

    /// Of services without rules.
    pub(super) fn plain(&mut self, fault: &mut impl FnMut(Unusable)) -> Plain {
        if self.policies.is_empty() {
            return Plain::default();
        }
        let gateway: Vec<_> = scopes_of_gateway(self.gateway, None).collect();
        let services: BTreeSet<_> = self.policies.services().cloned().collect();
        let services = services.into_iter().map(|service| {
            let ports = self.policies.ports_of(&service).map(Some);
            // Those with a name come first.
            let ports: Vec<_> = ports.chain([None]).collect();
            let ports = ports.into_iter().map(|port| {
                let mut scopes = scopes_of(&service, port);
                scopes.extend_from_slice(&gateway);
                (port, self.compile(&scopes, fault))
            });
            let ports = ports.collect();
            (service, ports)
        });
        Plain {
            services: services.collect(),
            others: self.compile(&gateway, fault),
            nothing: Arc::default(),
        }
    }

    /// Ports of a service that policies name.
    pub(super) fn ports_of(&self, service: &NamespacedHostname) -> impl Iterator<Item = u16> {
        self.policies.ports_of(service)
    }

    fn compile(
        &mut self,
        scopes: &[TrafficTarget],
        fault: &mut impl FnMut(Unusable),
    ) -> Arc<Treatment> {
        let treatment = Treatment::compile(self.policies, scopes, &mut self.limits, fault);
        Arc::new(treatment)
    }
}

impl Plain {
    pub(super) fn nothing(&self) -> &Arc<Treatment> {
        &self.nothing
    }

    pub(super) fn of(&self, service: &NamespacedHostname, port: u16) -> &Arc<Treatment> {
        let ports = self.services.get(service);
        let mut ports = ports.into_iter().flatten();
        let found = ports.find(|(of, _)| of.is_none_or(|of| of == port));
        found.map_or(&self.others, |(_, treatment)| treatment)
    }
}

fn scopes_of(service: &NamespacedHostname, port: Option<u16>) -> Vec<TrafficTarget> {
    match port {
        Some(port) => scopes_of_service(service, port).into(),
        None => vec![TrafficTarget::Service {
            service: service.clone(),
            port: None,
        }],
    }
}

/// The service that all backends with a share are of, with its port where that is one, too.
fn only_service(rule: &HttpRule) -> Option<(&NamespacedHostname, Option<u16>)> {
    let shares = rule.backends.iter().filter(|backend| backend.weight > 0);
    let mut found: Option<(&NamespacedHostname, Option<u16>)> = None;
    for backend in shares {
        let Target::Service { service, port, .. } = &backend.target else {
            return None;
        };
        found = match found {
            None => Some((service, Some(*port))),
            Some((of, _)) if of != service => return None,
            Some((of, same)) => Some((of, same.filter(|same| same == port))),
        };
    }
    found
}
