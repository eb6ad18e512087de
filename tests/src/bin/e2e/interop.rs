//! Culvert beside Istio's own parts: its node proxy (ztunnel) under Culvert's control plane, its
//! control plane (istiod) above Culvert's agents. Neither program is here: what speaks is written
//! in Python from the protocols' descriptions and shares no code with Culvert (`tests/peers/`).

mod discovery;
mod fields;
mod istiod;
mod proxy;

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use tests::Cluster;
use tests::peer::Peer;

use crate::{Case, alone, shared};

pub(crate) const CASES: &[Case] = &[
    shared(
        "interop: a ztunnel reads every field that the control plane sends",
        fields::resources,
    ),
    shared(
        "interop: a ztunnel's stream: refusals, names on demand, what is known",
        discovery::streams,
    ),
    shared(
        "interop: a ztunnel of the control plane carries traffic with an agent, policies on both sides",
        proxy::both_ways,
    ),
    alone(
        "interop: a ztunnel is admitted by its pod's token, as Istio has it",
        discovery::pod_token,
    ),
    alone(
        "interop: agents under an istiod, beside a ztunnel of its",
        istiod::drives_agents,
    ),
    alone(
        "interop: a companion of an istiod: labels enrol pods, their marks say so",
        istiod::with_companion,
    ),
];

const LIMIT: Duration = Duration::from_secs(20);

/// What a ztunnel on `node` says of itself.
fn facts(node: &str) -> Value {
    json!({
        "pod": format!("ztunnel-{node}"),
        "namespace": "istio-system",
        "ip": "10.66.0.1",
        "node": node,
        "metadata": {"DNS_CAPTURE": "true", "NETWORK": ""},
    })
}

/// Opens the discovery stream `name` of a ztunnel on a node, with the node's token.
fn discover(cluster: &Cluster, peer: &Peer, name: &str, node: u8, on_demand: bool) -> Result<()> {
    let node = cluster.node(node)?;
    peer.must(&json!({
        "op": "discover",
        "name": name,
        "url": cluster.control()?.url(),
        "root": cluster.control()?.root_cert(),
        "token_file": node.agent()?.settings().token_file,
        "node": facts(&node.name()),
        "on_demand": on_demand,
    }))
    .map(drop)
}

/// Waits until the stream `name` is ready and knows all of `present`; what it knows.
fn known(peer: &Peer, name: &str, present: &[&str]) -> Result<Value> {
    wait_known(peer, json!({ "name": name, "present": present }))
}

/// Waits for what the wish says.
fn wait_known(peer: &Peer, mut wish: Value) -> Result<Value> {
    wish["op"] = json!("known");
    wish["wait"] = json!(LIMIT.as_secs());
    let told = peer.must(&wish)?;
    ensure!(told["in_time"] == true, "{wish}: {told:#}");
    Ok(told)
}
