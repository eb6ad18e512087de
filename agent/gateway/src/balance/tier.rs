//! Endpoints that are equally near.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use agent_model::Locality;

use super::hash::{Table, scaled, scaled_index};
use super::schedule::Schedule;
use super::{Algorithm, Endpoint, Preference};

/// All of the traffic.
pub(super) const WHOLE: u64 = 1_000_000;
/// A tier takes so much more than the part of it that is usable.
pub(super) const OVERPROVISION: (u64, u64) = (14, 10);
/// Draws before all members are looked at.
const DRAWS: usize = 4;

/// One tier.
#[derive(Debug)]
pub(super) struct Tier {
    chooser: Chooser,
    members: Box<[usize]>,
    /// Sum of weights up to and with each member.
    weights: Box<[u64]>,
    usable: AtomicU64,
}

#[derive(Debug)]
enum Chooser {
    Turns(Schedule),
    Random,
    LeastRequest,
    PeakEwma,
    Hash(Table),
}

impl Tier {
    pub(super) fn new(algorithm: Algorithm, members: Vec<usize>, endpoints: &[Endpoint]) -> Self {
        let weighted: Vec<(usize, u32)> = members
            .iter()
            .map(|index| (*index, endpoints[*index].weight))
            .collect();
        let chooser = match algorithm {
            Algorithm::RoundRobin => Chooser::Turns(Schedule::new(&weighted)),
            Algorithm::Random => Chooser::Random,
            Algorithm::LeastRequest => Chooser::LeastRequest,
            Algorithm::PeakEwma => Chooser::PeakEwma,
            Algorithm::ConsistentHash => Chooser::Hash(Table::new(&weighted, endpoints)),
        };
        let mut sum = 0;
        let weights = weighted.iter().map(|(_, weight)| {
            sum += u64::from(*weight);
            sum
        });
        let weights: Box<[u64]> = weights.collect();
        Self {
            chooser,
            members: members.into(),
            usable: AtomicU64::new(weights.last().copied().unwrap_or(0)),
            weights,
        }
    }

    /// A member became usable, or stopped to be.
    pub(super) fn count(&self, weight: u32, is_usable: bool) {
        let weight = u64::from(weight);
        if is_usable {
            self.usable.fetch_add(weight, Ordering::Relaxed);
        } else {
            self.usable.fetch_sub(weight, Ordering::Relaxed);
        }
    }

    /// What the tier can take of [`WHOLE`].
    pub(super) fn share(&self) -> u64 {
        let total = self.weights.last().copied().unwrap_or(0).max(1);
        let usable = self.usable.load(Ordering::Relaxed);
        (WHOLE * usable * OVERPROVISION.0 / (total * OVERPROVISION.1)).min(WHOLE)
    }

    pub(super) fn pick(
        &self,
        endpoints: &[Endpoint],
        hash: Option<u64>,
        now: Instant,
        random: &mut dyn FnMut() -> u64,
        may: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        let weight = |index: usize| f64::from(endpoints[index].weight);
        match &self.chooser {
            Chooser::Turns(schedule) => schedule.pick(may),
            Chooser::Random => self.draw(random, may),
            Chooser::LeastRequest => self.better_of_two(random, may, |index| {
                (f64::from(endpoints[index].load.in_flight()) + 1.0) / weight(index)
            }),
            Chooser::PeakEwma => self.better_of_two(random, may, |index| {
                endpoints[index].load.cost(now) / weight(index)
            }),
            Chooser::Hash(table) => table.pick(hash?, endpoints, may),
        }
    }

    /// One at random, by weight.
    fn draw(&self, random: &mut dyn FnMut() -> u64, may: &dyn Fn(usize) -> bool) -> Option<usize> {
        let total = *self.weights.last()?;
        for _ in 0..DRAWS {
            let index = self.at(scaled(random(), total));
            if may(index) {
                return Some(index);
            }
        }
        // Most are not allowed: among those that are.
        let allowed = || (0..self.members.len()).filter(|at| may(self.members[*at]));
        let weight =
            |at: usize| self.weights[at] - at.checked_sub(1).map_or(0, |i| self.weights[i]);
        let mut point = scaled(random(), allowed().map(weight).sum());
        for at in allowed() {
            match point.checked_sub(weight(at)) {
                None => return Some(self.members[at]),
                Some(rest) => point = rest,
            }
        }
        None
    }

    /// The member on which a point falls.
    fn at(&self, point: u64) -> usize {
        let at = self.weights.partition_point(|up_to| *up_to <= point);
        self.members[at.min(self.members.len() - 1)]
    }

    /// The cheaper of two that were drawn, whatever their weight: that is part of the cost.
    fn better_of_two(
        &self,
        random: &mut dyn FnMut() -> u64,
        may: &dyn Fn(usize) -> bool,
        cost: impl Fn(usize) -> f64,
    ) -> Option<usize> {
        let first = self.draw_evenly(random, may, None)?;
        match self.draw_evenly(random, may, Some(first)) {
            Some(second) if cost(second) < cost(first) => Some(second),
            _ => Some(first),
        }
    }

    fn draw_evenly(
        &self,
        random: &mut dyn FnMut() -> u64,
        may: &dyn Fn(usize) -> bool,
        but: Option<usize>,
    ) -> Option<usize> {
        let may = |index: usize| Some(index) != but && may(index);
        let length = self.members.len();
        if length == 0 || (length == 1 && but.is_some()) {
            return None;
        }
        for _ in 0..DRAWS {
            let index = self.members[scaled_index(random(), length)];
            if may(index) {
                return Some(index);
            }
        }
        let start = scaled_index(random(), length);
        let in_turn = self.members[start..].iter().chain(&self.members[..start]);
        in_turn.copied().find(|index| may(*index))
    }
}

/// Indices of the endpoints that get traffic, the nearest first.
pub(super) fn by_rank(preference: &Preference, endpoints: &[Endpoint]) -> Vec<Vec<usize>> {
    let mut ranks: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let rank = match preference {
            Preference::None => Some(0),
            Preference::Failover(own) => Some(distance(own, &endpoint.locality)),
            Preference::Strict(own) => (distance(own, &endpoint.locality) <= ZONE).then_some(0),
        };
        if let Some(rank) = rank
            && endpoint.weight > 0
        {
            ranks.entry(rank).or_default().push(index);
        }
    }
    ranks.into_values().collect()
}

const ZONE: u8 = 1;

/// 0 for the same subzone, 1 for the same zone, 2 for the same region, 3 for elsewhere. Where
/// nothing is known is elsewhere.
fn distance(own: &Locality, other: &Locality) -> u8 {
    if own.region.is_empty() || own.region != other.region {
        3
    } else if own.zone.is_empty() || own.zone != other.zone {
        2
    } else if own.subzone != other.subzone {
        ZONE
    } else {
        0
    }
}
