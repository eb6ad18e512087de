//! One rule, compiled.

use std::sync::{Arc, OnceLock};

use agent_model::NamespacedHostname;
use agent_model::gateway::{
    BackendProtocol, BackendRef, HttpRule, PathMatch, Retry, RouteKey, RouteKind,
    SessionPersistence, Target, Timeouts,
};
use agent_telemetry::RouteName;

use super::Steps;
use crate::filter::Split;
use crate::retry::Policy;
use crate::treatment::Treatment;
use crate::tuning::Way;

/// What happens to the requests of a rule.
#[derive(Debug)]
pub struct Rule {
    /// The route it is of.
    pub route: RouteKey,
    /// Its name.
    pub name: Option<Arc<str>>,
    /// The listener it is attached to; `None` for a rule of a service.
    pub listener: Option<Arc<str>>,
    /// What its requests are counted under; nothing for what no route says.
    pub label: Option<RouteName>,
    /// Changes.
    pub steps: Steps,
    /// Shares of the traffic.
    pub split: Split<Backend>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// When a failed request is sent again.
    pub retry: Option<Policy>,
    /// How a client stays with one endpoint, as the rule says.
    pub sessions: Option<SessionPersistence>,
    /// What traffic policies do; `None` for a rule that stands for a service without rules and for one
    /// of a consumer route, of which the plan says what those of the service do.
    pub treatment: Option<Arc<Treatment>>,
    /// For a rule of a consumer route: what traffic policies of the route do, in front of the service's.
    pub consumer: Option<Arc<Treatment>>,
    /// Why every request gets 500, when one of its filters cannot be used.
    pub broken: Option<String>,
}

/// A share of a rule's traffic.
#[derive(Debug)]
pub struct Backend {
    /// Where it goes.
    pub destination: Destination,
    /// Changes for this share, after those of the rule.
    pub steps: Steps,
    /// How requests get there, once it is known.
    pub(crate) way: OnceLock<Way>,
}

/// Where traffic goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A port of a service.
    #[expect(missing_docs, reason = "the names say it")]
    Service {
        service: NamespacedHostname,
        port: u16,
        protocol: BackendProtocol,
    },
    /// Nowhere (500), for this reason.
    Invalid(Arc<str>),
}

impl Rule {
    /// What happens to requests for a service that has no rules: they go there, as they came.
    pub(crate) fn plain(
        service: &NamespacedHostname,
        port: u16,
        protocol: BackendProtocol,
    ) -> Self {
        let backend = Backend {
            destination: Destination::Service {
                service: service.clone(),
                port,
                protocol,
            },
            steps: Steps::default(),
            way: OnceLock::new(),
        };
        Self {
            route: RouteKey::new(RouteKind::Http, &service.namespace, &service.hostname),
            name: None,
            listener: None,
            label: None,
            steps: Steps::default(),
            split: Split::new([(1, backend)]),
            timeouts: Timeouts::default(),
            retry: None,
            sessions: None,
            treatment: None,
            consumer: None,
            broken: None,
        }
    }

    /// Gives the rule at `place` of its route what its requests are counted under.
    pub(super) fn labelled(mut self, place: usize) -> Self {
        let label = RouteName::of(&self.route.to_string(), self.name.as_deref(), place);
        self.label = Some(label);
        self
    }

    pub(super) fn compile(
        route: &RouteKey,
        rule: &HttpRule,
        fault: &mut impl FnMut(String),
    ) -> Self {
        let by_prefix = rule
            .matches
            .iter()
            .all(|one| matches!(one.path, PathMatch::Prefix(_)));
        let (steps, broken) = match Steps::compile(&rule.filters, by_prefix) {
            Ok(steps) => (steps, None),
            Err(unusable) => {
                fault(unusable.to_string());
                (Steps::default(), Some(unusable.to_string()))
            }
        };
        let mut backend = |one: &BackendRef| match Steps::compile(&one.filters, by_prefix) {
            Ok(steps) => Backend {
                destination: Destination::new(&one.target, route.kind),
                steps,
                way: OnceLock::new(),
            },
            Err(unusable) => {
                fault(unusable.to_string());
                Backend {
                    destination: Destination::Invalid(unusable.to_string().into()),
                    steps: Steps::default(),
                    way: OnceLock::new(),
                }
            }
        };
        let shares = rule.backends.iter().map(|one| (one.weight, backend(one)));
        Self {
            route: route.clone(),
            name: rule.name.clone(),
            listener: None,
            label: None,
            split: Split::new(shares),
            steps,
            timeouts: rule.timeouts,
            retry: rule.retry.as_ref().map(policy),
            sessions: rule.session_persistence.clone(),
            treatment: None,
            consumer: None,
            broken,
        }
    }
}

fn policy(retry: &Retry) -> Policy {
    Policy {
        codes: retry.codes.clone(),
        grpc_codes: Vec::new(),
        attempts: retry.attempts,
        back_off: retry.backoff.unwrap_or(Policy::default().back_off),
    }
}

impl Destination {
    pub(super) fn new(target: &Target, kind: RouteKind) -> Self {
        match target {
            Target::Service {
                service,
                port,
                protocol,
            } => Self::Service {
                service: service.clone(),
                port: *port,
                protocol: match kind {
                    RouteKind::Grpc => BackendProtocol::H2c,
                    _ => *protocol,
                },
            },
            Target::Invalid(why) => Self::Invalid(Arc::clone(why)),
        }
    }
}
