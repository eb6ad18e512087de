//! What the data path asks the control plane for by name, on a node that is not sent everything.
//!
//! A name that was answered once stays subscribed for as long as it is used, so that the state
//! holds what is true of it, also while the control plane is away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

/// A name that nobody used for so long is given up.
const IDLE: Duration = Duration::from_secs(600);
/// A name that nothing has is given up sooner: pods can make up any number of these.
const IDLE_ABSENT: Duration = Duration::from_secs(60);
/// Most names; further ones are refused until some are given up.
const MAX_NAMES: usize = 16_384;
/// Names in one request.
const MAX_ASKED: usize = 1000;

/// Asks for names and waits for the answers; clones ask the same control plane.
#[derive(Debug, Clone, Default)]
pub struct Demand(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    names: Mutex<Names>,
    /// There is something to ask.
    asked: Notify,
    /// Grows with every answer.
    answers: watch::Sender<u64>,
}

/// Why a name stays unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTold {
    /// The control plane did not answer in time.
    #[error("the control plane has not said within {0:?} what {1} is")]
    InTime(Duration, String),
    /// Too many names are asked for already.
    #[error("this node asks for {MAX_NAMES} names already")]
    TooMany,
}

/// Every name that is asked for.
#[derive(Debug, Default)]
struct Names {
    known: BTreeMap<Arc<str>, Name>,
    /// Those to be asked for in the next request.
    queued: BTreeSet<Arc<str>>,
}

#[derive(Debug)]
struct Name {
    /// Whether something has the name; `None` before the first answer.
    answer: Option<bool>,
    used: Instant,
}

