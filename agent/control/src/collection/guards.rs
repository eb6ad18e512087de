//! Guards of workloads while they change. Who sends to a workload hears of its waypoint at another
//! moment than the workload's own node, so for a while both the old way and the new one are good:
//! otherwise what is on its way would be refused. Time comes in as an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::translate::Translated;
use crate::translate::guard::{Guard, Guards};

/// How long an old way stays good: longer than any node takes to hear of a change (p99 1 s).
const OVERLAP: Duration = Duration::from_secs(2);

/// The guards of every namespace that has some.
#[derive(Debug, Default)]
pub(super) struct Changing(BTreeMap<Arc<str>, Namespace>);

#[derive(Debug, Default)]
struct Namespace {
    wanted: Guards,
    changes: BTreeMap<Arc<str>, Change>,
}

/// A guard that is not what it was, or is new.
#[derive(Debug)]
struct Change {
    /// What was held before; `None` when nothing was.
    before: Option<Guard>,
    until: Instant,
}

impl Changing {
    /// Takes what is wanted in a namespace now, and returns what is to be held: a workload with a
    /// guard that changed is open to what satisfies the old one, too, until [`OVERLAP`] has passed.
    /// `before` is what the namespace was until now: of a workload that was not there everything is
    /// held at once, and so it is when a control plane starts, which must not open anything.
    pub(super) fn replace(
        &mut self,
        namespace: &Arc<str>,
        wanted: Guards,
        before: Option<&Translated>,
        now: Instant,
    ) -> Guards {
        if wanted.is_empty() {
            self.0.remove(namespace);
            return wanted;
        }
        let known = self.0.entry(Arc::clone(namespace)).or_default();
        let is_kept =
            |uid: &Arc<str>, change: &Change| now < change.until && wanted.contains_key(uid);
        known.changes.retain(|uid, change| is_kept(uid, change));
        let mut differing: BTreeSet<&Arc<str>> = wanted
            .iter()
            .filter(|(uid, guard)| known.wanted.get(*uid) != Some(*guard))
            .map(|(uid, _)| uid)
            .collect();
        if !differing.is_empty() {
            let workloads = before.into_iter().flat_map(|before| &before.workloads);
            let there: BTreeSet<_> = workloads.map(|workload| &workload.uid).collect();
            differing.retain(|uid| there.contains(uid));
        }
        for uid in differing {
            let change = Change {
                before: known.wanted.get(uid).cloned(),
                until: now + OVERLAP,
            };
            known.changes.insert(Arc::clone(uid), change);
        }
        let held = wanted.iter().filter_map(|(uid, guard)| {
            let held = match known.changes.get(uid) {
                None => Some(guard.clone()),
                Some(change) => change
                    .before
                    .as_ref()
                    .and_then(|before| before.or_also(guard)),
            };
            Some((Arc::clone(uid), held?))
        });
        let held = held.collect();
        known.wanted = wanted;
        held
    }

    /// Namespaces where something that was put off is due.
    pub(super) fn due(&self, now: Instant) -> Vec<Arc<str>> {
        let of = |of: &Namespace| of.changes.values().any(|change| change.until <= now);
        let due = self.0.iter().filter(|(_, namespace)| of(namespace));
        due.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// When the next is.
    pub(super) fn next_turn(&self) -> Option<Instant> {
        let changes = self.0.values().flat_map(|of| of.changes.values());
        changes.map(|change| change.until).min()
    }
}

#[cfg(test)]
mod tests {
    use agent_model::Workload;

    use super::*;

    fn guard(waypoint: &str, ports: Option<&[u16]>) -> Guard {
        Guard::of(&[("shop", waypoint)], ports)
    }

    fn wanted(guard: Option<Guard>) -> Guards {
        guard
            .map(|guard| ("cart".into(), guard))
            .into_iter()
            .collect()
    }

    fn with_cart() -> Translated {
        Translated {
            workloads: vec![Workload {
                uid: "cart".into(),
                ..Workload::default()
            }],
            ..Translated::default()
        }
    }

    #[test]
    fn what_was_good_stays_good_for_a_while() {
        let (start, shop): (_, Arc<str>) = (Instant::now(), "shop".into());
        let later = start + OVERLAP;
        let there = with_cart();
        let mut changing = Changing::default();
        let mut hold = |guard: Option<Guard>, now| {
            let held = changing.replace(&shop, wanted(guard), Some(&there), now);
            (
                held.get("cart").cloned(),
                changing.next_turn(),
                changing.due(now),
            )
        };
        let (a, b) = (guard("a", None), guard("b", Some(&[80])));
        let open = (None, Some(later), vec![]);
        assert_eq!(hold(Some(a.clone()), start), open, "bound");
        let still = start + OVERLAP / 2;
        assert_eq!(hold(Some(a.clone()), still), open, "said again");
        assert_eq!(hold(Some(a.clone()), later), (Some(a), None, vec![]));
        let both = Guard::of(&[("shop", "a"), ("shop", "b")], Some(&[80]));
        let moved = (Some(both), Some(later + OVERLAP), vec![]);
        assert_eq!(hold(Some(b.clone()), later), moved, "moved");
        assert_eq!(
            changing_due(&mut hold, &b, later + OVERLAP),
            Some(b.clone())
        );
        assert_eq!(hold(None, later), (None, None, vec![]), "removed");
    }

    fn changing_due(
        hold: &mut impl FnMut(Option<Guard>, Instant) -> (Option<Guard>, Option<Instant>, Vec<Arc<str>>),
        guard: &Guard,
        now: Instant,
    ) -> Option<Guard> {
        let (held, next, due) = hold(Some(guard.clone()), now);
        assert_eq!((next, due), (None, vec![]));
        held
    }

    #[test]
    fn nothing_is_open_that_is_new() {
        let (now, shop): (_, Arc<str>) = (Instant::now(), "shop".into());
        let a = guard("a", None);
        for before in [None, Some(Translated::default())] {
            let mut changing = Changing::default();
            let held = changing.replace(&shop, wanted(Some(a.clone())), before.as_ref(), now);
            assert_eq!(held.get("cart"), Some(&a));
            assert_eq!(changing.next_turn(), None);
        }
    }

    #[test]
    fn a_namespace_is_due_when_its_overlap_is_over() {
        let (now, shop): (_, Arc<str>) = (Instant::now(), "shop".into());
        let mut changing = Changing::default();
        let there = with_cart();
        changing.replace(&shop, wanted(Some(guard("a", None))), Some(&there), now);
        assert_eq!(changing.due(now), [] as [Arc<str>; 0]);
        assert_eq!(changing.due(now + OVERLAP), [shop]);
    }
}
