//! What is wrong and what authors should know, as log lines and as JSON.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::UNIX_EPOCH;

use agent_xds::server::{ConnectedNodes, NodeStatus};
use serde_json::{Value, json};
use tracing::{error, info, warn};

use crate::admission::Admission;
use crate::ca::Counters;
use crate::collection::Collection;
use crate::source::Problem;
use crate::translate::{Note, Severity};

/// Problems and notes that are listed; the rest is counted.
const MAX_LISTED: usize = 1_000;

/// What the control plane can say about itself. Clones show the same.
#[derive(Debug, Clone)]
pub struct Status(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    collection: Arc<RwLock<Collection>>,
    admission: Arc<Admission>,
    nodes: ConnectedNodes,
    counters: Arc<Counters>,
    reported: Mutex<Reported>,
}

/// What was reported last; differences become log lines.
#[derive(Debug, Default)]
struct Reported {
    problems: BTreeSet<Problem>,
    notes: BTreeSet<Note>,
}

impl Status {
    pub(crate) fn new(
        collection: Arc<RwLock<Collection>>,
        admission: Arc<Admission>,
        nodes: ConnectedNodes,
        counters: Arc<Counters>,
    ) -> Self {
        Self(Arc::new(Inner {
            collection,
            admission,
            nodes,
            counters,
            reported: Mutex::default(),
        }))
    }

    /// Everything, for `culvert status`: `problems` (manifests that are not in force, each with
    /// file, document, line, field), `notes` (by object), `objects` (held, by kind), `nodes`
    /// (connected), `certificates` (issued, refused). Lists are bounded; `...LeftOut` counts the
    /// rest.
    pub fn json(&self) -> Value {
        let inner = &self.0;
        let reported = inner
            .reported
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let collection = inner
            .collection
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let counts = collection.counts();
        let objects = counts
            .iter()
            .map(|(kind, count)| (format!("{kind:?}"), json!(count)));
        let nodes = inner.nodes.list();
        let problems: Vec<&Problem> = reported.problems.iter().take(MAX_LISTED).collect();
        let notes: Vec<&Note> = reported.notes.iter().take(MAX_LISTED).collect();
        json!({
            "problems": problems,
            "problemsLeftOut": reported.problems.len() - problems.len(),
            "notes": notes,
            "notesLeftOut": reported.notes.len() - notes.len(),
            "objects": objects.collect::<serde_json::Map<_, _>>(),
            "nodeTokens": inner.admission.problem(),
            "nodes": nodes.iter().take(MAX_LISTED).map(node).collect::<Vec<_>>(),
            "nodesLeftOut": nodes.len().saturating_sub(MAX_LISTED),
            "certificates": {
                "issued": inner.counters.issued.load(Ordering::Relaxed),
                "refused": inner.counters.refused.load(Ordering::Relaxed),
            },
        })
    }

    /// Takes the present problems and notes and logs what is new and what is over.
    pub(crate) fn report(&self, problems: &[Problem], notes: Vec<Note>) {
        let mut reported = self
            .0
            .reported
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = Reported {
            problems: problems.iter().cloned().collect(),
            notes: notes.into_iter().collect(),
        };
        for problem in now.problems.difference(&reported.problems).take(MAX_LISTED) {
            error!(target: "status", "{problem}");
        }
        for problem in reported.problems.difference(&now.problems).take(MAX_LISTED) {
            info!(target: "status", "no longer: {problem}");
        }
        for note in now.notes.difference(&reported.notes).take(MAX_LISTED) {
            let Note {
                object,
                severity,
                message,
            } = note;
            match severity {
                Severity::Error => error!(target: "status", "{object}: {message}"),
                Severity::Warning => warn!(target: "status", "{object}: {message}"),
                Severity::Info => info!(target: "status", "{object}: {message}"),
            }
        }
        *reported = now;
    }
}

fn node(node: &NodeStatus) -> Value {
    json!({
        "node": &*node.node,
        "since": node.since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        "sent": node.sent,
        "acknowledged": node.acknowledged,
        "lastRefusal": node.last_refusal,
    })
}
