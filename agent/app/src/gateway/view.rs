//! What `culvert status` shows of a gateway.

use std::sync::Arc;

use agent_gateway::plan::Fault;
use agent_gateway::{Gateway, Keys};
use agent_gateway::{Place, Transport};
use agent_model::gateway::GatewayKey;
use agent_telemetry::Requests;
use agent_xds::ClientStatus;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::backends;
use super::in_force::InForce;
use super::routes::totals;
use crate::admin::SCHEMA;

/// The state of the gateway.
pub(super) struct GatewayView {
    pub(super) key: GatewayKey,
    pub(super) sync: watch::Receiver<ClientStatus>,
    pub(super) in_force: watch::Receiver<InForce>,
    pub(super) keys: Keys,
    pub(super) gateway: Arc<Gateway>,
    pub(super) requests: Arc<Requests>,
}

impl GatewayView {
    /// The status, in the form that the roles have in common.
    pub(super) fn json(&self) -> Value {
        let sync = self.sync.borrow().clone();
        let now = self.in_force.borrow().clone();
        let fault = |fault: &Fault| {
            json!({
                "subject": fault.subject.to_string(),
                "problem": fault.what,
            })
        };
        let keys = self.keys.status().into_iter().map(|set| {
            json!({
                "address": set.address,
                "keys": set.keys,
                "ageSeconds": set.age.map(|age| age.as_secs()),
                "failures": set.failures,
                "lastFailure": set.fault.map(|fault| fault.to_string()),
            })
        });
        let keys: Vec<Value> = keys.collect();
        json!({
            "schema": SCHEMA,
            "role": "gateway",
            "version": crate::VERSION,
            "gateway": self.key.to_string(),
            "controlPlane": {
                "connected": sync.connected,
                "synced": sync.synced,
                "lastError": sync.last_error,
                "rejected": sync.rejected.iter().map(|rejection| json!({
                    "name": rejection.name,
                    "reason": rejection.reason,
                })).collect::<Vec<_>>(),
            },
            "ports": now.ports.iter().map(place).collect::<Vec<_>>(),
            "portsMissing": now.ports_missing,
            "routes": now.routes.keys().collect::<Vec<_>>(),
            "requests": totals(&self.requests),
            "keys": keys,
            "backends": backends::json(&self.gateway.backends()),
            "faults": now.faults.iter().map(fault).collect::<Vec<_>>(),
        })
    }
}

/// A number, or `53/udp`.
fn place(place: &Place) -> Value {
    match place.transport {
        Transport::Tcp => json!(place.port),
        Transport::Udp => json!(place.to_string()),
    }
}
