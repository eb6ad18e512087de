//! Who leads, without I/O: what was read of the lease comes in, what to write comes out.
//!
//! The times in a lease are other machines' clocks, so they are never compared with ours. A lease
//! is over when it has not changed for its duration on this machine's monotonic clock, and the
//! holder takes itself for the leader for a shorter time, counted from before it asked to renew.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

/// How long a lease lasts after it was last renewed.
pub(super) const DURATION: Duration = Duration::from_secs(15);
/// How long a holder that cannot renew still counts itself as the leader: shorter, so that it has
/// stopped when another takes over.
pub(super) const CONFIDENCE: Duration = Duration::from_secs(10);

/// One candidate's view.
#[derive(Debug)]
pub(super) struct Election {
    me: String,
    /// The lease as it was last seen, and since when it has looked like that.
    seen: Option<(Record, Instant)>,
    /// When the request was begun that renewed it last.
    renewed: Option<Instant>,
}

/// The parts of a lease that say who leads.
#[derive(Debug, Clone, PartialEq)]
struct Record {
    holder: String,
    duration: Duration,
    acquired: Option<MicroTime>,
    renewed: Option<MicroTime>,
    transitions: i32,
}

/// What a candidate has to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Write this; the version read must still be the newest.
    Write(LeaseSpec),
    /// Somebody else leads.
    Wait,
}

impl Election {
    /// `me` is unique among the candidates.
    pub(super) fn new(me: String) -> Self {
        Self {
            me,
            seen: None,
            renewed: None,
        }
    }

    /// Takes what the lease says now (`None`: there is none) and says what to do. `wall` only
    /// stands in what is written, for people.
    pub(super) fn step(
        &mut self,
        lease: Option<&LeaseSpec>,
        now: Instant,
        wall: Timestamp,
    ) -> Step {
        let record = lease.map(Record::of);
        self.look(record, now);
        let Some((record, since)) = &self.seen else {
            return Step::Write(self.taken(None, wall));
        };
        if record.holder == self.me {
            let mut renewed = self.taken(Some(record), wall);
            renewed.acquire_time.clone_from(&record.acquired);
            renewed.lease_transitions = Some(record.transitions);
            return Step::Write(renewed);
        }
        self.renewed = None;
        let is_over = record.holder.is_empty() || now.duration_since(*since) >= record.duration;
        if is_over {
            Step::Write(self.taken(Some(record), wall))
        } else {
            Step::Wait
        }
    }

    /// The write was taken; the request was begun at `begun`.
    pub(super) fn won(&mut self, begun: Instant) {
        self.renewed = Some(begun);
    }

    /// Somebody else wrote first.
    pub(super) fn lost(&mut self) {
        self.renewed = None;
    }

    /// True while nobody else can have taken over.
    pub(super) fn is_leader(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| now < until)
    }

    /// When leadership ends unless it is renewed.
    pub(super) fn until(&self) -> Option<Instant> {
        self.renewed.map(|renewed| renewed + CONFIDENCE)
    }

    /// What gives the lease back, so that others need not wait for its end; `None` when it is not
    /// ours.
    pub(super) fn release(&mut self, lease: &LeaseSpec, wall: Timestamp) -> Option<LeaseSpec> {
        let record = Record::of(lease);
        self.renewed = None;
        (record.holder == self.me).then(|| LeaseSpec {
            holder_identity: Some(String::new()),
            // The API takes no zero.
            lease_duration_seconds: Some(1),
            renew_time: Some(MicroTime(wall)),
            ..lease.clone()
        })
    }

    fn look(&mut self, record: Option<Record>, now: Instant) {
        let is_same = match (&record, &self.seen) {
            (Some(record), Some((seen, _))) => record == seen,
            _ => false,
        };
        if !is_same {
            self.seen = record.map(|record| (record, now));
        }
    }

    fn taken(&self, from: Option<&Record>, wall: Timestamp) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(MicroTime(wall)),
            renew_time: Some(MicroTime(wall)),
            lease_transitions: Some(from.map_or(0, |record| record.transitions.saturating_add(1))),
            ..LeaseSpec::default()
        }
    }
}

