use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const ALL: [Algorithm; 5] = [
    Algorithm::RoundRobin,
    Algorithm::LeastRequest,
    Algorithm::PeakEwma,
    Algorithm::Random,
    Algorithm::ConsistentHash,
];

fn place(text: &str) -> Locality {
    let mut parts = text.split('/').map(Into::into);
    let mut next = || parts.next().unwrap_or_default();
    Locality {
        region: next(),
        zone: next(),
        subzone: next(),
    }
}

fn endpoints(weights: &[u32], now: Instant) -> Vec<Endpoint> {
    let one = |(index, weight): (usize, &u32)| Endpoint {
        key: hash::mixed(index as u64 + 1000),
        weight: *weight,
        locality: Locality::default(),
        load: Arc::new(Load::new(now)),
    };
    weights.iter().enumerate().map(one).collect()
}

fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(1);
        hash::mixed(state)
    }
}

/// How often each is chosen of so many.
fn counts(balancer: &Balancer, picks: u64, now: Instant) -> BTreeMap<usize, u64> {
    let mut random = random(7);
    let mut counts = BTreeMap::new();
    for request in 0..picks {
        let hash = Some(hash::mixed(request ^ 0x5555));
        let index = balancer.pick(hash, now, &mut random, &|_| false).unwrap();
        *counts.entry(index).or_default() += 1;
    }
    counts
}

#[test]
fn turns_are_exact_and_spread() {
    let now = Instant::now();
    let picks = |weights: &[u32], n| {
        let endpoints = endpoints(weights, now);
        let balancer = Balancer::new(Algorithm::RoundRobin, &Preference::None, endpoints);
        let mut random = random(1);
        let picks = (0..n).map(|_| balancer.pick(None, now, &mut random, &|_| false).unwrap());
        picks.collect::<Vec<_>>()
    };
    assert_eq!(picks(&[1, 1, 1], 7), [0, 1, 2, 0, 1, 2, 0]);
    assert_eq!(picks(&[3, 1], 8), [0, 0, 1, 0, 0, 0, 1, 0]);
    assert_eq!(picks(&[300, 0, 100], 4), [0, 0, 2, 0]);
    // Huge weights are scaled, and nobody is lost by it.
    let huge = picks(&[u32::MAX, 1], 5000);
    assert!(huge.contains(&1) && huge.iter().filter(|i| **i == 1).count() <= 2);
}

#[test]
fn shares_follow_weights() {
    let now = Instant::now();
    for algorithm in [
        Algorithm::RoundRobin,
        Algorithm::Random,
        Algorithm::ConsistentHash,
    ] {
        let endpoints = endpoints(&[1, 2, 3, 4], now);
        let balancer = Balancer::new(algorithm, &Preference::None, endpoints);
        let counts = counts(&balancer, 20_000, now);
        for (index, count) in counts {
            let expected = 2_000 * (index as u64 + 1);
            let off = count.abs_diff(expected) * 100 / expected;
            assert!(
                off <= 8,
                "{algorithm:?}: {index} got {count}, not {expected}"
            );
        }
    }
}

#[test]
fn the_less_busy_of_two() {
    let now = Instant::now();
    let list = endpoints(&[1, 1, 1], now);
    (0..10).for_each(|_| list[0].load.begin());
    let balancer = Balancer::new(Algorithm::LeastRequest, &Preference::None, list.clone());
    let counts = counts(&balancer, 3_000, now);
    assert_eq!(counts.get(&0), None, "one of two is always another");
    // With a weight of 100 the same load is little.
    let heavy = [
        Endpoint {
            weight: 100,
            ..list[0].clone()
        },
        list[1].clone(),
    ];
    let balancer = Balancer::new(Algorithm::LeastRequest, &Preference::None, heavy);
    let mut random = random(3);
    assert_eq!(balancer.pick(None, now, &mut random, &|_| false), Some(0));
}

