//! What `culvert status` and readiness know of the stream.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::Rejection;

/// Most refused resources that are remembered for status.
pub(crate) const MAX_REJECTIONS: usize = 64;

/// Stands for every type URL that was not asked for.
pub const UNKNOWN_TYPE: &str = "unknown";

/// Responses of one type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// How many.
    pub messages: u64,
    /// Their size on the wire before HTTP/2, in bytes.
    pub bytes: u64,
}

/// The state of the node's stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientStatus {
    /// A stream is open.
    pub connected: bool,
    /// Every type subscribed to was received in full at least once since start, or read from disk.
    /// Stays true when the server is lost later: the state is kept.
    pub synced: bool,
    /// When the state was written to disk that was read because nobody answered; `None` once the
    /// server has said what is true now.
    pub restored: Option<SystemTime>,
    /// Why the last stream ended, or could not be opened; `None` before the first failure and
    /// once a later stream has delivered.
    pub last_error: Option<String>,
    /// When the last response was applied.
    pub last_update: Option<SystemTime>,
    /// Resources refused and not repaired since, at most 64.
    pub rejected: Vec<Rejection>,
    /// Responses received since start, by the type URL asked for; those of types that were not
    /// under [`UNKNOWN_TYPE`].
    pub received: BTreeMap<&'static str, Received>,
    /// Streams that ended or could not be opened since start.
    pub failures: u64,
    /// Workloads and services held.
    pub addresses: usize,
    /// Policies held.
    pub policies: usize,
}
