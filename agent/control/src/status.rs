//! What is wrong and what authors should know, as log lines and as JSON.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use agent_xds::server::{ConnectedNodes, NodeStatus};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::admission::Admission;
use crate::ca::Counters;
use crate::code::Severity;
use crate::collection::Collection;
use crate::conditions;
use crate::gateway::rendered;
use crate::nodes::AttachedNodes;
use crate::source::{Problem, kube};
use crate::translate::Note;
use crate::trust::Shown;

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
    progress: Progress,
    /// Whether this replica writes; none where there is nothing to write to.
    leads: Option<watch::Receiver<bool>>,
    serving: watch::Sender<bool>,
    attached: AttachedNodes,
    trust: Shown,
    conditions: conditions::Shown,
    companion: bool,
    reported: Mutex<Reported>,
}

/// What is looked at.
pub(crate) struct Parts {
    pub(crate) collection: Arc<RwLock<Collection>>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) nodes: ConnectedNodes,
    pub(crate) counters: Arc<Counters>,
    pub(crate) progress: Progress,
    pub(crate) attached: AttachedNodes,
    pub(crate) leads: Option<watch::Receiver<bool>>,
    pub(crate) trust: Shown,
    pub(crate) conditions: conditions::Shown,
    pub(crate) companion: bool,
}

/// How the source is doing.
#[derive(Debug)]
pub(crate) enum Progress {
    /// A folder, which is read or is not.
    Folder(PathBuf),
    /// The watches of a cluster.
    Cluster(kube::Progress),
}

impl Progress {
    fn json(&self) -> Value {
        match self {
            Self::Folder(path) => json!({ "type": "folder", "path": path }),
            Self::Cluster(progress) => progress.json(SystemTime::now()),
        }
    }
}

/// What was reported last; differences become log lines.
#[derive(Debug, Default)]
struct Reported {
    problems: BTreeSet<Problem>,
    notes: BTreeSet<Note>,
}

impl Status {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            collection,
            admission,
            nodes,
            counters,
            progress,
            attached,
            leads,
            trust,
            conditions,
            companion,
        } = parts;
        Self(Arc::new(Inner {
            collection,
            admission,
            nodes,
            counters,
            progress,
            leads,
            serving: watch::Sender::new(false),
            attached,
            trust,
            conditions,
            companion,
            reported: Mutex::default(),
        }))
    }

    /// What the mesh is made of.
    pub(crate) fn collection(&self) -> Arc<RwLock<Collection>> {
        Arc::clone(&self.0.collection)
    }

    /// Nodes are served: the whole state is known.
    pub fn is_serving(&self) -> bool {
        *self.0.serving.borrow()
    }

    /// Waits until [`Self::is_serving`].
    pub async fn until_serving(&self) {
        let mut serving = self.0.serving.subscribe();
        // The sender lives as long as `self`.
        let _ = serving.wait_for(|serving| *serving).await;
    }

    /// From now on nodes are served.
    pub(crate) fn serves(&self) {
        self.0.serving.send_replace(true);
    }

    /// Everything, for `culvert status`: `source` (a folder, or how the watches of the cluster
    /// are doing), `serving`, `problems` (objects that are not in force, each with its field and,
    /// in folder mode, file, document and line), `notes` (by object), `objects` (held, by kind),
    /// `statuses` (of objects of the Gateway API, as a cluster would show them, but for times), `nodes`
    /// (connected, with the agents attached and what they say of their pods), `certificates`
    /// (issued, refused), `trust` (roots, stage of their rotation, nodes that do not know them
    /// yet), `conditions` (of how many objects, how long a look at all of them takes, how many are
    /// still to be written), `companion` (discovery and certificates are another control plane's). Lists are bounded; `...LeftOut` counts the rest.
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
        let gateways = collection.gateways();
        let statuses = gateways.statuses.iter().take(MAX_LISTED);
        let statuses = statuses.map(|(object, reported)| {
            let status = rendered(&Value::Null, &reported.status, reported.generation, None);
            json!({ "object": object, "status": status })
        });
        let nodes = inner.list_nodes();
        let listed_nodes = nodes.iter().take(MAX_LISTED);
        let problems: Vec<&Problem> = reported.problems.iter().take(MAX_LISTED).collect();
        let notes: Vec<&Note> = reported.notes.iter().take(MAX_LISTED).collect();
        json!({
            "source": inner.progress.json(),
            "serving": self.is_serving(),
            "companion": inner.companion,
            "problems": problems,
            "problemsLeftOut": reported.problems.len() - problems.len(),
            "notes": notes,
            "notesLeftOut": reported.notes.len() - notes.len(),
            "objects": objects.collect::<serde_json::Map<_, _>>(),
            "statuses": statuses.collect::<Vec<_>>(),
            "statusesLeftOut": gateways.statuses.len().saturating_sub(MAX_LISTED),
            "leader": inner.leads.as_ref().map(|leads| *leads.borrow()),
            "nodeTokens": inner.admission.problem(),
            "nodes": listed_nodes.collect::<Vec<_>>(),
            "nodesLeftOut": nodes.len().saturating_sub(MAX_LISTED),
            "trust": inner.trust.json(),
            "conditions": inner.conditions.json(),
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
                ..
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

impl Inner {
    /// Those with a discovery stream; in a companion those whose agents are attached.
    fn list_nodes(&self) -> Vec<Value> {
        if !self.companion {
            let nodes = self.nodes.list();
            return nodes
                .iter()
                .map(|status| node(status, &self.attached))
                .collect();
        }
        let attached = |node: Arc<str>| {
            let (agents, pods) = self.attached.status_of(&node);
            json!({ "agents": agents, "pods": pods, "node": &*node })
        };
        self.attached.attached().into_iter().map(attached).collect()
    }
}

fn node(node: &NodeStatus, attached: &AttachedNodes) -> Value {
    let (agents, pods) = attached.status_of(&node.node);
    json!({
        "agents": agents,
        "pods": pods,
        "node": &*node.node,
        "since": node.since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        "sent": node.sent,
        "acknowledged": node.acknowledged,
        "lastRefusal": node.last_refusal,
    })
}
