//! How the watches are doing, for the status.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::store::Change;
use crate::source::Kind;

/// Longest error that is shown, in characters.
const MAX_ERROR: usize = 300;

/// Clones show the same.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<Mutex<Vec<OfKind>>>);

#[derive(Debug)]
struct OfKind {
    kind: Kind,
    is_synced: bool,
    is_absent: bool,
    objects: usize,
    last_event: Option<SystemTime>,
    /// Lists read to their end.
    lists: u64,
    failing: Option<(SystemTime, String)>,
}

impl Progress {
    pub(super) fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        let of_kind = |kind| OfKind {
            kind,
            is_synced: false,
            is_absent: false,
            objects: 0,
            last_event: None,
            lists: 0,
            failing: None,
        };
        Self(Arc::new(Mutex::new(
            kinds.into_iter().map(of_kind).collect(),
        )))
    }

    /// Takes note of what the watch of the kind at `index` says.
    pub(super) fn note(&self, index: usize, change: &Change, now: SystemTime) {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kind) = kinds.get_mut(index) else {
            return;
        };
        match change {
            Change::Failed(error) | Change::Forbidden(error) => {
                kind.is_synced |= matches!(change, Change::Forbidden(_));
                let error: String = error.chars().take(MAX_ERROR).collect();
                let since = kind.failing.take().map_or(now, |(since, _)| since);
                kind.failing = Some((since, error));
                return;
            }
            Change::Absent => {
                kind.is_absent = true;
                kind.is_synced = true;
            }
            Change::ListBegins => return,
            Change::ListEnds => {
                kind.lists += 1;
                kind.is_synced = true;
                kind.is_absent = false;
                kind.last_event = Some(now);
            }
            Change::Listed(_) | Change::Changed(_) | Change::Gone(_) => {
                kind.last_event = Some(now);
            }
            Change::Recovered => {}
        }
        kind.failing = None;
    }

    /// What keeps it from being complete, one line a kind.
    pub(crate) fn obstacles(&self) -> Vec<String> {
        let kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = kinds.iter().filter(|kind| !kind.is_synced);
        missing
            .map(|kind| {
                let error = kind.failing.as_ref();
                let error = error.map_or("no answer yet", |(_, error)| error);
                format!("{:?}: {error}", kind.kind)
            })
            .collect()
    }

    pub(super) fn count(&self, index: usize, objects: usize) {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kind) = kinds.get_mut(index) {
            kind.objects = objects;
        }
    }

    /// The `source` of the status: `synced`, `failingSince` (seconds since 1970, of the kind that
    /// fails longest), `failingSeconds` (the same as an age; 0 when nothing fails), and by kind `synced`, `absent` (not defined in the cluster), `objects`,
    /// `lastEventSecondsAgo`, `restarts` (lists after the first), `failingSince`, `error`.
    pub(crate) fn json(&self, now: SystemTime) -> Value {
        let kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_kinds: Vec<Value> = kinds.iter().map(|kind| kind.json(now)).collect();
        let failing = kinds.iter().filter_map(|kind| kind.failing.as_ref());
        let since = failing.map(|(since, _)| *since).min();
        json!({
            "type": "kubernetes",
            "synced": kinds.iter().all(|kind| kind.is_synced),
            "failingSince": since.map(unix_seconds),
            "failingSeconds": since.map_or(0, |since| seconds(since, now)),
            "kinds": of_kinds,
        })
    }
}

impl OfKind {
    fn json(&self, now: SystemTime) -> Value {
        let age = self.last_event.map(|last| seconds(last, now));
        json!({
            "kind": format!("{:?}", self.kind),
            "synced": self.is_synced,
            "absent": self.is_absent,
            "objects": self.objects,
            "lastEventSecondsAgo": age,
            "restarts": self.lists.saturating_sub(1),
            "failingSince": self.failing.as_ref().map(|(since, _)| unix_seconds(*since)),
            "error": self.failing.as_ref().map(|(_, error)| error),
        })
    }
}

fn seconds(from: SystemTime, to: SystemTime) -> u64 {
    to.duration_since(from).unwrap_or_default().as_secs()
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
