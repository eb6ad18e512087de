//! What the control plane offers, as versioned resources.

use std::sync::Arc;

use agent_model::access::Access;
use agent_model::authentication::Authentication;
use agent_model::gateway::traffic::TrafficPolicy;
use agent_model::gateway::{Backend, Gateway, GatewayKey, Route};
use agent_model::{Authorization, PolicyKey, Service, Workload};
use prost::Message;
use prost_types::Any;
use proto::discovery::Resource;
use xxhash_rust::xxh64::xxh64;

use super::table::Table;
use crate::ResourceType;
use crate::convert::{
    backend_name, encode_access, encode_authentication, encode_authorization, encode_backend,
    encode_gateway, encode_route, encode_service, encode_traffic, encode_workload, policy_name,
    route_name,
};
use crate::links::Links;
use crate::resource_type::PerType;

/// Every resource on offer, by type and name, encoded once for all nodes. Putting what is there
/// already changes nothing, and versions depend on content alone: two replicas, or one before and
/// after a restart, offer the same versions.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    tables: PerType<Table>,
}

/// One resource: its content, and what else leads to it.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    /// xxHash64 of the marshalled `Any`.
    version: u64,
    /// The encoded message.
    content: Arc<[u8]>,
    pub(super) links: Links,
}

impl Catalog {
    /// Adds or replaces a workload, named by its uid. False when nothing changed.
    pub fn put_workload(&mut self, workload: &Workload) -> bool {
        let offer = Offer::new(encode_workload(workload), Links::of_workload(workload));
        self.put(ResourceType::Address, Arc::clone(&workload.uid), offer)
    }

    /// Adds or replaces a service, named `namespace/hostname`. False when nothing changed.
    pub fn put_service(&mut self, service: &Service) -> bool {
        let offer = Offer::new(encode_service(service), Links::of_service(service));
        let name = service.key().to_string().into();
        self.put(ResourceType::Address, name, offer)
    }

    /// Adds or replaces a policy. False when nothing changed.
    pub fn put_policy(&mut self, policy: &Authorization) -> bool {
        let offer = Offer::new(encode_authorization(policy), Links::default());
        let PolicyKey(name) = policy.key();
        self.put(ResourceType::Authorization, name, offer)
    }

    /// Adds or replaces a gateway; only itself is told. False when nothing changed.
    pub fn put_gateway(&mut self, gateway: &Gateway) -> bool {
        let offer = Offer::new(encode_gateway(gateway), Links::default());
        self.put(ResourceType::Gateway, gateway.key.to_string().into(), offer)
    }

    /// The version that [`Self::put_gateway`] would give it: of its own resource, routes and policies
    /// apart.
    pub fn version_of_gateway(gateway: &Gateway) -> String {
        Offer::new(encode_gateway(gateway), Links::default()).version()
    }

    /// Adds or replaces a route of `gateway`. False when nothing changed.
    pub fn put_route(&mut self, gateway: &GatewayKey, route: &Route) -> bool {
        let offer = Offer::new(encode_route(gateway, route), Links::default());
        let name = route_name(gateway, &route.key).into();
        self.put(ResourceType::Route, name, offer)
    }

    /// Adds or replaces the settings for a service behind `gateway`. False when nothing changed.
    pub fn put_backend(&mut self, gateway: &GatewayKey, backend: &Backend) -> bool {
        let offer = Offer::new(encode_backend(gateway, backend), Links::default());
        let name = backend_name(gateway, backend).into();
        self.put(ResourceType::Backend, name, offer)
    }

    /// Adds or replaces a request policy of `gateway`. False when nothing changed.
    pub fn put_access(&mut self, gateway: &GatewayKey, policy: &Access) -> bool {
        let offer = Offer::new(encode_access(gateway, policy), Links::default());
        let name = policy_name(gateway, &policy.key()).into();
        self.put(ResourceType::Access, name, offer)
    }

    /// Adds or replaces what says which tokens count at `gateway`. False when nothing changed.
    pub fn put_authentication(&mut self, gateway: &GatewayKey, policy: &Authentication) -> bool {
        let offer = Offer::new(encode_authentication(gateway, policy), Links::default());
        let name = policy_name(gateway, &policy.key()).into();
        self.put(ResourceType::Authentication, name, offer)
    }

    /// Adds or replaces a traffic policy of `gateway`. False when nothing changed.
    pub fn put_traffic_policy(&mut self, gateway: &GatewayKey, policy: &TrafficPolicy) -> bool {
        let offer = Offer::new(encode_traffic(gateway, policy), Links::default());
        let name = policy_name(gateway, &policy.key()).into();
        self.put(ResourceType::TrafficPolicy, name, offer)
    }

    /// Removes a resource. False when there was none of that name.
    pub fn remove(&mut self, kind: ResourceType, name: &str) -> bool {
        self.tables.get_mut(kind).remove(name)
    }

    /// Names of a type, in order.
    pub fn names(&self, kind: ResourceType) -> impl Iterator<Item = &Arc<str>> {
        self.table(kind).iter().map(|(name, _)| name)
    }

    /// Number of resources of a type.
    pub fn len(&self, kind: ResourceType) -> usize {
        self.table(kind).len()
    }

    /// True when nothing is on offer.
    pub fn is_empty(&self) -> bool {
        ResourceType::ALL
            .into_iter()
            .all(|kind| self.len(kind) == 0)
    }

    /// Version of a resource: the hexadecimal xxHash64 of its marshalled `Any`.
    pub fn version(&self, kind: ResourceType, name: &str) -> Option<String> {
        self.table(kind).get(name).map(Offer::version)
    }

    pub(crate) fn table(&self, kind: ResourceType) -> &Table {
        self.tables.get(kind)
    }

    /// Adds or replaces any offer.
    pub(crate) fn put(&mut self, kind: ResourceType, name: Arc<str>, offer: Offer) -> bool {
        self.tables.get_mut(kind).put(name, offer)
    }
}

impl Offer {
    pub(crate) fn new(body: Any, links: Links) -> Self {
        Self {
            version: xxh64(&body.encode_to_vec(), 0),
            content: body.value.into(),
            links,
        }
    }

    pub(crate) fn version(&self) -> String {
        format!("{:x}", self.version)
    }

    pub(crate) fn is_version(&self, other: &str) -> bool {
        u64::from_str_radix(other, 16) == Ok(self.version) && other == self.version()
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.version == other.version
    }

    /// Bytes of the wire form, nearly.
    pub(crate) fn size(&self, name: &str) -> usize {
        const FRAME: usize = 96;
        self.content.len() + name.len() + FRAME
    }

    /// The wire form. Aliases are for clients that ask by them.
    pub(crate) fn to_wire(&self, kind: ResourceType, name: &str, with_aliases: bool) -> Resource {
        let aliases = self.links.aliases.iter().filter(|_| with_aliases);
        Resource {
            version: self.version(),
            resource: Some(Any {
                type_url: kind.url().to_owned(),
                value: self.content.to_vec(),
            }),
            name: name.to_owned(),
            aliases: aliases.map(ToString::to_string).collect(),
        }
    }
}
