//! What a TrafficPolicy says about requests and about the way to endpoints.
//!
//! Every part stands for itself: of several policies the one that decides a part is the one with
//! the most specific target, and of equally specific ones the oldest ([`TrafficPolicy::rank`]).
//! From specific to general: a rule of a route, the route, a port of a service, the service, a
//! listener, the gateway. What a route says of its own rules (timeouts, retry, session persistence)
//! comes before every policy.

mod request;
mod upstream;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{GatewayKey, HeaderChange, RouteKey, SessionPersistence, Timeouts};
use crate::{NamespacedHostname, PolicyKey};

pub use request::{
    BodyLimits, Compression, ContentCoding, Fault, FaultAbort, FaultDelay, GlobalLimit, Limit,
    LimitBy, RateLimit, Redis, RedisLogin, WhenGone,
};
pub use upstream::{
    Balancing, CircuitBreaker, HashBy, HealthCheck, HealthProbe, LocalityPreference,
    OutlierDetection, RetryBudget, RetryPolicy, SuccessRate,
};

/// A policy as gateways are told of it: references are resolved, defaults filled in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicy {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// When the object was made, in seconds since 1970: among equals the oldest policy wins.
    pub created: u64,
    /// What it is attached to, as far as the gateway serves it.
    pub targets: Vec<TrafficTarget>,
    /// How an endpoint is chosen.
    pub load_balancing: Option<Balancing>,
    /// Which endpoints come first.
    pub locality: Option<LocalityPreference>,
    /// When a failed request is sent again.
    pub retry: Option<RetryPolicy>,
    /// Time limits.
    pub timeouts: Option<Timeouts>,
    /// How much a service may have at a time.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// When an endpoint that fails gets nothing for a while.
    pub outlier_detection: Option<OutlierDetection>,
    /// How endpoints are asked whether they are well.
    pub health_check: Option<HealthCheck>,
    /// How many requests pass.
    pub rate_limit: Option<RateLimit>,
    /// Faults on purpose.
    pub fault: Option<Fault>,
    /// How a client stays with one endpoint.
    pub session_persistence: Option<SessionPersistence>,
    /// Which responses are compressed.
    pub compression: Option<Compression>,
    /// Changes of header fields.
    pub headers: Option<HeaderEdits>,
    /// How large bodies may be.
    pub body_limits: Option<BodyLimits>,
}

impl TrafficPolicy {
    /// The policy's key.
    pub fn key(&self) -> PolicyKey {
        PolicyKey::new(&self.namespace, &self.name)
    }

    /// The parts it has, by the names that manifests give them.
    pub fn parts(&self) -> impl Iterator<Item = &'static str> {
        let parts = [
            ("loadBalancing", self.load_balancing.is_some()),
            ("locality", self.locality.is_some()),
            ("retry", self.retry.is_some()),
            ("timeouts", self.timeouts.is_some()),
            ("circuitBreaker", self.circuit_breaker.is_some()),
            ("outlierDetection", self.outlier_detection.is_some()),
            ("healthCheck", self.health_check.is_some()),
            ("rateLimit", self.rate_limit.is_some()),
            ("fault", self.fault.is_some()),
            ("sessionPersistence", self.session_persistence.is_some()),
            ("compression", self.compression.is_some()),
            ("headers", self.headers.is_some()),
            ("bodyLimits", self.body_limits.is_some()),
        ];
        let there = parts.into_iter().filter(|(_, is_there)| *is_there);
        there.map(|(part, _)| part)
    }

    /// Its place among policies of equally specific targets: the least wins (GEP-713: the oldest,
    /// then the first by namespace and name).
    pub fn rank(&self) -> (u64, &str, &str) {
        (self.created, &self.namespace, &self.name)
    }
}

/// What a policy is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TrafficTarget {
    /// Requests to a service, or to one of its ports.
    #[expect(missing_docs, reason = "the names say it")]
    Service {
        service: NamespacedHostname,
        port: Option<u16>,
    },
    /// Requests through a gateway, or through one of its listeners.
    #[expect(missing_docs, reason = "the names say it")]
    Gateway {
        gateway: GatewayKey,
        listener: Option<Arc<str>>,
    },
    /// Requests of a route, or of one of its rules.
    #[expect(missing_docs, reason = "the names say it")]
    Route {
        route: RouteKey,
        rule: Option<Arc<str>>,
    },
}

/// Changes of header fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderEdits {
    /// Of requests, before the changes of the route.
    pub request: HeaderChange,
    /// Of responses, after the changes of the route.
    pub response: HeaderChange,
}
