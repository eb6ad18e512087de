//! Objects and what happened to them lately, under one counter of versions.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::failure::Failure;
use super::selector::Selector;

/// Namespace (empty for cluster-scoped objects) and name.
pub(super) type Key = (String, String);
/// An object without `kind` and `apiVersion`: those depend on who asks.
pub(super) type Object = Arc<Value>;

/// Everything stored, by resource (`plural.group`).
#[derive(Debug)]
pub(super) struct Store {
    version: u64,
    tables: BTreeMap<String, Table>,
    /// Changes kept for each resource.
    history: usize,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Table {
    objects: BTreeMap<Key, Object>,
    history: VecDeque<Change>,
    /// Version of the newest change that is no longer in the history.
    discarded: u64,
    /// Requests that start at an older version are told that it expired.
    oldest: u64,
}

/// One change of one object.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) key: Key,
    pub(super) before: Option<Object>,
    pub(super) after: Option<Object>,
}

/// A part of a collection at one version.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) version: u64,
    pub(super) items: Vec<Object>,
    /// Where the rest begins: after this key.
    pub(super) rest: Option<Key>,
}

impl Store {
    pub(super) fn new(history: usize) -> Self {
        Self {
            // Never 0 nor "just above 0": those mean something of their own to clients.
            version: 1000,
            tables: BTreeMap::new(),
            history,
            changed: watch::Sender::new(0),
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Tells of every new version.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn get(&self, resource: &str, key: &Key) -> Option<&Object> {
        self.tables.get(resource)?.objects.get(key)
    }

    pub(super) fn keys(&self, resource: &str, namespace: Option<&str>) -> Vec<Key> {
        let Some(table) = self.tables.get(resource) else {
            return Vec::new();
        };
        let wanted = |key: &&Key| namespace.is_none_or(|namespace| key.0 == namespace);
        table.objects.keys().filter(wanted).cloned().collect()
    }

    /// Stores an object under a new version and returns it with that.
    pub(super) fn put(&mut self, resource: &str, key: Key, mut object: Value) -> Object {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = Arc::new(object);
        let table = self.tables.entry(resource.to_owned()).or_default();
        let before = table.objects.insert(key.clone(), Arc::clone(&object));
        table.note(
            Change {
                version: self.version,
                key,
                before,
                after: Some(Arc::clone(&object)),
            },
            self.history,
        );
        self.changed.send_replace(self.version);
        object
    }

    /// Removes an object and returns it as it was.
    pub(super) fn remove(&mut self, resource: &str, key: &Key) -> Option<Object> {
        let table = self.tables.get_mut(resource)?;
        let before = table.objects.remove(key)?;
        self.version += 1;
        table.note(
            Change {
                version: self.version,
                key: key.clone(),
                before: Some(Arc::clone(&before)),
                after: None,
            },
            self.history,
        );
        self.changed.send_replace(self.version);
        Some(before)
    }

    /// Forgets every earlier version: lists and watches that start there are told so. Running
    /// watches go on.
    pub(super) fn compact(&mut self) {
        self.version += 1;
        for table in self.tables.values_mut() {
            if let Some(last) = table.history.back() {
                table.discarded = last.version;
            }
            table.history.clear();
            table.oldest = self.version;
        }
        self.changed.send_replace(self.version);
    }

    /// Objects of a collection as they were at `at` (now if none), at most `limit`, after `after`.
    pub(super) fn list(
        &self,
        resource: &str,
        selector: &Selector,
        at: Option<u64>,
        after: Option<&Key>,
        limit: Option<usize>,
    ) -> Result<Page, Failure> {
        let version = at.unwrap_or(self.version);
        let mut page = Page {
            version,
            items: Vec::new(),
            rest: None,
        };
        let Some(table) = self.tables.get(resource) else {
            return Ok(page);
        };
        let undone = if version < self.version {
            table.check_age(version, self.version)?;
            table.undo_to(version)
        } else {
            BTreeMap::new()
        };
        let start = match (after, selector.namespace()) {
            (Some(key), _) => Bound::Excluded(key.clone()),
            (None, Some(namespace)) => Bound::Included((namespace.to_owned(), String::new())),
            (None, None) => Bound::Unbounded,
        };
        let mut last: Option<&Key> = None;
        for (key, object) in table.merged(&undone, start) {
            if selector.namespace().is_some_and(|wanted| key.0 != wanted) {
                break;
            }
            if !selector.matches(object) {
                continue;
            }
            if limit.is_some_and(|limit| page.items.len() >= limit) {
                page.rest = last.cloned();
                break;
            }
            page.items.push(Arc::clone(object));
            last = Some(key);
        }
        Ok(page)
    }

    /// Whether a new watch may start after `version`.
    pub(super) fn check_start(&self, resource: &str, version: u64) -> Result<(), Failure> {
        self.tables
            .get(resource)
            .map_or(Ok(()), |table| table.check_age(version, self.version))
    }

    /// What happened after `position` and up to now, oldest first, at most `limit` changes; for
    /// a watch that is running.
    pub(super) fn since(
        &self,
        resource: &str,
        position: u64,
        limit: usize,
    ) -> Result<Vec<Change>, Failure> {
        let Some(table) = self.tables.get(resource) else {
            return Ok(Vec::new());
        };
        if position < table.discarded {
            return Err(too_old(position, table.discarded));
        }
        let first = table
            .history
            .partition_point(|change| change.version <= position);
        Ok(table.history.range(first..).take(limit).cloned().collect())
    }
}

impl Table {
    fn note(&mut self, change: Change, keep: usize) {
        self.history.push_back(change);
        while self.history.len() > keep {
            if let Some(old) = self.history.pop_front() {
                self.discarded = old.version;
                self.oldest = self.oldest.max(old.version);
            }
        }
    }

    fn check_age(&self, version: u64, newest: u64) -> Result<(), Failure> {
        if version < self.oldest {
            return Err(too_old(version, newest));
        }
        Ok(())
    }

    /// What differs from now, at that version.
    fn undo_to(&self, version: u64) -> BTreeMap<Key, Option<Object>> {
        let mut undone = BTreeMap::new();
        for change in self.history.iter().rev() {
            if change.version <= version {
                break;
            }
            undone.insert(change.key.clone(), change.before.clone());
        }
        undone
    }

    fn merged<'a>(
        &'a self,
        undone: &'a BTreeMap<Key, Option<Object>>,
        start: Bound<Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Object)> {
        let mut now = self
            .objects
            .range((start.clone(), Bound::Unbounded))
            .filter(|(key, _)| !undone.contains_key(*key))
            .peekable();
        let mut then = undone
            .range((start, Bound::Unbounded))
            .filter_map(|(key, object)| Some((key, object.as_ref()?)))
            .peekable();
        std::iter::from_fn(move || match (now.peek(), then.peek()) {
            (Some((left, _)), Some((right, _))) if right < left => then.next(),
            (None, _) => then.next(),
            _ => now.next(),
        })
    }
}

fn too_old(version: u64, newest: u64) -> Failure {
    Failure::expired(format!("too old resource version: {version} ({newest})"))
}
