//! Requests that have left HTTP (WebSocket). Their heads are kept: whoever speaks another protocol
//! since is what its head was, and is judged by it again when policies change.

use std::net::SocketAddr;
use std::time::SystemTime;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};

use super::Downstream;
use super::admit::judge_again;
use crate::access::Refused;
use crate::normalize::Host;
use crate::route::Facts;
use crate::upstream::Upgraded;
use crate::worker::Worker;

/// A request that has left HTTP.
pub(crate) struct Left {
    /// The backend's end.
    pub(crate) upgraded: Upgraded,
    /// Where that is.
    pub(crate) endpoint: SocketAddr,
    /// What was judged.
    pub(crate) head: Head,
}

/// A request that wants to leave HTTP.
pub(super) struct Leaving {
    /// What it wants to speak.
    pub(super) protocol: HeaderValue,
    pub(super) head: Head,
}

/// The head of a request that was let pass.
pub(crate) struct Head {
    method: Method,
    /// In its normal form, as is the path.
    host: String,
    port: Option<u16>,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    /// Tokens count as they did then: policies may change, and time ends no connection.
    judged: SystemTime,
}

impl Head {
    /// Of a request whose headers are the client's own.
    pub(super) fn of(parts: &Parts, host: &Host<'_>, path: &str) -> Self {
        Self {
            method: parts.method.clone(),
            host: host.name.to_string(),
            port: host.port,
            path: path.to_owned(),
            query: parts.uri.query().map(str::to_owned),
            headers: parts.headers.clone(),
            judged: SystemTime::now(),
        }
    }

    /// Why policies would not let it pass now; `None` while they would.
    pub(crate) fn refused_now(&self, worker: &Worker, client: &Downstream) -> Option<Refused> {
        let facts = Facts {
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            method: &self.method,
            headers: &self.headers,
        };
        judge_again(worker, client, &facts, self.port, self.judged)
    }
}
