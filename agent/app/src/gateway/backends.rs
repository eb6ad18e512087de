//! What `culvert status` says of the services that a gateway sends to.

use agent_gateway::circuit::Kind;
use agent_gateway::{BackendView, CircuitView, EndpointView};
use serde_json::{Value, json};

/// One element per port of a service.
pub(super) fn json(backends: &[BackendView]) -> Value {
    backends.iter().map(backend).collect()
}

fn backend(backend: &BackendView) -> Value {
    json!({
        "service": backend.service.to_string(),
        "port": backend.port,
        "endpoints": backend.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "circuit": backend.circuit.iter().map(circuit).collect::<Vec<_>>(),
        "ejections": backend.ejections,
        "returns": backend.returns,
        "retries": backend.retries,
        "retriesOverBudget": backend.retries_over_budget,
    })
}

fn endpoint(endpoint: &EndpointView) -> Value {
    let ejected = endpoint.ejected.map(|(left, cause)| {
        json!({
            "cause": cause.as_str(),
            "secondsLeft": left.as_secs(),
        })
    });
    json!({
        "address": endpoint.address.to_string(),
        "workload": endpoint.workload,
        "usable": endpoint.usable,
        "healthy": endpoint.healthy,
        "ejected": ejected,
        "inFlight": endpoint.in_flight,
        "latencyMicros": endpoint.latency.map(|latency| latency.as_micros()),
    })
}

fn circuit(circuit: &CircuitView) -> Value {
    let kind = match circuit.kind {
        Kind::Connections => "connections",
        Kind::Pending => "pending",
        Kind::Requests => "requests",
    };
    json!({
        "kind": kind,
        "limit": circuit.limit,
        "held": circuit.held,
        "refused": circuit.refused,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agent_gateway::outlier::Cause;
    use agent_model::NamespacedHostname;

    use super::*;
    use crate::admin::gateway_text;

    #[test]
    fn who_is_out_is_shown_with_its_reason() {
        let endpoint = |last: u8, healthy, ejected| EndpointView {
            address: ([10, 0, 0, last], 80).into(),
            workload: format!("c//Pod/ns/web-{last}").into(),
            usable: healthy && ejected,
            healthy,
            ejected: (!ejected).then_some((Duration::from_secs(12), Cause::Consecutive)),
            in_flight: 3,
            latency: Some(Duration::from_micros(1500)),
        };
        let view = BackendView {
            service: NamespacedHostname::new("ns", "web"),
            port: 80,
            endpoints: vec![
                endpoint(1, true, true),
                endpoint(2, true, false),
                endpoint(3, false, true),
            ],
            circuit: vec![CircuitView {
                kind: Kind::Requests,
                limit: 10,
                held: 3,
                refused: 7,
            }],
            ejections: 1,
            returns: 0,
            retries: 5,
            retries_over_budget: 2,
        };
        let shown = json(&[view]);
        assert_eq!(shown[0]["endpoints"][1]["ejected"]["secondsLeft"], 12);
        assert_eq!(shown[0]["endpoints"][0]["latencyMicros"], 1500);
        let text = gateway_text(&json!({ "backends": shown }));
        assert!(text.contains("Backends (1)"), "{text}");
        let line = |word: &str| text.lines().find(|line| line.contains(word)).unwrap();
        let words = |line: &str| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            words(line("ns/web:80")),
            ["ns/web:80", "1", "of", "3", "1", "5", "7"]
        );
        assert!(line("10.0.0.2").contains("ejected for 12 s: consecutive-failures"));
        assert!(line("10.0.0.3").contains("unhealthy"));
        assert!(!text.contains("10.0.0.1:"), "{text}");
    }
}
