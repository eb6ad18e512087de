//! Attempts to have a request answered, each within its time.

use std::time::Duration;

use agent_model::Reason;
use agent_model::gateway::Timeouts;
use http::Request;
use hyper::body::Body;
use tokio::time::{Instant, sleep, timeout_at};

use super::is_grpc;
use crate::body::{Original, RequestBody};
use crate::refusal::Refusal;
use crate::retry::{self, Decision, Failure, Policy, grpc_code};
use crate::tuning::Way;
use crate::upstream::{Answer, Call, Failed, Outgoing};
use crate::worker::Worker;

/// An answer's head, and when its body has to be over.
type Timely = (Answer, Option<Instant>);

/// Sends a request, and again as is said of its way. Of a body as much is kept as
/// [`REPLAY_MAX`](crate::body); a request of which more was sent is not sent again.
pub(super) async fn send(
    worker: &Worker,
    way: Option<&Way>,
    timeouts: Timeouts,
    call: Call<'_>,
    request: Outgoing,
) -> Result<Timely, Refusal> {
    let limits = Limits::begin(timeouts);
    let mut tried = Vec::new();
    let retried = way.and_then(|way| Some((way, way.retry.as_ref()?)));
    match retried {
        // Boxed: most requests are sent once.
        Some(retried) => Box::pin(again(worker, retried, &limits, call, request)).await,
        None => attempt(worker, call, &mut tried, request, limits.next()).await,
    }
    .map_err(|failed| failed.refusal)
}

async fn again(
    worker: &Worker,
    (way, policy): (&Way, &Policy),
    limits: &Limits,
    call: Call<'_>,
    request: Outgoing,
) -> Result<Timely, Failed> {
    let group = worker.upstreams.group(&call);
    let budget = way.budget.as_ref().unwrap_or_else(|| group.budget());
    let _in_flight = budget.begin();
    let (parts, body) = request.into_parts();
    let grpc = is_grpc(&parts.headers);
    let original = match body.is_end_stream() {
        true => None,
        false => Some(Original::new(body, &worker.room)),
    };
    let mut tried = Vec::new();
    let mut attempts = 0;
    let mut retrying = None;
    loop {
        attempts += 1;
        let body = original
            .as_ref()
            .map_or(RequestBody::Empty, Original::replay);
        let request = Box::new(Request::from_parts(parts.clone(), body));
        let outcome = attempt(worker, call, &mut tried, request, limits.next()).await;
        drop(retrying.take());
        let Some(failure) = failure(&outcome, grpc) else {
            return outcome;
        };
        let described = retry::Request {
            method: parts.method.as_str(),
            is_whole: original.as_ref().is_none_or(Original::is_whole),
            is_answered: false,
            attempts,
            time_left: limits.left(),
        };
        let Decision::Again(delay) = policy.decide(described, failure, rand::random()) else {
            return outcome;
        };
        retrying = group.retry(budget);
        if retrying.is_none() {
            return outcome;
        }
        if let Ok((answer, _)) = &outcome {
            tried.push(answer.lease.endpoint().id());
        }
        // The answer's connection is closed: what is left of it is nobody's.
        drop(outcome);
        sleep(delay).await;
    }
}

async fn attempt(
    worker: &Worker,
    call: Call<'_>,
    tried: &mut Vec<u64>,
    request: Outgoing,
    deadline: Option<(Instant, Duration)>,
) -> Result<Timely, Failed> {
    let Some((deadline, limit)) = deadline else {
        return Ok((worker.upstreams.send(&call, tried, request).await?, None));
    };
    let call = Call {
        deadline: Some(deadline),
        ..call
    };
    // In one expression: a future that has a name first is kept twice.
    let answer = timeout_at(deadline, worker.upstreams.send(&call, tried, request)).await;
    let answer = answer.map_err(|_| {
        let Call { service, port, .. } = call;
        let detail = format!("no answer from {service}:{port} within {limit:?}");
        Failed {
            refusal: Refusal::new(Reason::RequestTimeout, detail),
            unsent: None,
            failure: Some(Failure::Timeout),
        }
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
fn failure(outcome: &Result<Timely, Failed>, grpc: bool) -> Option<Failure> {
    match outcome {
        Ok((answer, _)) => {
            let response = &answer.response;
            // Where there is a body the call has begun to be answered.
            let is_whole = grpc && response.body().is_end_stream();
            let code = is_whole.then(|| grpc_code(response.headers())).flatten();
            let status = Failure::Status(response.status().as_u16());
            Some(code.map_or(status, Failure::Grpc))
        }
        Err(failed) => failed.failure,
    }
}
