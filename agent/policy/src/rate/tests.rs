use proptest::prelude::*;

use super::*;

fn limiter(requests: u32, seconds: u64, burst: u32, now: Instant) -> Limiter {
    let per = Duration::from_secs(seconds);
    let rate = Rate {
        requests,
        per,
        burst,
    };
    Limiter::new(rate, 10_000, now)
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn a_burst_then_the_rate() {
    let start = Instant::now();
    let limiter = limiter(10, 1, 3, start);
    let check = |after| limiter.check(b"a", start + millis(after));
    let first = check(0);
    assert!(first.is_allowed);
    assert_eq!(
        (first.remaining, first.reset, first.retry_after),
        (2, millis(100), millis(0))
    );
    assert_eq!(check(0).remaining, 1);
    let last = check(0);
    assert!(last.is_allowed);
    assert_eq!((last.remaining, last.retry_after), (0, millis(100)));
    let refused = check(30);
    assert!(!refused.is_allowed);
    assert_eq!(
        (refused.remaining, refused.reset, refused.retry_after),
        (0, millis(270), millis(70))
    );
    assert!(!check(99).is_allowed && check(100).is_allowed && !check(150).is_allowed);
    assert_eq!(check(100_000).remaining, 2, "never more than the burst");
    // Another key has its own bucket; a time before the start is the start.
    assert!(limiter.check(b"b", start - millis(50)).is_allowed);
}

#[test]
fn odd_rates() {
    let start = Instant::now();
    let never = limiter(0, 60, 5, start).check(b"", start);
    assert!(!never.is_allowed);
    assert_eq!(never.retry_after, Duration::from_secs(60));
    let no_burst = limiter(1, 1, 0, start);
    assert!(no_burst.check(b"", start).is_allowed && !no_burst.check(b"", start).is_allowed);
    let huge = limiter(u32::MAX, 1, u32::MAX, start);
    assert!((0..1000).all(|_| huge.check(b"", start).is_allowed));
    let slow = Rate {
        requests: 1,
        per: Duration::MAX,
        burst: u32::MAX,
    };
    assert!(Limiter::new(slow, 1, start).check(b"", start).is_allowed);
}

#[test]
fn keys_are_bounded_and_who_shares_gets_no_more() {
    let start = Instant::now();
    let limiter = limiter(10, 1, 10, start);
    let mut allowed = 0;
    for key in 0..1_000_000_u32 {
        allowed += u64::from(limiter.check(&key.to_be_bytes(), start).is_allowed);
    }
    assert!(limiter.len() <= 10_000, "{}", limiter.len());
    // One each for those that have a bucket, and ten for each of the shared ones.
    assert!(
        allowed <= 5_000 + (SHARDS * SHARED * 10) as u64,
        "{allowed}"
    );
    assert!(!limiter.is_empty());
    // A second later every bucket would be full: nothing has to be held.
    let later = start + Duration::from_secs(2);
    (0..1000_u32).for_each(|key| {
        limiter.check(&key.to_be_bytes(), later);
    });
    assert!(limiter.len() <= 6_000 && limiter.check(b"new", later).is_allowed);
}

#[test]
fn two_workers_share_one_limit() {
    let start = Instant::now();
    let limiter = limiter(1000, 1, 100, start);
    let worker = || {
        let steps = 0..10_000_u64;
        let allowed = steps.filter(|step| limiter.check(b"k", start + millis(*step)).is_allowed);
        allowed.count()
    };
    let total: usize = std::thread::scope(|scope| {
        let workers = [scope.spawn(worker), scope.spawn(worker)];
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .sum()
    });
    // Ten seconds of it, within five in a hundred.
    assert!((9_500..=10_100).contains(&total), "{total}");
}

proptest! {
    /// Agrees with a bucket that is counted token by token, however its keys come and go.
    #[test]
    fn agrees_with_a_plain_bucket(
        requests in 1u32..50,
        burst in 1u32..20,
        steps in prop::collection::vec((0u64..400, 0u8..4), 1..300),
    ) {
        let start = Instant::now();
        let limiter = limiter(requests, 1, burst, start);
        // In nanoseconds of tokens, so that both are exact.
        let token = 1_000_000_000 / u64::from(requests);
        let most = token * u64::from(burst);
        let mut plain = [(most, 0_u64); 4];
        let mut now = 0;
        for (wait, key) in steps {
            now += wait * 1_000_000;
            let (held, at) = &mut plain[usize::from(key)];
            *held = (*held + (now - *at)).min(most);
            *at = now;
            let expected = *held >= token;
            if expected {
                *held -= token;
            }
            let verdict = limiter.check(&[key], start + Duration::from_nanos(now));
            prop_assert_eq!(verdict.is_allowed, expected);
            prop_assert_eq!(u64::from(verdict.remaining), *held / token);
            prop_assert_eq!(verdict.retry_after.is_zero(), *held >= token);
        }
    }
}
