//! When to renew and when to try again. Pure.

use std::time::{Duration, SystemTime};

use agent_net::backoff::Backoff;

/// No renewal and no retry follows faster than this, whatever the lifetime says.
const MIN_DELAY: Duration = Duration::from_millis(100);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(150);

/// How long after `obtained` a certificate is renewed: half of the lifetime it had left then, 10 %
/// earlier or later. `random` is uniform in `0.0..1.0`. The start is when it was obtained, not its
/// notBefore, because authorities date that back.
pub fn renewal_delay(obtained: SystemTime, not_after: SystemTime, random: f64) -> Duration {
    let lifetime = not_after.duration_since(obtained).unwrap_or_default();
    lifetime
        .mul_f64(0.5 * (0.9 + 0.2 * random.clamp(0.0, 1.0)))
        .max(MIN_DELAY)
}

/// Part of a certificate's life that is left when people should know that it is not renewed.
const LATE: f64 = 0.2;

/// Whether less than a fifth of the lifetime that a certificate had when it was obtained is left.
pub(crate) fn is_late(obtained: SystemTime, not_after: SystemTime, now: SystemTime) -> bool {
    let lifetime = not_after.duration_since(obtained).unwrap_or_default();
    let left = not_after.duration_since(now).unwrap_or_default();
    left < lifetime.mul_f64(LATE)
}

/// The delays between failed attempts: 1 s, doubled up to 150 s, each 20 % shorter or longer.
pub fn retry_backoff() -> Backoff {
    Backoff::new(FIRST_RETRY, MAX_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn half_life_with_jitter() {
        let day = Duration::from_secs(86_400);
        let delay = |random| renewal_delay(UNIX_EPOCH, UNIX_EPOCH + day, random);
        assert_eq!(delay(0.5), day / 2);
        assert_eq!(delay(0.0), day.mul_f64(0.45));
        assert_eq!(delay(1.0), day.mul_f64(0.55));
    }

    #[test]
    fn an_expired_certificate_is_renewed_at_once_but_not_in_a_hot_loop() {
        let later = UNIX_EPOCH + Duration::from_secs(60);
        assert_eq!(renewal_delay(later, UNIX_EPOCH, 0.5), MIN_DELAY);
    }

    #[test]
    fn f_19_late_is_less_than_a_fifth() {
        let minute = |minutes: u64| UNIX_EPOCH + Duration::from_secs(60 * minutes);
        let is_late = |now| is_late(minute(0), minute(10), now);
        assert!(!is_late(minute(8)));
        assert!(is_late(minute(8) + Duration::from_secs(1)));
        assert!(is_late(minute(11)));
    }

    proptest! {
        #[test]
        fn renewal_is_before_expiry(seconds in 1u64..10_000_000, random in 0.0f64..1.0) {
            let lifetime = Duration::from_secs(seconds);
            let delay = renewal_delay(UNIX_EPOCH, UNIX_EPOCH + lifetime, random);
            prop_assert!(delay < lifetime.mul_f64(0.56));
            prop_assert!(delay > lifetime.mul_f64(0.44));
        }

        #[test]
        fn retries_are_bounded(randoms in prop::collection::vec(0.0f64..1.0, 1..40)) {
            let mut backoff = retry_backoff();
            for random in randoms {
                let delay = backoff.next(random);
                prop_assert!(delay >= FIRST_RETRY.mul_f64(0.79));
                prop_assert!(delay <= MAX_RETRY.mul_f64(1.21));
            }
        }
    }
}
