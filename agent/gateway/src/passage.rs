//! What is known of a connection, or of a session of datagrams, when it is over.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_model::Reason;

use crate::place::Transport;
use crate::plan::StreamRule;
use crate::refusal::Refusal;

/// One connection or session of datagrams whose bytes nobody looked into.
#[derive(Debug)]
pub struct Passage {
    /// The other end of the client's connection.
    pub client: SocketAddr,
    /// Port it came in on.
    pub port: u16,
    /// What carried it.
    pub transport: Transport,
    /// The name that the client asked for (SNI).
    pub name: Option<String>,
    /// The rule that took it.
    pub rule: Option<Arc<StreamRule>>,
    /// The endpoint it went to.
    pub endpoint: Option<SocketAddr>,
    /// How it ended.
    pub reason: Reason,
    /// Why, for people.
    pub detail: String,
    /// Bytes from the client.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
    /// From its beginning to its end.
    pub duration: Duration,
    started: Instant,
}

impl Passage {
    pub(crate) fn begin(client: SocketAddr, port: u16, transport: Transport, now: Instant) -> Self {
        Self {
            client,
            port,
            transport,
            name: None,
            rule: None,
            endpoint: None,
            reason: Reason::Ok,
            detail: String::new(),
            received: 0,
            sent: 0,
            duration: Duration::ZERO,
            started: now,
        }
    }

    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        self.reason = refusal.reason;
        self.detail = refusal.detail;
    }

    pub(crate) fn end(&mut self, carried: &Carried, now: Instant) {
        self.received = carried.received.get();
        self.sent = carried.sent.get();
        self.duration = now.duration_since(self.started);
    }
}

/// Bytes so far.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// From the client.
    pub(crate) received: Cell<u64>,
    /// To the client.
    pub(crate) sent: Cell<u64>,
}
