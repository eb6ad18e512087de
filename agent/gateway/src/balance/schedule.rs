//! Turns by weight, spread evenly.

use std::sync::atomic::{AtomicU64, Ordering};

/// Longest schedule; larger weights are scaled down to it.
const LONGEST: u64 = 4096;

/// Who comes when: 3:1 is A A B A rather than A A A B.
#[derive(Debug)]
pub(super) struct Schedule {
    turns: Box<[usize]>,
    next: AtomicU64,
}

impl Schedule {
    /// Of members (by index) with weights above 0.
    pub(super) fn new(members: &[(usize, u32)]) -> Self {
        let weights = scaled(members);
        let total: i64 = weights.iter().sum();
        let mut credit = vec![0_i64; members.len()];
        let mut turns = Vec::new();
        for _ in 0..total {
            credit
                .iter_mut()
                .zip(&weights)
                .for_each(|(c, weight)| *c += weight);
            // The first of the richest, so that equal weights go in order.
            let richest = (0..members.len()).rev().max_by_key(|at| credit[*at]);
            if let Some(at) = richest {
                credit[at] -= total;
                turns.push(members[at].0);
            }
        }
        Self {
            turns: turns.into(),
            next: AtomicU64::new(0),
        }
    }

    /// The next one that may be chosen.
    pub(super) fn pick(&self, may: &dyn Fn(usize) -> bool) -> Option<usize> {
        let length = self.turns.len();
        if length == 0 {
            return None;
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % length as u64;
        let start = usize::try_from(turn).unwrap_or(0);
        let in_turn = self.turns[start..].iter().chain(&self.turns[..start]);
        in_turn.copied().find(|index| may(*index))
    }
}

/// Weights without their common divisor, and none so large that the schedule gets too long.
fn scaled(members: &[(usize, u32)]) -> Vec<i64> {
    let divisor = members
        .iter()
        .fold(0, |a, (_, weight)| divisor(a, u64::from(*weight)));
    let weights: Vec<u64> = members
        .iter()
        .map(|(_, weight)| u64::from(*weight) / divisor.max(1))
        .collect();
    let total: u64 = weights.iter().sum();
    let longest = LONGEST.max(members.len() as u64);
    let scale = |weight: u64| {
        if total <= longest {
            weight
        } else {
            (weight * longest / total).max(1)
        }
    };
    let scaled = weights.into_iter().map(scale);
    scaled
        .map(|weight| i64::try_from(weight).unwrap_or(1))
        .collect()
}

fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}
