//! The policies of one place, and the decision they come to.

use std::sync::Arc;

use agent_model::access::Access;
use agent_model::{Action, PolicyKey, Reason};

use super::compile::{Policy, PolicyError};
use super::request::Request;

/// The policies that apply to the requests of one service or listener, in the order of
/// evaluation. Made anew when one of them changes.
#[derive(Debug, Clone, Default)]
pub struct Ruleset {
    deny: Vec<Arc<Policy>>,
    allow: Vec<Arc<Policy>>,
    dry_run: Vec<Arc<Policy>>,
    unreadable: Vec<PolicyKey>,
}

/// The outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Let it pass, by the ALLOW that matched; `None` when no ALLOW applies.
    Allow(Option<Match<'a>>),
    /// Refuse it (403; 401 where only a token is missing, see [`Ruleset::wants_token`]).
    Deny {
        /// `PolicyDenied`, `PolicyNotAllowed` or `PolicyUnknown`.
        reason: Reason,
        /// The DENY that matched, one of the ALLOWs that did not, or the one that is unknown.
        policy: &'a PolicyKey,
        /// The rule that matched, from 0.
        rule: Option<usize>,
    },
}

impl Decision<'_> {
    /// True for [`Decision::Allow`].
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

/// A policy's rule that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match<'a> {
    /// The policy.
    pub policy: &'a PolicyKey,
    /// The rule, from 0.
    pub rule: usize,
}

/// One policy's part in a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// The policy.
    pub policy: &'a PolicyKey,
    /// What it does on a match.
    pub action: Action,
    /// The first rule that matches, from 0.
    pub rule: Option<usize>,
    /// It is counted and logged only.
    pub dry_run: bool,
}

impl Ruleset {
    /// Of compiled policies, and the keys of those that cannot be compiled and of which no good
    /// version is held: as long as there are any, every request is refused.
    pub fn new(
        policies: impl IntoIterator<Item = Arc<Policy>>,
        unreadable: impl IntoIterator<Item = PolicyKey>,
    ) -> Self {
        let mut set = Self {
            unreadable: unreadable.into_iter().collect(),
            ..Self::default()
        };
        for policy in policies {
            let list = match (policy.is_dry_run(), policy.action()) {
                (true, _) => &mut set.dry_run,
                (false, Action::Deny) => &mut set.deny,
                (false, Action::Allow) => &mut set.allow,
            };
            list.push(policy);
        }
        set
    }

    /// Compiles policies; those that cannot be are returned as well, and refuse unless they are
    /// dry runs.
    pub fn compile<'p>(
        policies: impl IntoIterator<Item = &'p Access>,
    ) -> (Self, Vec<(PolicyKey, PolicyError)>) {
        let (mut compiled, mut unreadable, mut faults) = (Vec::new(), Vec::new(), Vec::new());
        for access in policies {
            match Policy::compile(access) {
                Ok(policy) => compiled.push(Arc::new(policy)),
                Err(error) => {
                    if !access.dry_run {
                        unreadable.push(access.key());
                    }
                    faults.push((access.key(), error));
                }
            }
        }
        (Self::new(compiled, unreadable), faults)
    }

    /// Decides one request.
    pub fn decide(&self, request: &Request<'_>) -> Decision<'_> {
        if let Some(policy) = self.unreadable.first() {
            return refused(Reason::PolicyUnknown, policy, None);
        }
        if let Some(by) = first_match(&self.deny, request) {
            return refused(Reason::PolicyDenied, by.policy, Some(by.rule));
        }
        let Some(first) = self.allow.first() else {
            return Decision::Allow(None);
        };
        match first_match(&self.allow, request) {
            Some(by) => Decision::Allow(Some(by)),
            None => refused(Reason::PolicyNotAllowed, first.key(), None),
        }
    }

    /// Of a request without a token that is refused: whether there may be a token it would pass with.
    pub fn wants_token(&self, request: &Request<'_>) -> bool {
        let any = |policies: &[Arc<Policy>]| {
            let mut policies = policies.iter();
            policies.any(|policy| policy.matches_best_token(request))
        };
        request.token.is_none()
            && self.unreadable.is_empty()
            && !any(&self.deny)
            && (self.allow.is_empty() || any(&self.allow))
    }

    /// What the policies under trial say, for the log and the metrics.
    pub fn dry_runs(&self, request: &Request<'_>) -> impl Iterator<Item = Verdict<'_>> {
        verdicts(&self.dry_run, request)
    }

    /// What every policy says, for those who ask why.
    pub fn verdicts(&self, request: &Request<'_>) -> impl Iterator<Item = Verdict<'_>> {
        verdicts(&self.deny, request)
            .chain(verdicts(&self.allow, request))
            .chain(verdicts(&self.dry_run, request))
    }

    /// Policies of which it is not known what they say: while there are any, every request is
    /// refused.
    pub fn unreadable(&self) -> &[PolicyKey] {
        &self.unreadable
    }

    /// True when nothing is ever refused or reported.
    pub fn is_empty(&self) -> bool {
        self.deny.is_empty()
            && self.allow.is_empty()
            && self.dry_run.is_empty()
            && self.unreadable.is_empty()
    }
}

fn refused(reason: Reason, policy: &PolicyKey, rule: Option<usize>) -> Decision<'_> {
    Decision::Deny {
        reason,
        policy,
        rule,
    }
}

fn first_match<'a>(policies: &'a [Arc<Policy>], request: &Request<'_>) -> Option<Match<'a>> {
    policies.iter().find_map(|policy| {
        let rule = policy.matching_rule(request)?;
        Some(Match {
            policy: policy.key(),
            rule,
        })
    })
}

fn verdicts<'a>(
    policies: &'a [Arc<Policy>],
    request: &Request<'_>,
) -> impl Iterator<Item = Verdict<'a>> {
    policies.iter().map(|policy| Verdict {
        policy: policy.key(),
        action: policy.action(),
        rule: policy.matching_rule(request),
        dry_run: policy.is_dry_run(),
    })
}
