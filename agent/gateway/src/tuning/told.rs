//! What traffic policies say of endpoints and of the way to them.

use std::collections::BTreeSet;
use std::sync::Arc;

use agent_model::NamespacedHostname;
use agent_model::gateway::traffic::{
    Balancing, CircuitBreaker, HashBy, HealthProbe, LocalityPreference, OutlierDetection,
    TrafficTarget,
};
use agent_model::gateway::{GatewayKey, RouteKey, SessionPersistence};

use super::{Affinity, HashOn, HealthCheck, Nearness, Probe, RetryBudget, Settings, Tuning};
use crate::balance::Algorithm;
use crate::retry::{Budget, Policy};
use crate::session::{Sessions, service_hash};
use crate::traffic::{Policies, scopes_of_gateway, scopes_of_rule, scopes_of_service};
use crate::{circuit, outlier};

/// How the requests of a rule get to one of its backends.
#[derive(Debug)]
pub(crate) struct Way {
    /// When a failed request is sent again.
    pub(crate) retry: Option<Policy>,
    /// Room for retries, where it is not the service's.
    pub(crate) budget: Option<Arc<Budget>>,
    /// How clients stay with an endpoint.
    pub(crate) sessions: Option<Sessions>,
    /// What sessions know the backend by.
    pub(crate) service: u64,
    /// The cookie that clients are given who lack what is hashed.
    pub(crate) affinity: Option<Affinity>,
}

/// A rule, as far as policies are for it.
pub(crate) struct OfRule<'a> {
    pub(crate) route: &'a RouteKey,
    pub(crate) rule: Option<&'a Arc<str>>,
    /// The listener it is attached to.
    pub(crate) listener: Option<&'a Arc<str>>,
    /// It is of a consumer route: what is said of services and of everything comes before it.
    pub(crate) is_of_consumer: bool,
    /// What the route itself says comes before every other policy.
    pub(crate) retry: Option<&'a Policy>,
    pub(crate) sessions: Option<&'a SessionPersistence>,
}

impl Tuning {
    /// What policies say of the services that a gateway sends to.
    pub fn told(policies: Policies, gateway: &GatewayKey) -> Self {
        let general: Vec<_> = scopes_of_gateway(gateway, None).collect();
        let services: BTreeSet<(NamespacedHostname, Option<u16>)> = policies
            .targets()
            .filter_map(|target| match target {
                TrafficTarget::Service { service, port } => Some((service.clone(), *port)),
                TrafficTarget::Gateway { .. } | TrafficTarget::Route { .. } => None,
            })
            .collect();
        let tuned = services.into_iter().map(|(service, port)| {
            let own = TrafficTarget::Service {
                service: service.clone(),
                port,
            };
            let of_all = TrafficTarget::Service {
                service: service.clone(),
                port: None,
            };
            let mut scopes = vec![own, of_all];
            scopes.extend(general.iter().cloned());
            (service, port, settings(&policies, &scopes))
        });
        let tuned: Vec<_> = tuned.collect();
        Self {
            others: Arc::new(settings(&policies, &general)),
            gateway: Some(gateway.clone()),
            policies: Arc::new(policies),
            ..Self::new(tuned)
        }
    }

