//! What the two agents say to each other: a JSON header, a body for the one secret there is, and
//! descriptors.

use std::io;
use std::net::SocketAddr;

use agent_datapath::{OlderConnection, OlderDirection};
use agent_model::{Identity, NodeWishes, PodInfo};
use agent_net::sockdiag;
use serde::{Deserialize, Serialize};

/// Version of these messages. An agent that speaks another one is not followed but replaced: its
/// pods are enrolled again.
pub const PROTOCOL: u32 = 1;
/// Descriptors of a pod: its namespace, and the outbound, inbound and HBONE listeners.
pub(super) const POD_DESCRIPTORS: usize = 4;
/// Connections older than enrolment that are told of one pod at most.
const MAX_OLDER: usize = 4096;
/// Pods, certificates and listeners of one estate at most.
const MAX_ITEMS: u32 = 4096;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "camelCase")]
pub enum Message {
    /// The successor's first word.
    Hello(Hello),
    /// The predecessor hands nothing over; its last word.
    Refused {
        /// Why.
        because: Refused,
    },
    /// What follows.
    Offer(Offer),
    /// One pod; with its descriptors.
    Pod(PodRecord),
    /// One certificate; its key is the body.
    Certificate(Certificate),
    /// A listener of the agent itself; with its descriptor.
    Listener {
        /// Which.
        name: ListenerName,
    },
    /// That was all.
    End,
    /// The successor accepts on every listener it could take over.
    Serving,
    /// The successor cannot serve.
    Failed {
        /// Why not.
        error: String,
    },
    /// The predecessor accepts nothing any more; its last word.
    Retired,
}

/// Who wants to follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// [`PROTOCOL`] of the successor.
    pub protocol: u32,
    /// Version of its program.
    pub version: String,
    /// What tells it from others: the uid of its pod, else a random word.
    pub instance: String,
    /// Cookie of the network namespace it runs in: listeners of the agent itself pass only within
    /// one.
    pub namespace: u64,
}

/// Why nothing is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Refused {
    /// The predecessor speaks another protocol.
    Protocol,
    /// Who asks is the one that this agent followed: it was started again and is to go.
    Superseded,
    /// Not now.
    Busy,
}

/// What is going to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// Version of the predecessor's program.
    pub version: String,
    /// The predecessor's [`Hello::instance`].
    pub instance: String,
    /// How many [`Message::Pod`].
    pub pods: u32,
    /// How many [`Message::Certificate`].
    pub certificates: u32,
    /// How many [`Message::Listener`].
    pub listeners: u32,
    /// What the control plane wanted of the node's pods last, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wishes: Option<NodeWishes>,
}

impl Offer {
    pub(super) fn items(&self) -> [u32; 3] {
        [self.pods, self.certificates, self.listeners]
    }
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRecord {
    /// Who it is.
    pub info: PodInfo,
    /// Cookie of its namespace; that of the descriptor must be the same.
    pub netns: u64,
    /// Connections older than its enrolment.
    pub older: Vec<OlderRecord>,
}

/// A connection older than enrolment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OlderRecord {
    inbound: bool,
    cookie: u64,
    local: SocketAddr,
    remote: SocketAddr,
    interface: u32,
}

impl From<&OlderConnection> for OlderRecord {
    fn from(older: &OlderConnection) -> Self {
        let connection = &older.connection;
        Self {
            inbound: older.direction == OlderDirection::Inbound,
            cookie: connection.cookie,
            local: connection.local,
            remote: connection.remote,
            interface: connection.interface,
        }
    }
}

impl From<OlderRecord> for OlderConnection {
    fn from(record: OlderRecord) -> Self {
        Self {
            direction: if record.inbound {
                OlderDirection::Inbound
            } else {
                OlderDirection::Outbound
            },
            connection: sockdiag::Connection {
                cookie: record.cookie,
                local: record.local,
                remote: record.remote,
                interface: record.interface,
            },
        }
    }
}

/// A certificate without its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Whose.
    pub identity: Identity,
    /// Leaf and intermediates, PEM.
    pub chain_pem: String,
    /// Roots, PEM.
    pub roots_pem: String,
    /// When it was obtained, milliseconds since 1970.
    pub obtained_ms: u64,
}

/// A listener of the agent itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ListenerName {
    /// The enrolment socket.
    Enrolment,
    /// The metrics port.
    Metrics,
    /// The readiness port.
    Readiness,
}

impl Message {
    /// The header that says so.
    pub fn header(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }

    /// Reads a header that came with a body of `body` bytes and that many descriptors. Fails with
    /// `InvalidData` for what is no message, and for one that does not fit what came with it.
    pub fn read(header: &[u8], body: usize, descriptors: usize) -> io::Result<Self> {
        let message: Self = serde_json::from_slice(header)?;
        if descriptors != message.descriptors() {
            return Err(invalid("a message with descriptors that are not its own"));
        }
        if (body > 0) != matches!(message, Self::Certificate(_)) {
            return Err(invalid("a message with a body that is not its own"));
        }
        match &message {
            Self::Offer(offer) if offer.items().iter().any(|items| *items > MAX_ITEMS) => {
                Err(invalid("an offer of too much"))
            }
            Self::Pod(pod) if pod.older.len() > MAX_OLDER => {
                Err(invalid("a pod with too many connections"))
            }
            _ => Ok(message),
        }
    }

    /// How many descriptors belong to it.
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Pod(_) => POD_DESCRIPTORS,
            Self::Listener { .. } => 1,
            _ => 0,
        }
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
