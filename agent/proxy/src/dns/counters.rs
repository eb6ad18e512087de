//! What became of questions, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered from the mesh.
    Answered,
    /// Sent on, and the reply brought back.
    Forwarded,
    /// Sent on; no reply came in time.
    Unanswered,
    /// Not sent on: the pod has as many under way as it may, or nobody knows to whom.
    Dropped,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [
        Self::Answered,
        Self::Forwarded,
        Self::Unanswered,
        Self::Dropped,
    ];

    /// The word of the metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Forwarded => "forwarded",
            Self::Unanswered => "unanswered",
            Self::Dropped => "dropped",
        }
    }
}

/// Questions by outcome, of all pods.
#[derive(Debug, Default)]
pub struct Counters([AtomicU64; Outcome::ALL.len()]);

impl Counters {
    /// Counts one question.
    pub(crate) fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many had that outcome since start.
    pub fn get(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize].load(Ordering::Relaxed)
    }
}
