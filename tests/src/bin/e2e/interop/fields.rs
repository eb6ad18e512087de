//! What stands on the wire, field by field. The peer decodes it by the field numbers of the
//! published protocol; every field that is present is compared, and none may be unknown to it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{discover, known};
use tests::Cluster;
use tests::peer::Peer;

const OBJECTS: &str = include_str!("fields.yaml");
const EXPECTED: &str = include_str!("fields.json");

/// Every kind of object, and what a ztunnel must be sent for it.
pub(super) fn resources(cluster: &Cluster) -> Result<()> {
    let place = cluster.control()?.place();
    let peer = Peer::start(cluster.run(), place, "ztunnel")?;
    cluster.apply("fields", OBJECTS)?;
    discover(cluster, &peer, "zt", 1, false)?;
    let expected: Value = serde_json::from_str(EXPECTED).context("fields.json")?;
    let addresses = names(&expected["addresses"]);
    let policies = names(&expected["policies"]);
    let present: Vec<&str> = addresses.iter().chain(&policies).copied().collect();
    let told = known(&peer, "zt", &present)?;
    for kind in ["addresses", "policies"] {
        for name in names(&expected[kind]) {
            same(&told[kind][name], &expected[kind][name]).with_context(|| name.to_owned())?;
        }
        // What has no place in the mesh is not there either.
        for (name, content) in told[kind].as_object().into_iter().flatten() {
            let ours = name.contains("/fields/") || name.starts_with("fields/");
            ensure!(
                !ours || expected[kind].get(name).is_some(),
                "nobody expects {name}: {content}"
            );
        }
    }
    ensure!(
        told["rejected"] == json!({}),
        "refused: {}",
        told["rejected"]
    );
    let unknown: Vec<&Value> = responses(&told)
        .filter(|response| response["unknown"] != json!([]))
        .collect();
    ensure!(unknown.is_empty(), "unknown fields: {unknown:?}");
    // Who asks for everything is sent no aliases.
    let aliases = responses(&told).flat_map(|response| response["aliases"].as_array());
    ensure!(
        aliases.flatten().all(|aliases| *aliases == json!([])),
        "aliases for a wildcard subscription"
    );
    Ok(())
}

fn responses(told: &Value) -> impl Iterator<Item = &Value> {
    told["responses"].as_array().into_iter().flatten()
}

fn names(of: &Value) -> Vec<&str> {
    of.as_object()
        .into_iter()
        .flat_map(|members| members.keys().map(String::as_str))
        .collect()
}

fn same(found: &Value, expected: &Value) -> Result<()> {
    ensure!(found == expected, "found {found:#}, expected {expected:#}");
    Ok(())
}
