//! The resources of one type, and in which order they changed.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use super::catalog::Offer;

/// Names that are gone and still remembered. A client that is further behind has to reconnect.
const MAX_GONE: usize = 65_536;

/// The resources of one type. Every name stands once in the order of changes, by its last one, so
/// that what happened since any earlier moment can be told from the present state alone: nothing
/// has to be kept for a client that lags behind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    offers: BTreeMap<Arc<str>, Placed>,
    gone: BTreeMap<Arc<str>, u64>,
    /// Names by their last change.
    changed: BTreeMap<u64, Arc<str>>,
    /// Names by the change that removed them.
    removed: BTreeMap<u64, Arc<str>>,
    by_alias: Index,
    by_node: Index,
    by_service: Index,
    /// Number of the last change.
    last: u64,
    /// Removals up to here may be forgotten.
    forgotten: u64,
}

/// An offer in the order of changes.
#[derive(Debug, Clone)]
struct Placed {
    offer: Offer,
    at: u64,
}

/// Names by what leads to them.
type Index = BTreeMap<Arc<str>, Names>;

/// Most often one; a set takes many times the room.
#[derive(Debug, Clone)]
enum Names {
    One(Arc<str>),
    Many(BTreeSet<Arc<str>>),
}

/// Names that changed and names that are gone, in order of the changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Since {
    pub(crate) changed: Vec<Arc<str>>,
    pub(crate) gone: Vec<Arc<str>>,
}

impl Table {
    pub(crate) fn get(&self, name: &str) -> Option<&Offer> {
        self.offers.get(name).map(|placed| &placed.offer)
    }

    /// Every offer, in order of names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Offer)> {
        self.offers
            .iter()
            .map(|(name, placed)| (name, &placed.offer))
    }

    pub(crate) fn len(&self) -> usize {
        self.offers.len()
    }

    /// Number of the last change; 0 when there was none.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// What changed after change `seen`; `None` when that is too long ago to tell.
    pub(crate) fn since(&self, seen: u64) -> Option<Since> {
        if seen < self.forgotten {
            return None;
        }
        let after = |order: &BTreeMap<u64, Arc<str>>| -> Vec<Arc<str>> {
            let after = order.range(seen.saturating_add(1)..);
            after.map(|(_, name)| Arc::clone(name)).collect()
        };
        Some(Since {
            changed: after(&self.changed),
            gone: after(&self.removed),
        })
    }

    /// The offers that a client means by `asked`, a name or an alias: with a service come its
    /// endpoints.
    pub(crate) fn find(&self, asked: &str) -> BTreeSet<Arc<str>> {
        let by_name = self.offers.get_key_value(asked).map(|(name, _)| name);
        let by_alias = names(&self.by_alias, asked);
        let named: BTreeSet<_> = by_name.into_iter().chain(by_alias).cloned().collect();
        let endpoints = named.iter().flat_map(|name| self.endpoints(name)).cloned();
        let endpoints: Vec<_> = endpoints.collect();
        named.into_iter().chain(endpoints).collect()
    }

    /// Workloads that run on `node`.
    pub(crate) fn on_node(&self, node: &str) -> impl Iterator<Item = &Arc<str>> {
        names(&self.by_node, node)
    }

    /// Workloads that serve `service`.
    pub(crate) fn endpoints(&self, service: &str) -> impl Iterator<Item = &Arc<str>> {
        names(&self.by_service, service)
    }

    /// False when the same is there already.
    pub(crate) fn put(&mut self, name: Arc<str>, mut offer: Offer) -> bool {
        if let Some(old) = self.get(&name)
            && old.is_same(&offer)
        {
            return false;
        }
        self.take(&name);
        if let Some(at) = self.gone.remove(&name) {
            self.removed.remove(&at);
        }
        let links = &mut offer.links;
        let indexes = [
            (&mut self.by_alias, links.aliases.iter_mut()),
            (&mut self.by_service, links.services.iter_mut()),
        ];
        for (index, keys) in indexes {
            keys.for_each(|key| link(index, key, &name));
        }
        if let Some(node) = &mut links.node {
            link(&mut self.by_node, node, &name);
        }
        self.last += 1;
        self.changed.insert(self.last, Arc::clone(&name));
        let at = self.last;
        self.offers.insert(name, Placed { offer, at });
        true
    }

    /// False when there is none of that name.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let Some(name) = self.take(name) else {
            return false;
        };
        self.last += 1;
        self.gone.insert(Arc::clone(&name), self.last);
        self.removed.insert(self.last, name);
        if self.gone.len() > MAX_GONE
            && let Some((at, oldest)) = self.removed.pop_first()
        {
            self.gone.remove(&oldest);
            self.forgotten = at;
        }
        true
    }

    /// Takes an offer out of everything that leads to it.
    fn take(&mut self, name: &str) -> Option<Arc<str>> {
        let (name, Placed { offer, at }) = self.offers.remove_entry(name)?;
        self.changed.remove(&at);
        for alias in &offer.links.aliases {
            unlink(&mut self.by_alias, alias, &name);
        }
        for service in &offer.links.services {
            unlink(&mut self.by_service, service, &name);
        }
        if let Some(node) = &offer.links.node {
            unlink(&mut self.by_node, node, &name);
        }
        Some(name)
    }
}

