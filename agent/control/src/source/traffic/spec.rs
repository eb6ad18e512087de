//! The fields of a TrafficPolicy. The comments here are the descriptions in the resource
//! definition, which is made of these types.

use serde::Deserialize;

use crate::source::lenient::nullable;

macro_rules! spec {
    ($(#[$meta:meta])* $visibility:vis struct $name:ident {$(
        $(#[$field_meta:meta])* $field:ident: $type:ty,
    )*}) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        $visibility struct $name {$(
            $(#[$field_meta])*
            #[serde(default, deserialize_with = "nullable")]
            pub(crate) $field: $type,
        )*}
    };
}

macro_rules! words {
    ($(#[$meta:meta])* $visibility:vis enum $name:ident {$(
        $(#[$variant_meta:meta])* $variant:ident,
    )*}) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(rename_all = "camelCase")]
        $visibility enum $name {$($(#[$variant_meta])* $variant,)*}
    };
}

spec! {
    /// How requests are limited, changed and sent to endpoints. Every part is optional. Of several
    /// policies with the same part the one with the most specific target decides (a rule of a route,
    /// the route, a port of a Service, the Service, a listener, the Gateway), and of equally
    /// specific ones the oldest.
    pub(crate) struct TrafficPolicySpec {
        /// What it is for, in the policy's own namespace; at most 16.
        target_refs: Vec<TargetRef>,
        /// How an endpoint is chosen. For Services and whole Gateways.
        load_balancing: Option<LoadBalancing>,
        /// Which endpoints come first. For Services and whole Gateways.
        locality: Option<Locality>,
        /// When a failed request is sent again; a rule of a route that says so itself goes first.
        retry: Option<Retry>,
        /// Time limits; a rule of a route that has its own goes first.
        timeouts: Option<Timeouts>,
        /// How much a service may have at a time from one gateway process; what is above fails at
        /// once with 503. For Services and whole Gateways.
        circuit_breaker: Option<CircuitBreaker>,
        /// When an endpoint that fails gets nothing for a while. For Services and whole Gateways.
        outlier_detection: Option<OutlierDetection>,
        /// How endpoints are asked whether they are well. For Services and whole Gateways.
        health_check: Option<HealthCheck>,
        /// How many requests pass; the others get 429.
        rate_limit: Option<RateLimit>,
        /// Faults on purpose.
        fault: Option<Fault>,
        /// How a client stays with one endpoint; a rule of a route that says so itself goes first.
        session_persistence: Option<Session>,
        /// Which responses are compressed.
        compression: Option<Compression>,
        /// Changes of header fields.
        headers: Option<Headers>,
        /// How large bodies may be.
        body_limits: Option<BodyLimits>,
    }
}

spec! {
    /// Something a policy is for.
    pub(crate) struct TargetRef {
        /// Empty for a Service, gateway.networking.k8s.io for the others.
        group: String,
        /// Service, Gateway, HTTPRoute or GRPCRoute.
        kind: String,
        /// Its name.
        name: String,
        /// Name of a port of the Service, a listener of the Gateway or a rule of the route; all of
        /// it when left out.
        section_name: Option<String>,
    }
}

impl TargetRef {
    pub(crate) fn section(&self) -> Option<&str> {
        self.section_name.as_deref().filter(|name| !name.is_empty())
    }

    pub(super) fn is_whole_gateway(&self) -> bool {
        self.kind == "Gateway" && self.section().is_none()
    }
}

spec! {
    /// How an endpoint is chosen.
    pub(crate) struct LoadBalancing {
        /// peakEwma when left out.
        algorithm: Option<Algorithm>,
        /// What of a request a consistent hash goes by; with consistentHash only, and there one of
        /// its fields.
        hash_by: Option<HashBy>,
    }
}

words! {
    pub(crate) enum Algorithm {
        RoundRobin,
        LeastRequest,
        PeakEwma,
        Random,
        ConsistentHash,
    }
}

spec! {
    pub(crate) struct HashBy {
        /// Name of a header.
        header: Option<String>,
        /// A cookie.
        cookie: Option<HashCookie>,
        /// True for the client's address.
        source_ip: Option<bool>,
    }
}

spec! {
    pub(crate) struct HashCookie {
        /// Its name.
        name: String,
        /// The gateway gives one to clients that have none, for so long (0s: until the browser
        /// closes); none is given when left out.
        ttl: Option<String>,
        /// What paths that one is for; / when left out.
        path: Option<String>,
    }
}

words! {
    pub(crate) enum Locality {
        None,
        Failover,
        Strict,
    }
}

spec! {
    pub(crate) struct Retry {
        /// Statuses that count as failed (400 to 599), beside connections that could not be made.
        codes: Vec<u16>,
        /// Codes of gRPC (1 to 16) that count as failed where an answer is nothing but its status,
        /// beside those that stand for one of codes, as 14 (UNAVAILABLE) does for 503.
        grpc_codes: Vec<u16>,
        /// Attempts after the first, 0 to 100; 1 when left out.
        attempts: Option<u32>,
        /// Least time before the first retry, such as 25ms.
        backoff: Option<String>,
        /// How much of the traffic may be retries.
        budget: Option<RetryBudget>,
    }
}

spec! {
    pub(crate) struct RetryBudget {
        /// Of the requests in flight, 0 to 100; 20 when left out.
        percent: Option<u32>,
        /// But always so many at a time; 3 when left out.
        least: Option<u32>,
    }
}

spec! {
    pub(crate) struct Timeouts {
        /// From the request's head to the end of the response, attempts included.
        request: Option<String>,
        /// One attempt.
        backend_request: Option<String>,
    }
}

spec! {
    pub(crate) struct CircuitBreaker {
        /// Most connections.
        connections: Option<u32>,
        /// Most requests that wait for a connection.
        pending: Option<u32>,
        /// Most requests in flight.
        requests: Option<u32>,
    }
}

spec! {
    pub(crate) struct OutlierDetection {
        /// Failures in a row that eject; 5 when left out, 0 to not look at them.
        consecutive_errors: Option<u32>,
        /// Ejects by success rate; not looked at when left out.
        success_rate: Option<SuccessRate>,
        /// How often success rates are compared; 10s when left out.
        interval: Option<String>,
        /// The first ejection; the next ones are two, three ... times as long. 30s when left out.
        ejection: Option<String>,
        /// The longest; 5m when left out.
        max_ejection: Option<String>,
        /// Most endpoints out at a time, 0 to 100; 10 when left out. One always may be, the last
        /// never.
        max_ejected_percent: Option<u8>,
    }
}

spec! {
    pub(crate) struct SuccessRate {
        /// Endpoints with enough requests that there have to be; 5 when left out.
        min_endpoints: Option<u32>,
        /// Requests in an interval that are enough; 100 when left out.
        min_requests: Option<u32>,
        /// How far below the mean is too far, in hundredths of a standard deviation; 190 when left
        /// out.
        deviation_percent: Option<u32>,
    }
}

spec! {
    /// One of http, grpc and tcp.
    pub(crate) struct HealthCheck {
        /// A GET.
        http: Option<HttpProbe>,
        /// grpc.health.v1.Health/Check.
        grpc: Option<GrpcProbe>,
        /// A connection.
        tcp: Option<TcpProbe>,
        /// Port of the endpoint; the one that requests go to when left out.
        port: Option<u16>,
        /// How often; 10s when left out.
        interval: Option<String>,
        /// Longest wait for an answer; 1s when left out.
        timeout: Option<String>,
        /// Answers in a row after which an endpoint counts as well; 1 when left out.
        healthy: Option<u32>,
        /// Failures in a row after which it does not; 3 when left out.
        unhealthy: Option<u32>,
    }
}

spec! {
    pub(crate) struct HttpProbe {
        /// Path with its query; / when left out.
        path: Option<String>,
        /// Host to ask for; the service's when left out.
        host: Option<String>,
        /// Statuses that are well; 200 to 299 when left out.
        statuses: Option<Statuses>,
    }
}

spec! {
    pub(crate) struct Statuses {
        /// The first.
        from: u16,
        /// The last.
        to: u16,
    }
}

spec! {
    pub(crate) struct GrpcProbe {
        /// Service to ask about; the whole server when left out.
        service: Option<String>,
    }
}

spec! {
    pub(crate) struct TcpProbe {}
}

spec! {
    /// A request has to pass both.
    pub(crate) struct RateLimit {
        /// Counted by each gateway process for itself.
        local: Option<Limit>,
        /// Counted by all gateways together.
        global: Option<GlobalLimit>,
    }
}

spec! {
    pub(crate) struct Limit {
        /// Requests; 0 lets none pass.
        requests: Option<u32>,
        /// In so long, such as 1s or 1h; 1s when left out.
        per: Option<String>,
        /// Requests at once; as many as requests when left out.
        burst: Option<u32>,
        /// What counts for itself; all requests together when left out.
        by: Vec<LimitBy>,
    }
}

spec! {
    pub(crate) struct LimitBy {
        /// The property.
        property: Option<Property>,
        /// Name of the header, with header only.
        name: Option<String>,
    }
}

words! {
    pub(crate) enum Property {
        SourceIp,
        SourceIdentity,
        Header,
        Host,
        Path,
        Method,
    }
}

spec! {
    pub(crate) struct GlobalLimit {
        /// Requests; 0 lets none pass.
        requests: Option<u32>,
        /// In so long, such as 1s or 1h; 1s when left out.
        per: Option<String>,
        /// Requests at once; as many as requests when left out.
        burst: Option<u32>,
        /// What counts for itself; all requests together when left out.
        by: Vec<LimitBy>,
        /// Where it is counted.
        redis: Redis,
        /// What happens to requests while Redis does not answer: they pass (open, when left out), or
        /// get 429 (closed).
        when_unavailable: Option<WhenUnavailable>,
    }
}

spec! {
    pub(crate) struct Redis {
        /// host:port.
        address: String,
        /// Speaks TLS with it; in the clear when left out.
        tls: Option<RedisTls>,
        /// Secret in the policy's namespace with the key password, and username where there is one.
        secret_ref: Option<SecretRef>,
        /// Longest time a request waits for its answer, at most 10s; 50ms when left out.
        timeout: Option<String>,
    }
}

spec! {
    pub(crate) struct RedisTls {
        /// Name that its certificate carries; the host of the address when left out.
        hostname: Option<String>,
        /// ConfigMaps in the policy's namespace with the certificates of those who may have issued it
        /// (ca.crt), at most 8; the roots of the gateway's system when there are none.
        ca_certificate_refs: Vec<ConfigMapRef>,
    }
}

spec! {
    pub(crate) struct ConfigMapRef {
        /// Its name.
        name: String,
    }
}

spec! {
    pub(crate) struct SecretRef {
        /// Its name.
        name: String,
    }
}

words! {
    pub(crate) enum WhenUnavailable {
        Open,
        Closed,
    }
}

spec! {
    /// A request may have both.
    pub(crate) struct Fault {
        /// Holds requests back.
        delay: Option<Delay>,
        /// Answers instead of the backend.
        abort: Option<Abort>,
        /// When it ends (RFC 3339); it lasts as long as the policy when left out.
        expires: Option<String>,
    }
}

spec! {
    pub(crate) struct Delay {
        /// For so long, at most 1h.
        duration: String,
        /// Share of the requests, 0 to 100; all when left out.
        percent: Option<u32>,
        /// The same, finer.
        fraction: Option<Fraction>,
    }
}

spec! {
    pub(crate) struct Abort {
        /// HTTP status of the answer, 200 to 599.
        status: u16,
        /// gRPC status for gRPC requests, 1 to 16; the one that status stands for when left out.
        grpc_status: Option<u8>,
        /// Share of the requests, 0 to 100; all when left out.
        percent: Option<u32>,
        /// The same, finer.
        fraction: Option<Fraction>,
    }
}

spec! {
    pub(crate) struct Fraction {
        /// So many.
        numerator: u32,
        /// Of so many; 100 when left out.
        denominator: Option<u32>,
    }
}

spec! {
    /// As in a rule of an HTTPRoute.
    pub(crate) struct Session {
        /// Name of the cookie or header; culvert-session when left out.
        session_name: Option<String>,
        /// Where the client keeps it; in a cookie when left out.
        r#type: Option<SessionType>,
        /// Time after which a session ends in any case.
        absolute_timeout: Option<String>,
        /// Time without a request after which it ends.
        idle_timeout: Option<String>,
        /// With cookies only.
        cookie_config: Option<CookieConfig>,
    }
}

/// Where the client keeps its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) enum SessionType {
    Cookie,
    Header,
}