impl Demand {
    /// Nothing is asked for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that names which the state may know are used: they are not given up.
    pub fn used<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let (mut table, now) = (self.names(), Instant::now());
        for name in names {
            if let Some(name) = table.known.get_mut(name) {
                name.used = now;
            }
        }
    }

    /// Waits until the control plane has said what each of `names` is, if anything, and the state
    /// holds it. At once when it said so before.
    pub async fn know(&self, names: &[String], patience: Duration) -> Result<(), NotTold> {
        let mut answers = self.0.answers.subscribe();
        if self.want(names)? {
            return Ok(());
        }
        let told =
            async { while answers.changed().await.is_ok() && !self.names().are_known(names) {} };
        tokio::time::timeout(patience, told)
            .await
            .map_err(|_| NotTold::InTime(patience, names.join(" and ")))
    }

    /// Asks for names without waiting. True when all of them are answered already.
    pub fn want(&self, names: &[String]) -> Result<bool, NotTold> {
        let now = Instant::now();
        let (known, to_ask) = {
            let mut table = self.names();
            for name in names {
                table.want(name, now)?;
            }
            (table.are_known(names), !table.queued.is_empty())
        };
        if to_ask {
            self.0.asked.notify_one();
        }
        Ok(known)
    }

    /// Number of names asked for.
    pub fn len(&self) -> usize {
        self.names().known.len()
    }

    /// True when no name is asked for.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Completes when there is something to ask.
    pub(super) async fn asked(&self) {
        self.0.asked.notified().await;
    }

    /// Names for the next request on a stream that is open, some of them when they are many.
    pub(super) fn next(&self) -> Vec<Arc<str>> {
        let mut table = self.names();
        let next: Vec<_> = table.queued.iter().take(MAX_ASKED).cloned().collect();
        next.iter().for_each(|name| {
            table.queued.remove(name);
        });
        if !table.queued.is_empty() {
            self.0.asked.notify_one();
        }
        next
    }

    /// Every name, for the first request of a stream.
    pub(crate) fn all(&self) -> Vec<Arc<str>> {
        let mut table = self.names();
        table.queued.clear();
        table.known.keys().cloned().collect()
    }

    /// The control plane said of names that something has them or, if not `found`, that nothing
    /// has. The state holds it.
    pub(super) fn answered(&self, names: impl IntoIterator<Item = impl AsRef<str>>, found: bool) {
        let mut table = self.names();
        for name in names {
            if let Some(name) = table.known.get_mut(name.as_ref()) {
                name.answer = Some(found);
            }
        }
        drop(table);
        self.0.answers.send_modify(|count| *count += 1);
    }

    /// The first request of a stream was answered in full: of whatever else was asked in it
    /// nothing is new.
    pub(super) fn reopened(&self, names: &[Arc<str>]) {
        let mut table = self.names();
        for name in names {
            if let Some(name) = table.known.get_mut(name) {
                name.answer.get_or_insert(true);
            }
        }
        drop(table);
        self.0.answers.send_modify(|count| *count += 1);
    }

    /// Gives up names that were not used for long; returns these and the ones that stay.
    pub(super) fn give_up(&self, now: Instant) -> (Vec<Arc<str>>, BTreeSet<Arc<str>>) {
        let mut table = self.names();
        let idle = table.known.iter().filter(|(_, name)| name.is_idle(now));
        let idle: Vec<Arc<str>> = idle.map(|(name, _)| Arc::clone(name)).collect();
        for name in &idle {
            table.known.remove(name);
        }
        (idle, table.known.keys().cloned().collect())
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names {
    fn want(&mut self, name: &str, now: Instant) -> Result<(), NotTold> {
        if let Some(name) = self.known.get_mut(name) {
            name.used = now;
            return Ok(());
        }
        if self.known.len() >= MAX_NAMES {
            return Err(NotTold::TooMany);
        }
        let name: Arc<str> = name.into();
        let wanted = Name {
            answer: None,
            used: now,
        };
        self.known.insert(Arc::clone(&name), wanted);
        self.queued.insert(name);
        Ok(())
    }

    fn are_known(&self, names: &[String]) -> bool {
        names.iter().all(|name| {
            let known = self.known.get(name.as_str());
            known.is_some_and(|name| name.answer.is_some())
        })
    }
}

impl Name {
    fn is_idle(&self, now: Instant) -> bool {
        let limit = match self.answer {
            Some(true) => IDLE,
            Some(false) => IDLE_ABSENT,
            // Somebody waits for it, or it is asked for on the next stream.
            None => IDLE,
        };
        now.saturating_duration_since(self.used) >= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn asked(names: Vec<Arc<str>>) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_waits_for_the_answer_and_asks_once() {
        let demand = Demand::new();
        let names = texts(&["/10.0.0.1", "ns/a"]);
        let (asking, waiting) = (demand.clone(), names.clone());
        let waiting =
            tokio::spawn(async move { asking.know(&waiting, Duration::from_secs(1)).await });
        demand.asked().await;
        assert_eq!(asked(demand.next()), names);
        demand.answered(["/10.0.0.1"], false);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "one of two is answered");
        demand.answered(["ns/a", "never asked"], true);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        assert_eq!(demand.know(&names, Duration::ZERO).await, Ok(()));
        assert!(demand.next().is_empty());
        assert_eq!(demand.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_and_the_question_stays() {
        let demand = Demand::new();
        let patience = Duration::from_secs(1);
        let names = texts(&["/10.0.0.1"]);
        let told = demand.know(&names, patience).await;
        assert_eq!(told, Err(NotTold::InTime(patience, "/10.0.0.1".to_owned())));
        assert_eq!(asked(demand.all()), names, "on the next stream");
        demand.reopened(&demand.all());
        assert_eq!(demand.know(&names, Duration::ZERO).await, Ok(()));
    }

    #[test]
    fn unused_names_are_given_up_absent_ones_first() {
        let demand = Demand::new();
        let start = Instant::now();
        demand.want(&texts(&["there", "absent", "open"])).unwrap();
        demand.answered(["there"], true);
        demand.answered(["absent"], false);
        let later = |seconds| start + Duration::from_secs(seconds);
        let (idle, _) = demand.give_up(later(59));
        assert!(idle.is_empty());
        let (idle, rest) = demand.give_up(later(62));
        assert_eq!((asked(idle), rest.len()), (texts(&["absent"]), 2));
        let (idle, rest) = demand.give_up(later(602));
        assert_eq!((idle.len(), rest.len()), (2, 0));
    }

    #[test]
    fn there_are_only_so_many_names() {
        let demand = Demand::new();
        let names: Vec<String> = (0..MAX_NAMES).map(|n| format!("/{n}")).collect();
        demand.want(&names).unwrap();
        assert_eq!(demand.want(&texts(&["one more"])), Err(NotTold::TooMany));
        assert_eq!(demand.next().len(), MAX_ASKED);
        demand.answered(&names, false);
        demand.give_up(Instant::now() + IDLE_ABSENT);
        demand.want(&texts(&["one more"])).unwrap();
    }
}
