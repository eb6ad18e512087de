//! What a role still waits for before it is ready.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The list of things that must be done before the role is ready, shared by all who do them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readiness(Arc<Mutex<BTreeMap<&'static str, Option<String>>>>);

impl Readiness {
    /// Adds a thing to wait for. It is pending until [`Pending::done`], also when its owner dies.
    pub(crate) fn wait_for(&self, name: &'static str) -> Pending {
        self.lock().insert(name, None);
        Pending {
            readiness: self.clone(),
            name,
        }
    }

    /// Becomes pending when another agent has taken over; not before.
    pub(crate) fn handed_over(&self) -> Pending {
        Pending {
            readiness: self.clone(),
            name: "hand-over",
        }
    }

    /// What is pending, each with its detail where there is one; empty when ready.
    pub(crate) fn pending(&self) -> Vec<String> {
        let describe = |(name, detail): (&&'static str, &Option<String>)| match detail {
            Some(detail) => format!("{name} ({detail})"),
            None => (*name).to_owned(),
        };
        self.lock().iter().map(describe).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Option<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thing to wait for.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    readiness: Readiness,
    name: &'static str,
}

impl Pending {
    /// It is done.
    pub(crate) fn done(&self) {
        self.readiness.lock().remove(self.name);
    }

    /// It is pending (again), because of `detail`.
    pub(crate) fn pending(&self, detail: impl Into<String>) {
        self.readiness.lock().insert(self.name, Some(detail.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_everything_is_done() {
        let readiness = Readiness::default();
        let state = readiness.wait_for("state manager");
        let proxy = readiness.wait_for("proxy");
        assert_eq!(readiness.pending(), ["proxy", "state manager"]);
        state.done();
        assert_eq!(readiness.pending(), ["proxy"]);
        proxy.done();
        assert!(readiness.pending().is_empty());
    }

    #[test]
    fn a_task_that_dies_stays_pending() {
        let readiness = Readiness::default();
        drop(readiness.wait_for("state manager"));
        assert_eq!(readiness.pending(), ["state manager"]);
    }
}
