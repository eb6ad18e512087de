//! What traffic policies do: rate limits and faults before the rule does anything, bodies on their
//! way, compression at the end.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use agent_model::Reason;
use agent_model::gateway::Timeouts;
use agent_model::gateway::traffic::WhenGone;
use http::request::Parts;
use http::{Method, Response};
use hyper::body::Body as _;
use tokio::time::sleep;

use super::decide::Decision;
use crate::body::{ClientBody, RequestBody};
use crate::redis::Gcra;
use crate::refusal::Refusal;
use crate::response::ResponseBody;
use crate::route::Facts;
use crate::treatment::{Coding, Compression, GlobalLimit, Requester, Treatment, Verdict, inject};
use crate::worker::Worker;

/// Lets a request through, late where a fault says so, or refuses it.
pub(super) async fn treat(
    worker: &Worker,
    treatment: &Treatment,
    (ip, identity): (IpAddr, Option<&str>),
    facts: &Facts<'_>,
) -> Result<(), Refusal> {
    let requester = Requester {
        ip,
        identity,
        host: facts.host,
        path: facts.path,
        method: facts.method.as_str(),
        headers: facts.headers,
    };
    if let Some(limit) = &treatment.local {
        let verdict = limit.check(&requester, Instant::now());
        passes(verdict, "the gateway's own limit")?;
    }
    if let Some(limit) = &treatment.global {
        count(worker, limit, &requester).await?;
    }
    let Some(fault) = &treatment.fault else {
        return Ok(());
    };
    let injected = inject(fault, SystemTime::now(), rand::random);
    if let Some(delay) = injected.delay {
        sleep(delay).await;
    }
    match injected.abort {
        None => Ok(()),
        Some(aborted) => Err(Refusal {
            status: aborted.status,
            grpc: aborted.grpc_status,
            ..Refusal::new(Reason::FaultInjected, "a traffic policy asks for it")
        }),
    }
}

/// Most bytes of a request's body.
pub(super) fn body_limit(decision: &Decision) -> Option<u64> {
    let own = decision.held.as_ref().and_then(|held| held.own.body_limit);
    least(own, decision.treatment.body_limit)
}

/// How long a request and its attempts may take.
pub(super) fn timeouts(decision: &Decision) -> Timeouts {
    let (own, told) = (decision.rule.timeouts, &decision.treatment);
    let Some(held) = &decision.held else {
        return told.timeouts(own);
    };
    let own = held.own.timeouts(own);
    Timeouts {
        request: least(own.request, told.timeouts.request),
        backend_request: least(own.backend_request, told.timeouts.backend_request),
    }
}

/// Which responses are compressed.
pub(super) fn compression(decision: &Decision) -> Option<&Compression> {
    let own = decision.held.as_ref();
    let own = own.and_then(|held| held.own.compression.as_ref());
    decision.treatment.compression.as_ref().or(own)
}

fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}

/// The coding that the client takes best, of those the policy has.
pub(super) fn coding(compression: Option<&Compression>, parts: &Parts) -> Chosen {
    Chosen {
        method: parts.method.clone(),
        coding: compression.and_then(|compression| compression.accepted(&parts.headers)),
    }
}

/// What is kept of a request until its response comes.
pub(super) struct Chosen {
    method: Method,
    coding: Option<Coding>,
}

/// Compresses a response where policy and client want it so.
pub(super) fn finish(
    compression: Option<&Compression>,
    chosen: Chosen,
    mut response: Response<ResponseBody>,
) -> Response<ResponseBody> {
    let Some(compression) = compression else {
        return response;
    };
    let Chosen { method, coding } = chosen;
    if !compression.takes(&method, response.status(), response.headers()) {
        return response;
    }
    compression.mark(response.headers_mut(), coding);
    match coding {
        None => response,
        Some(coding) => response.map(|body| body.coded(coding)),
    }
}

/// Refuses a body that says itself that it is too long.
pub(super) fn check_length(limit: Option<u64>, body: &ClientBody) -> Result<(), Refusal> {
    match limit {
        Some(limit) if body.size_hint().lower() > limit => Err(too_long()),
        _ => Ok(()),
    }
}

/// Whether a body was longer than it may be.
pub(super) type TooLong = Option<Arc<AtomicBool>>;

/// Cuts a body off where it gets too long.
pub(super) fn limit_body(limit: Option<u64>, body: RequestBody) -> (RequestBody, TooLong) {
    match limit {
        // One of a known length was checked.
        Some(limit) if body.size_hint().exact().is_none() => {
            let (body, is_exceeded) = body.limited(limit);
            (body, Some(is_exceeded))
        }
        _ => (body, None),
    }
}

/// Why a request failed: a body that was cut off is the reason for whatever came of it.
pub(super) fn or_too_long(refusal: Refusal, is_too_long: &TooLong) -> Refusal {
    let is_too_long = is_too_long.as_ref();
    match is_too_long.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
        true => too_long(),
        false => refusal,
    }
}

fn too_long() -> Refusal {
    Refusal::new(Reason::BodyTooLarge, "longer than a traffic policy allows")
}

async fn count(
    worker: &Worker,
    limit: &GlobalLimit,
    requester: &Requester<'_>,
) -> Result<(), Refusal> {
    let nothing_passes = Verdict {
        is_allowed: false,
        rate: limit.rate,
        remaining: 0,
        reset: limit.rate.per,
        retry_after: limit.rate.per,
    };
    let Some(gcra) = Gcra::new(limit.rate) else {
        return passes(nothing_passes, "the limit of all gateways");
    };
    let key = limit.key(requester);
    match worker.redises.count(&limit.redis, key, gcra).await {
        Ok(counted) => {
            let verdict = Verdict {
                is_allowed: counted.is_allowed,
                rate: limit.rate,
                remaining: counted.remaining,
                reset: counted.reset,
                retry_after: counted.retry_after,
            };
            passes(verdict, "the limit of all gateways")
        }
        Err(_) => {
            let is_open = limit.when_gone == WhenGone::Open;
            worker.uncounted.add(&limit.policy, is_open);
            let soon = Duration::from_secs(1);
            let verdict = Verdict {
                is_allowed: is_open,
                retry_after: soon,
                reset: soon,
                ..nothing_passes
            };
            passes(verdict, "Redis does not count, and the policy says closed")
        }
    }
}

fn passes(verdict: Verdict, detail: &str) -> Result<(), Refusal> {
    match verdict.is_allowed {
        true => Ok(()),
        false => Err(Refusal {
            headers: Some(Box::new(verdict.headers())),
            ..Refusal::new(Reason::RateLimited, detail)
        }),
    }
}