    /// The way of a rule's requests to a port of a service.
    pub(crate) fn way(&self, rule: &OfRule<'_>, service: &NamespacedHostname, port: u16) -> Way {
        let of_gateway = |gateway| scopes_of_gateway(gateway, rule.listener);
        let mut scopes: Vec<_> = scopes_of_rule(rule.route, rule.rule).collect();
        let narrow = scopes.len();
        scopes.extend(scopes_of_service(service, port));
        scopes.extend(self.gateway.iter().flat_map(of_gateway));
        if rule.is_of_consumer {
            scopes.rotate_left(narrow);
        }
        let told = self.policies.part(&scopes, |policy| policy.retry.as_ref());
        // What is said of a service or of everything is the service's own.
        let is_narrower = |target: &TrafficTarget| match target {
            TrafficTarget::Route { .. } => true,
            TrafficTarget::Gateway { listener, .. } => listener.is_some(),
            TrafficTarget::Service { .. } => false,
        };
        let is_told = told.as_ref().is_some_and(|told| !is_narrower(told.target));
        let own = rule.retry.filter(|_| !(rule.is_of_consumer && is_told));
        let narrower = told
            .as_ref()
            .filter(|told| own.is_none() && is_narrower(told.target));
        let budget = narrower.and_then(|told| told.part.budget);
        let retry = own.cloned().or_else(|| {
            told.as_ref().map(|told| Policy {
                codes: told.part.codes.clone(),
                grpc_codes: told.part.grpc_codes.clone(),
                attempts: told.part.attempts,
                back_off: told.part.backoff.unwrap_or(Policy::default().back_off),
            })
        });
        Way {
            retry,
            budget: budget.map(|budget| Arc::new(Budget::new(budget.percent, budget.least))),
            sessions: self.sessions(rule, &scopes, service, port),
            service: service_hash(service, port),
            affinity: self.of(service, port).affinity.clone(),
        }
    }

    /// True where policies say of requests to a port of a service, whatever their rule, what can be
    /// done to requests only.
    pub(crate) fn asks_for_requests(&self, service: &NamespacedHostname, port: u16) -> bool {
        let of_all = |gateway| scopes_of_gateway(gateway, None);
        let scopes: Vec<_> = scopes_of_service(service, port)
            .into_iter()
            .chain(self.gateway.iter().flat_map(of_all))
            .collect();
        let retry = self.policies.part(&scopes, |policy| policy.retry.as_ref());
        retry.is_some()
            || self
                .policies
                .part(&scopes, |policy| policy.session_persistence.as_ref())
                .is_some()
    }

    fn sessions(
        &self,
        rule: &OfRule<'_>,
        scopes: &[TrafficTarget],
        service: &NamespacedHostname,
        port: u16,
    ) -> Option<Sessions> {
        let told = self
            .policies
            .part(scopes, |policy| policy.session_persistence.as_ref());
        let said = match (rule.sessions, &told) {
            (Some(said), _) => said,
            (None, Some(told)) => told.part,
            (None, None) => return None,
        };
        let scope = match (rule.sessions, told.map(|told| told.target)) {
            (None, Some(TrafficTarget::Service { .. })) => format!("{service}:{port}"),
            _ => rule.route.to_string(),
        };
        Sessions::new(said, &scope)
            .inspect_err(|error| {
                tracing::warn!(route = %rule.route, name = %said.name, %error,
                    "sessions cannot be kept");
            })
            .ok()
    }
}

fn settings(policies: &Policies, scopes: &[TrafficTarget]) -> Settings {
    let balanced = policies.part(scopes, |policy| policy.load_balancing.as_ref());
    let affinity = balanced.as_ref().and_then(|told| affinity(told.part));
    let (algorithm, hash) = balanced.map_or_else(Default::default, |told| balancing(told.part));
    let locality = policies.part(scopes, |policy| policy.locality.as_ref());
    let circuit = policies.part(scopes, |policy| policy.circuit_breaker.as_ref());
    let outlier = policies.part(scopes, |policy| policy.outlier_detection.as_ref());
    let health = policies.part(scopes, |policy| policy.health_check.as_ref());
    let budget = policies.part(scopes, |policy| policy.retry.as_ref()?.budget.as_ref());
    Settings {
        algorithm,
        hash,
        affinity,
        locality: locality.map(|told| match told.part {
            LocalityPreference::None => Nearness::Ignored,
            LocalityPreference::Failover => Nearness::Failover,
            LocalityPreference::Strict => Nearness::Strict,
        }),
        circuit: circuit.map(|told| limits(told.part)),
        outlier: outlier.map(|told| judged(told.part)),
        health: health.map(|told| HealthCheck {
            probe: probe(&told.part.probe),
            interval: told.part.interval,
            timeout: told.part.timeout,
            unhealthy: told.part.unhealthy,
            healthy: told.part.healthy,
            port: told.part.port,
            ..HealthCheck::default()
        }),
        budget: budget.map_or_else(RetryBudget::default, |told| RetryBudget {
            percent: told.part.percent,
            least: told.part.least,
        }),
    }
}

