//! Random changes of bytes. The same seed makes the same changes on every machine.

/// Numbers that are at the edge of something.
const EDGES: [u8; 8] = [0, 1, 0x20, 0x2f, 0x7f, 0x80, 0xfe, 0xff];
/// Mutated inputs are not made longer than this, in bytes.
const MAX_INPUT: usize = 16 * 1024;

/// A random number generator (xorshift64*), for tests only.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed; any number will do.
    pub fn new(seed: u64) -> Self {
        // A state of 0 would stay 0, and close seeds shall not begin alike.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`; 0 when `limit` is.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = limit.max(1) as u64;
        (self.number() % limit) as usize
    }
}

/// One of `seeds`, changed in one to eight places; `words` are what may be inserted whole.
/// An input of random bytes when there are no seeds.
pub fn mutation(seeds: &[Vec<u8>], words: &[&str], random: &mut Random) -> Vec<u8> {
    let mut bytes = match seeds {
        [] => (0..random.below(64))
            .map(|_| random.number() as u8)
            .collect(),
        seeds => seeds[random.below(seeds.len())].clone(),
    };
    for _ in 0..=random.below(8) {
        change(&mut bytes, seeds, words, random);
    }
    bytes.truncate(MAX_INPUT);
    bytes
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], words: &[&str], random: &mut Random) {
    let at = random.below(bytes.len());
    let range = at..(at + 1 + random.below(16)).min(bytes.len()).max(at);
    match random.below(9) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        1 if !bytes.is_empty() => bytes[at] = EDGES[random.below(EDGES.len())],
        2 if !bytes.is_empty() => bytes[at] = random.number() as u8,
        3 => drop(bytes.drain(range)),
        4 => {
            let copy = bytes[range].to_vec();
            insert(bytes, random, &copy);
        }
        5 | 6 if !words.is_empty() => {
            let word = words[random.below(words.len())];
            insert(bytes, random, word.as_bytes());
        }
        7 if !seeds.is_empty() => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len());
            let length = random.below(other.len() - from + 1);
            insert(bytes, random, &other[from..from + length]);
        }
        8 if random.below(4) == 0 => bytes.truncate(at),
        _ => {
            let byte = random.number() as u8;
            insert(bytes, random, &[byte]);
        }
    }
}

/// Inserts `new` somewhere, or puts it in the place of as many bytes.
fn insert(bytes: &mut Vec<u8>, random: &mut Random, new: &[u8]) {
    let at = random.below(bytes.len() + 1);
    let end = if random.below(2) == 0 {
        at
    } else {
        (at + new.len()).min(bytes.len())
    };
    bytes.splice(at..end, new.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_one_sequence_and_another_seed_another() {
        let seeds = vec![b"spiffe://cluster.local".to_vec(), Vec::new()];
        let sequence = |seed| {
            let mut random = Random::new(seed);
            let inputs = (0..500).map(|_| mutation(&seeds, &["/ns/"], &mut random));
            inputs.collect::<Vec<_>>()
        };
        assert_eq!(sequence(7), sequence(7));
        assert_ne!(sequence(7), sequence(8));
        let distinct: std::collections::BTreeSet<_> = sequence(7).into_iter().collect();
        assert!(distinct.len() > 400, "{}", distinct.len());
        assert!(mutation(&[], &[], &mut Random::new(1)).len() < 200);
    }
}
