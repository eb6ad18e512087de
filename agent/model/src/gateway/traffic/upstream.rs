//! Parts of a policy that act between a rule and the endpoints of a service.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How an endpoint is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Balancing {
    /// In turn, by weight.
    RoundRobin,
    /// Of two at random the one with fewer requests in flight.
    LeastRequest,
    /// Of two at random the one with less expected delay.
    #[default]
    PeakEwma,
    /// At random, by weight.
    Random,
    /// The same goes to the same.
    ConsistentHash(HashBy),
}

/// What of a request a consistent hash goes by. Requests without it go anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HashBy {
    /// Values of a header; lower case.
    Header(Arc<str>),
    /// A cookie of the client's.
    Cookie {
        /// Name.
        name: Arc<str>,
        /// The gateway gives one to clients that have none, for so long (zero: until the browser
        /// closes); `None` gives none.
        ttl: Option<Duration>,
        /// What paths that one is for.
        path: Arc<str>,
    },
    /// Address of the client.
    SourceIp,
}

/// Which endpoints come first, as seen from the gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LocalityPreference {
    /// All alike.
    #[default]
    None,
    /// The near ones; others as far as those are not enough.
    Failover,
    /// Only those of the gateway's zone.
    Strict,
}

/// When a failed request is sent again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    /// Status codes that count as failed, beside connections that could not be made.
    pub codes: Vec<u16>,
    /// Codes of gRPC (1 to 16) that count as failed, beside those that a proxy makes of
    /// [`RetryPolicy::codes`].
    pub grpc_codes: Vec<u16>,
    /// Attempts after the first.
    pub attempts: u32,
    /// Least time before the first retry; `None` for the gateway's default.
    pub backoff: Option<Duration>,
    /// How much of the traffic may be retries; `None` for the gateway's default.
    pub budget: Option<RetryBudget>,
}

/// How much of the traffic to a service may be retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// Of the requests in flight, in percent (0 to 100).
    pub percent: u32,
    /// But always so many at a time.
    pub least: u32,
}

/// The most a service may have at a time, from one gateway process; `None` for the gateway's
/// default. What is above fails at once (503).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Connections.
    pub connections: Option<u32>,
    /// Requests that wait for a connection.
    pub pending: Option<u32>,
    /// Requests in flight.
    pub requests: Option<u32>,
}

/// When an endpoint that fails more than its siblings gets nothing for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutlierDetection {
    /// Failures in a row that eject; `None` does not look at them.
    pub consecutive: Option<u32>,
    /// Ejects by success rate; `None` does not look at it.
    pub success_rate: Option<SuccessRate>,
    /// How often success rates are compared.
    pub interval: Duration,
    /// The first ejection; the next ones are two, three ... times as long.
    pub ejection: Duration,
    /// The longest.
    pub ejection_most: Duration,
    /// Most endpoints out at a time, in percent (0 to 100).
    pub percent: u8,
}

impl Default for OutlierDetection {
    /// Five failures in a row, for thirty seconds and more, a tenth of the endpoints.
    fn default() -> Self {
        Self {
            consecutive: Some(5),
            success_rate: None,
            interval: Duration::from_secs(10),
            ejection: Duration::from_secs(30),
            ejection_most: Duration::from_secs(300),
            percent: 10,
        }
    }
}

/// Ejects who succeeds clearly less often than the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SuccessRate {
    /// Endpoints with enough requests that there have to be.
    pub endpoints: u32,
    /// Requests in an interval that are enough.
    pub requests: u32,
    /// How far below the mean is too far, in hundredths of a standard deviation.
    pub deviation_percent: u32,
}

impl Default for SuccessRate {
    /// Five endpoints with a hundred requests each; 1.9 standard deviations.
    fn default() -> Self {
        Self {
            endpoints: 5,
            requests: 100,
            deviation_percent: 190,
        }
    }
}

/// How endpoints are asked whether they are well, by each gateway process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// What is asked.
    pub probe: HealthProbe,
    /// Port of the endpoint; `None` for the one that requests go to.
    pub port: Option<u16>,
    /// How often; not 0.
    pub interval: Duration,
    /// Longest wait for an answer; not 0.
    pub timeout: Duration,
    /// Answers in a row after which an endpoint counts as well; at least 1.
    pub healthy: u32,
    /// Failures in a row after which it does not; at least 1.
    pub unhealthy: u32,
}

/// What an endpoint is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HealthProbe {
    /// `GET` of a path; an answer of these statuses is well.
    Http {
        /// Path, with its query.
        path: Arc<str>,
        /// Host to ask for; `None` for the service's.
        host: Option<Arc<str>>,
        /// Statuses that are well, from and to (both included).
        statuses: (u16, u16),
    },
    /// `grpc.health.v1.Health/Check`; `SERVING` is well.
    Grpc {
        /// Service to ask about; `None` for the whole server.
        service: Option<Arc<str>>,
    },
    /// A connection that can be made is well.
    Tcp,
}
