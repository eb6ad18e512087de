//! What nodes are offered: the catalog that the discovery sessions compare with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agent_xds::{Catalog, Published, ResourceType};

use crate::collection::Collection;
use crate::translate::Translated;

/// A resource on offer.
type Name = (ResourceType, Arc<str>);

/// Turns translations into resources. No-ops end here: what encodes the same is not published.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// What each namespace has on offer.
    offered: BTreeMap<Arc<str>, BTreeSet<Name>>,
    published: Published,
}

impl Snapshot {
    /// An empty one, and where it is published.
    pub(crate) fn new() -> (Self, Published) {
        let snapshot = Self::default();
        let published = snapshot.published.clone();
        (snapshot, published)
    }

    /// Takes over the namespaces that changed and publishes once. True when nodes will see a
    /// difference.
    pub(crate) fn update(&mut self, collection: &Collection, changed: &[Arc<str>]) -> bool {
        let offered = &mut self.offered;
        self.published.change(|catalog| {
            let mut differs = catalog.put_policy(&collection.built_in());
            for namespace in changed {
                let translated = collection.translated(namespace);
                differs |= update_namespace(catalog, offered, namespace, translated);
            }
            differs
        })
    }
}

fn update_namespace(
    catalog: &mut Catalog,
    all_offered: &mut BTreeMap<Arc<str>, BTreeSet<Name>>,
    namespace: &Arc<str>,
    translated: Option<&Translated>,
) -> bool {
    let mut differs = false;
    let mut offered = BTreeSet::new();
    let workloads = translated.iter().flat_map(|to| &to.workloads);
    for workload in workloads {
        differs |= catalog.put_workload(workload);
        offered.insert((ResourceType::Address, Arc::clone(&workload.uid)));
    }
    let services = translated.iter().flat_map(|to| &to.services);
    for service in services {
        differs |= catalog.put_service(service);
        let name = service.key().to_string().into();
        offered.insert((ResourceType::Address, name));
    }
    let policies = translated.iter().flat_map(|to| &to.policies);
    for policy in policies {
        differs |= catalog.put_policy(policy);
        offered.insert((ResourceType::Authorization, policy.key().0));
    }
    let before = all_offered.remove(namespace).unwrap_or_default();
    for (kind, name) in before.difference(&offered) {
        differs |= catalog.remove(*kind, name);
    }
    if !offered.is_empty() {
        all_offered.insert(Arc::clone(namespace), offered);
    }
    differs
}
