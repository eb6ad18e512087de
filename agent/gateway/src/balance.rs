//! Which endpoint gets a request. Time and randomness are arguments; all state is in atomics, so
//! that every worker chooses by what all of them see.

mod hash;
mod load;
mod schedule;
#[cfg(test)]
mod tests;
mod tier;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use agent_model::Locality;

pub(crate) use hash::hashed;
pub use load::{Load, Outcome};
use tier::Tier;

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// In turn, by weight.
    RoundRobin,
    /// Of two at random the one with fewer requests in flight, by weight.
    LeastRequest,
    /// Of two at random the one with less expected delay: its latency, in which a slow answer
    /// counts at once and fades, times the requests in flight.
    #[default]
    PeakEwma,
    /// At random, by weight.
    Random,
    /// By a hash of the request: the same goes to the same as long as that is there, and few move
    /// when others come and go. Who has more than 1.25 times its share in flight is passed over.
    ConsistentHash,
}

/// Which endpoints come first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Preference {
    /// All alike.
    #[default]
    None,
    /// Those near this place; others as far as the near ones are not enough.
    Failover(Locality),
    /// Only those of this place's zone; nobody where there are none.
    Strict(Locality),
}

/// An endpoint to choose.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The same for the same endpoint in every process: a hash of its name.
    pub key: u64,
    /// Share of the traffic; 0 gets none.
    pub weight: u32,
    /// Where it is.
    pub locality: Locality,
    /// What is known of it; it outlives changes of the list.
    pub load: Arc<Load>,
}

/// Chooses among the endpoints of one service. Made anew when the list changes.
#[derive(Debug)]
pub struct Balancer {
    algorithm: Algorithm,
    endpoints: Box<[Endpoint]>,
    usable: Box<[AtomicBool]>,
    /// The nearest first.
    tiers: Box<[Tier]>,
    /// Tier of each endpoint; `None` for those that get nothing.
    tier_of: Box<[Option<usize>]>,
}

impl Balancer {
    /// Of these endpoints, all of them usable. Indices into this list are what is chosen.
    pub fn new(
        algorithm: Algorithm,
        preference: &Preference,
        endpoints: impl IntoIterator<Item = Endpoint>,
    ) -> Self {
        let endpoints: Box<[Endpoint]> = endpoints.into_iter().collect();
        let by_rank = tier::by_rank(preference, &endpoints);
        let mut tier_of: Box<[Option<usize>]> = endpoints.iter().map(|_| None).collect();
        for (tier, members) in by_rank.iter().enumerate() {
            members
                .iter()
                .for_each(|index| tier_of[*index] = Some(tier));
        }
        let tiers = by_rank.into_iter();
        Self {
            algorithm,
            usable: endpoints.iter().map(|_| AtomicBool::new(true)).collect(),
            tiers: tiers
                .map(|members| Tier::new(algorithm, members, &endpoints))
                .collect(),
            endpoints,
            tier_of,
        }
    }

    /// Chooses one for a request. `hash` is what [`Algorithm::ConsistentHash`] goes by; `skip`
    /// says which were tried already. `None` when there is nobody left.
    pub fn pick(
        &self,
        hash: Option<u64>,
        now: Instant,
        random: &mut dyn FnMut() -> u64,
        skip: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        let hash = match (self.algorithm, hash) {
            (Algorithm::ConsistentHash, None) => Some(random()),
            (_, hash) => hash,
        };
        let may = |index: usize| self.is_usable(index) && !skip(index);
        let first = self.first_tier(match (self.algorithm, hash) {
            // What belongs together stays together, across tiers too. Inverted, because within a
            // tier the hash is used as it is.
            (Algorithm::ConsistentHash, Some(hash)) => hash::mixed(!hash),
            _ if self.tiers.len() == 1 => 0,
            _ => random(),
        });
        let in_turn = (first..self.tiers.len()).chain(0..first);
        let mut choices = in_turn.map(|tier| &self.tiers[tier]);
        choices.find_map(|tier| tier.pick(&self.endpoints, hash, now, random, &may))
    }

    /// The endpoint of an index.
    pub fn endpoint(&self, index: usize) -> Option<&Endpoint> {
        self.endpoints.get(index)
    }

    /// Number of endpoints, usable or not.
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// True when there is nobody to choose.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Whether an endpoint is chosen at all.
    pub fn is_usable(&self, index: usize) -> bool {
        let usable = self.usable.get(index);
        usable.is_some_and(|usable| usable.load(Ordering::Relaxed))
    }

    /// Takes an endpoint out (it was ejected, or failed its health check), or back in.
    pub fn set_usable(&self, index: usize, is_usable: bool) {
        let Some(usable) = self.usable.get(index) else {
            return;
        };
        let was_usable = usable.swap(is_usable, Ordering::Relaxed);
        let tier = self.tier_of.get(index).copied().flatten();
        if was_usable != is_usable
            && let Some(tier) = tier.and_then(|tier| self.tiers.get(tier))
        {
            tier.count(self.endpoints[index].weight, is_usable);
        }
    }

    /// The tier a request begins with. Each takes what its usable endpoints can carry, of which
    /// [`tier::OVERPROVISION`] says how much: with 72 % of them left a tier still takes everything.
    fn first_tier(&self, random: u64) -> usize {
        let shares = self.tiers.iter().map(Tier::share);
        let total: u64 = shares.clone().sum::<u64>().min(tier::WHOLE);
        let point = hash::scaled(random, total);
        let mut up_to = 0;
        for (tier, share) in shares.enumerate() {
            up_to += share;
            if point < up_to {
                return tier;
            }
        }
        0
    }
}