impl Record {
    fn of(lease: &LeaseSpec) -> Self {
        let seconds = lease.lease_duration_seconds.unwrap_or_default();
        // A duration that makes no sense is neither a way to lead for ever nor to take over early.
        let seconds = u64::try_from(seconds).unwrap_or_default();
        Self {
            holder: lease.holder_identity.clone().unwrap_or_default(),
            duration: Duration::from_secs(seconds).clamp(DURATION, DURATION * 4),
            acquired: lease.acquire_time.clone(),
            renewed: lease.renew_time.clone(),
            transitions: lease.lease_transitions.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lease, two candidates, and clocks of the test's own.
    struct World {
        lease: Option<LeaseSpec>,
        start: Instant,
    }

    impl World {
        fn new() -> Self {
            Self {
                lease: None,
                start: Instant::now(),
            }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        /// One round of a candidate whose wall clock is `skew` seconds off.
        fn round(&mut self, candidate: &mut Election, seconds: u64, skew: i64) -> bool {
            let wall = 1_800_000_000 + seconds as i64 + skew;
            let wall = Timestamp::from_second(wall).unwrap();
            let now = self.at(seconds);
            if let Step::Write(lease) = candidate.step(self.lease.as_ref(), now, wall) {
                self.lease = Some(lease);
                candidate.won(now);
            }
            candidate.is_leader(now)
        }
    }

    #[test]
    fn one_leads_and_the_other_waits() {
        let mut world = World::new();
        let (mut a, mut b) = (Election::new("a".into()), Election::new("b".into()));
        for seconds in (0..120).step_by(2) {
            assert!(world.round(&mut a, seconds, 0));
            assert!(!world.round(&mut b, seconds, 0));
        }
        let lease = world.lease.unwrap();
        assert_eq!(lease.holder_identity.as_deref(), Some("a"));
        assert_eq!(lease.lease_transitions, Some(0));
        let acquired = lease.acquire_time.unwrap().0.as_second();
        assert_eq!(acquired, 1_800_000_000, "renewing is not acquiring");
    }

    #[test]
    fn the_other_takes_over_after_the_first_has_stopped_counting_itself() {
        let mut world = World::new();
        let (mut a, mut b) = (Election::new("a".into()), Election::new("b".into()));
        assert!(world.round(&mut a, 0, 0));
        assert!(!world.round(&mut b, 1, 0));
        // a is cut off from here on.
        assert!(a.is_leader(world.at(9)));
        assert!(!a.is_leader(world.at(10)));
        assert!(!world.round(&mut b, 15, 0), "first seen at 1");
        assert!(world.round(&mut b, 16, 0));
        assert_eq!(world.lease.as_ref().unwrap().lease_transitions, Some(1));
        assert!(!world.round(&mut a, 17, 0));
    }

    #[test]
    fn clocks_that_are_off_by_a_day_change_nothing() {
        for skew in [-86_400, -60, 60, 86_400] {
            let mut world = World::new();
            let (mut a, mut b) = (Election::new("a".into()), Election::new("b".into()));
            for seconds in (0..60).step_by(2) {
                assert!(world.round(&mut a, seconds, skew));
                assert!(!world.round(&mut b, seconds, 0));
            }
        }
    }

    #[test]
    fn what_is_given_back_is_taken_at_once() {
        let mut world = World::new();
        let (mut a, mut b) = (Election::new("a".into()), Election::new("b".into()));
        world.round(&mut a, 0, 0);
        assert!(!world.round(&mut b, 1, 0));
        let wall = Timestamp::from_second(1_800_000_002).unwrap();
        let given = a.release(world.lease.as_ref().unwrap(), wall);
        assert!(!a.is_leader(world.at(2)));
        world.lease = given;
        assert!(world.lease.is_some());
        assert!(world.round(&mut b, 2, 0));
        let of_b = world.lease.as_ref().unwrap();
        assert_eq!(a.release(of_b, wall), None, "it is not a's any more");
    }

    #[test]
    fn a_lost_write_ends_leadership_and_a_lease_that_vanished_is_made_again() {
        let mut world = World::new();
        let mut a = Election::new("a".into());
        assert!(world.round(&mut a, 0, 0));
        a.lost();
        assert!(!a.is_leader(world.at(0)));
        world.lease = None;
        assert!(world.round(&mut a, 2, 0));
    }

    #[test]
    fn senseless_durations_are_held_within_bounds() {
        let foreign = |seconds| LeaseSpec {
            holder_identity: Some("x".to_owned()),
            lease_duration_seconds: seconds,
            ..LeaseSpec::default()
        };
        for (seconds, taken_at) in [
            (None, 15),
            (Some(-3), 15),
            (Some(1), 15),
            (Some(i32::MAX), 60),
        ] {
            let mut world = World::new();
            world.lease = Some(foreign(seconds));
            let mut a = Election::new("a".into());
            assert!(!world.round(&mut a, 0, 0));
            assert!(!world.round(&mut a, taken_at - 1, 0), "{seconds:?}");
            assert!(world.round(&mut a, taken_at, 0), "{seconds:?}");
        }
    }
}