fn balancing(said: &Balancing) -> (Algorithm, Option<HashOn>) {
    match said {
        Balancing::RoundRobin => (Algorithm::RoundRobin, None),
        Balancing::LeastRequest => (Algorithm::LeastRequest, None),
        Balancing::PeakEwma => (Algorithm::PeakEwma, None),
        Balancing::Random => (Algorithm::Random, None),
        Balancing::ConsistentHash(by) => {
            let hash = match by {
                HashBy::Header(name) => name.parse().ok().map(HashOn::Header),
                HashBy::Cookie { name, .. } => Some(HashOn::Cookie(Arc::clone(name))),
                HashBy::SourceIp => Some(HashOn::Source),
            };
            (Algorithm::ConsistentHash, hash)
        }
    }
}

/// The cookie that is given to clients that have none.
fn affinity(said: &Balancing) -> Option<Affinity> {
    match said {
        Balancing::ConsistentHash(HashBy::Cookie {
            name,
            ttl: Some(ttl),
            path,
        }) => Some(Affinity {
            name: Arc::clone(name),
            path: Arc::clone(path),
            ttl: *ttl,
        }),
        _ => None,
    }
}

fn limits(said: &CircuitBreaker) -> circuit::Limits {
    let default = circuit::Limits::default();
    circuit::Limits {
        connections: said.connections.unwrap_or(default.connections),
        pending: said.pending.unwrap_or(default.pending),
        requests: said.requests.unwrap_or(default.requests),
    }
}

fn judged(said: &OutlierDetection) -> outlier::Settings {
    outlier::Settings {
        consecutive: said.consecutive,
        success_rate: said.success_rate.map(|rate| outlier::SuccessRate {
            endpoints: usize::try_from(rate.endpoints).unwrap_or(usize::MAX),
            requests: rate.requests,
            deviations: f64::from(rate.deviation_percent) / 100.0,
        }),
        interval: said.interval,
        ejection: said.ejection,
        ejection_most: said.ejection_most,
        percent: said.percent,
    }
}

