//! Who is connected, for the control plane's status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use agent_model::gateway::GatewayKey;
use tokio::sync::watch;

use super::caller::{BoundPod, Client};
use super::session::ServerSession;
use super::taken::Taken;

/// Streams one node, or one pod of a gateway, may hold open; restarts overlap, and more is a
/// mistake.
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
    /// At the other end of a gateway's stream; `None` for a node.
    pub gateway: Option<GatewayStream>,
}

/// What there is to say of a gateway's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayStream {
    /// Which one.
    pub key: GatewayKey,
    /// Its pod, where its token says so.
    pub pod: Option<BoundPod>,
    /// What it has taken.
    pub taken: Taken,
}

/// The open streams; clones show the same list.
#[derive(Debug, Clone, Default)]
pub struct ConnectedNodes(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    streams: Mutex<Streams>,
    /// Counts what gateways take and refuse, and their streams.
    changed: watch::Sender<u64>,
}

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

    /// The streams of gateways, oldest first.
    pub fn gateways(&self) -> Vec<GatewayStream> {
        let streams = self.lock();
        let of_gateways = streams.open.values();
        of_gateways.filter_map(|of| of.gateway.clone()).collect()
    }

    /// Changes with every difference in [`Self::gateways`].
    pub fn gateway_changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Notes a new stream; `None` when its node or pod has too many.
    pub(crate) fn open(&self, client: &Client, now: SystemTime) -> Option<OpenStream> {
        let node: Arc<str> = client.to_string().into();
        let gateway = match client {
            Client::Node(_) => None,
            Client::Gateway(key, pod) => Some(GatewayStream {
                key: key.clone(),
                pod: pod.clone(),
                taken: Taken::default(),
            }),
        };
        let pod = |gateway: &Option<GatewayStream>| gateway.as_ref().and_then(|of| of.pod.clone());
        let mut streams = self.lock();
        let of_node = streams.open.values();
        let of_node = of_node.filter(|of| of.node == node && pod(&of.gateway) == pod(&gateway));
        if of_node.count() >= MAX_STREAMS_PER_NODE {
            return None;
        }
        let id = streams.next;
        streams.next += 1;
        let status = NodeStatus {
            node,
            since: now,
            sent: 0,
            acknowledged: 0,
            last_refusal: None,
            gateway,
        };
        let is_of_gateway = status.gateway.is_some();
        streams.open.insert(id, status);
        drop(streams);
        self.tell(is_of_gateway);
        let nodes = self.clone();
        Some(OpenStream { nodes, id })
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        let streams = self.0.streams.lock();
        streams.unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, is_news: bool) {
        if is_news {
            self.0.changed.send_modify(|count| *count += 1);
        }
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
        let mut streams = self.nodes.lock();
        let Some(status) = streams.open.get_mut(&self.id) else {
            return;
        };
        status.sent = session.sent();
        status.acknowledged = session.acknowledged();
        status.last_refusal = session.last_refusal().map(str::to_owned);
        let mut is_news = false;
        if let (Some(gateway), Some(taken)) = (&mut status.gateway, session.taken()) {
            is_news = gateway.taken != *taken;
            if is_news {
                gateway.taken = taken.clone();
            }
        }
        drop(streams);
        self.nodes.tell(is_news);
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let gone = self.nodes.lock().open.remove(&self.id);
        self.nodes
            .tell(gone.is_some_and(|gone| gone.gateway.is_some()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(pod: Option<&str>) -> Client {
        let pod = pod.map(|uid| BoundPod {
            name: "edge-1".into(),
            uid: uid.into(),
        });
        Client::Gateway(GatewayKey::new("shop", "edge"), pod)
    }

    #[test]
    fn each_pod_of_a_gateway_has_its_own_streams() {
        let nodes = ConnectedNodes::default();
        let now = SystemTime::UNIX_EPOCH;
        let mut open = Vec::new();
        for client in [
            gateway(None),
            gateway(Some("a")),
            gateway(Some("b")),
            Client::Node("n1".into()),
        ] {
            open.extend((0..MAX_STREAMS_PER_NODE).map(|_| nodes.open(&client, now).unwrap()));
            assert!(nodes.open(&client, now).is_none(), "{client:?}");
        }
        assert_eq!(nodes.gateways().len(), 3 * MAX_STREAMS_PER_NODE);
        open.clear();
        assert_eq!((nodes.gateways().len(), nodes.count()), (0, 0));
    }

    #[test]
    fn only_what_gateways_take_is_told() {
        let nodes = ConnectedNodes::default();
        let mut changes = nodes.gateway_changes();
        let node = Client::Node("n1".into());
        let stream = nodes.open(&node, SystemTime::UNIX_EPOCH).unwrap();
        stream.update(&ServerSession::new(node));
        drop(stream);
        assert!(!changes.has_changed().unwrap());
        let client = gateway(None);
        let stream = nodes.open(&client, SystemTime::UNIX_EPOCH).unwrap();
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        stream.update(&ServerSession::new(client));
        assert!(!changes.has_changed().unwrap());
        drop(stream);
        assert!(changes.has_changed().unwrap());
    }
}