spec! {
    pub(crate) struct CookieConfig {
        /// Session (until the browser closes, when left out), or Permanent (until absoluteTimeout).
        lifetime_type: Option<Lifetime>,
    }
}

/// How long a browser keeps a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) enum Lifetime {
    Session,
    Permanent,
}

spec! {
    pub(crate) struct Compression {
        /// Where a client takes several alike the first is used; gzip, then br when left out.
        codings: Option<Vec<Coding>>,
        /// Media types such as application/json or text/*; the usual texts when left out.
        content_types: Option<Vec<String>>,
        /// Least length of a body, such as 1Ki; 1Ki when left out.
        min_length: Option<String>,
    }
}

words! {
    pub(crate) enum Coding {
        Gzip,
        Br,
    }
}

spec! {
    pub(crate) struct Headers {
        /// Of requests, before the changes of the route.
        request: Option<Edits>,
        /// Of responses, after the changes of the route.
        response: Option<Edits>,
    }
}

spec! {
    pub(crate) struct Edits {
        /// Replaced, or made.
        set: Vec<Header>,
        /// Appended to what is there.
        add: Vec<Header>,
        /// Taken away.
        remove: Vec<String>,
    }
}

spec! {
    pub(crate) struct Header {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    }
}

spec! {
    pub(crate) struct BodyLimits {
        /// Largest body of a request, such as 512Ki or 10Mi; larger ones get 413.
        request: Option<String>,
    }
}
