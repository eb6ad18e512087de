//! What a cluster's watches add up to. Pure: what the watches say comes in, batches come out.
//!
//! Nothing comes out before every kind's first list is complete: half of the endpoints would be
//! an outage, and half of the policies a hole. A list that is read again adds and changes at
//! once, but takes away only at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use super::item::Found;
use super::named::decides_names;
use crate::source::decode::FieldError;
use crate::source::{Batch, Effect, Event, Kind, Object, ObjectRef, Problem};

/// Problems that are reported; the rest is counted.
const MAX_PROBLEMS: usize = 1_000;
/// How often in a row the API server must say that it does not know a kind before objects of it
/// that were seen are taken for gone. A removed definition takes its objects with it, and usually
/// the watch says so; this is for when it did not.
const ABSENT_FOR_GOOD: u32 = 3;

/// What a watch says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// A list begins.
    ListBegins,
    /// An object of the list.
    Listed(Found),
    /// The list is complete.
    ListEnds,
    /// An object is new or different.
    Changed(Found),
    /// An object is gone.
    Gone(ObjectRef),
    /// The API server does not know the kind.
    Absent,
    /// We may not read the kind, and others need not wait for it.
    Forbidden(String),
    /// The API server cannot be asked; it will be tried again.
    Failed(String),
    /// It is silent again after a failure, as a watch is.
    Recovered,
}

/// The stores of every kind watched, in that order.
#[derive(Debug)]
pub(super) struct Stores {
    stores: Vec<Store>,
    /// Everything was complete once.
    is_open: bool,
    has_new_problems: bool,
}

impl Stores {
    pub(super) fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self {
            stores: kinds.into_iter().map(Store::new).collect(),
            is_open: false,
            has_new_problems: false,
        }
    }

    /// Takes over what the watch of the kind at `index` says.
    pub(super) fn take(&mut self, index: usize, change: Change) {
        if let Some(store) = self.stores.get_mut(index) {
            self.has_new_problems |= store.take(change);
        }
    }

    /// Every first list is complete.
    pub(super) fn is_synced(&self) -> bool {
        self.stores.iter().all(|store| store.is_synced)
    }

    /// Something would come out of [`Self::batch`].
    pub(super) fn is_dirty(&self) -> bool {
        let has_changes =
            self.has_new_problems || self.stores.iter().any(|store| !store.dirty.is_empty());
        (has_changes || !self.is_open) && self.is_synced()
    }

    /// What is different since the last one; `None` when nothing is (nor anything else there is
    /// to send), or not all is known yet.
    pub(super) fn batch(&mut self, is_more: bool) -> Option<Batch> {
        if !(self.is_dirty() || is_more && self.is_synced()) {
            return None;
        }
        self.is_open = true;
        self.has_new_problems = false;
        Some(Batch {
            events: self.stores.iter_mut().flat_map(Store::drain).collect(),
            problems: self.problems(),
        })
    }

    /// The objects in force that [`decides_names`].
    pub(super) fn naming(&self) -> impl Iterator<Item = &Object> + Clone {
        let stores = self.stores.iter().filter(|store| decides_names(store.kind));
        stores.flat_map(|store| store.held.values())
    }

    /// Objects in force of the kind at `index`.
    pub(super) fn len(&self, index: usize) -> usize {
        self.stores.get(index).map_or(0, |store| store.held.len())
    }

    fn problems(&self) -> Vec<Problem> {
        let all = self.stores.iter().flat_map(|store| store.problems.values());
        let mut problems: Vec<Problem> = all.clone().take(MAX_PROBLEMS).cloned().collect();
        let left_off = all.count() - problems.len();
        if let Some(last) = problems.last_mut().filter(|_| left_off > 0) {
            last.message = format!("{} (and {left_off} more problems)", last.message);
        }
        problems
    }
}

