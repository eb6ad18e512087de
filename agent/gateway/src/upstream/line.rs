//! A connection to an endpoint, with the right to it.

use std::net::SocketAddr;

use super::group::Pass;
use super::trial::Trial;
use crate::forward::{forward_reads, forward_writes};
use crate::leg::Leg;

/// A connection to an endpoint. It counts towards the limits of its service until it is dropped.
pub(crate) struct Line {
    leg: Leg,
    _pass: Option<Pass>,
    /// For connections whose bytes nobody looks into: each is like one long request.
    trial: Option<Trial>,
}

impl Line {
    pub(super) fn new(leg: Leg, pass: Option<Pass>) -> Self {
        Self {
            leg,
            _pass: pass,
            trial: None,
        }
    }

    /// The whole connection is one request.
    pub(super) fn of(self, trial: Trial) -> Self {
        Self {
            trial: Some(trial),
            ..self
        }
    }

    /// The endpoint, where the whole connection is one request.
    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        let trial = self.trial.as_ref()?;
        Some(trial.endpoint().address())
    }

    /// Closes it so that the endpoint does not take it for a clean end, once it is dropped.
    pub(crate) fn abort(&mut self) {
        self.leg.abort();
    }
}

forward_reads!(impl[] for Line, leg);
forward_writes!(impl[] for Line, leg);