fn probe(said: &HealthProbe) -> Probe {
    match said {
        HealthProbe::Tcp => Probe::Tcp,
        HealthProbe::Http {
            path,
            host,
            statuses,
        } => Probe::Http {
            path: Arc::clone(path),
            host: host.clone(),
            statuses: *statuses,
        },
        HealthProbe::Grpc { service } => Probe::Grpc {
            service: service.clone().unwrap_or_default(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agent_model::gateway::traffic::{RetryPolicy, TrafficPolicy};
    use agent_model::gateway::{Persistence, RouteKind};

    use super::*;

    fn policy(target: TrafficTarget, attempts: u32, percent: u32) -> Arc<TrafficPolicy> {
        Arc::new(TrafficPolicy {
            name: format!("p{attempts}").into(),
            targets: vec![target],
            retry: Some(RetryPolicy {
                attempts,
                budget: Some(agent_model::gateway::traffic::RetryBudget { percent, least: 1 }),
                ..RetryPolicy::default()
            }),
            ..TrafficPolicy::default()
        })
    }

    #[test]
    fn the_most_specific_says_it_and_the_route_before_all() {
        let service = NamespacedHostname::new("ns", "web");
        let gateway = GatewayKey::new("ns", "edge");
        let route = RouteKey::new(RouteKind::Http, "ns", "web");
        let of_service = |port| TrafficTarget::Service {
            service: service.clone(),
            port,
        };
        let told = [
            policy(
                TrafficTarget::Gateway {
                    gateway: gateway.clone(),
                    listener: None,
                },
                1,
                10,
            ),
            policy(of_service(None), 2, 20),
            policy(of_service(Some(80)), 3, 30),
            policy(
                TrafficTarget::Route {
                    route: route.clone(),
                    rule: None,
                },
                4,
                40,
            ),
        ];
        let tuning = Tuning::told(Policies::new(&told), &gateway);
        let budget = |name, port| {
            let service = NamespacedHostname::new("ns", name);
            tuning.of(&service, port).budget.percent
        };
        assert_eq!((budget("other", 80), budget("web", 81)), (10, 20));
        assert_eq!(budget("web", 80), 30);
        let way = |route: &RouteKey, own: Option<&Policy>, port| {
            let rule = OfRule {
                listener: None,
                ..of_rule(route, own)
            };
            let way = tuning.way(&rule, &service, port);
            (way.retry.unwrap().attempts, way.budget.is_some())
        };
        let other = RouteKey::new(RouteKind::Http, "ns", "other");
        assert_eq!(way(&route, None, 80), (4, true));
        assert_eq!(way(&other, None, 80), (3, false));
        assert_eq!(way(&other, None, 81), (2, false));
        let own = Policy {
            attempts: 9,
            ..Policy::default()
        };
        assert_eq!(way(&route, Some(&own), 80), (9, false));
        // What is said of the service holds for routes of its consumers.
        let of_consumer = |name, own| {
            let service = NamespacedHostname::new("ns", name);
            let rule = OfRule {
                is_of_consumer: true,
                ..of_rule(&route, own)
            };
            let way = tuning.way(&rule, &service, 80);
            (way.retry.unwrap().attempts, way.budget.is_some())
        };
        assert_eq!(of_consumer("web", None), (3, false));
        assert_eq!(of_consumer("web", Some(&own)), (3, false));
        assert_eq!(of_consumer("other", Some(&own)), (1, false));
        let unsaid = Tuning::told(Policies::new(&told[3..]), &gateway);
        let rule = |own| OfRule {
            is_of_consumer: true,
            ..of_rule(&route, own)
        };
        let attempts = |own| unsaid.way(&rule(own), &service, 80).retry.unwrap().attempts;
        assert_eq!((attempts(None), attempts(Some(&own))), (4, 9));
    }

    fn of_rule<'a>(route: &'a RouteKey, own: Option<&'a Policy>) -> OfRule<'a> {
        OfRule {
            route,
            rule: None,
            listener: None,
            is_of_consumer: false,
            retry: own,
            sessions: None,
        }
    }

    #[test]
    fn what_is_said_of_a_listener_is_for_its_rules_only() {
        let service = NamespacedHostname::new("ns", "web");
        let gateway = GatewayKey::new("ns", "edge");
        let of_gateway = |listener: Option<&str>| TrafficTarget::Gateway {
            gateway: gateway.clone(),
            listener: listener.map(Into::into),
        };
        let session = SessionPersistence {
            name: "stay".into(),
            kind: Persistence::Cookie { permanent: false },
            absolute_timeout: None,
            idle_timeout: None,
        };
        let told = [
            policy(of_gateway(None), 1, 10),
            Arc::new(TrafficPolicy {
                session_persistence: Some(session),
                ..TrafficPolicy::clone(&policy(of_gateway(Some("inner")), 2, 20))
            }),
        ];
        let tuning = Tuning::told(Policies::new(&told), &gateway);
        let route = RouteKey::new(RouteKind::Http, "ns", "web");
        let way = |listener: Option<&str>| {
            let listener = listener.map(Arc::from);
            let rule = OfRule {
                listener: listener.as_ref(),
                ..of_rule(&route, None)
            };
            let way = tuning.way(&rule, &service, 80);
            let attempts = way.retry.map(|retry| retry.attempts);
            (attempts, way.budget.is_some(), way.sessions.is_some())
        };
        assert_eq!(way(Some("inner")), (Some(2), true, true));
        assert_eq!(way(Some("outer")), (Some(1), false, false));
        assert_eq!(way(None), (Some(1), false, false));
        // The room for the retries of others is the service's.
        assert_eq!(tuning.of(&service, 80).budget.percent, 10);
    }

    #[test]
    fn a_cookie_with_a_lifetime_is_given() {
        let by = |ttl| {
            Balancing::ConsistentHash(HashBy::Cookie {
                name: "stick".into(),
                ttl,
                path: "/shop".into(),
            })
        };
        let kept = affinity(&by(Some(Duration::ZERO))).unwrap();
        assert_eq!((&*kept.name, &*kept.path), ("stick", "/shop"));
        assert_eq!(affinity(&by(None)), None);
        assert_eq!(affinity(&Balancing::Random), None);
    }
}
