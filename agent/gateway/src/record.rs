//! What is known of a request when it is over.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_model::{NamespacedHostname, Reason, Workload};
use agent_telemetry::{Reporter, Via};
use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Uri, Version};

use crate::access::Trial;
use crate::passage::Passage;
use crate::plan::Rule;
use crate::source::Source;
use crate::trace::Trace;

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
    /// Who asks.
    pub source: Source,
    /// As what the gateway reports it.
    pub reporter: Reporter,
    /// Port it came in on.
    pub port: u16,
    /// Its head could not be read: method, target, host and version are not known.
    pub is_unread: bool,
    /// Method.
    pub method: Method,
    /// The target as the client wrote it.
    pub target: Uri,
    /// The Host header as the client wrote it.
    pub host: Option<HeaderValue>,
    /// HTTP version of the client.
    pub version: Version,
    /// It is gRPC.
    pub is_grpc: bool,
    /// It is recorded as this span.
    pub trace: Option<Box<Trace>>,
    /// The rule that took it.
    pub rule: Option<Arc<Rule>>,
    /// The service it went to.
    pub service: Option<NamespacedHostname>,
    /// The endpoint that answered.
    pub endpoint: Option<SocketAddr>,
    /// The workload behind it.
    pub destination: Option<Arc<Workload>>,
    /// Status of the answer; `None` when there was none.
    pub status: Option<StatusCode>,
    /// The status that gRPC has in its trailers.
    pub grpc_status: Option<u16>,
    /// How it ended.
    pub reason: Reason,
    /// Why, for people.
    pub detail: String,
    /// What policies under trial would have done.
    pub trials: Vec<Trial>,
    /// Bytes of the request's body that were read.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
    /// From the request's head to the end of the response.
    pub duration: Duration,
    started: Instant,
    reading: Option<Rc<Cell<u64>>>,
}

impl Record {
    /// A request of which nothing could be read.
    pub(crate) fn unread(client: SocketAddr, port: u16, now: Instant) -> Self {
        let (parts, ()) = http::Request::new(()).into_parts();
        Self {
            is_unread: true,
            ..Self::begin(client, port, &parts, now)
        }
    }

    /// A request that came over a connection of `client` to `port`.
    pub(crate) fn begin(client: SocketAddr, port: u16, parts: &Parts, now: Instant) -> Self {
        Self {
            client,
            source: Source::default(),
            reporter: Reporter::Source,
            port,
            is_unread: false,
            method: parts.method.clone(),
            target: parts.uri.clone(),
            host: parts.headers.get(HOST).cloned(),
            version: parts.version,
            is_grpc: false,
            trace: None,
            rule: None,
            service: None,
            endpoint: None,
            destination: None,
            status: None,
            grpc_status: None,
            reason: Reason::Ok,
            detail: String::new(),
            trials: Vec::new(),
            received: 0,
            sent: 0,
            duration: Duration::ZERO,
            started: now,
            reading: None,
        }
    }

    /// Where the bytes of the request's body are counted while they are read.
    pub(crate) fn reads(&mut self, bytes: Rc<Cell<u64>>) {
        self.reading = Some(bytes);
    }

    /// Takes the status of a gRPC call from headers or trailers.
    pub(crate) fn see_grpc(&mut self, headers: &HeaderMap) {
        if self.is_grpc
            && let Some(status) = headers.get("grpc-status")
        {
            let status = status.to_str().ok().and_then(|text| text.parse().ok());
            // Codes end at 16; whatever else a backend makes up is UNKNOWN.
            self.grpc_status = Some(status.filter(|code| *code <= 16).unwrap_or(2));
        }
    }

    pub(crate) fn end(&mut self, now: Instant) {
        self.duration = now.duration_since(self.started);
        self.received = self.reading.take().map_or(0, |bytes| bytes.get());
    }

    /// HTTP or gRPC.
    pub fn via(&self) -> Via {
        match self.is_grpc {
            true => Via::Grpc,
            false => Via::Http,
        }
    }

    /// The host that the client asked for, as it wrote it.
    pub fn authority(&self) -> Option<&str> {
        let target = self.target.authority().map(http::uri::Authority::as_str);
        let header = || self.host.as_ref().and_then(|host| host.to_str().ok());
        target.or_else(header)
    }
}
