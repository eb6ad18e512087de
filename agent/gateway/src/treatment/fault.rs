//! Faults on purpose.

use std::time::{Duration, SystemTime};

use agent_model::gateway::traffic::Fault;
use http::StatusCode;

/// What is done to one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Injected {
    /// It is held back for so long.
    pub delay: Option<Duration>,
    /// Then it is answered by the gateway.
    pub abort: Option<Aborted>,
}

/// The answer in place of a backend's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aborted {
    /// Its status.
    pub status: StatusCode,
    /// For gRPC; `None` for what the status stands for.
    pub grpc_status: Option<u8>,
}

/// Draws for one request. Each fault takes a random number of its own.
pub fn inject(fault: &Fault, now: SystemTime, mut random: impl FnMut() -> u64) -> Injected {
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    if fault.expires.is_some_and(|end| seconds.as_secs() >= end) {
        return Injected::default();
    }
    let delay = fault.delay.as_ref();
    let abort = fault.abort.as_ref();
    Injected {
        delay: delay
            .filter(|delay| delay.fraction.takes(random()))
            .map(|delay| delay.duration),
        abort: abort
            .filter(|abort| abort.fraction.takes(random()))
            .map(|abort| Aborted {
                status: StatusCode::from_u16(abort.status)
                    .unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
                grpc_status: abort.grpc_status,
            }),
    }
}
