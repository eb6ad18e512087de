//! What nodes are offered: the catalog that the discovery sessions compare with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agent_xds::{Catalog, ResourceType};
use tokio::sync::watch;

use crate::collection::Collection;
use crate::translate::Translated;

/// A resource on offer.
type Name = (ResourceType, Arc<str>);

/// Turns translations into resources. No-ops end here: what encodes the same is not published.
#[derive(Debug)]
pub(crate) struct Snapshot {
    catalog: Catalog,
    /// What each namespace has on offer.
    offered: BTreeMap<Arc<str>, BTreeSet<Name>>,
    published: watch::Sender<Arc<Catalog>>,
}

impl Snapshot {
    /// An empty one, and where it is published.
    pub(crate) fn new() -> (Self, watch::Sender<Arc<Catalog>>) {
        let published = watch::Sender::new(Arc::new(Catalog::default()));
        let snapshot = Self {
            catalog: Catalog::default(),
            offered: BTreeMap::new(),
            published: published.clone(),
        };
        (snapshot, published)
    }

    /// Takes over the namespaces that changed and publishes once. True when nodes will see a
    /// difference.
    pub(crate) fn update(&mut self, collection: &Collection, changed: &[Arc<str>]) -> bool {
        let mut differs = self.catalog.put_policy(&collection.built_in());
        for namespace in changed {
            differs |= self.update_namespace(namespace, collection.translated(namespace));
        }
        if differs {
            self.published.send_replace(Arc::new(self.catalog.clone()));
        }
        differs
    }

    fn update_namespace(&mut self, namespace: &Arc<str>, translated: Option<&Translated>) -> bool {
        let mut differs = false;
        let mut offered = BTreeSet::new();
        for workload in translated
            .iter()
            .flat_map(|translated| &translated.workloads)
        {
            differs |= self.catalog.put_workload(workload);
            offered.insert((ResourceType::Address, Arc::clone(&workload.uid)));
        }
        for service in translated
            .iter()
            .flat_map(|translated| &translated.services)
        {
            differs |= self.catalog.put_service(service);
            let name = service.key().to_string().into();
            offered.insert((ResourceType::Address, name));
        }
        for policy in translated
            .iter()
            .flat_map(|translated| &translated.policies)
        {
            differs |= self.catalog.put_policy(policy);
            offered.insert((ResourceType::Authorization, policy.key().0));
        }
        let before = self.offered.remove(namespace).unwrap_or_default();
        for (kind, name) in before.difference(&offered) {
            differs |= self.catalog.remove(*kind, name);
        }
        if !offered.is_empty() {
            self.offered.insert(Arc::clone(namespace), offered);
        }
        differs
    }
}