#[test]
fn a_slow_answer_counts_at_once_and_fades() {
    let start = Instant::now();
    let load = Load::new(start);
    let millis = |n: u64| Duration::from_millis(n);
    assert_eq!(load.latency(start), None);
    assert_eq!(load.cost(start), 0.0);
    load.begin();
    assert!(
        load.cost(start) > 1e9,
        "one request at a time until it has answered"
    );
    load.end(Outcome::Answered(millis(10)), start);
    assert_eq!(load.latency(start).unwrap().as_millis(), 10);
    load.begin();
    assert_eq!((load.cost(start) / 1000.0).round(), 20.0);
    load.end(Outcome::Answered(millis(500)), start);
    assert_eq!(load.latency(start).unwrap().as_millis(), 500);
    // Ten seconds later a fast answer counts for two thirds.
    let later = start + Duration::from_secs(10);
    load.begin();
    load.end(Outcome::Answered(millis(10)), later);
    assert_eq!(load.latency(later).unwrap().as_millis(), 190);
    // What was long ago is nothing: one request finds out.
    let much_later = later + Duration::from_secs(30);
    assert_eq!(load.latency(much_later), None);
    assert_eq!(load.cost(much_later), 0.0);
    let soon = later + Duration::from_secs(20);
    assert_eq!(load.latency(soon).unwrap().as_millis(), 25);
    // Who fails fast does not look fast; who was abandoned was not judged.
    load.begin();
    load.end(Outcome::Abandoned, soon);
    assert_eq!(load.latency(soon).unwrap().as_millis(), 25);
    load.begin();
    load.end(Outcome::Failed(millis(1)), soon);
    assert_eq!(load.latency(soon).unwrap().as_millis(), 1000);
    load.end(Outcome::Abandoned, soon);
    assert_eq!(load.in_flight(), 0, "never below none");
}

#[test]
fn traffic_moves_away_from_the_slow_one() {
    let start = Instant::now();
    let list = endpoints(&[1; 4], start);
    let balancer = Balancer::new(Algorithm::PeakEwma, &Preference::None, list.clone());
    let mut random = random(11);
    let mut counts = [0_u32; 4];
    for step in 0..4_000_u64 {
        let now = start + Duration::from_millis(step);
        let index = balancer.pick(None, now, &mut random, &|_| false).unwrap();
        counts[index] += 1;
        list[index].load.begin();
        let latency = Duration::from_millis(if index == 2 { 200 } else { 5 });
        list[index].load.end(Outcome::Answered(latency), now);
    }
    assert!(counts[2] < 40, "{counts:?}");
    assert!(
        counts.iter().enumerate().all(|(i, n)| i == 2 || *n > 1000),
        "{counts:?}"
    );
}

#[test]
fn a_hash_stays_with_its_endpoint_and_few_move() {
    let now = Instant::now();
    let list = endpoints(&[1; 20], now);
    let table =
        |list: Vec<Endpoint>| Balancer::new(Algorithm::ConsistentHash, &Preference::None, list);
    let before = table(list.clone());
    let owner = |balancer: &Balancer, request: u64| {
        let mut random = random(request);
        let index = balancer
            .pick(Some(request), now, &mut random, &|_| false)
            .unwrap();
        balancer.endpoint(index).unwrap().key
    };
    // Another process, with the list in another order, agrees.
    let mut reversed = list.clone();
    reversed.reverse();
    let reversed = table(reversed);
    let mut less = list;
    let gone = less.remove(7).key;
    let after = table(less);
    let mut moved = 0;
    for request in 0..10_000 {
        let owner_before = owner(&before, request);
        assert_eq!(owner_before, owner(&reversed, request));
        moved += u32::from(owner_before != gone && owner_before != owner(&after, request));
    }
    assert!(moved < 300, "{moved} of 9,500 moved that had no need to");
    // An endpoint that is out for a while moves only its own.
    before.set_usable(7, false);
    for request in 0..1_000 {
        let was = owner(&reversed, request);
        assert!(was == gone || owner(&before, request) == was);
    }
}

