//! The pods of each node, kept as the namespaces change: what the node service tells.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::translate::enrolment::NodePod;

/// The pods of one node, by namespace.
pub(crate) type PodsOfNode = BTreeMap<Arc<str>, Arc<[NodePod]>>;

/// Who is where. Clones are cheap and share what has not changed since.
#[derive(Debug, Clone, Default)]
pub(crate) struct Placement {
    nodes: BTreeMap<Arc<str>, Arc<PodsOfNode>>,
    meshed: Arc<BTreeSet<Arc<str>>>,
}

impl Placement {
    /// The pods bound to a node.
    pub(crate) fn of_node(&self, node: &str) -> Arc<PodsOfNode> {
        self.nodes.get(node).cloned().unwrap_or_default()
    }

    /// Namespaces that opt in, or have a pod that does.
    pub(crate) fn meshed(&self) -> &Arc<BTreeSet<Arc<str>>> {
        &self.meshed
    }

    /// Takes what a namespace's pods are now, each with its node. True when that is a change.
    pub(super) fn replace(
        &mut self,
        namespace: &Arc<str>,
        pods: Vec<(Arc<str>, NodePod)>,
        is_meshed: bool,
    ) -> bool {
        let mut by_node: BTreeMap<Arc<str>, Vec<NodePod>> = BTreeMap::new();
        for (node, pod) in pods {
            by_node.entry(node).or_default().push(pod);
        }
        let mut differs = self.set_meshed(namespace, is_meshed);
        for (node, of_node) in &mut self.nodes {
            if !by_node.contains_key(node) && of_node.contains_key(namespace) {
                Arc::make_mut(of_node).remove(namespace);
                differs = true;
            }
        }
        for (node, pods) in by_node {
            let of_node = self.nodes.entry(node).or_default();
            if of_node
                .get(namespace)
                .is_none_or(|before| **before != *pods)
            {
                Arc::make_mut(of_node).insert(Arc::clone(namespace), pods.into());
                differs = true;
            }
        }
        self.nodes.retain(|_, of_node| !of_node.is_empty());
        differs
    }

    fn set_meshed(&mut self, namespace: &Arc<str>, is_meshed: bool) -> bool {
        if self.meshed.contains(namespace) == is_meshed {
            return false;
        }
        let meshed = Arc::make_mut(&mut self.meshed);
        if is_meshed {
            meshed.insert(Arc::clone(namespace))
        } else {
            meshed.remove(namespace)
        }
    }
}
