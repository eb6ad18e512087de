//! The gate at the end of every end-to-end test: what a test used must be given back.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::command::check;
use crate::poll;
use crate::run::namespaces_of;

const LIMIT: Duration = Duration::from_secs(30);

/// Counts of everything that could leak, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baseline(BTreeMap<String, usize>);

impl Baseline {
    /// Counts now.
    pub fn take(cluster: &Cluster) -> Result<Self> {
        let mut counts = BTreeMap::new();
        counts.insert("namespaces".to_owned(), namespaces_of(cluster.run()).len());
        for node in cluster.nodes() {
            let name = node.name();
            counts.insert(format!("{name} veth"), veths(node.host().name())?);
            let Some(agent) = node.agent_if_any() else {
                continue;
            };
            counts.insert(format!("{name} fds"), agent.fds()?);
            counts.insert(format!("{name} pins"), agent.pins());
            let tasks = agent.metrics()?.sum("culvert_tasks", &[]);
            counts.insert(format!("{name} tasks"), tasks as usize);
            let pods = agent.status()?["pods"].as_array().map_or(0, Vec::len);
            counts.insert(format!("{name} enrolled pods"), pods);
        }
        Ok(Self(counts))
    }

    /// Waits until nothing is above this baseline any more.
    pub fn wait(&self, cluster: &Cluster) -> Result<()> {
        poll::until("everything given back", LIMIT, || {
            let now = Self::take(cluster)?;
            let leaks = self.leaks(&now);
            ensure!(leaks.is_empty(), "leaked: {}", leaks.join(", "));
            Ok(())
        })
    }

    fn leaks(&self, now: &Self) -> Vec<String> {
        now.0
            .iter()
            .filter_map(|(name, count)| {
                let before = self.0.get(name).copied().unwrap_or(0);
                (*count > before).then(|| format!("{name} {before} -> {count}"))
            })
            .collect()
    }
}

fn veths(namespace: &str) -> Result<usize> {
    let links = check(
        "ip",
        &["-n", namespace, "-json", "link", "show", "type", "veth"],
    )?;
    count_of(&links)
}

fn count_of(json: &str) -> Result<usize> {
    if json.trim().is_empty() {
        return Ok(0);
    }
    let value: Value = serde_json::from_str(json).context("parsing a list")?;
    Ok(value.as_array().map_or(0, Vec::len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_more_than_before_is_a_leak() {
        let baseline = |fds, maps| {
            Baseline(BTreeMap::from([
                ("fds".to_owned(), fds),
                ("maps".to_owned(), maps),
            ]))
        };
        let before = baseline(10, 3);
        assert_eq!(before.leaks(&baseline(9, 3)), Vec::<String>::new());
        assert_eq!(before.leaks(&baseline(11, 3)), ["fds 10 -> 11"]);
    }
}
