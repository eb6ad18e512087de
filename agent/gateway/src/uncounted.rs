//! Requests that a limit of all gateways should have counted while its Redis was gone.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use agent_model::PolicyKey;

/// Policies that are told of; those that come after them are not.
const MAX_POLICIES: usize = 1024;

/// The requests, by policy. Workers share it: it is touched only while a Redis does not answer.
#[derive(Debug, Default)]
pub struct Uncounted(Mutex<BTreeMap<PolicyKey, Outcomes>>);

/// What became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// The policy says open.
    pub passed: u64,
    /// The policy says closed.
    pub refused: u64,
}

impl Uncounted {
    /// Every policy with requests that it did not count.
    pub fn by_policy(&self) -> Vec<(PolicyKey, Outcomes)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.iter();
        known.map(|(key, found)| (key.clone(), *found)).collect()
    }

    pub(crate) fn add(&self, policy: &PolicyKey, passes: bool) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(policy) && known.len() >= MAX_POLICIES {
            return;
        }
        let found = known.entry(policy.clone()).or_default();
        match passes {
            true => found.passed += 1,
            false => found.refused += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_bounded() {
        let uncounted = Uncounted::default();
        let key = |number: usize| PolicyKey::new("ns", &format!("p{number}"));
        for number in 0..=MAX_POLICIES {
            uncounted.add(&key(number), true);
        }
        uncounted.add(&key(0), false);
        let found = uncounted.by_policy();
        assert_eq!(found.len(), MAX_POLICIES);
        let both = Outcomes {
            passed: 1,
            refused: 1,
        };
        assert_eq!(found.first(), Some(&(key(0), both)));
    }
}
