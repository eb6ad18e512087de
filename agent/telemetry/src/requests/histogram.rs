//! Histograms with fixed bounds, in cells that one thread writes.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use super::sharded::add;

/// Counts of values up to each of `N` bounds; the bounds are the caller's.
#[derive(Debug)]
pub(super) struct Histogram<const N: usize> {
    upto: [AtomicU64; N],
    beyond: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self {
            upto: array::from_fn(|_| AtomicU64::new(0)),
            beyond: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }
}

impl<const N: usize> Histogram<N> {
    /// Counts a value, in the unit of `bounds`.
    pub(super) fn count(&self, bounds: &[u64; N], value: u64) {
        let place = bounds.partition_point(|bound| *bound < value);
        add(self.upto.get(place).unwrap_or(&self.beyond), 1);
        add(&self.sum, value);
    }
}

/// Cells of several threads, added up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sum<const N: usize> {
    upto: [u64; N],
    beyond: u64,
    sum: u64,
}

impl<const N: usize> Sum<N> {
    pub(super) fn of<'a>(cells: impl Iterator<Item = &'a Histogram<N>>) -> Self {
        let mut all = Self {
            upto: [0; N],
            beyond: 0,
            sum: 0,
        };
        for one in cells {
            for (sum, cell) in all.upto.iter_mut().zip(&one.upto) {
                *sum += cell.load(Ordering::Relaxed);
            }
            all.beyond += one.beyond.load(Ordering::Relaxed);
            all.sum = all.sum.wrapping_add(one.sum.load(Ordering::Relaxed));
        }
        all
    }

    pub(super) fn count(&self) -> u64 {
        self.upto.iter().sum::<u64>() + self.beyond
    }

    /// Sum of values, where one of `scale` is shown as 1.
    pub(super) fn sum(&self, scale: f64) -> f64 {
        self.sum as f64 / scale
    }

    /// Bounds and how many values lie between each and the one before it.
    pub(super) fn buckets(&self, bounds: &[u64; N], scale: f64) -> Vec<(f64, u64)> {
        let shown = bounds.iter().map(|bound| *bound as f64 / scale);
        let last = (f64::INFINITY, self.beyond);
        shown.zip(self.upto).chain([last]).collect()
    }
}
