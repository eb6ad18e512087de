//! Attempts to have a request answered, each within its time.

use std::time::Duration;

use agent_model::gateway::{BackendProtocol, Timeouts};
use agent_model::{NamespacedHostname, Reason};
use http::Request;
use hyper::body::Body;
use tokio::time::{Instant, sleep, timeout_at};

use crate::body::RequestBody;
use crate::plan::Rule;
use crate::refusal::Refusal;
use crate::retry::{self, Decision, Failure};
use crate::upstream::Answer;
use crate::worker::Worker;

/// Where a request goes.
#[derive(Clone, Copy)]
pub(super) struct Aim<'a> {
    pub(super) service: &'a NamespacedHostname,
    pub(super) port: u16,
    pub(super) protocol: BackendProtocol,
}

/// An answer's head, and when its body has to be over.
type Timely = (Answer, Option<Instant>);

/// Sends a request, and again as its rule says. Requests with a body are sent once: nothing of a
/// body is kept.
pub(super) async fn send(
    worker: &Worker,
    rule: &Rule,
    aim: Aim<'_>,
    request: Request<RequestBody>,
) -> Result<Timely, Refusal> {
    let limits = Limits::begin(rule.timeouts);
    let policy = rule.retry.as_ref();
    let Some(policy) = policy.filter(|_| request.body().is_end_stream()) else {
        return attempt(worker, aim, request, limits.next()).await;
    };
    let (parts, _) = request.into_parts();
    let mut attempts = 0;
    loop {
        attempts += 1;
        let request = Request::from_parts(parts.clone(), RequestBody::Empty);
        let outcome = attempt(worker, aim, request, limits.next()).await;
        let Some(failure) = failure(&outcome) else {
            return outcome;
        };
        let described = retry::Request {
            method: parts.method.as_str(),
            is_whole: true,
            is_answered: false,
            attempts,
            time_left: limits.left(),
        };
        match policy.decide(described, failure, rand::random()) {
            Decision::Stop(_) => return outcome,
            Decision::Again(delay) => {
                // The answer's connection is closed: what is left of it is nobody's.
                drop(outcome);
                sleep(delay).await;
            }
        }
    }
}

async fn attempt(
    worker: &Worker,
    aim: Aim<'_>,
    request: Request<RequestBody>,
    deadline: Option<(Instant, Duration)>,
) -> Result<Timely, Refusal> {
    let Aim {
        service,
        port,
        protocol,
    } = aim;
    let sent = worker.upstreams.send(service, port, protocol, request);
    let Some((deadline, limit)) = deadline else {
        return Ok((sent.await?, None));
    };
    let answer = timeout_at(deadline, sent).await.map_err(|_| {
        let detail = format!("no answer from {service}:{port} within {limit:?}");
        Refusal::new(Reason::RequestTimeout, detail)
    })??;
    Ok((answer, Some(deadline)))
}

/// The time limits of one request.
struct Limits {
    /// Of the request.
    end: Option<(Instant, Duration)>,
    /// Of each attempt.
    attempt: Option<Duration>,
}

impl Limits {
    /// Zero is no limit.
    fn begin(timeouts: Timeouts) -> Self {
        let some = |limit: Option<Duration>| limit.filter(|limit| !limit.is_zero());
        Self {
            end: some(timeouts.request).map(|limit| (Instant::now() + limit, limit)),
            attempt: some(timeouts.backend_request),
        }
    }

    /// When an attempt that begins now has to be over, and the limit that says so.
    fn next(&self) -> Option<(Instant, Duration)> {
        let attempt = self.attempt.map(|limit| (Instant::now() + limit, limit));
        self.end.into_iter().chain(attempt).min()
    }

    fn left(&self) -> Option<Duration> {
        self.end.map(|(end, _)| end - Instant::now())
    }
}

/// How an attempt failed; `None` for what another attempt would not change.
fn failure(outcome: &Result<Timely, Refusal>) -> Option<Failure> {
    match outcome {
        Ok((answer, _)) => Some(Failure::Status(answer.response.status().as_u16())),
        Err(refusal) => match refusal.reason {
            Reason::RequestTimeout => Some(Failure::Timeout),
            Reason::ConnectionReset => Some(Failure::Broken),
            Reason::ConnectRefused
            | Reason::ConnectTimeout
            | Reason::ConnectFailed
            | Reason::TlsFailed
            | Reason::H2Failed
            | Reason::TunnelLost => Some(Failure::NotConnected),
            _ => None,
        },
    }
}
