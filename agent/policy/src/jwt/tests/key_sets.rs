//! When key sets are fetched.

use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;

use super::*;

const A: &str = "https://a/keys";
const B: &str = "https://b/keys";

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn sets(addresses: &[&str], now: Instant) -> KeySets {
    let mut sets = KeySets::new(Settings::default());
    assert_eq!(sets.want(&names(addresses), now), 0);
    sets
}

fn names(addresses: &[&str]) -> Vec<Arc<str>> {
    addresses
        .iter()
        .map(|address| Arc::from(*address))
        .collect()
}

fn good() -> String {
    issuer().key_set()
}

#[test]
fn fetched_at_once_and_again_after_a_while() {
    let start = Instant::now();
    let mut sets = sets(&[A, B], start);
    assert_eq!(sets.due(start), names(&[A, B]));
    assert!(sets.due(start).is_empty(), "they are under way");
    assert!(sets.keys(A, start).is_none());
    assert_eq!(
        sets.arrived(A, Ok(good().as_bytes()), start, 0.5),
        Arrival::Changed
    );
    assert_eq!(
        sets.arrived(A, Ok(good().as_bytes()), start, 0.5),
        Arrival::Ignored
    );
    let first = Arc::clone(sets.keys(A, start).unwrap());
    assert_eq!(first.len(), 5);
    let later = start + seconds(300);
    assert_eq!(sets.due(later), names(&[A]), "and B has failed by now");
    assert_eq!(
        sets.arrived(A, Ok(good().as_bytes()), later, 0.5),
        Arrival::Same
    );
    assert!(Arc::ptr_eq(&first, sets.keys(A, later).unwrap()));
    let status: Vec<_> = sets.status(later).collect();
    assert_eq!((status[0].age, status[0].failures), (Some(seconds(0)), 0));
    assert_eq!((status[1].age, status[1].failures), (None, 1));
    assert_eq!(status[1].fault, Some(FetchFault::Timeout));
}

#[test]
fn the_last_good_keys_count_until_they_are_too_old() {
    let start = Instant::now();
    let mut sets = sets(&[A], start);
    sets.due(start);
    sets.arrived(A, Ok(good().as_bytes()), start, 0.5);
    let mut now = start;
    while now < start + seconds(24 * 3600) {
        assert!(sets.keys(A, now).is_some());
        now = sets.next_due().unwrap();
        if sets.due(now).len() == 1 {
            let fault = Err(FetchFault::Status(500));
            assert_eq!(
                sets.arrived(A, fault, now, 1.0),
                Arrival::Failed(FetchFault::Status(500))
            );
        }
    }
    assert!(sets.keys(A, now).is_none(), "down for a day: refused");
    now = sets.next_due().unwrap();
    sets.due(now);
    let error = KeySet::parse(b"<html>").unwrap_err();
    let failed = sets.arrived(A, Ok(b"<html>"), now, 1.0);
    assert_eq!(failed, Arrival::Failed(FetchFault::KeySet(error)));
    now = sets.next_due().unwrap();
    sets.due(now);
    assert_eq!(
        sets.arrived(A, Ok(good().as_bytes()), now, 1.0),
        Arrival::Same
    );
    assert!(sets.keys(A, now).is_some());
}

