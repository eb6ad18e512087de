//! Who is attached and what was reported last, for the collection, the status and whoever waits
//! for acknowledgements.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use agent_model::{PodProgress, PodReport};
use agent_xds::attach::NodeReport;
use serde_json::{Value, json};
use tokio::sync::watch;

/// Agents of one node that may be attached at a time: an update has two, and more is a mistake.
const MAX_PER_NODE: usize = 4;
/// Pods a status lists by name.
const MAX_LISTED: usize = 50;

/// The attached agents; clones show the same.
#[derive(Debug, Clone)]
pub(crate) struct AttachedNodes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    agents: BTreeMap<u64, Agent>,
    /// Nodes with something new to say since [`AttachedNodes::take_reports`] was called last.
    fresh: BTreeSet<Arc<str>>,
}

#[derive(Debug)]
struct Agent {
    node: Arc<str>,
    since: SystemTime,
    version: String,
    instance: String,
    report: Option<Arc<NodeReport>>,
}

impl Default for AttachedNodes {
    fn default() -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
        }))
    }
}

impl AttachedNodes {
    /// Notes a new stream; `None` when the node has too many.
    pub(super) fn open(&self, node: &Arc<str>, now: SystemTime) -> Option<Attachment> {
        let mut state = self.lock();
        let of_node = state.agents.values().filter(|agent| agent.node == *node);
        if of_node.count() >= MAX_PER_NODE {
            return None;
        }
        let id = state.next;
        state.next += 1;
        let agent = Agent {
            node: Arc::clone(node),
            since: now,
            version: String::new(),
            instance: String::new(),
            report: None,
        };
        state.agents.insert(id, agent);
        Some(Attachment {
            nodes: self.clone(),
            id,
        })
    }

    /// Changes with every report, and when an agent comes or goes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// What nodes say that have said something since the last call. A node whose last agent went
    /// says nothing: what it said before is not taken back.
    pub(crate) fn take_reports(&self) -> Vec<(Arc<str>, Vec<PodReport>)> {
        let mut state = self.lock();
        let fresh = std::mem::take(&mut state.fresh);
        fresh
            .into_iter()
            .filter_map(|node| {
                let reports = state.merged(&node)?;
                Some((node, reports))
            })
            .collect()
    }

    /// What a node's agents say of its pods; `None` while none has said anything.
    pub(super) fn reports_of(&self, node: &str) -> Option<Vec<PodReport>> {
        self.lock().merged(node)
    }

    /// The nodes with an agent attached.
    pub(crate) fn attached(&self) -> BTreeSet<Arc<str>> {
        let state = self.lock();
        let nodes = state.agents.values().map(|agent| Arc::clone(&agent.node));
        nodes.collect()
    }

    /// The nodes with an agent that has reported.
    pub(super) fn nodes(&self) -> BTreeSet<Arc<str>> {
        let state = self.lock();
        let heard = state.agents.values().filter(|agent| agent.report.is_some());
        heard.map(|agent| Arc::clone(&agent.node)).collect()
    }

    /// Hashes of the trust bundles in use, by attached node: one of each agent, `""` where an
    /// agent has none yet.
    pub(crate) fn trust_hashes(&self) -> BTreeMap<Arc<str>, BTreeSet<String>> {
        let mut hashes: BTreeMap<Arc<str>, BTreeSet<String>> = BTreeMap::new();
        for agent in self.lock().agents.values() {
            let hash = agent.report.as_ref();
            let hash = hash.map_or("", |report| &report.trust_bundle_hash);
            let of_node = hashes.entry(Arc::clone(&agent.node)).or_default();
            of_node.insert(hash.to_owned());
        }
        hashes
    }

    /// What the status says of a node: `agents` and `pods`, empty for one that is not attached.
    pub(crate) fn status_of(&self, node: &str) -> (Value, Value) {
        let state = self.lock();
        let agents = state.agents.values().filter(|agent| *agent.node == *node);
        let agents = agents.map(|agent| {
            json!({
                "version": agent.version,
                "instance": agent.instance,
                "since": agent.since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
                "trustBundle": agent.report.as_ref().map(|report| &report.trust_bundle_hash),
            })
        });
        let agents: Value = agents.collect();
        let reports = state.merged(node).unwrap_or_default();
        (agents, pods_status(&reports))
    }

    fn note(&self, id: u64, change: impl FnOnce(&mut Agent)) {
        let mut state = self.lock();
        if let Some(agent) = state.agents.get_mut(&id) {
            change(agent);
            let node = Arc::clone(&agent.node);
            state.fresh.insert(node);
        }
        drop(state);
        self.0.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What the agents of a node say together. Of two, the one that has got further counts: while
    /// one hands over to another a pod is served by either.
    fn merged(&self, node: &str) -> Option<Vec<PodReport>> {
        let agents = self.agents.values().filter(|agent| *agent.node == *node);
        let mut reports = agents.filter_map(|agent| agent.report.as_deref());
        let first = reports.next()?;
        let mut merged = first.pods.clone();
        for report in reports {
            for pod in &report.pods {
                let same = |other: &&mut PodReport| {
                    other.name == pod.name
                        && other.namespace == pod.namespace
                        && other.uid == pod.uid
                };
                match merged.iter_mut().find(same) {
                    Some(other) if rank(other.state) < rank(pod.state) => *other = pod.clone(),
                    Some(_) => {}
                    None => merged.push(pod.clone()),
                }
            }
        }
        Some(merged)
    }
}

fn rank(state: PodProgress) -> u8 {
    match state {
        PodProgress::Pending => 0,
        PodProgress::Failed => 1,
        PodProgress::Enrolled => 2,
        PodProgress::Verified => 3,
    }
}

/// Counts by state, and those that are not verified by name, bounded.
fn pods_status(reports: &[PodReport]) -> Value {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for report in reports {
        *counts.entry(report.state.as_str()).or_default() += 1;
    }
    let open: Vec<_> = reports
        .iter()
        .filter(|report| report.state != PodProgress::Verified)
        .collect();
    let listed = open.iter().take(MAX_LISTED).map(|report| {
        json!({
            "namespace": report.namespace,
            "name": report.name,
            "state": report.state,
            "detail": report.detail,
        })
    });
    json!({
        "counts": counts,
        "notVerified": listed.collect::<Value>(),
        "notVerifiedLeftOut": open.len().saturating_sub(MAX_LISTED),
    })
}

/// A stream in the registry; it leaves when this is dropped.
#[derive(Debug)]
pub(super) struct Attachment {
    nodes: AttachedNodes,
    id: u64,
}

impl Attachment {
    pub(super) fn greet(&self, version: &str, instance: &str) {
        let cut = |text: &str| text.chars().take(64).collect();
        self.nodes.note(self.id, |agent| {
            agent.version = cut(version);
            agent.instance = cut(instance);
        });
    }

    pub(super) fn report(&self, report: NodeReport) {
        self.nodes
            .note(self.id, |agent| agent.report = Some(Arc::new(report)));
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut state = self.nodes.lock();
        if let Some(agent) = state.agents.remove(&self.id) {
            state.fresh.insert(agent.node);
        }
        drop(state);
        self.nodes.0.changed.send_modify(|count| *count += 1);
    }
}
