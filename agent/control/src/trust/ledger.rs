//! Which node trusts which roots, for every replica: nodes say it to the one they are attached to,
//! and a rotation waits for all of them. Kept in a ConfigMap, a key for each node, so that neither
//! a replica nor a stream that ends makes a node forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::time::timeout;
use tracing::{info, warn};

/// Name of the ConfigMap, in the root namespace.
pub(crate) const NAME: &str = "culvert-trust";
/// One request.
const REQUEST: Duration = Duration::from_secs(5);

/// The hashes of the bundles in use, by node: one of each agent of it, `""` where an agent has none
/// yet.
pub(crate) type Hashes = BTreeMap<Arc<str>, BTreeSet<String>>;

/// The ConfigMap.
pub(crate) struct Ledger {
    api: Api<ConfigMap>,
    /// Said once.
    failing: Option<String>,
}

impl Ledger {
    pub(crate) fn new(client: kube::Client, namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            failing: None,
        }
    }

    /// Writes what the nodes attached here say and reads what all say: of the nodes attached here
    /// their own word, of the rest of `nodes` the last that was written. Nodes that never were
    /// attached anywhere are not among them, nor are those that are no more: these the leader
    /// removes. `None` while the API server does not answer: nothing is known then.
    pub(super) async fn exchange(
        &mut self,
        own: Hashes,
        nodes: &BTreeSet<Arc<str>>,
        leads: bool,
    ) -> Option<Hashes> {
        let exchanged = timeout(REQUEST, self.try_exchange(&own, nodes, leads)).await;
        let exchanged = exchanged.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let failing = exchanged.as_ref().err().cloned();
        match (&failing, &self.failing) {
            (Some(error), _) if failing != self.failing => {
                warn!(target: "trust", name = NAME, error, "what nodes trust is not known");
            }
            (None, Some(_)) => info!(target: "trust", "what nodes trust is known again"),
            _ => {}
        }
        self.failing = failing;
        Some(merged(own, &exchanged.ok()?, nodes))
    }

    async fn try_exchange(
        &self,
        own: &Hashes,
        nodes: &BTreeSet<Arc<str>>,
        leads: bool,
    ) -> Result<BTreeMap<String, String>, String> {
        let map = self.api.get_opt(NAME).await.map_err(|e| e.to_string())?;
        let is_there = map.is_some();
        let written = map.and_then(|map| map.data).unwrap_or_default();
        let changes = changes(own, &written, nodes, leads);
        if !is_there && !changes.is_empty() {
            let map = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(NAME.to_owned()),
                    labels: Some([("app.kubernetes.io/name".into(), "culvert".into())].into()),
                    ..ObjectMeta::default()
                },
                ..ConfigMap::default()
            };
            match self.api.create(&PostParams::default(), &map).await {
                // Another replica was faster.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                created => drop(created.map_err(|error| error.to_string())?),
            }
        }
        if !changes.is_empty() {
            let patch = Patch::Merge(json!({ "data": changes }));
            let how = PatchParams::default();
            let patched = self.api.patch(NAME, &how, &patch).await;
            patched.map_err(|error| error.to_string())?;
        }
        Ok(written)
    }
}

/// The changes that make the record say what the nodes attached here say, and nothing of nodes that
/// are no more.
fn changes(
    own: &Hashes,
    written: &BTreeMap<String, String>,
    nodes: &BTreeSet<Arc<str>>,
    leads: bool,
) -> BTreeMap<String, Value> {
    let mut changes = BTreeMap::new();
    for (node, hashes) in own {
        let word = word(hashes);
        if written.get(&**node).map(String::as_str) != Some(word) {
            changes.insert(node.to_string(), json!(word));
        }
    }
    let gone = written
        .keys()
        .filter(|node| !nodes.contains(&***node) && !own.contains_key(&***node));
    if leads {
        changes.extend(gone.map(|node| (node.clone(), Value::Null)));
    }
    changes
}

/// What is written of a node: its hash when its agents agree.
fn word(hashes: &BTreeSet<String>) -> &str {
    match hashes.first() {
        Some(hash) if hashes.len() == 1 => hash,
        _ => "",
    }
}

fn merged(
    mut own: Hashes,
    written: &BTreeMap<String, String>,
    nodes: &BTreeSet<Arc<str>>,
) -> Hashes {
    for node in nodes {
        if let Some(word) = written.get(&**node) {
            let others = || BTreeSet::from([word.clone()]);
            own.entry(Arc::clone(node)).or_insert_with(others);
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(nodes: &[(&str, &[&str])]) -> Hashes {
        let nodes = nodes.iter().map(|(node, hashes)| {
            let hashes = hashes.iter().map(|hash| (*hash).to_owned());
            (Arc::from(*node), hashes.collect())
        });
        nodes.collect()
    }

    #[test]
    fn the_record_is_written_where_it_differs_and_cleaned_by_one() {
        let nodes = ["n1", "n2", "n3", "n4"].map(Arc::from).into();
        let own = own(&[
            ("n1", &["new"]),
            ("n2", &["new"]),
            ("n3", &["new", "old"]),
            ("foreign", &["x"]),
        ]);
        let written = [
            ("n1", "new"),
            ("n2", "old"),
            ("n3", "new"),
            ("n4", "old"),
            ("gone", "old"),
        ];
        let written = written.map(|(node, word)| (node.to_owned(), word.to_owned()));
        let written = BTreeMap::from(written);
        let expected = json!({"n2": "new", "n3": "", "foreign": "x"});
        assert_eq!(json!(changes(&own, &written, &nodes, false)), expected);
        let expected = json!({"n2": "new", "n3": "", "foreign": "x", "gone": null});
        assert_eq!(json!(changes(&own, &written, &nodes, true)), expected);
    }

    #[test]
    fn a_node_attached_here_counts_by_its_word_and_others_by_what_is_written() {
        let nodes = ["n1", "n2", "never"].map(Arc::from).into();
        let written = [("n1", "old"), ("n2", "old"), ("gone", "old")];
        let written = written.map(|(node, word)| (node.to_owned(), word.to_owned()));
        let merged = merged(own(&[("n1", &["new"])]), &written.into(), &nodes);
        assert_eq!(merged, own(&[("n1", &["new"]), ("n2", &["old"])]));
    }
}
