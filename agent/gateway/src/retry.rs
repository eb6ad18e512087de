//! Whether a failed request is sent again, when, and whether there is room for it.
//!
//! What is safe to send again depends on how far the request got. Where the backend cannot have
//! seen it, anything is. Where it may have acted on it, only what may be done twice is (RFC 9110,
//! 9.2.2), or what the rule lists by its status. Once a byte of the response went to the client,
//! or a byte of the request is gone that was not kept, nothing is.

mod budget;
#[cfg(test)]
mod tests;

use std::time::Duration;

use http::{HeaderMap, HeaderName};

pub use budget::{Budget, InFlight, Retrying};

/// When a rule retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Statuses that count as failed.
    pub codes: Vec<u16>,
    /// Codes of gRPC that count as failed, beside those that stand for one of `codes`.
    pub grpc_codes: Vec<u16>,
    /// Attempts after the first.
    pub attempts: u32,
    /// Least time before the first retry; it doubles with each, up to ten times as much.
    pub back_off: Duration,
}

impl Default for Policy {
    /// What is safe for everybody: once, where the backend cannot have seen the request.
    fn default() -> Self {
        Self {
            codes: Vec::new(),
            grpc_codes: Vec::new(),
            attempts: 1,
            back_off: Duration::from_millis(25),
        }
    }
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection was made, or none was to be had in time.
    NotConnected,
    /// The backend said that it did not look at the request (HTTP/2 REFUSED_STREAM, or a GOAWAY
    /// before it).
    NotProcessed,
    /// The connection broke before an answer.
    Broken,
    /// No answer in the time of an attempt.
    Timeout,
    /// An answer with this status.
    Status(u16),
    /// A gRPC answer that is nothing but trailers, with this code.
    Grpc(u16),
}

/// The request, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a str,
    /// It can be sent from its beginning: it has no body, or what was sent of it was kept.
    pub is_whole: bool,
    /// A part of the response went to the client.
    pub is_answered: bool,
    /// Attempts so far.
    pub attempts: u32,
    /// What is left of its time; `None` without a limit.
    pub time_left: Option<Duration>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Send it again after so long, to another endpoint if there is one.
    Again(Duration),
    /// Give the client what there is.
    Stop(Stop),
}

/// Why a request is not sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stop {
    /// The policy does not count this as a failure.
    NotAsked,
    /// All attempts are used up.
    Attempts,
    /// A part of the response went to the client.
    Answered,
    /// A part of the request is gone.
    Consumed,
    /// The backend may have acted on it, and must not twice.
    NotIdempotent,
    /// Its time would be over.
    Time,
}

impl Policy {
    /// Decides after a failed attempt. `random` (0 to 1) spreads retries of many.
    pub fn decide(&self, request: Request<'_>, failure: Failure, random: f64) -> Decision {
        match self.stop(request, failure) {
            Some(stop) => Decision::Stop(stop),
            None => {
                let delay = self.delay(request.attempts, random);
                match request.time_left {
                    Some(left) if left <= delay => Decision::Stop(Stop::Time),
                    _ => Decision::Again(delay),
                }
            }
        }
    }

    fn stop(&self, request: Request<'_>, failure: Failure) -> Option<Stop> {
        let is_asked = match failure {
            Failure::Status(status) => self.codes.contains(&status),
            Failure::Grpc(code) => {
                self.grpc_codes.contains(&code) || self.codes.contains(&grpc_as_http(code))
            }
            _ => true,
        };
        if !is_asked {
            return Some(Stop::NotAsked);
        }
        let may_have_acted = matches!(failure, Failure::Broken | Failure::Timeout);
        if request.is_answered {
            Some(Stop::Answered)
        } else if !request.is_whole {
            Some(Stop::Consumed)
        } else if may_have_acted && !is_idempotent(request.method) {
            Some(Stop::NotIdempotent)
        } else if request.attempts > self.attempts {
            Some(Stop::Attempts)
        } else {
            None
        }
    }

    /// Never less than the back-off, and up to half more.
    fn delay(&self, attempts: u32, random: f64) -> Duration {
        let doubled = 1_u32 << attempts.saturating_sub(1).min(16);
        let delay = self.back_off.saturating_mul(doubled.min(10));
        delay.mul_f64(1.0 + 0.5 * random.clamp(0.0, 1.0))
    }
}

/// The code of a gRPC answer in its head, where it is one of a failure; `None` of every other answer.
pub(crate) fn grpc_code(headers: &HeaderMap) -> Option<u16> {
    let code = headers.get(&GRPC_STATUS)?.to_str().ok()?;
    code.parse().ok().filter(|code| *code != 0)
}

/// The HTTP status that a code of gRPC stands for.
pub(crate) fn grpc_as_http(code: u16) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Methods that may be done twice (RFC 9110, 9.2.2).
fn is_idempotent(method: &str) -> bool {
    ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"].contains(&method)
}
