//! Which traffic policy decides which part, of what is told.

use std::collections::HashMap;
use std::sync::Arc;

use agent_model::NamespacedHostname;
use agent_model::gateway::traffic::{TrafficPolicy, TrafficTarget};
use agent_model::gateway::{GatewayKey, RouteKey};

/// The policies, by what they are attached to.
#[derive(Debug, Default)]
pub struct Policies {
    /// In the order in which they win.
    by_target: HashMap<TrafficTarget, Vec<Arc<TrafficPolicy>>>,
}

/// A part, and where it is from.
#[derive(Debug)]
pub struct Decided<'a, T> {
    /// The policy.
    pub policy: &'a Arc<TrafficPolicy>,
    /// What it is attached to here.
    pub target: &'a TrafficTarget,
    /// What it says.
    pub part: &'a T,
}

impl Policies {
    /// Of what is told.
    pub fn new<'a>(policies: impl IntoIterator<Item = &'a Arc<TrafficPolicy>>) -> Self {
        let mut by_target: HashMap<_, Vec<Arc<TrafficPolicy>>> = HashMap::new();
        for policy in policies {
            for target in &policy.targets {
                let of_target = by_target.entry(target.clone()).or_default();
                of_target.push(Arc::clone(policy));
            }
        }
        for of_target in by_target.values_mut() {
            of_target.sort_by(|a, b| a.rank().cmp(&b.rank()));
        }
        Self { by_target }
    }

    /// Everything that policies are attached to, in no order.
    pub fn targets(&self) -> impl Iterator<Item = &TrafficTarget> {
        self.by_target.keys()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.by_target.is_empty()
    }

    /// Services that something is attached to.
    pub fn services(&self) -> impl Iterator<Item = &NamespacedHostname> {
        self.by_target.keys().filter_map(|target| match target {
            TrafficTarget::Service { service, .. } => Some(service),
            _ => None,
        })
    }

    /// Ports of a service that something is attached to.
    pub fn ports_of(&self, service: &NamespacedHostname) -> impl Iterator<Item = u16> {
        self.by_target
            .keys()
            .filter_map(move |target| match target {
                TrafficTarget::Service { service: of, port } if of == service => *port,
                _ => None,
            })
    }

    /// The part that decides: of the first scope that has one, from the policy that wins there.
    /// Scopes go from specific to general.
    pub fn part<T>(
        &self,
        scopes: &[TrafficTarget],
        part: impl Fn(&TrafficPolicy) -> Option<&T>,
    ) -> Option<Decided<'_, T>> {
        scopes.iter().find_map(|scope| {
            let (target, policies) = self.by_target.get_key_value(scope)?;
            policies.iter().find_map(|policy| {
                part(policy).map(|part| Decided {
                    policy,
                    target,
                    part,
                })
            })
        })
    }
}

/// Scopes of a rule, from specific to general.
pub fn scopes_of_rule(
    route: &RouteKey,
    rule: Option<&Arc<str>>,
) -> impl Iterator<Item = TrafficTarget> {
    let scope = |rule: Option<&Arc<str>>| TrafficTarget::Route {
        route: route.clone(),
        rule: rule.cloned(),
    };
    let named = rule.map(|rule| scope(Some(rule)));
    named.into_iter().chain([scope(None)])
}

/// Scopes of a port of a service, from specific to general.
pub fn scopes_of_service(service: &NamespacedHostname, port: u16) -> [TrafficTarget; 2] {
    [Some(port), None].map(|port| TrafficTarget::Service {
        service: service.clone(),
        port,
    })
}

/// Scopes of a gateway, from specific to general.
pub fn scopes_of_gateway(
    gateway: &GatewayKey,
    listener: Option<&Arc<str>>,
) -> impl Iterator<Item = TrafficTarget> {
    let scope = |listener: Option<&Arc<str>>| TrafficTarget::Gateway {
        gateway: gateway.clone(),
        listener: listener.cloned(),
    };
    let named = listener.map(|listener| scope(Some(listener)));
    named.into_iter().chain([scope(None)])
}

#[cfg(test)]
mod tests {
    use agent_model::gateway::RouteKind;
    use agent_model::gateway::traffic::{BodyLimits, Fault};

    use super::*;

    fn service() -> NamespacedHostname {
        NamespacedHostname::new("shop", "web")
    }

    fn gateway() -> GatewayKey {
        GatewayKey::new("shop", "edge")
    }

    fn policy(
        name: &str,
        created: u64,
        target: TrafficTarget,
        limit: Option<u64>,
    ) -> Arc<TrafficPolicy> {
        Arc::new(TrafficPolicy {
            namespace: "shop".into(),
            name: name.into(),
            created,
            targets: vec![target],
            body_limits: limit.map(|limit| BodyLimits {
                request: Some(limit),
            }),
            fault: Some(Fault::default()),
            ..TrafficPolicy::default()
        })
    }

    fn scopes() -> Vec<TrafficTarget> {
        let route = RouteKey::new(RouteKind::Http, "shop", "web");
        let (rule, listener) = ("first".into(), "plain".into());
        scopes_of_rule(&route, Some(&rule))
            .chain(scopes_of_service(&service(), 80))
            .chain(scopes_of_gateway(&gateway(), Some(&listener)))
            .collect()
    }

    fn limit(policies: &Policies) -> Option<u64> {
        let decided = policies.part(&scopes(), |policy| policy.body_limits.as_ref());
        decided.and_then(|decided| decided.part.request)
    }

    #[test]
    fn the_most_specific_target_decides() {
        let scopes = scopes();
        assert_eq!(scopes.len(), 6);
        for first in 0..scopes.len() {
            let told: Vec<_> = (first..scopes.len())
                // The general ones are the older ones.
                .map(|at| policy("p", 100 - at as u64, scopes[at].clone(), Some(at as u64)))
                .collect();
            assert_eq!(limit(&Policies::new(&told)), Some(first as u64));
        }
        assert_eq!(limit(&Policies::default()), None);
    }

    #[test]
    fn among_equals_the_oldest_decides_and_each_part_for_itself() {
        let [target, _] = scopes_of_service(&service(), 80);
        let told = [
            policy("c", 5, target.clone(), Some(3)),
            policy("b", 5, target.clone(), Some(2)),
            policy("z", 1, target.clone(), None),
            policy("a", 9, target, Some(1)),
        ];
        let policies = Policies::new(&told);
        assert_eq!(limit(&policies), Some(2), "the oldest that says it");
        let fault = policies.part(&scopes(), |policy| policy.fault.as_ref());
        assert_eq!(&*fault.unwrap().policy.name, "z");
    }

    #[test]
    fn nobody_elses_policies_count() {
        let other = TrafficTarget::Service {
            service: service(),
            port: Some(81),
        };
        let told = [policy("p", 1, other, Some(1))];
        assert_eq!(limit(&Policies::new(&told)), None);
    }
}
