//! Circuit breaking: how much a backend may have at a time. What is above a limit fails at once
//! (503) instead of waiting, so that one slow backend does not take the gateway with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Connections to the backend.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests that have not ended, those that wait included.
    Requests,
}

/// The most of each kind at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests in flight.
    pub requests: u32,
}

impl Default for Limits {
    /// What protects the gateway rather than the backend.
    fn default() -> Self {
        Self {
            connections: 16_384,
            pending: 4096,
            requests: 65_536,
        }
    }
}

/// The circuit of one backend, shared by all workers.
#[derive(Debug)]
pub struct Circuit {
    connections: Counter,
    pending: Counter,
    requests: Counter,
}

#[derive(Debug)]
struct Counter {
    limit: AtomicU32,
    held: AtomicU32,
    refused: AtomicU64,
}

/// The right to one of a kind; it is given back when this is dropped.
#[derive(Debug)]
pub struct Permit {
    circuit: Arc<Circuit>,
    kind: Kind,
}

impl Circuit {
    /// With these limits, and nothing in use.
    pub fn new(limits: Limits) -> Self {
        Self {
            connections: Counter::new(limits.connections),
            pending: Counter::new(limits.pending),
            requests: Counter::new(limits.requests),
        }
    }

    /// One more of a kind; `None` when the circuit is open for it.
    pub fn take(self: &Arc<Self>, kind: Kind) -> Option<Permit> {
        // Made only when it was taken: a permit that is dropped gives back.
        self.counter(kind).take().then(|| Permit {
            circuit: Arc::clone(self),
            kind,
        })
    }

    /// As [`take`](Self::take), but what is not to be had now is not counted as refused.
    pub(crate) fn take_now(self: &Arc<Self>, kind: Kind) -> Option<Permit> {
        self.counter(kind).try_take().then(|| Permit {
            circuit: Arc::clone(self),
            kind,
        })
    }

    /// Changes the limits. What is in use stays, even where it is more than the new limit.
    pub fn set_limits(&self, limits: Limits) {
        let set = |counter: &Counter, limit| counter.limit.store(limit, Ordering::Relaxed);
        set(&self.connections, limits.connections);
        set(&self.pending, limits.pending);
        set(&self.requests, limits.requests);
    }

    /// In use.
    pub fn held(&self, kind: Kind) -> u32 {
        self.counter(kind).held.load(Ordering::Relaxed)
    }

    /// How often the circuit was open, since the start.
    pub fn refused(&self, kind: Kind) -> u64 {
        self.counter(kind).refused.load(Ordering::Relaxed)
    }

    fn counter(&self, kind: Kind) -> &Counter {
        match kind {
            Kind::Connections => &self.connections,
            Kind::Pending => &self.pending,
            Kind::Requests => &self.requests,
        }
    }
}

impl Counter {
    fn new(limit: u32) -> Self {
        Self {
            limit: AtomicU32::new(limit),
            held: AtomicU32::new(0),
            refused: AtomicU64::new(0),
        }
    }

    fn take(&self) -> bool {
        let is_taken = self.try_take();
        if !is_taken {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        is_taken
    }

    fn try_take(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let more = |held: u32| (held < limit).then_some(held + 1);
        let taken = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let held = &self.circuit.counter(self.kind).held;
        held.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: Limits = Limits {
        connections: 2,
        pending: 0,
        requests: 5,
    };

    #[test]
    fn each_kind_has_its_limit() {
        let circuit = Arc::new(Circuit::new(SMALL));
        let both = [(); 2].map(|()| circuit.take(Kind::Connections).unwrap());
        assert!(circuit.take(Kind::Connections).is_none());
        assert!(circuit.take(Kind::Pending).is_none(), "none may wait");
        assert!(circuit.take(Kind::Requests).is_some());
        assert_eq!(circuit.held(Kind::Requests), 0, "given back at once");
        drop(both);
        assert!(circuit.take(Kind::Connections).is_some());
        assert_eq!(circuit.refused(Kind::Connections), 1);
        assert_eq!(circuit.refused(Kind::Pending), 1);
    }

    #[test]
    fn a_lower_limit_takes_nothing_away() {
        let circuit = Arc::new(Circuit::new(SMALL));
        let mut held: Vec<_> = (0..5)
            .filter_map(|_| circuit.take(Kind::Requests))
            .collect();
        let lower = Limits {
            requests: 3,
            ..SMALL
        };
        circuit.set_limits(lower);
        assert_eq!(circuit.held(Kind::Requests), 5);
        held.truncate(3);
        assert!(circuit.take(Kind::Requests).is_none());
        held.pop();
        assert!(circuit.take(Kind::Requests).is_some());
    }

    #[test]
    fn threads_never_get_more_than_there_is() {
        let circuit = Arc::new(Circuit::new(SMALL));
        let worker = || {
            for _ in 0..2_000 {
                let permit = circuit.take(Kind::Requests);
                assert!(circuit.held(Kind::Requests) <= SMALL.requests);
                drop(permit);
            }
        };
        std::thread::scope(|scope| {
            (0..4).for_each(|_| {
                scope.spawn(worker);
            });
        });
        assert_eq!(circuit.held(Kind::Requests), 0);
    }

    proptest! {
        #[test]
        fn what_is_held_is_what_was_taken_and_not_given_back(steps in prop::collection::vec(0usize..8, 0..100)) {
            let circuit = Arc::new(Circuit::new(SMALL));
            let mut held = Vec::new();
            for step in steps {
                if step < 5 {
                    let permit = circuit.take(Kind::Requests);
                    prop_assert_eq!(permit.is_some(), held.len() < 5);
                    held.extend(permit);
                } else if !held.is_empty() {
                    held.swap_remove(step % held.len());
                }
                prop_assert_eq!(circuit.held(Kind::Requests) as usize, held.len());
            }
        }
    }
}
