//! Who is connected, for the control plane's status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::session::ServerSession;

/// Streams one node may hold open; restarts overlap, and more is a mistake.
const MAX_STREAMS_PER_NODE: usize = 8;

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// The node or gateway, as its token says.
    pub node: Arc<str>,
    /// When the stream was opened.
    pub since: SystemTime,
    /// Responses sent.
    pub sent: u64,
    /// Responses acknowledged or refused.
    pub acknowledged: u64,
    /// The last refusal: which resources and why.
    pub last_refusal: Option<String>,
}

/// The open streams; clones show the same list.
#[derive(Debug, Clone, Default)]
pub struct ConnectedNodes(Arc<Mutex<Streams>>);

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    open: BTreeMap<u64, NodeStatus>,
}

impl ConnectedNodes {
    /// Every open stream, oldest first.
    pub fn list(&self) -> Vec<NodeStatus> {
        self.lock().open.values().cloned().collect()
    }

    /// Number of open streams.
    pub fn count(&self) -> usize {
        self.lock().open.len()
    }

    /// Notes a new stream; `None` when the node has too many.
    pub(crate) fn open(&self, node: &Arc<str>, now: SystemTime) -> Option<OpenStream> {
        let mut streams = self.lock();
        let of_node = streams.open.values().filter(|stream| stream.node == *node);
        if of_node.count() >= MAX_STREAMS_PER_NODE {
            return None;
        }
        let id = streams.next;
        streams.next += 1;
        let status = NodeStatus {
            node: Arc::clone(node),
            since: now,
            sent: 0,
            acknowledged: 0,
            last_refusal: None,
        };
        streams.open.insert(id, status);
        let nodes = self.clone();
        Some(OpenStream { nodes, id })
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream in the list; it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct OpenStream {
    nodes: ConnectedNodes,
    id: u64,
}

impl OpenStream {
    pub(crate) fn update(&self, session: &ServerSession) {
        if let Some(status) = self.nodes.lock().open.get_mut(&self.id) {
            status.sent = session.sent();
            status.acknowledged = session.acknowledged();
            status.last_refusal = session.last_refusal().map(str::to_owned);
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.nodes.lock().open.remove(&self.id);
    }
}
