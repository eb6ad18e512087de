//! Consistent hashing by a Maglev table, with bounded load.

use super::Endpoint;

/// Sizes of tables: primes, so that every permutation visits every slot.
const SIZES: [usize; 6] = [257, 1031, 4099, 16_411, 65_537, 262_147];
/// Slots per endpoint, at least: shares differ by about a hundredth.
const SLOTS_EACH: usize = 100;
/// How far above its share an endpoint may be, in hundredths.
const BOUND: u64 = 125;
/// So many requests in flight are never too many.
const ALWAYS_FINE: u32 = 4;

/// Endpoint (by index) of each slot.
#[derive(Debug)]
pub(super) struct Table {
    slots: Box<[u32]>,
    members: Box<[usize]>,
}

impl Table {
    /// Members take slots in turn, each in the order of its own permutation, by weight.
    pub(super) fn new(members: &[(usize, u32)], endpoints: &[Endpoint]) -> Self {
        const FREE: u32 = u32::MAX;
        let wanted = members.len() * SLOTS_EACH;
        let last = SIZES[SIZES.len() - 1];
        let size = SIZES
            .into_iter()
            .find(|size| *size >= wanted)
            .unwrap_or(last);
        // The order of turns must not depend on the order of the list.
        let mut sorted = members.to_vec();
        sorted.sort_by_key(|(index, _)| endpoints[*index].key);
        let mut orders: Vec<Order> = sorted
            .iter()
            .map(|(index, _)| Order::new(endpoints[*index].key, size))
            .collect();
        let heaviest = members.iter().map(|(_, weight)| *weight).max().unwrap_or(1);
        let mut slots = vec![FREE; if members.is_empty() { 0 } else { size }];
        let (mut taken, mut round) = (0, 0_u64);
        while taken < slots.len() {
            round += 1;
            for ((index, weight), order) in sorted.iter().zip(&mut orders) {
                // The heaviest takes a slot each round, others as often as their weight says.
                let due = round * u64::from(*weight) / u64::from(heaviest);
                if due <= order.taken || taken == slots.len() {
                    continue;
                }
                let free = order.by_ref().find(|slot| slots[*slot] == FREE);
                if let Some(slot) = free {
                    slots[slot] = u32::try_from(*index).unwrap_or(FREE);
                    order.taken += 1;
                    taken += 1;
                }
            }
        }
        Self {
            slots: slots.into(),
            members: members.iter().map(|(index, _)| *index).collect(),
        }
    }

    /// The endpoint of a hash, or the next one in the table that may be chosen and is not
    /// overloaded; where all are, the first that may be chosen.
    pub(super) fn pick(
        &self,
        hash: u64,
        endpoints: &[Endpoint],
        may: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        let start = scaled_index(mixed(hash), self.slots.len());
        let in_turn = self.slots[start..].iter().chain(&self.slots[..start]);
        let mut allowed = in_turn
            .map(|slot| *slot as usize)
            .filter(|index| may(*index));
        let first = allowed.next()?;
        let in_flight = |index: usize| endpoints[index].load.in_flight();
        if in_flight(first) < ALWAYS_FINE {
            return Some(first);
        }
        let bound = self.bound(endpoints, may);
        let is_fine = |index: usize| {
            let load = u64::from(in_flight(index));
            load < u64::from(ALWAYS_FINE)
                || load * bound.weight < bound.in_flight * u64::from(endpoints[index].weight)
        };
        if is_fine(first) {
            return Some(first);
        }
        Some(allowed.find(|index| is_fine(*index)).unwrap_or(first))
    }

    /// What all together may have in flight, with the one that is asked for.
    fn bound(&self, endpoints: &[Endpoint], may: &dyn Fn(usize) -> bool) -> Bound {
        let counted = self.members.iter().filter(|index| may(**index));
        let (mut in_flight, mut weight) = (1, 0);
        for index in counted {
            in_flight += u64::from(endpoints[*index].load.in_flight());
            weight += u64::from(endpoints[*index].weight);
        }
        Bound {
            in_flight: (in_flight * BOUND).div_ceil(100),
            weight,
        }
    }
}

struct Bound {
    in_flight: u64,
    weight: u64,
}

/// The slots in the order in which one member wants them.
struct Order {
    next: usize,
    step: usize,
    size: usize,
    taken: u64,
}

impl Order {
    fn new(key: u64, size: usize) -> Self {
        Self {
            next: scaled_index(mixed(key), size),
            step: 1 + scaled_index(mixed(key ^ 0x9e37_79b9_7f4a_7c15), size - 1),
            size,
            taken: 0,
        }
    }
}

impl Iterator for Order {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let slot = self.next;
        self.next = (slot + self.step) % self.size;
        Some(slot)
    }
}

/// Spreads the bits of a number (the finaliser of SplitMix64).
pub(super) fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A hash that is the same in every process (FNV-1a, its bits spread).
pub(crate) fn hashed(bytes: &[u8]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
    mixed(bytes.iter().fold(BASIS, fold))
}

/// A number below `limit`, of one that is uniform over all of `u64`.
pub(super) fn scaled(random: u64, limit: u64) -> u64 {
    ((u128::from(random) * u128::from(limit)) >> 64) as u64
}

pub(super) fn scaled_index(random: u64, limit: usize) -> usize {
    usize::try_from(scaled(random, limit as u64)).unwrap_or(0)
}
