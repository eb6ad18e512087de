//! The closed list of Reasons that log, metrics, status and `culvert why` share.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who has to act on a [`Reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Nobody: nothing is wrong.
    None,
    /// The application or its manifests.
    App,
    /// The other end of a tunnel.
    Peer,
    /// An authorization policy.
    Policy,
    /// Certificates.
    Certificate,
    /// The control plane.
    ControlPlane,
    /// The kernel side.
    Kernel,
    /// The agent on this node.
    Node,
}

/// Why a connection ended as it did. Every variant has one row in README's Reason table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The connection ended normally.
    Ok,
    /// A DENY policy matched; the log names it.
    PolicyDenied,
    /// ALLOW policies apply to the destination and none of them matched.
    PolicyNotAllowed,
    /// The destination lists a policy this node has not received; Culvert fails closed.
    PolicyUnknown,
    /// A policy change denied a live connection and it was closed.
    PolicyChanged,
    /// The destination's node refused the tunnel request by policy (HTTP 401).
    PeerDenied,
    /// The destination's node answered the tunnel request with an error status other than 401.
    PeerRejected,
    /// The control plane has no record of the local pod within 5 s.
    SourceUnknown,
    /// The control plane did not say in time what the destination is; only with `--xds-on-demand`.
    DestinationUnknown,
    /// Something dialled the outbound listener itself; there is no destination to forward to.
    NoOriginalDestination,
    /// The destination is a port of the agent; forwarding it would loop.
    AgentPort,
    /// The service has no usable endpoint.
    NoEndpoint,
    /// The service does not have the dialled port, or its target port cannot be resolved.
    ServicePortUnknown,
    /// The endpoint has a host name only, and the node found no address for it.
    DnsFailed,
    /// The destination is behind a waypoint that cannot be reached; Culvert never goes around it.
    /// Or what was reached is a gateway that the control plane does not know, or no longer (HTTP 503).
    WaypointUnavailable,
    /// The destination takes only what came through its waypoint, and this did not (HTTP 401).
    WaypointBypassed,
    /// A tunnel request was not a well-formed CONNECT, or a request to the gateway could mean two
    /// things (HTTP 400).
    RequestInvalid,
    /// A tunnel request named an address that is not this pod (HTTP 400).
    AuthorityMismatch,
    /// A tunnel request named a host or service port this node cannot resolve (HTTP 503).
    AuthorityUnknown,
    /// No route of the gateway matches the request (HTTP 404).
    NoRoute,
    /// The request's host belongs to another listener than its connection's (HTTP 421).
    Misdirected,
    /// The route's backend or one of its filters cannot be used (HTTP 500).
    BackendInvalid,
    /// The request brought no token, and the policies that refuse it ask for one (HTTP 401).
    TokenMissing,
    /// The request brought a token that does not count; the log says why (HTTP 401).
    TokenInvalid,
    /// The request brought a token whose issuer's keys could not be had (HTTP 401).
    KeysUnavailable,
    /// The backend did not answer within the route's time limit (HTTP 504).
    RequestTimeout,
    /// The service has as many connections or requests as its policy allows (HTTP 503).
    CircuitOpen,
    /// A traffic policy lets no more requests through for now (HTTP 429).
    RateLimited,
    /// The request's body is larger than a traffic policy allows (HTTP 413).
    BodyTooLarge,
    /// A traffic policy asks for this fault; the status is the policy's.
    FaultInjected,
    /// The destination refused the TCP connection.
    ConnectRefused,
    /// The destination did not answer the TCP connection in time; a NetworkPolicy may block it.
    ConnectTimeout,
    /// The TCP connection could not be made for another reason; the log has the error.
    ConnectFailed,
    /// The TLS handshake failed; the log has the alert.
    TlsFailed,
    /// The peer's certificate is valid but is not the expected workload's.
    PeerIdentityMismatch,
    /// The peer's certificate is on a revocation list, or no list says that it is not.
    PeerRevoked,
    /// No valid certificate for the local workload; the certificate service did not issue one.
    NoCertificate,
    /// The HTTP/2 session failed; the log has the error.
    H2Failed,
    /// The tunnel died under the connection (no answer to PING, reset, or GOAWAY).
    TunnelLost,
    /// One end reset the connection.
    ConnectionReset,
    /// A peer was silent in a phase that has a deadline.
    IdleTimeout,
    /// The agent is shutting down and the drain deadline passed.
    Drained,
    /// The local pod was removed or un-enrolled.
    PodRemoved,
    /// A limit of the agent was reached; the log names it.
    LimitExceeded,
    /// A defect in the agent; please report the log line.
    Internal,
}

