//! What is known of backends, for people: read now and then, never on the way of a request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use agent_model::NamespacedHostname;

use super::group::Group;
use super::list::Member;
use crate::circuit::Kind;
use crate::outlier::Cause;

/// One port of a service that the gateway has talked to.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendView {
    /// The service.
    pub service: NamespacedHostname,
    /// Its port.
    pub port: u16,
    /// Its endpoints, by uid of their workloads.
    pub endpoints: Vec<EndpointView>,
    /// What its policy limits; none without one.
    pub circuit: Vec<CircuitView>,
    /// Endpoints ejected since the start.
    pub ejections: u64,
    /// Endpoints that came back since the start.
    pub returns: u64,
    /// Requests sent again since the start.
    pub retries: u64,
    /// Retries that the budget had no room for since the start.
    pub retries_over_budget: u64,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointView {
    /// Address that is dialled.
    pub address: SocketAddr,
    /// Uid of the workload behind it.
    pub workload: Arc<str>,
    /// It may be chosen.
    pub usable: bool,
    /// It passes its health checks, or there are none.
    pub healthy: bool,
    /// How long it is still out, and why.
    pub ejected: Option<(Duration, Cause)>,
    /// Requests that have not ended.
    pub in_flight: u32,
    /// Time to the heads of its answers; a peak counts at once and fades.
    pub latency: Option<Duration>,
}

/// One limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitView {
    /// What is limited.
    pub kind: Kind,
    /// The most at a time.
    pub limit: u32,
    /// In use.
    pub held: u32,
    /// Refused since the start.
    pub refused: u64,
}

pub(super) fn backend(group: &Group, now: Instant) -> BackendView {
    let (list, _) = group.list();
    let endpoint = |(index, member): (usize, &Member)| EndpointView {
        address: member.address,
        workload: Arc::clone(&member.workload.uid),
        usable: list.balancer.is_usable(index),
        healthy: member.vital.is_well(),
        ejected: group
            .ejection(&member.vital)
            .map(|(until, cause)| (until.saturating_duration_since(now), cause)),
        in_flight: member.vital.load.in_flight(),
        latency: member.vital.load.latency(now),
    };
    let circuit = list.settings.circuit.map(|limits| {
        let view = |(kind, limit)| CircuitView {
            kind,
            limit,
            held: group.circuit().held(kind),
            refused: group.circuit().refused(kind),
        };
        [
            (Kind::Connections, limits.connections),
            (Kind::Pending, limits.pending),
            (Kind::Requests, limits.requests),
        ]
        .map(view)
        .to_vec()
    });
    let events = group.events();
    BackendView {
        service: group.service().clone(),
        port: group.port(),
        endpoints: list.members.iter().enumerate().map(endpoint).collect(),
        circuit: circuit.unwrap_or_default(),
        ejections: events.ejected.load(Ordering::Relaxed),
        returns: events.returned.load(Ordering::Relaxed),
        retries: events.retried.load(Ordering::Relaxed),
        retries_over_budget: events.unretried.load(Ordering::Relaxed),
    }
}