fn names<'a>(index: &'a Index, key: &str) -> impl Iterator<Item = &'a Arc<str>> {
    let (one, many) = match index.get(key) {
        Some(Names::One(name)) => (Some(name), None),
        Some(Names::Many(names)) => (None, Some(names)),
        None => (None, None),
    };
    one.into_iter().chain(many.into_iter().flatten())
}

/// Adds a name under a key; the key becomes the one that all share.
fn link(index: &mut Index, key: &mut Arc<str>, name: &Arc<str>) {
    if let Some((shared, _)) = index.get_key_value(&**key) {
        *key = Arc::clone(shared);
    }
    match index.get_mut(&**key) {
        None => {
            index.insert(Arc::clone(key), Names::One(Arc::clone(name)));
        }
        Some(Names::Many(names)) => {
            names.insert(Arc::clone(name));
        }
        Some(entry) => {
            let more = Names::Many(BTreeSet::from([Arc::clone(name)]));
            if let (Names::One(first), Names::Many(names)) = (mem::replace(entry, more), entry) {
                names.insert(first);
            }
        }
    }
}

fn unlink(index: &mut Index, key: &str, name: &Arc<str>) {
    let is_empty = match index.get_mut(key) {
        Some(Names::Many(names)) => {
            names.remove(name);
            names.is_empty()
        }
        Some(Names::One(only)) => only == name,
        None => false,
    };
    if is_empty {
        index.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::Links;
    use prost_types::Any;

    fn offer(content: &str, aliases: &[&str]) -> Offer {
        let body = Any {
            type_url: "t".to_owned(),
            value: content.into(),
        };
        let links = Links {
            aliases: aliases.iter().map(|alias| Arc::from(*alias)).collect(),
            ..Links::default()
        };
        Offer::new(body, links)
    }

    fn since(table: &Table, seen: u64) -> (Vec<String>, Vec<String>) {
        let Since { changed, gone } = table.since(seen).unwrap();
        let texts = |names: Vec<Arc<str>>| names.iter().map(ToString::to_string).collect();
        (texts(changed), texts(gone))
    }

    #[test]
    fn each_name_stands_once_by_its_last_change() {
        let mut table = Table::default();
        for content in ["1", "2", "3"] {
            assert!(table.put("a".into(), offer(content, &[])));
            table.put("b".into(), offer("same", &[]));
        }
        assert_eq!(since(&table, 0).0, ["b", "a"]);
        let seen = table.last();
        assert!(!table.put("a".into(), offer("3", &[])));
        assert_eq!(since(&table, seen), (Vec::new(), Vec::new()));
        assert!(table.remove("a") && !table.remove("a"));
        assert_eq!(since(&table, seen).1, ["a"]);
        table.put("a".into(), offer("3", &[]));
        assert_eq!(since(&table, seen), (vec!["a".into()], Vec::new()));
    }

    #[test]
    fn who_is_too_far_behind_is_told_so() {
        let mut table = Table::default();
        table.put("first".into(), offer("", &[]));
        table.remove("first");
        let seen = table.last() - 1;
        for number in 0..MAX_GONE {
            let name: Arc<str> = number.to_string().into();
            table.put(Arc::clone(&name), offer("", &[]));
            table.remove(&name);
        }
        assert_eq!(table.since(seen), None);
        assert!(table.since(table.last()).is_some());
        assert_eq!(table.gone.len(), MAX_GONE);
        assert_eq!(table.removed.len(), MAX_GONE);
    }

    #[test]
    fn an_alias_leads_to_all_that_have_it() {
        let mut table = Table::default();
        for name in ["a", "b", "c"] {
            table.put(name.into(), offer(name, &["/10.0.0.1"]));
        }
        assert_eq!(table.find("/10.0.0.1").len(), 3);
        table.put("a".into(), offer("moved", &["/10.0.0.2"]));
        table.remove("b");
        assert_eq!(table.find("/10.0.0.1"), BTreeSet::from(["c".into()]));
        assert_eq!(table.find("/10.0.0.2"), BTreeSet::from(["a".into()]));
        table.remove("c");
        assert!(table.find("/10.0.0.1").is_empty());
        assert_eq!(table.by_alias.len(), 1);
    }
}