impl Reason {
    /// Every Reason, in the order of README's table.
    pub const ALL: &'static [Self] = &[
        Self::Ok,
        Self::PolicyDenied,
        Self::PolicyNotAllowed,
        Self::PolicyUnknown,
        Self::PolicyChanged,
        Self::PeerDenied,
        Self::PeerRejected,
        Self::SourceUnknown,
        Self::DestinationUnknown,
        Self::NoOriginalDestination,
        Self::AgentPort,
        Self::NoEndpoint,
        Self::ServicePortUnknown,
        Self::DnsFailed,
        Self::WaypointUnavailable,
        Self::WaypointBypassed,
        Self::RequestInvalid,
        Self::AuthorityMismatch,
        Self::AuthorityUnknown,
        Self::NoRoute,
        Self::Misdirected,
        Self::BackendInvalid,
        Self::TokenMissing,
        Self::TokenInvalid,
        Self::KeysUnavailable,
        Self::RequestTimeout,
        Self::CircuitOpen,
        Self::RateLimited,
        Self::BodyTooLarge,
        Self::FaultInjected,
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::ConnectFailed,
        Self::TlsFailed,
        Self::PeerIdentityMismatch,
        Self::PeerRevoked,
        Self::NoCertificate,
        Self::H2Failed,
        Self::TunnelLost,
        Self::ConnectionReset,
        Self::IdleTimeout,
        Self::Drained,
        Self::PodRemoved,
        Self::LimitExceeded,
        Self::Internal,
    ];

    /// The kebab-case name used in logs, metrics and the CLI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::PolicyDenied => "policy-denied",
            Self::PolicyNotAllowed => "policy-not-allowed",
            Self::PolicyUnknown => "policy-unknown",
            Self::PolicyChanged => "policy-changed",
            Self::PeerDenied => "peer-denied",
            Self::PeerRejected => "peer-rejected",
            Self::SourceUnknown => "source-unknown",
            Self::DestinationUnknown => "destination-unknown",
            Self::NoOriginalDestination => "no-original-destination",
            Self::AgentPort => "agent-port",
            Self::NoEndpoint => "no-endpoint",
            Self::ServicePortUnknown => "service-port-unknown",
            Self::DnsFailed => "dns-failed",
            Self::WaypointUnavailable => "waypoint-unavailable",
            Self::WaypointBypassed => "waypoint-bypassed",
            Self::RequestInvalid => "request-invalid",
            Self::AuthorityMismatch => "authority-mismatch",
            Self::AuthorityUnknown => "authority-unknown",
            Self::NoRoute => "no-route",
            Self::Misdirected => "misdirected",
            Self::BackendInvalid => "backend-invalid",
            Self::TokenMissing => "token-missing",
            Self::TokenInvalid => "token-invalid",
            Self::KeysUnavailable => "keys-unavailable",
            Self::RequestTimeout => "request-timeout",
            Self::CircuitOpen => "circuit-open",
            Self::RateLimited => "rate-limited",
            Self::BodyTooLarge => "body-too-large",
            Self::FaultInjected => "fault-injected",
            Self::ConnectRefused => "connect-refused",
            Self::ConnectTimeout => "connect-timeout",
            Self::ConnectFailed => "connect-failed",
            Self::TlsFailed => "tls-failed",
            Self::PeerIdentityMismatch => "peer-identity-mismatch",
            Self::PeerRevoked => "peer-revoked",
            Self::NoCertificate => "no-certificate",
            Self::H2Failed => "h2-failed",
            Self::TunnelLost => "tunnel-lost",
            Self::ConnectionReset => "connection-reset",
            Self::IdleTimeout => "idle-timeout",
            Self::Drained => "drained",
            Self::PodRemoved => "pod-removed",
            Self::LimitExceeded => "limit-exceeded",
            Self::Internal => "internal",
        }
    }

    /// Who has to act.
    pub fn fault(self) -> Fault {
        match self {
            Self::Ok => Fault::None,
            Self::PolicyDenied
            | Self::PolicyNotAllowed
            | Self::PolicyChanged
            | Self::WaypointBypassed
            | Self::RateLimited
            | Self::BodyTooLarge
            | Self::FaultInjected
            | Self::KeysUnavailable
            | Self::PeerDenied => Fault::Policy,
            Self::PolicyUnknown
            | Self::SourceUnknown
            | Self::DestinationUnknown
            | Self::WaypointUnavailable => Fault::ControlPlane,
            Self::PeerRejected
            | Self::RequestInvalid
            | Self::TokenMissing
            | Self::TokenInvalid
            | Self::AuthorityMismatch
            | Self::AuthorityUnknown
            | Self::Misdirected
            | Self::TlsFailed
            | Self::H2Failed
            | Self::TunnelLost
            | Self::ConnectionReset
            | Self::IdleTimeout => Fault::Peer,
            Self::NoOriginalDestination
            | Self::AgentPort
            | Self::NoEndpoint
            | Self::ServicePortUnknown
            | Self::NoRoute
            | Self::BackendInvalid
            | Self::RequestTimeout
            | Self::CircuitOpen
            | Self::ConnectRefused
            | Self::ConnectTimeout => Fault::App,
            Self::ConnectFailed
            | Self::Drained
            | Self::PodRemoved
            | Self::LimitExceeded
            | Self::DnsFailed
            | Self::Internal => Fault::Node,
            Self::PeerIdentityMismatch | Self::PeerRevoked | Self::NoCertificate => {
                Fault::Certificate
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
