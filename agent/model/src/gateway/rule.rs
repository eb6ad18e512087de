//! Rules of a route: what they match, what they change, where they send it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Filter, Target, WeightedTarget};

/// A rule of an HTTPRoute or a GRPCRoute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRule {
    /// Name, for policies that attach to it and for the access log.
    pub name: Option<Arc<str>>,
    /// OR; none matches every request.
    pub matches: Vec<HttpMatch>,
    /// Changes, in the order in which they were written.
    pub filters: Vec<Filter>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// When a failed request is sent again.
    pub retry: Option<Retry>,
    /// How a client stays with one endpoint.
    pub session_persistence: Option<SessionPersistence>,
    /// Shares of the traffic; none (or only weight 0) answers 500 unless a filter redirects.
    pub backends: Vec<BackendRef>,
}

/// AND of its fields.
///
/// A gRPC method match is a path match: service and method are `Exact("/service/method")`, a
/// service alone is `Prefix("/service")`, a method alone a `Regex`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpMatch {
    /// Path without its query.
    pub path: PathMatch,
    /// Method, compared byte by byte.
    pub method: Option<Arc<str>>,
    /// AND; names are lower case and unique.
    pub headers: Vec<NamedMatch>,
    /// AND; names are unique and compared byte by byte, with the first value of that name.
    pub query: Vec<NamedMatch>,
}

/// How a path is compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    /// Byte-equal.
    Exact(Arc<str>),
    /// Equal, or with further segments: `/a` and `/a/` match `/a` and `/a/b`, not `/ab`.
    Prefix(Arc<str>),
    /// The whole path matches the regular expression (RE2 syntax).
    Regex(Arc<str>),
}

impl Default for PathMatch {
    /// Every path.
    fn default() -> Self {
        Self::Prefix("/".into())
    }
}

/// A named value of the request and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedMatch {
    /// Name of the header or of the query parameter.
    pub name: Arc<str>,
    /// What the value must be.
    pub value: ValueMatch,
}

/// How a value is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ValueMatch {
    /// Byte-equal.
    Exact(Arc<str>),
    /// The whole value matches the regular expression (RE2 syntax).
    Regex(Arc<str>),
}

/// Time limits of a rule; `None` has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// From the request's head to the end of the response, attempts included.
    pub request: Option<Duration>,
    /// One attempt.
    pub backend_request: Option<Duration>,
}

/// When a failed request is sent again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Status codes that count as failed, beside connections that could not be made.
    pub codes: Vec<u16>,
    /// Attempts after the first.
    pub attempts: u32,
    /// Least time between attempts.
    pub backoff: Option<Duration>,
}

/// How a client stays with one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionPersistence {
    /// Name of the cookie or header.
    pub name: Arc<str>,
    /// Where the client keeps it.
    pub kind: Persistence,
    /// Time after which a session ends in any case.
    pub absolute_timeout: Option<Duration>,
    /// Time without a request after which it ends.
    pub idle_timeout: Option<Duration>,
}

/// Where a client keeps its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Persistence {
    /// In a cookie.
    Cookie {
        /// Kept for the absolute timeout rather than until the browser closes.
        permanent: bool,
    },
    /// In a header.
    Header,
}

/// A share of a rule's traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// Share, in proportion to the sum of the rule's weights.
    pub weight: u32,
    /// Where it goes.
    pub target: Target,
    /// Changes for this share only, after those of the rule.
    pub filters: Vec<Filter>,
}

/// A rule of a TLSRoute, a TCPRoute or a UDPRoute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct L4Rule {
    /// Name, for the access log.
    pub name: Option<Arc<str>>,
    /// Shares of the connections, or of the UDP sessions.
    pub backends: Vec<WeightedTarget>,
}
