//! Counts requests when they are over, in cells that only this worker writes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use agent_model::{Identity, NamespacedHostname, Reason, TunnelProtocol, Workload};
use agent_telemetry::{Counter, Measured, Reporter, RequestLabels, Shard, Via};

use crate::plan::Rule;
use crate::record::Record;

/// Combinations that are kept at hand; more begin anew. What is counted stays.
const MAX_KNOWN: usize = 8192;

/// Counts the requests of one worker.
pub(crate) struct Tally {
    shard: Shard,
    known: RefCell<HashMap<Key, Known>>,
}

/// What a counter is found by: places in memory, which are cheap to compare.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    reporter: Reporter,
    rule: usize,
    source: usize,
    /// Of a source that is no workload.
    stranger: Option<Identity>,
    destination: usize,
    service: usize,
    answer: (Via, u16, Option<u16>, Reason),
}

/// A counter, and what keeps the places of its key from being given to something else.
struct Known {
    counter: Counter,
    _rule: Option<Weak<Rule>>,
    _workloads: [Option<Weak<Workload>>; 2],
    _service: Option<NamespacedHostname>,
}

impl Tally {
    pub(crate) fn new(shard: Shard) -> Self {
        Self {
            shard,
            known: RefCell::default(),
        }
    }

    /// Counts a request that is over.
    pub(crate) fn count(&self, record: &Record) {
        let measured = Measured {
            duration: record.duration,
            received: record.received,
            sent: record.sent,
        };
        let key = Key::of(record);
        let mut known = self.known.borrow_mut();
        if let Some(found) = known.get(&key)
            && !found.counter.is_retired()
        {
            return found.counter.count(measured);
        }
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        let new = self.open(record);
        new.counter.count(measured);
        known.insert(key, new);
    }

    fn open(&self, record: &Record) -> Known {
        let Record {
            source,
            destination,
            rule,
            ..
        } = record;
        let is_waypoint = record.reporter == Reporter::Waypoint;
        let in_tunnel = destination
            .as_ref()
            .filter(|workload| workload.tunnel_protocol == TunnelProtocol::Hbone);
        let labels = RequestLabels {
            reporter: record.reporter,
            source: source.workload.clone(),
            source_identity: source.identity.clone(),
            destination: destination.clone(),
            destination_identity: in_tunnel.and_then(|workload| workload.identity().ok()),
            service: record.service.clone(),
            via: record.via(),
            response_code: record.status.map_or(0, |status| status.as_u16()),
            grpc_status: record.grpc_status,
            reason: record.reason,
            mutual_tls: is_waypoint || in_tunnel.is_some(),
        };
        let name = rule.as_ref().and_then(|rule| rule.label.clone());
        Known {
            counter: self.shard.counter(labels, name, std::time::Instant::now()),
            _rule: rule.as_ref().map(Arc::downgrade),
            _workloads: [&source.workload, destination]
                .map(|workload| workload.as_ref().map(Arc::downgrade)),
            _service: record.service.clone(),
        }
    }
}

impl Key {
    fn of(record: &Record) -> Self {
        let place = |workload: &Option<Arc<Workload>>| {
            let workload = workload.as_ref();
            workload.map_or(0, |workload| Arc::as_ptr(workload).addr())
        };
        let Record { source, .. } = record;
        let rule = record.rule.as_ref();
        let service = record.service.as_ref();
        Self {
            reporter: record.reporter,
            rule: rule.map_or(0, |rule| Arc::as_ptr(rule).addr()),
            source: place(&source.workload),
            stranger: match source.workload {
                Some(_) => None,
                None => source.identity.clone(),
            },
            destination: place(&record.destination),
            service: service.map_or(0, |service| service.hostname.as_ptr().addr()),
            answer: (
                record.via(),
                record.status.map_or(0, |status| status.as_u16()),
                record.grpc_status,
                record.reason,
            ),
        }
    }
}