#[test]
fn back_off_doubles_up_to_a_minute() {
    let start = Instant::now();
    let mut sets = sets(&[A], start);
    let mut now = start;
    let mut waits = Vec::new();
    for _ in 0..9 {
        assert_eq!(sets.due(now).len(), 1);
        sets.arrived(A, Err(FetchFault::Timeout), now, 1.0);
        let next = sets.next_due().unwrap();
        waits.push((next - now).as_secs());
        now = next;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    // A fetch whose answer never comes does not wedge the set.
    sets.due(now);
    let given_up = sets.next_due().unwrap();
    assert_eq!(given_up - now, seconds(10));
    assert!(sets.due(given_up).is_empty());
    assert_eq!(sets.due(given_up + seconds(60)), names(&[A]));
}

#[test]
fn an_unknown_key_fetches_soon_but_not_often() {
    let start = Instant::now();
    let mut sets = sets(&[A], start);
    sets.key_missed(B, start);
    sets.due(start);
    sets.key_missed(A, start);
    sets.arrived(A, Ok(good().as_bytes()), start, 0.5);
    let mut fetches = 0;
    for second in 1..=240 {
        let now = start + seconds(second);
        sets.key_missed(A, now);
        for address in sets.due(now) {
            fetches += 1;
            sets.arrived(&address, Ok(good().as_bytes()), now, 0.5);
        }
    }
    assert_eq!(fetches, 8, "every 30 s, however many tokens ask");
    // While it fails, the back-off is kept to.
    let now = start + seconds(270);
    sets.key_missed(A, now);
    sets.due(now);
    sets.arrived(A, Err(FetchFault::Timeout), now, 1.0);
    let next = sets.next_due();
    sets.key_missed(A, now + seconds(40));
    assert_eq!(sets.next_due(), next);
}

#[test]
fn sets_and_fetches_are_bounded_and_the_longest_waiting_goes_first() {
    let start = Instant::now();
    let addresses: Vec<Arc<str>> = (0..300)
        .map(|i| format!("https://{i:03}/").into())
        .collect();
    let mut sets = KeySets::new(Settings::default());
    assert_eq!(sets.want(&addresses, start), 300 - 256);
    assert_eq!(sets.want(&addresses, start), 300 - 256);
    let first = sets.due(start);
    assert_eq!(first.len(), 8);
    assert!(sets.due(start).is_empty());
    let now = start + seconds(1);
    for address in &first {
        sets.arrived(address, Err(FetchFault::Timeout), now, 0.0);
    }
    let now = now + seconds(5);
    let second = sets.due(now);
    assert!(
        first.iter().all(|address| !second.contains(address)),
        "nobody is starved"
    );
    // What nobody wants any more is forgotten, with its answer.
    sets.want(&names(&[A]), now);
    assert_eq!(
        sets.arrived(&second[0], Ok(good().as_bytes()), now, 0.5),
        Arrival::Ignored
    );
    assert_eq!(sets.due(now), names(&[A]));
}

#[test]
fn where_keys_may_be_fetched() {
    let may = |ip: &str| KeySets::may_dial(ip.parse().unwrap(), false);
    for ip in [
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "::ffff:127.0.0.1",
        "169.254.169.254",
        "::ffff:169.254.1.1",
        "fe80::1",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "fd00:ec2::254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::7f00:1",
    ] {
        assert!(!may(ip), "{ip}");
    }
    for ip in [
        "10.0.0.1",
        "192.168.1.1",
        "203.0.113.1",
        "2001:db8::1",
        "fd00::1",
    ] {
        assert!(may(ip), "{ip}");
    }
    assert!(KeySets::may_dial("127.0.0.1".parse().unwrap(), true));
    assert!(!KeySets::may_dial("169.254.169.254".parse().unwrap(), true));
}

proptest! {
    /// Whatever happens, fetches at a time are bounded, everything due is fetched in the end, and
    /// keys older than a day are never given.
    #[test]
    fn holds_for_any_history(
        steps in prop::collection::vec((0u64..4000, any::<bool>(), 0.0f64..1.0, 0usize..3), 1..200)
    ) {
        let start = Instant::now();
        let mut sets = sets(&[A, B], start);
        let settings = Settings { at_once: 1, ..Settings::default() };
        let mut one_at_a_time = KeySets::new(settings);
        one_at_a_time.want(&names(&[A, B]), start);
        let (mut now, mut fetched) = (start, [None, None]);
        for (wait, well, random, event) in steps {
            now += seconds(wait);
            if event == 0 {
                sets.key_missed(A, now);
                one_at_a_time.key_missed(A, now);
            }
            prop_assert!(one_at_a_time.due(now).len() <= 1);
            for address in sets.due(now) {
                let at = usize::from(&*address == B);
                if event == 1 {
                    continue; // its answer never comes
                }
                let answer = good();
                let answer = if well { Ok(answer.as_bytes()) } else { Err(FetchFault::Timeout) };
                let arrival = sets.arrived(&address, answer, now, random);
                prop_assert_eq!(well, matches!(arrival, Arrival::Changed | Arrival::Same));
                if well {
                    fetched[at] = Some(now);
                }
            }
            for (at, address) in [A, B].into_iter().enumerate() {
                let fresh = fetched[at].is_some_and(|at| now - at < seconds(24 * 3600));
                prop_assert_eq!(sets.keys(address, now).is_some(), fresh);
            }
            prop_assert!(sets.next_due().unwrap() <= now + seconds(330));
        }
    }
}
