//! Parts of a policy that act on requests before they are sent anywhere, and on responses.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::gateway::{BackendTls, Fraction, SecretKey};

/// How many requests pass. A request has to pass both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Counted by each gateway process for itself.
    pub local: Option<Limit>,
    /// Counted by all gateways together.
    pub global: Option<GlobalLimit>,
}

/// So many requests in so long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// Requests; 0 lets none pass.
    pub requests: u32,
    /// In so long; not 0.
    pub per: Duration,
    /// Requests at once; at least 1.
    pub burst: u32,
    /// What counts for itself; none counts all requests of the target together. Requests without
    /// one of them (such as a header) count together.
    pub by: Vec<LimitBy>,
}

/// A property of requests that are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LimitBy {
    /// Address of the client.
    SourceIp,
    /// Identity that the client proved.
    SourceIdentity,
    /// Values of a header; lower case.
    Header(Arc<str>),
    /// Host of the request.
    Host,
    /// Path of the request, normalised, without its query.
    Path,
    /// Method of the request.
    Method,
}

/// A limit counted by all gateways together, in a Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GlobalLimit {
    /// The limit.
    pub limit: Limit,
    /// Where it is counted.
    pub redis: Redis,
    /// What happens to requests while it cannot be.
    pub when_gone: WhenGone,
}

/// Where a Redis is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redis {
    /// `host:port`.
    pub address: Arc<str>,
    /// TLS to it; `None` speaks in the clear.
    pub tls: Option<BackendTls>,
    /// User and password, when it wants them.
    pub login: Option<RedisLogin>,
    /// Longest time a request waits for its answer.
    pub timeout: Duration,
}

/// What a Redis has to be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisLogin {
    /// User; `None` for the default one.
    pub user: Option<Arc<str>>,
    /// Password.
    pub password: SecretKey,
}

/// What happens while a Redis does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WhenGone {
    /// Requests pass uncounted; local limits still hold.
    #[default]
    Open,
    /// Requests are refused.
    Closed,
}

/// Faults on purpose, to see how clients take them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Holds requests back.
    pub delay: Option<FaultDelay>,
    /// Answers instead of the backend; a request may have both.
    pub abort: Option<FaultAbort>,
    /// When it ends, in seconds since 1970; `None` lasts as long as the policy.
    pub expires: Option<u64>,
}

/// Holds requests back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultDelay {
    /// For so long.
    pub duration: Duration,
    /// Share of the requests.
    pub fraction: Fraction,
}

/// Answers instead of the backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultAbort {
    /// HTTP status of the answer; gRPC requests get `grpc_status` in its place.
    pub status: u16,
    /// gRPC status for gRPC requests; `None` for the one that `status` stands for.
    pub grpc_status: Option<u8>,
    /// Share of the requests.
    pub fraction: Fraction,
}

/// Which responses are compressed, for clients that take them so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compression {
    /// Codings, the preferred first, where a client takes several alike.
    pub codings: Vec<ContentCoding>,
    /// Media types without parameters, in lower case; `text/*` takes all of a kind.
    pub content_types: Vec<Arc<str>>,
    /// Least length of a body, in bytes. Bodies that do not say their length are compressed.
    pub min_length: u64,
}

/// A coding of content (RFC 9110, 8.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ContentCoding {
    /// `gzip`.
    Gzip,
    /// `br` (RFC 7932).
    Brotli,
}

/// How large bodies may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BodyLimits {
    /// Most bytes of a request's body; 0 takes none.
    pub request: Option<u64>,
}