/// The objects of one kind. As large as what the API server stores of that kind, which is for the
/// API server to bound.
#[derive(Debug)]
struct Store {
    kind: Kind,
    /// Last good versions.
    held: BTreeMap<ObjectRef, Object>,
    /// Of objects whose present version is not good.
    problems: BTreeMap<ObjectRef, Problem>,
    /// What the list that is being read has named so far.
    listed: Option<BTreeSet<ObjectRef>>,
    /// Objects that came, changed or went since the last batch.
    dirty: BTreeSet<ObjectRef>,
    is_synced: bool,
    /// Answers in a row that said the kind is unknown.
    absences: u32,
}

impl Store {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            held: BTreeMap::new(),
            problems: BTreeMap::new(),
            listed: None,
            dirty: BTreeSet::new(),
            is_synced: false,
            absences: 0,
        }
    }

    /// True when the problems are different now.
    fn take(&mut self, change: Change) -> bool {
        match change {
            Change::ListBegins => {
                self.listed = Some(BTreeSet::new());
                false
            }
            Change::Listed(found) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(found.reference.clone());
                }
                self.put(found)
            }
            Change::ListEnds => {
                self.is_synced = true;
                self.absences = 0;
                let listed = self.listed.take().unwrap_or_default();
                self.keep_only(&listed)
            }
            Change::Changed(found) => self.put(found),
            Change::Gone(reference) => self.remove(&reference),
            Change::Absent => self.absent(),
            // What is known of it stays.
            Change::Forbidden(_) => {
                self.is_synced = true;
                false
            }
            Change::Failed(_) | Change::Recovered => false,
        }
    }

    fn put(&mut self, found: Found) -> bool {
        let Found { reference, object } = found;
        debug_assert_eq!(reference.kind, self.kind, "a watch is of one kind");
        match object {
            Ok(object) => {
                let was_bad = self.problems.remove(&reference).is_some();
                if self.held.get(&reference) != Some(&object) {
                    self.dirty.insert(reference.clone());
                    self.held.insert(reference, object);
                }
                was_bad
            }
            Err(error) => {
                let effect = if self.held.contains_key(&reference) {
                    Effect::LastGoodKept
                } else {
                    Effect::NotApplied
                };
                let problem = problem(&reference, error, effect);
                let before = self.problems.insert(reference, problem.clone());
                before.as_ref() != Some(&problem)
            }
        }
    }

    fn remove(&mut self, reference: &ObjectRef) -> bool {
        if self.held.remove(reference).is_some() {
            self.dirty.insert(reference.clone());
        }
        self.problems.remove(reference).is_some()
    }

    /// A list has ended: what it did not name has gone meanwhile.
    fn keep_only(&mut self, listed: &BTreeSet<ObjectRef>) -> bool {
        let known = self.held.keys().chain(self.problems.keys());
        let gone: Vec<ObjectRef> = known
            .filter(|reference| !listed.contains(*reference))
            .cloned()
            .collect();
        gone.iter()
            .fold(false, |differs, reference| self.remove(reference) | differs)
    }

    fn absent(&mut self) -> bool {
        self.listed = None;
        self.absences = self.absences.saturating_add(1);
        if !self.is_synced {
            // An API server that is still starting answers 503, so 404 is the truth.
            self.is_synced = true;
            return false;
        }
        self.absences >= ABSENT_FOR_GOOD && self.keep_only(&BTreeSet::new())
    }

    fn drain(&mut self) -> Vec<Event> {
        let events = mem::take(&mut self.dirty).into_iter();
        events
            .map(|reference| match self.held.get(&reference) {
                Some(object) => Event::Apply(object.clone()),
                None => Event::Delete(reference),
            })
            .collect()
    }
}

/// An object that is not, or not as it is now, in force.
pub(super) fn problem(reference: &ObjectRef, error: FieldError, effect: Effect) -> Problem {
    Problem {
        file: String::new(),
        document: 0,
        line: None,
        object: Some(reference.clone()),
        field: error.path,
        message: crate::source::shortened(&error.message),
        effect,
    }
}
