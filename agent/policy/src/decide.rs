//! Order of evaluation: DENY first, then ALLOW, else allow when there is no ALLOW.

use std::sync::Arc;

use agent_model::{Action, Authorization, PolicyKey, Reason};

use crate::connection::{Connection, Target};
use crate::matching::{Subject, policy_matches};
use crate::set::PolicySet;

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Let it pass; `policy` is the ALLOW that matched, `None` when no ALLOW applies.
    Allow {
        /// The ALLOW policy that matched.
        policy: Option<PolicyKey>,
    },
    /// Refuse it.
    Deny {
        /// `PolicyDenied`, `WaypointBypassed`, `PolicyNotAllowed` or `PolicyUnknown`.
        reason: Reason,
        /// The DENY policy that matched, the unknown one, or one of the ALLOWs that did not match.
        policy: Option<PolicyKey>,
    },
}

impl Decision {
    /// True for [`Decision::Allow`].
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }
}

/// Decides one connection to `target`.
pub fn decide(set: &PolicySet, target: &Target<'_>, connection: &Connection<'_>) -> Decision {
    if let Some(key) = set.unknown(target) {
        return Decision::Deny {
            reason: Reason::PolicyUnknown,
            policy: Some(key.clone()),
        };
    }
    let subjects = Subjects::new(connection);
    let enforced = |action| {
        set.applicable(target)
            .filter(move |policy| policy.action == action && !policy.dry_run)
    };
    if let Some(policy) = enforced(Action::Deny).find(|policy| subjects.matches(policy)) {
        let key = policy.key();
        return Decision::Deny {
            reason: match policy.is_waypoint_guard() {
                true => Reason::WaypointBypassed,
                false => Reason::PolicyDenied,
            },
            policy: Some(key),
        };
    }
    let mut allows = enforced(Action::Allow).peekable();
    let Some(first) = allows.peek().map(|policy| Arc::clone(policy)) else {
        return Decision::Allow { policy: None };
    };
    match allows.find(|policy| subjects.matches(policy)) {
        Some(policy) => Decision::Allow {
            policy: Some(policy.key()),
        },
        None => Decision::Deny {
            reason: Reason::PolicyNotAllowed,
            policy: Some(first.key()),
        },
    }
}

/// A connection as each policy looks at it.
struct Subjects<'a> {
    /// For whom it is.
    client: Subject<'a>,
    /// From whom it comes.
    peer: Subject<'a>,
}

impl<'a> Subjects<'a> {
    fn new(connection: &'a Connection<'a>) -> Self {
        Self {
            client: Subject::new(connection),
            peer: Subject::of_peer(connection),
        }
    }

    /// What asks whether the connection passed a waypoint looks at the peer.
    fn matches(&self, policy: &Authorization) -> bool {
        let subject = match policy.is_waypoint_guard() {
            true => &self.peer,
            false => &self.client,
        };
        policy_matches(policy, subject)
    }
}

/// One policy's part in a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The policy.
    pub policy: PolicyKey,
    /// What it does on a match.
    pub action: Action,
    /// Whether it matches.
    pub matches: bool,
    /// It is logged only.
    pub dry_run: bool,
}

/// A decision and each applicable policy's part in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What [`decide`] says.
    pub decision: Decision,
    /// Every applicable policy.
    pub verdicts: Vec<Verdict>,
}

/// [`decide`], with every applicable policy's verdict, for `culvert why` and dry-run logging.
pub fn explain(set: &PolicySet, target: &Target<'_>, connection: &Connection<'_>) -> Explanation {
    let subjects = Subjects::new(connection);
    let verdict = |policy: &Arc<Authorization>| Verdict {
        policy: policy.key(),
        action: policy.action,
        matches: subjects.matches(policy),
        dry_run: policy.dry_run,
    };
    Explanation {
        decision: decide(set, target, connection),
        verdicts: set.applicable(target).map(verdict).collect(),
    }
}
