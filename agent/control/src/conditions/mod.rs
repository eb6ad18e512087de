//! Conditions on the objects that say what the mesh shall do, and events on those that are wrong.
//! Of several replicas the leader writes. Level-triggered: what is to be said is worked out anew
//! after every change, and what differs is written, at a bounded rate, latest first-hand: nothing
//! is queued but the difference.

mod bound;
mod decide;
mod events;
mod merge;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use agent_net::drain;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::collection::Collection;
use crate::rounds::{Cue, Rounds};
use crate::source::{ObjectRef, Problem};
use decide::{Reviewed, Verdict, review};
use events::Notice;
use write::{Outcome, Writer};

/// Changes are gathered this long at least, and reviews are no closer together.
const GATHER: Duration = Duration::from_secs(1);
/// Nine tenths of the time nothing is reviewed, however large the cluster and busy its day.
const REST: u32 = 9;
/// Between two writes: at most 50 a second.
const PACE: Duration = Duration::from_millis(20);
/// Writes between two reviews, so that what is written is never old.
const ROUND: usize = 250;
/// Until what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// A message that keeps changing while its condition does not is written no more often.
const MESSAGE: Duration = Duration::from_secs(30);
/// What somebody else may have changed is looked at again after so long.
const RESYNC: Duration = Duration::from_secs(600);

/// Writes conditions and events.
pub(crate) struct Conditions {
    pub(crate) client: kube::Client,
    pub(crate) collection: Arc<RwLock<Collection>>,
    pub(crate) shown: Shown,
}

/// What the status says about conditions. Clones show the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown(Arc<Mutex<Value>>);

impl Shown {
    /// `objects` (that have conditions), `reviewMillis` (the time one look at everything took),
    /// `unwritten` (objects whose conditions are not what they should be yet); null in a replica
    /// that does not write.
    pub(crate) fn json(&self) -> Value {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was written.
#[derive(Default)]
struct Memory {
    verdicts: BTreeMap<ObjectRef, (Verdict, Instant)>,
    notices: BTreeSet<Notice>,
    /// When all of it was begun.
    since: Option<Instant>,
    /// How long the last review took.
    took: Duration,
}

impl Conditions {
    /// Goes on until the drain begins.
    pub(crate) async fn run(self, mut cue: Cue, drain: drain::Watcher) {
        let mut writer = Writer::new(self.client.clone());
        let mut memory = Memory::default();
        let mut rounds = Rounds::until(drain);
        while rounds.is_due(&mut cue).await {
            let round = self.round(&mut cue, &mut writer, &mut memory);
            rounds.run(round).await;
        }
    }

    /// Looks at everything and writes what differs. Returns when to look again at the latest.
    async fn round(&self, cue: &mut Cue, writer: &mut Writer, memory: &mut Memory) -> Duration {
        sleep(GATHER.max(memory.took * REST)).await;
        if !cue.is_ours() {
            // Another one writes, and what it writes is not known here.
            *memory = Memory::default();
            *self.shown.lock() = Value::Null;
            return RESYNC;
        }
        let now = Instant::now();
        if memory.since.is_none_or(|since| now - since >= RESYNC) {
            memory.verdicts.clear();
            memory.since = Some(now);
        }
        let problems = cue.told.borrow_and_update().clone();
        let Some(reviewed) = self.review(problems).await else {
            return RETRY;
        };
        memory.took = now.elapsed();
        memory.forget(&reviewed);
        let is_done = self.write(cue, writer, memory, &reviewed).await;
        let unwritten = memory.unwritten(&reviewed);
        *self.shown.lock() = json!({
            "objects": reviewed.verdicts.len(),
            "reviewMillis": memory.took.as_millis(),
            "unwritten": unwritten,
        });
        match (is_done, unwritten) {
            (false, _) => RETRY,
            (true, 1..) => MESSAGE,
            (true, 0) => RESYNC,
        }
    }

    /// Off the async threads: a cluster may be large.
    async fn review(&self, problems: Arc<[Problem]>) -> Option<Reviewed> {
        let (inventory, gateways, notes) = {
            let collection = self.collection.read();
            let collection = collection.unwrap_or_else(PoisonError::into_inner);
            let gateways = Arc::clone(collection.gateways());
            (collection.inventory(), gateways, collection.notes())
        };
        let reviewing = move || review(&inventory, &gateways, &notes, &problems);
        match tokio::task::spawn_blocking(reviewing).await {
            Ok(reviewed) => Some(reviewed),
            Err(error) => {
                warn!(target: "conditions", %error, "objects could not be reviewed");
                None
            }
        }
    }

    /// False when something is left to be written.
    async fn write(
        &self,
        cue: &Cue,
        writer: &mut Writer,
        memory: &mut Memory,
        reviewed: &Reviewed,
    ) -> bool {
        let now = Instant::now();
        let due: Vec<_> = memory.due(reviewed, now);
        let notices: Vec<_> = reviewed
            .notices
            .difference(&memory.notices)
            .cloned()
            .collect();
        let mut is_done = due.len() + notices.len() <= ROUND;
        let mut places = ROUND;
        for (object, verdict) in due.into_iter().take(ROUND) {
            if !cue.is_ours() {
                return true;
            }
            places -= 1;
            match writer.conditions(&object, &verdict).await {
                Ok(Outcome::Done) => {
                    memory.verdicts.insert(object, (verdict, Instant::now()));
                }
                // It has changed since, and the watch is about to say so.
                Ok(Outcome::Stale) => is_done = false,
                Err(error) => {
                    warn!(target: "conditions", %object, error, "conditions not written");
                    is_done = false;
                }
            }
            sleep(PACE).await;
        }
        for notice in notices.into_iter().take(places) {
            if !cue.is_ours() {
                return true;
            }
            match writer.event(&notice).await {
                Ok(()) => {
                    debug!(target: "conditions", object = %notice.object, "event written");
                    memory.notices.insert(notice);
                }
                Err(error) => {
                    let object = &notice.object;
                    warn!(target: "conditions", %object, error, "event not written");
                    is_done = false;
                }
            }
            sleep(PACE).await;
        }
        is_done
    }
}

impl Memory {
    /// Forgets what is no more; what is wrong again later is told again.
    fn forget(&mut self, reviewed: &Reviewed) {
        self.verdicts
            .retain(|object, _| reviewed.verdicts.contains_key(object));
        self.notices
            .retain(|notice| reviewed.notices.contains(notice));
    }

    /// What is to be written now.
    fn due(&self, reviewed: &Reviewed, now: Instant) -> Vec<(ObjectRef, Verdict)> {
        let due = reviewed.verdicts.iter().filter(|(object, verdict)| {
            self.verdicts.get(*object).is_none_or(|(written, at)| {
                written != *verdict && (!written.says_the_same(verdict) || now - *at >= MESSAGE)
            })
        });
        due.map(|(object, verdict)| (object.clone(), verdict.clone()))
            .collect()
    }

    /// Objects whose conditions are to be written, now or when the time of their message comes.
    fn unwritten(&self, reviewed: &Reviewed) -> usize {
        let verdicts = reviewed.verdicts.iter();
        let unwritten = verdicts.filter(|(object, verdict)| {
            let written = self.verdicts.get(*object);
            written.is_none_or(|(written, _)| written != *verdict)
        });
        unwritten.count()
    }
}