#[test]
fn a_hot_hash_spills_over() {
    let now = Instant::now();
    let list = endpoints(&[1; 4], now);
    let balancer = Balancer::new(Algorithm::ConsistentHash, &Preference::None, list.clone());
    let mut random = random(1);
    for _ in 0..400 {
        let index = balancer
            .pick(Some(42), now, &mut random, &|_| false)
            .unwrap();
        list[index].load.begin();
    }
    let loads: Vec<u32> = list
        .iter()
        .map(|endpoint| endpoint.load.in_flight())
        .collect();
    assert!(loads.iter().all(|load| *load <= 126), "{loads:?}");
    assert_eq!(loads.iter().sum::<u32>(), 400);
}

#[test]
fn the_near_ones_first_and_others_as_far_as_needed() {
    let now = Instant::now();
    let mut list = endpoints(&[1; 20], now);
    for (index, endpoint) in list.iter_mut().enumerate() {
        endpoint.locality = place(if index < 10 { "eu/a" } else { "eu/b" });
    }
    for algorithm in ALL {
        let near = Preference::Failover(place("eu/a"));
        let balancer = Balancer::new(algorithm, &near, list.clone());
        let share = |balancer: &Balancer| {
            let counts = counts(balancer, 4_000, now);
            counts
                .iter()
                .filter(|(i, _)| **i < 10)
                .map(|(_, n)| n)
                .sum::<u64>()
        };
        assert_eq!(share(&balancer), 4_000, "{algorithm:?}");
        (0..2).for_each(|index| balancer.set_usable(index, false));
        assert_eq!(share(&balancer), 4_000, "80 % are enough");
        (0..5).for_each(|index| balancer.set_usable(index, false));
        let half = share(&balancer);
        assert!((2_600..3_000).contains(&half), "70 % stay: {half}");
        (0..10).for_each(|index| balancer.set_usable(index, false));
        assert_eq!(share(&balancer), 0, "{algorithm:?}");
        (0..10).for_each(|index| balancer.set_usable(index, true));
        assert_eq!(share(&balancer), 4_000, "{algorithm:?}");
        // Nobody near, and nobody else wanted.
        let strict = Balancer::new(algorithm, &Preference::Strict(place("us/a")), list.clone());
        assert_eq!(strict.pick(Some(1), now, &mut random(1), &|_| false), None);
        let strict = Balancer::new(
            algorithm,
            &Preference::Strict(place("eu/a/x")),
            list.clone(),
        );
        assert_eq!(share(&strict), 4_000);
    }
}

proptest! {
    /// Whatever is out or was tried, somebody who is neither is chosen, as long as there is one.
    #[test]
    fn never_who_must_not_be_chosen_and_always_somebody(
        weights in prop::collection::vec(0u32..4, 0..12),
        out in any::<u16>(),
        tried in any::<u16>(),
        near in any::<u16>(),
        busy in prop::collection::vec(0u32..9, 12),
        seed in any::<u64>(),
    ) {
        let now = Instant::now();
        let is = |bits: u16, index: usize| bits >> index & 1 == 1;
        let mut list = endpoints(&weights, now);
        for (index, endpoint) in list.iter_mut().enumerate() {
            endpoint.locality = place(if is(near, index) { "eu/a/x" } else { "eu/b/y" });
            (0..busy[index]).for_each(|_| endpoint.load.begin());
        }
        let can = |index: usize| weights[index] > 0 && !is(out, index) && !is(tried, index);
        for algorithm in ALL {
            for preference in [Preference::None, Preference::Failover(place("eu/a/x"))] {
                let balancer = Balancer::new(algorithm, &preference, list.clone());
                (0..weights.len()).for_each(|index| balancer.set_usable(index, !is(out, index)));
                let mut random = random(seed);
                let mut seen = BTreeSet::new();
                for request in 0..8 {
                    let hash = (request % 2 == 0).then_some(request);
                    seen.insert(balancer.pick(hash, now, &mut random, &|index| is(tried, index)));
                }
                let anybody = (0..weights.len()).any(can);
                for pick in seen {
                    prop_assert_eq!(pick.is_some(), anybody);
                    prop_assert!(pick.is_none_or(can), "{:?} {:?}", algorithm, pick);
                }
            }
        }
    }
}
