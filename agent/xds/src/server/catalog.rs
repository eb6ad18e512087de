//! What the control plane offers, as versioned resources.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agent_model::{Authorization, PolicyKey, Service, Workload};
use prost::Message;
use prost_types::Any;
use proto::discovery::Resource;
use xxhash_rust::xxh64::xxh64;

use crate::ResourceType;
use crate::convert::{encode_authorization, encode_service, encode_workload};
use crate::resource_type::PerType;

/// Every resource on offer, by type and name. A clone is two reference counts; a change copies the
/// index of its type once while clones are alive. Putting what is there already changes nothing,
/// so a catalog may also be rebuilt from scratch: versions depend on content alone.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    tables: PerType<Arc<Table>>,
}

/// The resources of one type.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    offers: BTreeMap<Arc<str>, Offer>,
    by_alias: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

/// One resource and its version.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    version: Arc<str>,
    body: Arc<Any>,
    aliases: Arc<[Arc<str>]>,
}

impl Catalog {
    /// Adds or replaces a workload, named by its uid. False when nothing changed.
    pub fn put_workload(&mut self, workload: &Workload) -> bool {
        let network = &workload.network;
        let aliases = workload.addresses.iter();
        let aliases = aliases.map(|address| format!("{network}/{address}").into());
        let offer = Offer::new(encode_workload(workload), aliases.collect());
        self.put(ResourceType::Address, Arc::clone(&workload.uid), offer)
    }

    /// Adds or replaces a service, named `namespace/hostname`. False when nothing changed.
    pub fn put_service(&mut self, service: &Service) -> bool {
        let aliases = service.vips.iter();
        let aliases = aliases.map(|vip| format!("{}/{}", vip.network, vip.address).into());
        let offer = Offer::new(encode_service(service), aliases.collect());
        let name = service.key().to_string().into();
        self.put(ResourceType::Address, name, offer)
    }

    /// Adds or replaces a policy. False when nothing changed.
    pub fn put_policy(&mut self, policy: &Authorization) -> bool {
        let offer = Offer::new(encode_authorization(policy), [].into());
        let PolicyKey(name) = policy.key();
        self.put(ResourceType::Authorization, name, offer)
    }

    /// Removes a resource. False when there was none of that name.
    pub fn remove(&mut self, kind: ResourceType, name: &str) -> bool {
        if !self.table(kind).offers.contains_key(name) {
            return false;
        }
        Arc::make_mut(self.tables.get_mut(kind)).remove(name)
    }

    /// Names of a type, in order.
    pub fn names(&self, kind: ResourceType) -> impl Iterator<Item = &Arc<str>> {
        self.table(kind).offers.keys()
    }

    /// Number of resources of a type.
    pub fn len(&self, kind: ResourceType) -> usize {
        self.table(kind).offers.len()
    }

    /// True when nothing is on offer.
    pub fn is_empty(&self) -> bool {
        ResourceType::ALL
            .into_iter()
            .all(|kind| self.len(kind) == 0)
    }

    /// Version of a resource: the hexadecimal xxHash64 of its marshalled `Any`.
    pub fn version(&self, kind: ResourceType, name: &str) -> Option<&str> {
        self.table(kind)
            .offers
            .get(name)
            .map(|offer| &*offer.version)
    }

    pub(crate) fn table(&self, kind: ResourceType) -> &Arc<Table> {
        self.tables.get(kind)
    }

    /// Adds or replaces any offer.
    pub(crate) fn put(&mut self, kind: ResourceType, name: Arc<str>, offer: Offer) -> bool {
        if self.version(kind, &name) == Some(&*offer.version) {
            return false;
        }
        let table = Arc::make_mut(self.tables.get_mut(kind));
        table.remove(&name);
        for alias in offer.aliases.iter() {
            let names = table.by_alias.entry(Arc::clone(alias)).or_default();
            names.insert(Arc::clone(&name));
        }
        table.offers.insert(name, offer);
        true
    }
}

impl Table {
    /// Every offer, in order of names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Offer)> {
        self.offers.iter()
    }

    /// The offers that a client means by `asked`: a name or an alias.
    pub(crate) fn find<'a>(
        &'a self,
        asked: &str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Offer)> {
        let by_name = self.offers.get_key_value(asked);
        let by_alias = self.by_alias.get(asked).into_iter().flatten();
        by_name
            .into_iter()
            .chain(by_alias.filter_map(|name| self.offers.get_key_value(name)))
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.offers.contains_key(name)
    }

    fn remove(&mut self, name: &str) -> bool {
        let Some(offer) = self.offers.remove(name) else {
            return false;
        };
        for alias in offer.aliases.iter() {
            if let Some(names) = self.by_alias.get_mut(alias) {
                names.remove(name);
                if names.is_empty() {
                    self.by_alias.remove(alias);
                }
            }
        }
        true
    }
}

impl Offer {
    pub(crate) fn new(body: Any, aliases: Arc<[Arc<str>]>) -> Self {
        let version = format!("{:x}", xxh64(&body.encode_to_vec(), 0)).into();
        Self {
            version,
            body: Arc::new(body),
            aliases,
        }
    }

    pub(crate) fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// The wire form. Aliases are for clients that asked by one.
    pub(crate) fn to_wire(&self, name: &str, with_aliases: bool) -> Resource {
        let aliases = self.aliases.iter().filter(|_| with_aliases);
        Resource {
            version: self.version.to_string(),
            resource: Some((*self.body).clone()),
            name: name.to_owned(),
            aliases: aliases.map(ToString::to_string).collect(),
        }
    }
}
