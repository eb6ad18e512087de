//! A request at an endpoint, from the choice to the last byte of the answer: what all workers see
//! of it.

use std::rc::Rc;
use std::time::Instant;

use http::{HeaderMap, StatusCode};

use super::endpoint::Endpoint;
use crate::balance::Outcome;
use crate::circuit::Permit;
use crate::retry::{grpc_as_http, grpc_code};

/// A request that is under way, until it is dropped.
pub(crate) struct Trial {
    endpoint: Rc<Endpoint>,
    began: Instant,
    /// When it counts as failed if nothing came.
    deadline: Option<tokio::time::Instant>,
    is_noted: bool,
    _permit: Option<Permit>,
}

impl Trial {
    pub(super) fn begin(
        endpoint: Rc<Endpoint>,
        permit: Option<Permit>,
        deadline: Option<tokio::time::Instant>,
        now: Instant,
    ) -> Self {
        endpoint.vital().load.begin();
        Self {
            endpoint,
            began: now,
            deadline,
            is_noted: false,
            _permit: permit,
        }
    }

    pub(super) fn endpoint(&self) -> &Rc<Endpoint> {
        &self.endpoint
    }

    /// The head of an answer is here.
    pub(super) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.note(!is_failure(status, headers));
    }

    /// The connection was made; what comes over it nobody looks into.
    pub(super) fn connected(&mut self) {
        self.note(true);
    }

    /// There was no answer, and that is the endpoint's fault.
    pub(super) fn failed(&mut self) {
        self.note(false);
    }

    fn note(&mut self, is_good: bool) {
        if std::mem::replace(&mut self.is_noted, true) {
            return;
        }
        let now = Instant::now();
        let latency = now.saturating_duration_since(self.began);
        let vital = self.endpoint.vital();
        match is_good {
            true => vital.load.answered(latency, now),
            false => vital.load.failed(latency, now),
        }
        self.endpoint.group().note(vital, is_good, now);
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // Whoever waited gave up: because it took too long, or because the client is gone.
        let is_late = |deadline| tokio::time::Instant::now() >= deadline;
        if !self.is_noted && self.deadline.is_some_and(is_late) {
            self.note(false);
        }
        let load = &self.endpoint.vital().load;
        load.end(Outcome::Abandoned, self.began);
    }
}

/// An answer that says that the endpoint is in trouble: 5xx, or a gRPC status that stands for one
/// in an answer without a body.
fn is_failure(status: StatusCode, headers: &HeaderMap) -> bool {
    let status = grpc_code(headers).map_or(status.as_u16(), grpc_as_http);
    // 501: it is well, and does not know the method.
    status >= 500 && status != 501
}
