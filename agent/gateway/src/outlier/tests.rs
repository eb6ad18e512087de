use proptest::prelude::*;

use super::*;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn judge(settings: Settings, count: u64, now: Instant) -> (Outliers, Vec<Arc<Tally>>) {
    let tallies: Vec<_> = (0..count).map(|_| Arc::new(Tally::default())).collect();
    let mut outliers = Outliers::new(settings, now);
    outliers.hold((0..).zip(tallies.iter().cloned()));
    (outliers, tallies)
}

/// Requests at one endpoint, judged as the gateway does.
fn requests(
    outliers: &mut Outliers,
    (key, tally): (u64, &Tally),
    good: &[bool],
    now: Instant,
) -> Vec<Change> {
    let limit = outliers.settings.consecutive;
    let mut changes = Vec::new();
    for good in good {
        if tally.note(*good, limit) {
            changes.extend(outliers.failed(key, now));
        }
    }
    changes
}

#[test]
fn failures_in_a_row_eject_and_time_brings_back() {
    let start = Instant::now();
    let (mut outliers, tallies) = judge(Settings::default(), 10, start);
    let four = [false; 4];
    let none = requests(&mut outliers, (3, &tallies[3]), &four, start);
    assert_eq!(none, []);
    let broken = requests(
        &mut outliers,
        (3, &tallies[3]),
        &[true, false, false],
        start,
    );
    assert_eq!(broken, [], "a success in between starts over");
    let out = requests(&mut outliers, (3, &tallies[3]), &[false; 3], start);
    let until = start + seconds(30);
    let ejected = Some((until, Cause::Consecutive));
    assert_eq!(out, [Change { key: 3, ejected }]);
    assert!(outliers.is_ejected(3));
    assert!(outliers.next_tick() <= until);
    assert_eq!(outliers.tick(until - seconds(1)), []);
    let back = Change {
        key: 3,
        ejected: None,
    };
    assert_eq!(outliers.tick(until), [back]);
    assert!(!outliers.is_ejected(3));
}

#[test]
fn each_time_longer_up_to_a_limit_and_forgiven_by_good_conduct() {
    let start = Instant::now();
    let (mut outliers, tallies) = judge(Settings::default(), 10, start);
    let mut now = start;
    let mut long = Vec::new();
    for _ in 0..12 {
        let out = requests(&mut outliers, (0, &tallies[0]), &[false; 5], now);
        let (until, _) = out[0].ejected.unwrap();
        long.push((until - now).as_secs());
        now = until;
        outliers.tick(now);
    }
    assert_eq!(long[..4], [30, 60, 90, 120]);
    assert_eq!(long[11], 300);
    // Fifteen intervals of good conduct.
    for _ in 0..15 {
        now += seconds(10);
        outliers.tick(now);
    }
    let out = requests(&mut outliers, (0, &tallies[0]), &[false; 5], now);
    assert_eq!(out[0].ejected.unwrap().0 - now, seconds(30));
}

#[test]
fn never_too_many_and_never_the_last() {
    let start = Instant::now();
    for (count, percent, most) in [
        (10, 30, 3),
        (10, 0, 1),
        (3, 10, 1),
        (1, 100, 0),
        (2, 100, 1),
    ] {
        let settings = Settings {
            percent,
            ..Settings::default()
        };
        let (mut outliers, tallies) = judge(settings, count, start);
        for (key, tally) in (0..).zip(&tallies) {
            requests(&mut outliers, (key, tally), &[false; 50], start);
        }
        assert_eq!(outliers.ejected(), most, "{count} endpoints, {percent} %");
    }
}

#[test]
fn who_could_not_be_ejected_is_when_there_is_room() {
    let start = Instant::now();
    let (mut outliers, tallies) = judge(Settings::default(), 4, start);
    requests(&mut outliers, (0, &tallies[0]), &[false; 5], start);
    let refused = requests(&mut outliers, (1, &tallies[1]), &[false; 5], start);
    assert_eq!(refused, []);
    outliers.tick(start + seconds(30));
    let now = start + seconds(31);
    let out = requests(&mut outliers, (1, &tallies[1]), &[false; 5], now);
    assert_eq!(out.len(), 1, "at the tenth in a row");
}

#[test]
fn who_succeeds_less_often_than_the_others() {
    let start = Instant::now();
    let settings = Settings {
        consecutive: None,
        success_rate: Some(SuccessRate::default()),
        ..Settings::default()
    };
    let run = |bad_of_100: &[u32], requests: u32| {
        let (mut outliers, tallies) = judge(settings, bad_of_100.len() as u64, start);
        for (tally, bad) in tallies.iter().zip(bad_of_100) {
            (0..requests).for_each(|n| {
                tally.note(n % 100 >= *bad, None);
            });
        }
        assert_eq!(outliers.tick(start + seconds(9)), []);
        let changes = outliers.tick(start + seconds(10));
        assert_eq!(
            outliers.tick(start + seconds(20)),
            [],
            "each interval counts alone"
        );
        changes
            .into_iter()
            .map(|change| change.key)
            .collect::<Vec<_>>()
    };
    assert_eq!(run(&[1, 2, 0, 60, 1, 2], 200), [3]);
    assert_eq!(run(&[1, 2, 0, 60, 1, 2], 50), [0; 0], "too few requests");
    assert_eq!(run(&[1, 60, 0, 2], 200), [0; 0], "too few endpoints");
    assert_eq!(run(&[50; 6], 200), [0; 0], "all alike");
}

#[test]
fn who_stays_in_the_list_keeps_its_record() {
    let start = Instant::now();
    let (mut outliers, tallies) = judge(Settings::default(), 10, start);
    requests(&mut outliers, (2, &tallies[2]), &[false; 5], start);
    outliers.hold([(2, Arc::clone(&tallies[2])), (50, Arc::default())]);
    assert!(outliers.is_ejected(2) && !outliers.is_ejected(50));
    outliers.hold([(50, Arc::default())]);
    assert_eq!(outliers.ejected(), 0);
    assert_eq!(outliers.failed(2, start), None, "nobody knows it any more");
}

proptest! {
    #[test]
    fn bounds_hold_for_any_history(
        count in 1u64..12,
        percent in 0u8..=120,
        steps in prop::collection::vec((0u64..12, 0u64..40, any::<bool>()), 0..200),
    ) {
        let start = Instant::now();
        let settings = Settings { percent, consecutive: Some(2), ..Settings::default() };
        let (mut outliers, tallies) = judge(settings, count, start);
        let mut now = start;
        let mut out = BTreeMap::new();
        for (key, wait, good) in steps {
            now += seconds(wait);
            let mut changes = outliers.tick(now);
            if let Some(tally) = tallies.get(usize::try_from(key).unwrap()) {
                changes.extend(requests(&mut outliers, (key, tally), &[good; 2], now));
            }
            for change in changes {
                match change.ejected {
                    Some((until, _)) => {
                        prop_assert!(until > now && until <= now + settings.ejection_most);
                        prop_assert_eq!(out.insert(change.key, until), None);
                    }
                    None => prop_assert!(out.remove(&change.key).is_some_and(|until| until <= now)),
                }
            }
            prop_assert_eq!(outliers.ejected(), out.len());
            prop_assert!(out.len() as u64 <= (count * u64::from(percent.min(100)) / 100).max(1));
            prop_assert!((out.len() as u64) < count);
            prop_assert!(out.values().all(|until| *until > now), "nobody is out for too long");
        }
    }
}
