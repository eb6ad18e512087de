//! What traffic policies do to requests and responses, compiled for a rule.
//!
//! Nothing here does I/O: time, randomness and what a Redis said are arguments.

mod compression;
mod fault;
mod limit;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use agent_model::gateway::Timeouts;
use agent_model::gateway::traffic::{Fault, TrafficTarget};

use crate::filter::{HeaderEdits, Unusable};
use crate::traffic::Policies;

pub use compression::{Coder, Coding, Compression};
pub use fault::{Aborted, Injected, inject};
pub use limit::{GlobalLimit, LimitKey, LocalLimit, Requester, Verdict};

/// What is done to the requests of a rule. The default does nothing.
#[derive(Debug, Default)]
pub struct Treatment {
    /// A limit of this process.
    pub local: Option<Arc<LocalLimit>>,
    /// A limit of all gateways.
    pub global: Option<GlobalLimit>,
    /// Faults on purpose.
    pub fault: Option<Fault>,
    /// Time limits, for rules that have none of their own.
    pub timeouts: Timeouts,
    /// Changes of request headers, before those of the rule.
    pub request: Option<HeaderEdits>,
    /// Changes of response headers, after those of the rule.
    pub response: Option<HeaderEdits>,
    /// Most bytes of a request's body.
    pub body_limit: Option<u64>,
    /// Which responses are compressed.
    pub compression: Option<Compression>,
}

/// Every local limit of a plan, by what it counts for. One that is the same in the next plan goes
/// on counting there.
pub type Limits = HashMap<LimitKey, Arc<LocalLimit>>;

impl Treatment {
    /// What the policies say of requests in these scopes, from specific to general; parts are
    /// decided one by one. Header changes that cannot be made are left out and reported.
    pub fn compile(
        policies: &Policies,
        scopes: &[TrafficTarget],
        limits: &mut Limits,
        fault: &mut impl FnMut(Unusable),
    ) -> Self {
        let mut edits = |change| match HeaderEdits::compile(change) {
            Ok(edits) => Some(edits),
            Err(unusable) => {
                fault(unusable);
                None
            }
        };
        let headers = policies.part(scopes, |policy| policy.headers.as_ref());
        let headers = headers.map(|decided| decided.part);
        let limit = policies.part(scopes, |policy| policy.rate_limit.as_ref());
        let local = limit.as_ref().and_then(|decided| {
            let part = decided.part.local.as_ref()?;
            let key = LimitKey::new(decided, part);
            let made = || Arc::new(LocalLimit::new(part));
            Some(Arc::clone(limits.entry(key).or_insert_with(made)))
        });
        let global = limit.as_ref().and_then(|decided| {
            let part = decided.part.global.as_ref()?;
            Some(GlobalLimit::new(decided, part))
        });
        let bodies = policies.part(scopes, |policy| policy.body_limits.as_ref());
        let faults = policies.part(scopes, |policy| policy.fault.as_ref());
        let timeouts = policies.part(scopes, |policy| policy.timeouts.as_ref());
        let compression = policies.part(scopes, |policy| policy.compression.as_ref());
        Self {
            local,
            global,
            fault: faults.map(|decided| decided.part.clone()),
            timeouts: timeouts.map_or_else(Timeouts::default, |decided| *decided.part),
            request: headers.and_then(|headers| edits(&headers.request)),
            response: headers.and_then(|headers| edits(&headers.response)),
            body_limit: bodies.and_then(|decided| decided.part.request),
            compression: compression.map(|decided| Compression::new(decided.part)),
        }
    }

    /// True when nothing is done to anything.
    pub fn is_nothing(&self) -> bool {
        let Self {
            local,
            global,
            fault,
            timeouts,
            request,
            response,
            body_limit,
            compression,
        } = self;
        local.is_none()
            && global.is_none()
            && fault.is_none()
            && *timeouts == Timeouts::default()
            && request.is_none()
            && response.is_none()
            && body_limit.is_none()
            && compression.is_none()
    }

    /// The time limits of a rule with these of its own.
    pub fn timeouts(&self, own: Timeouts) -> Timeouts {
        Timeouts {
            request: own.request.or(self.timeouts.request),
            backend_request: own.backend_request.or(self.timeouts.backend_request),
        }
    }
}
