//! What tests do to a server: refusals, slowness, silence, and counts of what was asked.

use std::collections::BTreeMap;
use std::time::Duration;

use super::failure::Failure;

/// Answers some requests with an error instead of doing them.
#[derive(Debug, Clone)]
pub struct Refusal {
    code: u16,
    times: u64,
    verb: Option<String>,
    resource: Option<String>,
}

impl Refusal {
    /// The next `times` requests for resources are answered with this code.
    pub fn new(code: u16, times: u64) -> Self {
        Self {
            code,
            times,
            verb: None,
            resource: None,
        }
    }

    /// Only this verb: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`,
    /// `deletecollection`.
    #[must_use]
    pub fn verb(mut self, verb: &str) -> Self {
        self.verb = Some(verb.to_owned());
        self
    }

    /// Only this resource: `pods`, `leases.coordination.k8s.io`, `pods/status`.
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    fn concerns(&self, verb: &str, resource: &str) -> bool {
        self.times > 0
            && self.verb.as_deref().is_none_or(|wanted| wanted == verb)
            && self
                .resource
                .as_deref()
                .is_none_or(|wanted| wanted == resource)
    }

    fn failure(&self) -> Failure {
        let (reason, message) = match self.code {
            401 => ("Unauthorized", "Unauthorized"),
            403 => ("Forbidden", "forbidden by the test"),
            409 => ("Conflict", "refused by the test"),
            429 => (
                "TooManyRequests",
                "too many requests, please try again later",
            ),
            503 => (
                "ServiceUnavailable",
                "the server is currently unable to handle the request",
            ),
            504 => ("Timeout", "the request did not complete in time"),
            _ => (
                "InternalError",
                "an error on the server has prevented the request",
            ),
        };
        let mut failure = Failure::new(self.code, reason, message);
        if matches!(self.code, 429 | 503) {
            failure.retry_after = Some(1);
        }
        failure
    }
}

/// The faults that are on, and the counts.
#[derive(Debug, Default)]
pub(super) struct Faults {
    refusals: Vec<Refusal>,
    pub(super) latency: Duration,
    counts: BTreeMap<(String, String), u64>,
}

impl Faults {
    pub(super) fn refuse(&mut self, refusal: Refusal) {
        self.refusals.push(refusal);
    }

    pub(super) fn clear(&mut self) {
        self.refusals.clear();
        self.latency = Duration::ZERO;
    }

    /// Counts a request; the refusal that hits it.
    pub(super) fn note(&mut self, verb: &str, resource: &str) -> Result<(), Failure> {
        let counted = (verb.to_owned(), resource.to_owned());
        *self.counts.entry(counted).or_default() += 1;
        let hit = self
            .refusals
            .iter_mut()
            .find(|refusal| refusal.concerns(verb, resource));
        match hit {
            None => Ok(()),
            Some(refusal) => {
                refusal.times -= 1;
                Err(refusal.failure())
            }
        }
    }

    pub(super) fn count(&self, verb: &str, resource: &str) -> u64 {
        let counted = (verb.to_owned(), resource.to_owned());
        self.counts.get(&counted).copied().unwrap_or(0)
    }

    /// `VERB RESOURCE` and how often.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        let line = |((verb, resource), count): (&(String, String), &u64)| {
            (format!("{verb} {resource}"), *count)
        };
        self.counts.iter().map(line).collect()
    }
}
