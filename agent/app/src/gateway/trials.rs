//! Policies under trial (`istio.io/dry-run`): how often each would have refused a request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use agent_gateway::Record;
use agent_model::PolicyKey;
use agent_telemetry::Metrics;

/// Policies that are counted; what comes after them is not.
const MAX_POLICIES: usize = 1024;

/// The counts.
#[derive(Debug, Default)]
pub(super) struct Trials(Mutex<BTreeMap<PolicyKey, Outcomes>>);

/// What a policy would have done with so many requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Outcomes {
    refused: u64,
    passed: u64,
}

impl Trials {
    /// Counts of which the metrics tell.
    pub(super) fn shown_by(metrics: &Metrics) -> Arc<Self> {
        let trials = Arc::new(Self::default());
        let shown = Arc::clone(&trials);
        metrics.sample_with(move |samples| {
            let counts = shown.0.lock().unwrap_or_else(PoisonError::into_inner);
            for (policy, outcomes) in &*counts {
                for (outcome, count) in [("refuse", outcomes.refused), ("pass", outcomes.passed)] {
                    samples.counter(
                        "culvert_gateway_dry_run",
                        "Requests that a policy under trial would have refused or let pass",
                        &[("policy", &policy.to_string()), ("outcome", outcome)],
                        count,
                    );
                }
            }
        });
        trials
    }

    /// Counts and logs what became of one request.
    pub(super) fn take(&self, record: &Record) {
        if record.trials.is_empty() {
            return;
        }
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for trial in &record.trials {
            let would_refuse = trial.would_refuse();
            if would_refuse {
                tracing::info!(target: "access", policy = %trial.policy, client = %record.client,
                    method = %record.method, "a policy under trial would have refused a request");
            }
            if !counts.contains_key(&trial.policy) && counts.len() >= MAX_POLICIES {
                continue;
            }
            let outcomes = counts.entry(trial.policy.clone()).or_default();
            match would_refuse {
                true => outcomes.refused += 1,
                false => outcomes.passed += 1,
            }
        }
    }
}
