//! What is known of a name, and for how long. Pure; the time is an argument.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::message::Told;
use super::{Addresses, LookupError, Outcome};

/// However short a server says addresses last, and however long.
const TTL: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(300)];
/// How long it is remembered that there are none, or that nobody answered.
const PAUSE: Duration = Duration::from_secs(5);
/// How long addresses are taken beyond their time while nobody answers.
const LAST_GOOD: Duration = Duration::from_secs(3600);

/// What is known of one name.
#[derive(Debug, Default)]
pub(super) struct Known {
    good: Option<Good>,
    /// What came of the last lookup, when it was no addresses, and until when it counts.
    bad: Option<(LookupError, Instant)>,
    since: Option<Instant>,
}

#[derive(Debug)]
struct Good {
    addresses: Addresses,
    until: Instant,
}

/// What to do for one who wants the addresses.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing has to be asked.
    Take(Result<Addresses, LookupError>),
    /// A server has to be asked.
    Ask {
        /// Will do while that takes time.
        last: Option<Addresses>,
    },
}

impl Known {
    /// When it was learnt; names of which nothing was learnt come first.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Until when [`Self::step`] takes what is known.
    pub(super) fn counts_until(&self) -> Option<Instant> {
        let good = self.good.as_ref().map(|good| good.until);
        let bad = self.bad.as_ref().map(|(_, until)| *until);
        good.max(bad)
    }

    pub(super) fn step(&self, now: Instant) -> Step {
        if let Some(good) = self.good.as_ref().filter(|good| now < good.until) {
            return Step::Take(Ok(Arc::clone(&good.addresses)));
        }
        let last = self.last_good(now);
        match &self.bad {
            Some((error, until)) if now < *until => Step::Take(last.ok_or_else(|| error.clone())),
            _ => Step::Ask { last },
        }
    }

    /// Takes what came of a lookup. That there is no such name ends what was known before; that
    /// nobody answered does not.
    pub(super) fn learn(
        &mut self,
        told: Result<Told, LookupError>,
        now: Instant,
    ) -> (Outcome, Result<Addresses, LookupError>) {
        self.since = Some(now);
        match told {
            Ok(Told { addresses, ttl }) => {
                let addresses = Addresses::from(addresses);
                let [least, most] = TTL;
                let until = now + ttl.clamp(least, most);
                self.bad = None;
                self.good = Some(Good {
                    addresses: Arc::clone(&addresses),
                    until,
                });
                (Outcome::Answered, Ok(addresses))
            }
            Err(LookupError::NotFound) => {
                self.good = None;
                self.bad = Some((LookupError::NotFound, now + PAUSE));
                (Outcome::NotFound, Err(LookupError::NotFound))
            }
            Err(error) => {
                self.bad = Some((error.clone(), now + PAUSE));
                match self.last_good(now) {
                    Some(last) => (Outcome::LastGood, Ok(last)),
                    None => (Outcome::Failed, Err(error)),
                }
            }
        }
    }

    fn last_good(&self, now: Instant) -> Option<Addresses> {
        let good = self.good.as_ref();
        let good = good.filter(|good| now < good.until + LAST_GOOD);
        good.map(|good| Arc::clone(&good.addresses))
    }
}
