//! Rate limits: what is counted together, and what a client is told.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use agent_model::PolicyKey;
use agent_model::gateway::traffic::{
    GlobalLimit as Spec, Limit, LimitBy, RateLimit, Redis, TrafficTarget, WhenGone,
};
use agent_policy::rate::{Limiter, Rate};
use aws_lc_rs::digest::{SHA256, digest};
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use crate::traffic::Decided;

/// Keys that one local limit remembers (24 bytes each); further ones share buckets.
const KEYS: usize = 65_536;
static LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
static REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
static RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
static POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What a limit counts for: one limit holds for all of its target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LimitKey {
    policy: String,
    target: TrafficTarget,
    rate: (u32, Duration, u32),
    by: Vec<LimitBy>,
}

impl LimitKey {
    pub(super) fn new(decided: &Decided<'_, RateLimit>, limit: &Limit) -> Self {
        Self {
            policy: decided.policy.key().to_string(),
            target: decided.target.clone(),
            rate: (limit.requests, limit.per, limit.burst),
            by: limit.by.clone(),
        }
    }
}

/// A limit of this process, shared by its workers.
#[derive(Debug)]
pub struct LocalLimit {
    rate: Rate,
    by: Box<[LimitBy]>,
    limiter: OnceLock<Arc<Limiter>>,
}

impl LocalLimit {
    pub(super) fn new(limit: &Limit) -> Self {
        Self {
            rate: rate(limit),
            by: limit.by.as_slice().into(),
            limiter: OnceLock::new(),
        }
    }

    /// Goes on where an equal limit of an earlier plan is.
    pub fn inherit(&self, earlier: &Self) {
        if let Some(limiter) = earlier.limiter.get() {
            // One that counts already stays.
            let _ = self.limiter.set(Arc::clone(limiter));
        }
    }

    /// Counts a request.
    pub fn check(&self, requester: &Requester<'_>, now: Instant) -> Verdict {
        let made = || Arc::new(Limiter::new(self.rate, KEYS, now));
        let limiter = self.limiter.get_or_init(made);
        let found = limiter.check(&requester.key(&self.by), now);
        Verdict {
            is_allowed: found.is_allowed,
            rate: self.rate,
            remaining: found.remaining,
            reset: found.reset,
            retry_after: found.retry_after,
        }
    }
}

/// A limit that all gateways count together.
#[derive(Debug)]
pub struct GlobalLimit {
    /// The rate.
    pub rate: Rate,
    /// Where it is counted.
    pub redis: Redis,
    /// What happens to requests while it cannot be.
    pub when_gone: WhenGone,
    /// Whose limit it is.
    pub policy: PolicyKey,
    by: Box<[LimitBy]>,
    /// Begins the names of its keys; the same in every gateway process.
    prefix: String,
}

impl GlobalLimit {
    pub(super) fn new(decided: &Decided<'_, RateLimit>, spec: &Spec) -> Self {
        let Limit {
            requests,
            per,
            burst,
            ..
        } = spec.limit;
        let policy = decided.policy.key();
        // A changed limit counts anew: what was counted at another rate means nothing at this one.
        let prefix = format!(
            "culvert:{policy}:{}:{requests}/{}/{burst}:",
            describe(decided.target),
            per.as_millis()
        );
        Self {
            rate: rate(&spec.limit),
            redis: spec.redis.clone(),
            when_gone: spec.when_gone,
            policy,
            by: spec.limit.by.as_slice().into(),
            prefix,
        }
    }

    /// Name of the key that a request counts for.
    pub fn key(&self, requester: &Requester<'_>) -> Vec<u8> {
        let mut key = self.prefix.clone().into_bytes();
        key.extend(requester.key(&self.by));
        key
    }
}

/// A target, the same in every process.
fn describe(target: &TrafficTarget) -> String {
    let part = |part: Option<&Arc<str>>| part.map_or(String::new(), |part| format!("#{part}"));
    match target {
        TrafficTarget::Service { service, port } => {
            let port = port.map_or(String::new(), |port| format!(":{port}"));
            format!("{service}{port}")
        }
        TrafficTarget::Gateway { gateway, listener } => {
            format!("{gateway}{}", part(listener.as_ref()))
        }
        TrafficTarget::Route { route, rule } => format!("{route}{}", part(rule.as_ref())),
    }
}

fn rate(limit: &Limit) -> Rate {
    Rate {
        requests: limit.requests,
        per: limit.per,
        burst: limit.burst,
    }
}

/// Longest value that is part of a key as it is, in bytes: clients choose them.
const MAX_PART: usize = 128;

/// What a request is counted by.
#[derive(Debug, Clone, Copy)]
pub struct Requester<'a> {
    /// Address of the client.
    pub ip: IpAddr,
    /// Identity it proved.
    pub identity: Option<&'a str>,
    /// Host, normalised.
    pub host: &'a str,
    /// Path, normalised.
    pub path: &'a str,
    /// Method.
    pub method: &'a str,
    /// Header fields.
    pub headers: &'a HeaderMap,
}

impl Requester<'_> {
    /// Values one after another, each with its length, so that no two lists are alike; of a long
    /// one its digest.
    pub(super) fn key(&self, by: &[LimitBy]) -> Vec<u8> {
        let mut key = Vec::new();
        let mut put = |value: &[u8]| {
            key.extend(value.len().to_string().into_bytes());
            key.push(b':');
            match value.len() <= MAX_PART {
                true => key.extend(value),
                false => key.extend(digest(&SHA256, value).as_ref()),
            }
        };
        for by in by {
            match by {
                LimitBy::SourceIp => put(self.ip.to_canonical().to_string().as_bytes()),
                LimitBy::SourceIdentity => put(self.identity.unwrap_or_default().as_bytes()),
                LimitBy::Host => put(self.host.as_bytes()),
                LimitBy::Path => put(self.path.as_bytes()),
                LimitBy::Method => put(self.method.as_bytes()),
                LimitBy::Header(name) => {
                    let values = self.headers.get_all(&**name).iter();
                    let values: Vec<_> = values.map(HeaderValue::as_bytes).collect();
                    put(&values.join(&b","[..]));
                }
            }
        }
        key
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// It passes.
    pub is_allowed: bool,
    /// The limit.
    pub rate: Rate,
    /// Requests that would pass now.
    pub remaining: u32,
    /// Until all of them would again.
    pub reset: Duration,
    /// Until the next one does.
    pub retry_after: Duration,
}

impl Verdict {
    /// The fields that a refused client is told by: `Retry-After` (RFC 9110, 10.2.3) and the
    /// `RateLimit` fields (draft-ietf-httpapi-ratelimit-headers-07).
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let seconds = seconds(self.retry_after).max(1);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        headers.insert(&LIMIT, HeaderValue::from(self.rate.burst));
        headers.insert(&REMAINING, HeaderValue::from(self.remaining));
        headers.insert(&RESET, HeaderValue::from(self::seconds(self.reset)));
        let Rate { requests, per, .. } = self.rate;
        let policy = format!("{requests};w={}", self::seconds(per).max(1));
        if let Ok(policy) = HeaderValue::from_str(&policy) {
            headers.insert(&POLICY, policy);
        }
        headers
    }
}

/// Whole seconds, rounded up: who comes back then passes.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
