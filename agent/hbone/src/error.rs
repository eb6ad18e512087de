//! Errors of this room.

use std::fmt;
use std::io;
use std::sync::Arc;

use agent_identity::{IdentityError, PeerRefused, peer_refused, peer_revoked};
use agent_model::Reason;

/// A phase of a tunnel's life that has a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The TLS handshake.
    Handshake,
    /// From the handshake to the first request.
    FirstRequest,
    /// From a request to its answer.
    Response,
    /// From a PING to its answer.
    Ping,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handshake => "TLS handshake",
            Self::FirstRequest => "wait for the first request",
            Self::Response => "wait for the answer to CONNECT",
            Self::Ping => "wait for the answer to PING",
        })
    }
}

/// Why a tunnel or a stream on it failed. Cloned to every caller that waited for the same dial.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HboneError {
    /// The TCP connection could not be made.
    #[error("connect: {0}")]
    Dial(#[source] Arc<io::Error>),
    /// The TLS handshake failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// The peer's certificate is valid but is not acceptable here.
    #[error("TLS: {0}")]
    Peer(#[source] PeerRefused),
    /// The peer's certificate is on a revocation list, or no list says that it is not.
    #[error("TLS: {0}")]
    Revoked(String),
    /// The local certificate cannot be used.
    #[error("local certificate: {0}")]
    Certificate(#[source] Arc<IdentityError>),
    /// A phase took longer than it may.
    #[error("{0} timed out")]
    Timeout(Phase),
    /// The peer broke the HTTP/2 protocol, or says that this end did.
    #[error("HTTP/2: {0}")]
    Protocol(String),
    /// The tunnel ended under the stream.
    #[error("tunnel lost: {0}")]
    Lost(String),
    /// The peer refused the stream by policy (401).
    #[error("refused by the peer's policy (status 401)")]
    Denied,
    /// The peer answered with another status than 200 and 401.
    #[error("refused by the peer (status {0})")]
    Rejected(u16),
    /// The source pod was removed while the stream was being opened.
    #[error("the source pod was removed")]
    SourceRemoved,
    /// A limit of the pool was reached.
    #[error("{0} tunnels to this peer are full")]
    Full(usize),
}

impl HboneError {
    /// The Reason of this failure.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Dial(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => Reason::ConnectRefused,
                io::ErrorKind::TimedOut => Reason::ConnectTimeout,
                _ => Reason::ConnectFailed,
            },
            Self::Tls(_) => Reason::TlsFailed,
            Self::Peer(_) => Reason::PeerIdentityMismatch,
            Self::Revoked(_) => Reason::PeerRevoked,
            Self::Certificate(_) => Reason::NoCertificate,
            Self::Timeout(Phase::Ping) | Self::Lost(_) => Reason::TunnelLost,
            Self::Timeout(_) => Reason::IdleTimeout,
            Self::Protocol(_) => Reason::H2Failed,
            Self::Denied => Reason::PeerDenied,
            Self::Rejected(_) => Reason::PeerRejected,
            Self::SourceRemoved => Reason::PodRemoved,
            Self::Full(_) => Reason::LimitExceeded,
        }
    }

    /// True when the failure is one of reaching the peer at all, so that another endpoint may be
    /// tried; false for refusals and for failures after the peer took the request.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Dial(_) | Self::Timeout(Phase::Handshake))
    }

    /// True when a tunnel taken from the pool may just have been stale.
    pub(crate) fn is_stale_tunnel(&self) -> bool {
        matches!(self, Self::Lost(_))
    }

    /// Of a failed handshake.
    pub(crate) fn from_tls(error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
        match tls.and_then(peer_refused) {
            Some(refused) => Self::Peer(refused.clone()),
            None if tls.is_some_and(peer_revoked) => Self::Revoked(error.to_string()),
            None => Self::Tls(error.to_string()),
        }
    }

    /// Of an established session.
    pub(crate) fn from_h2(error: &h2::Error) -> Self {
        if let Some(io) = error.get_io() {
            // rustls reports alerts and broken records as invalid data. The peer's verdict on our
            // certificate arrives this way, after our side of the handshake is complete.
            return match io.kind() {
                io::ErrorKind::InvalidData => Self::Tls(io.to_string()),
                _ => Self::Lost(io.to_string()),
            };
        }
        let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
        if error.is_go_away() && error.is_remote() || refused {
            Self::Lost(error.to_string())
        } else {
            Self::Protocol(error.to_string())
        }
    }
}
/// With which code of RFC 9113 (7), in its words, this end has broken an HTTP/2 connection off for what
/// the peer sent. `error` is what a server of HTTP/2 ended with, tunnels or not; `None` when the reason
/// was another.
pub fn broken_off(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let error = causes.find_map(|cause| cause.downcast_ref::<h2::Error>())?;
    let is_ours = error.is_library() && error.is_go_away();
    let of_ourselves = [h2::Reason::NO_ERROR, h2::Reason::INTERNAL_ERROR];
    let code = error.reason().filter(|code| !of_ourselves.contains(code));
    code.filter(|_| is_ours).map(|code| format!("{code:?}"))
}
