//! What is known of a request when it is over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_model::Reason;
use http::{Method, StatusCode, Version};

use crate::access::Trial;
use crate::passage::Passage;
use crate::plan::Rule;

/// Takes records. Called on the worker's thread when the last byte of a response is gone, so it
/// must not block.
pub trait Records: Send + Sync {
    /// One request is over.
    fn take(&self, record: &Record);

    /// One connection, or session of datagrams, is over whose bytes nobody looked into.
    fn passage(&self, passage: &Passage);
}

/// One request, from its head to the end of its response.
#[derive(Debug)]
pub struct Record {
    /// The other end of the client's connection.
    pub client: SocketAddr,
    /// Port it came in on.
    pub port: u16,
    /// Method.
    pub method: Method,
    /// HTTP version of the client.
    pub version: Version,
    /// The rule that took it.
    pub rule: Option<Arc<Rule>>,
    /// The endpoint that answered.
    pub endpoint: Option<SocketAddr>,
    /// Status of the answer; `None` when there was none.
    pub status: Option<StatusCode>,
    /// How it ended.
    pub reason: Reason,
    /// Why, for people.
    pub detail: String,
    /// What policies under trial would have done.
    pub trials: Vec<Trial>,
    /// Bytes of the response's body.
    pub sent: u64,
    /// From the request's head to the end of the response.
    pub duration: Duration,
    started: Instant,
}

impl Record {
    pub(crate) fn begin(
        client: SocketAddr,
        port: u16,
        method: Method,
        version: Version,
        now: Instant,
    ) -> Self {
        Self {
            client,
            port,
            method,
            version,
            rule: None,
            endpoint: None,
            status: None,
            reason: Reason::Ok,
            detail: String::new(),
            trials: Vec::new(),
            sent: 0,
            duration: Duration::ZERO,
            started: now,
        }
    }

    pub(crate) fn end(&mut self, now: Instant) {
        self.duration = now.duration_since(self.started);
    }
}
