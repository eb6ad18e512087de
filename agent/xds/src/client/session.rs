//! The protocol of the node's end, without I/O.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use agent_model::PolicyKey;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource, Status};
use tonic::Code;

use super::demand::Demand;
use super::saved;
use super::status::MAX_REJECTIONS;
use crate::convert::{
    Address, decode_access, decode_address, decode_authentication, decode_authorization,
    decode_backend, decode_gateway, decode_route, decode_traffic,
};
use crate::links::{self, Links};
use crate::resource_type::PerType;
use crate::server::MORE_FOLLOWS;
use crate::{Apply, Error, NodeFacts, Rejection, ResourceType, Update};

/// Most resources of one type that a node holds; further ones are refused.
const MAX_RESOURCES: usize = 1_000_000;
/// Longest text of a refusal, in bytes; the rest is cut.
const MAX_REFUSAL: usize = 16 * 1024;

/// The protocol of the node's end: requests out of responses, updates on the way. One session
/// lives as long as the agent, through every stream.
#[derive(Debug)]
pub struct ClientSession {
    node: Node,
    /// What it subscribes to, in this order.
    kinds: &'static [ResourceType],
    types: PerType<TypeState>,
    /// On a node that asks for addresses by name.
    on_demand: Option<OnDemand>,
    /// When what was read from disk was written there.
    restored: Option<SystemTime>,
}

/// What it takes to ask for addresses by name.
#[derive(Debug)]
struct OnDemand {
    demand: Demand,
    /// Name of the node.
    here: String,
    /// What leads to each address that is held.
    links: BTreeMap<Arc<str>, Links>,
    /// Names in the first request of the stream, until that is answered in full.
    opening: Option<Vec<Arc<str>>>,
    /// Names that the parts of an unfinished answer have brought.
    found: Vec<Arc<str>>,
}

#[derive(Debug, Clone, Default)]
struct TypeState {
    /// Versions by name, as the server is told on the next stream. An empty version is a resource
    /// whose newest form was refused: it is sent again, and its removal is still noticed.
    known: BTreeMap<String, String>,
    /// Names whose newest form was refused, with the reason.
    rejected: BTreeMap<String, String>,
    synced: bool,
    /// In sync by what the server said, not only by what was on disk.
    told: bool,
}

impl ClientSession {
    /// A session of a node that knows nothing yet.
    pub fn new(facts: &NodeFacts) -> Self {
        Self::subscribing(facts, ResourceType::OF_NODES)
    }

    /// A session of a gateway that knows nothing yet.
    pub fn of_gateway(facts: &NodeFacts) -> Self {
        Self::subscribing(facts, ResourceType::OF_GATEWAYS)
    }

    fn subscribing(facts: &NodeFacts, kinds: &'static [ResourceType]) -> Self {
        Self {
            node: facts.to_wire(),
            kinds,
            types: PerType::default(),
            on_demand: None,
            restored: None,
        }
    }

    /// A session that is sent the policies and what runs on its node, and asks for every other
    /// address by name.
    pub fn on_demand(facts: &NodeFacts, demand: Demand) -> Self {
        Self {
            on_demand: Some(OnDemand {
                demand,
                here: facts.node_name.clone(),
                links: BTreeMap::new(),
                opening: None,
                found: Vec::new(),
            }),
            ..Self::new(facts)
        }
    }

    /// Takes what [`save`](super::save) wrote for what the server would have said, and is in sync
    /// by it. Returns when it was written. The server will be asked for all of it again, and says
    /// what of it is gone. Fails when it is older than a day or not what was written.
    pub fn restore(
        &mut self,
        content: &[u8],
        now: SystemTime,
        applier: &mut dyn Apply,
    ) -> Result<SystemTime, Error> {
        let (at, responses) = saved::read(content, now)?;
        for response in &responses {
            if let Some(kind) = ResourceType::from_url(&response.type_url) {
                self.apply(kind, response, applier);
            }
        }
        self.restored = Some(at);
        Ok(at)
    }

    /// When what is held was written to disk, until the server has said what is true now.
    pub fn restored(&self) -> Option<SystemTime> {
        let is_told = self.kinds.iter().all(|kind| self.types.get(*kind).told);
        self.restored.filter(|_| !is_told)
    }

    /// A stream is open: the requests that open the subscriptions on it.
    pub fn connected(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let mut requests = self.subscriptions();
        if let Some(on_demand) = &mut self.on_demand
            && let Some(addresses) = requests.first_mut()
        {
            on_demand.open(addresses);
        }
        requests
    }

    /// The request for names that are asked for since the last one, if any.
    pub(crate) fn ask(&mut self) -> Option<DeltaDiscoveryRequest> {
        let names = self.on_demand.as_ref()?.demand.next();
        (!names.is_empty()).then(|| DeltaDiscoveryRequest {
            type_url: ResourceType::Address.url().to_owned(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// Forgets what nobody has used for long. The request that says so, if there is something.
    pub(crate) fn forget(
        &mut self,
        now: Instant,
        applier: &mut dyn Apply,
    ) -> Option<DeltaDiscoveryRequest> {
        let on_demand = self.on_demand.as_mut()?;
        let (idle, rest) = on_demand.demand.give_up(now);
        if idle.is_empty() {
            return None;
        }
        let wanted = links::wanted(on_demand.links.iter(), &rest, &on_demand.here);
        let held = on_demand.links.keys().cloned();
        let unwanted: Vec<Arc<str>> = held.filter(|name| !wanted.contains(name)).collect();
        let state = self.types.get_mut(ResourceType::Address);
        let mut removals = Vec::with_capacity(unwanted.len());
        for name in &unwanted {
            on_demand.links.remove(name);
            state.known.remove(&**name);
            state.rejected.remove(&**name);
            removals.push(Update::RemoveAddress(name.to_string()));
        }
        applier.apply(removals);
        let dropped = idle.into_iter().chain(unwanted);
        Some(DeltaDiscoveryRequest {
            type_url: ResourceType::Address.url().to_owned(),
            resource_names_unsubscribe: dropped.map(|name| name.to_string()).collect(),
            ..DeltaDiscoveryRequest::default()
        })
    }

    fn subscriptions(&self) -> Vec<DeltaDiscoveryRequest> {
        let subscribe = |kind: &ResourceType| DeltaDiscoveryRequest {
            node: Some(self.node.clone()),
            type_url: kind.url().to_owned(),
            initial_resource_versions: self.types.get(*kind).known.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        self.kinds.iter().map(subscribe).collect()
    }

    /// Applies a response; the acknowledgement, or the refusal of some of its resources.
    pub fn response(
        &mut self,
        response: DeltaDiscoveryResponse,
        applier: &mut dyn Apply,
    ) -> DeltaDiscoveryRequest {
        let kind = ResourceType::from_url(&response.type_url);
        let rejections = match kind.filter(|kind| self.kinds.contains(kind)) {
            Some(kind) => {
                self.types.get_mut(kind).told |= is_complete(&response);
                self.apply(kind, &response, applier)
            }
            None => Vec::new(),
        };
        if let Some(on_demand) = &mut self.on_demand
            && response.type_url == ResourceType::Address.url()
        {
            on_demand.answer(&response);
        }
        DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            error_detail: refusal(&rejections),
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// True once every type was received in full. A refused resource does not hold it up.
    pub fn is_synced(&self) -> bool {
        self.kinds.iter().all(|kind| self.types.get(*kind).synced)
    }

    /// Number of resources held of a type.
    pub fn held(&self, kind: ResourceType) -> usize {
        self.types.get(kind).known.len()
    }

    /// Resources whose newest form was refused, the first 64.
    pub fn rejected(&self) -> Vec<Rejection> {
        let kinds = self.kinds.iter();
        let names = kinds.flat_map(|kind| &self.types.get(*kind).rejected);
        let rejections = names.map(|(name, reason)| Rejection {
            name: name.clone(),
            reason: reason.clone(),
        });
        rejections.take(MAX_REJECTIONS).collect()
    }

    fn apply(
        &mut self,
        kind: ResourceType,
        response: &DeltaDiscoveryResponse,
        applier: &mut dyn Apply,
    ) -> Vec<Rejection> {
        let state = self.types.get_mut(kind);
        let mut on_demand = self.on_demand.as_mut();
        let mut updates = Vec::with_capacity(response.resources.len());
        let mut rejections = Vec::new();
        for resource in &response.resources {
            match state.accept(kind, resource) {
                Ok(update) => {
                    if let Some(on_demand) = &mut on_demand {
                        on_demand.note(&update);
                    }
                    updates.push(update);
                }
                Err(error) => {
                    updates.extend(state.refuse(kind, &resource.name));
                    rejections.push(Rejection {
                        name: resource.name.clone(),
                        reason: error.to_string(),
                    });
                }
            }
        }
        for name in &response.removed_resources {
            state.known.remove(name);
            state.rejected.remove(name);
            updates.push(match kind {
                ResourceType::Address => {
                    if let Some(on_demand) = &mut on_demand {
                        on_demand.links.remove(name.as_str());
                    }
                    Update::RemoveAddress(name.clone())
                }
                ResourceType::Authorization => {
                    Update::RemovePolicy(PolicyKey(name.as_str().into()))
                }
                ResourceType::Gateway
                | ResourceType::Route
                | ResourceType::Backend
                | ResourceType::Access
                | ResourceType::Authentication
                | ResourceType::TrafficPolicy => Update::RemoveOfGateway(kind, name.clone()),
            });
        }
        for rejection in applier.apply(updates) {
            state.refuse(kind, &rejection.name);
            rejections.push(rejection);
        }
        state.remember(&rejections);
        state.synced |= is_complete(response);
        rejections
    }
}

/// False for a part of an answer that another one follows.
fn is_complete(response: &DeltaDiscoveryResponse) -> bool {
    !response.system_version_info.ends_with(MORE_FOLLOWS)
}

impl OnDemand {
    /// Everything but not by default: what was asked for before is asked for again.
    fn open(&mut self, addresses: &mut DeltaDiscoveryRequest) {
        let names = self.demand.all();
        let all = ["*"].into_iter().chain(names.iter().map(|name| &**name));
        addresses.resource_names_subscribe = all.map(str::to_owned).collect();
        addresses.resource_names_unsubscribe = vec!["*".to_owned()];
        self.opening = Some(names);
        self.found.clear();
    }

    fn note(&mut self, update: &Update) {
        let (name, links) = match update {
            Update::Workload(workload) => (Arc::clone(&workload.uid), Links::of_workload(workload)),
            Update::Service(service) => {
                let name = service.key().to_string().into();
                (name, Links::of_service(service))
            }
            _ => return,
        };
        self.links.insert(name, links);
    }

    /// Tells who waits. An endpoint's service may come in another part than the endpoint, so
    /// nobody is told before the last part.
    fn answer(&mut self, response: &DeltaDiscoveryResponse) {
        for resource in &response.resources {
            let aliases = resource.aliases.iter().map(|alias| alias.as_str().into());
            self.found.extend(aliases);
            self.found.push(resource.name.as_str().into());
            // Aliases are a courtesy.
            let links = self.links.get(resource.name.as_str());
            let links = links.into_iter().flat_map(|links| &links.aliases);
            self.found.extend(links.cloned());
        }
        self.demand.answered(&response.removed_resources, false);
        if !is_complete(response) {
            return;
        }
        self.demand.answered(self.found.drain(..), true);
        if let Some(opening) = self.opening.take() {
            self.demand.reopened(&opening);
        }
    }
}

impl TypeState {
    /// Reads a resource and records it as known.
    fn accept(&mut self, kind: ResourceType, resource: &Resource) -> Result<Update, Error> {
        let update = decode(kind, resource)?;
        if self.known.len() >= MAX_RESOURCES && !self.known.contains_key(&resource.name) {
            return Err(Error::TooLarge {
                field: "resources",
                found: self.known.len() + 1,
                limit: MAX_RESOURCES,
            });
        }
        self.rejected.remove(&resource.name);
        self.known
            .insert(resource.name.clone(), resource.version.clone());
        Ok(update)
    }

    /// Records a refusal. Something may still be held under the name - the last good version, or
    /// the fact that a policy is unreadable - and then the name stays known without a version.
    fn refuse(&mut self, kind: ResourceType, name: &str) -> Option<Update> {
        let unreadable = unreadable(kind, name).filter(|_| is_acceptable_name(name));
        if let Some(version) = self.known.get_mut(name) {
            version.clear();
        } else if unreadable.is_some() && self.known.len() < MAX_RESOURCES {
            self.known.insert(name.to_owned(), String::new());
        }
        unreadable
    }

    fn remember(&mut self, rejections: &[Rejection]) {
        for Rejection { name, reason } in rejections {
            if self.rejected.len() < MAX_REJECTIONS || self.rejected.contains_key(name) {
                self.rejected.insert(name.clone(), reason.clone());
            }
        }
    }
}

fn decode(kind: ResourceType, resource: &Resource) -> Result<Update, Error> {
    let body = resource
        .resource
        .as_ref()
        .ok_or(Error::Missing("resource"))?;
    if body.type_url != kind.url() {
        return Err(Error::Invalid {
            field: "type_url",
            why: format!("{:?} in a stream of {}", body.type_url, kind.url()),
        });
    }
    let update = match kind {
        ResourceType::Address => match decode_address(&body.value)? {
            Address::Workload(workload) => Update::Workload(workload),
            Address::Service(service) => Update::Service(service),
        },
        ResourceType::Authorization => Update::Policy(decode_authorization(&body.value)?),
        ResourceType::Gateway => Update::Gateway(Box::new(decode_gateway(&body.value)?)),
        ResourceType::Route => {
            let (gateway, route) = decode_route(&body.value)?;
            Update::Route(gateway, Box::new(route))
        }
        ResourceType::Backend => {
            let (gateway, backend) = decode_backend(&body.value)?;
            Update::Backend(gateway, Box::new(backend))
        }
        ResourceType::Access => {
            let (gateway, policy) = decode_access(&body.value)?;
            Update::Access(gateway, Box::new(policy))
        }
        ResourceType::Authentication => {
            let (gateway, policy) = decode_authentication(&body.value)?;
            Update::Authentication(gateway, Box::new(policy))
        }
        ResourceType::TrafficPolicy => {
            let (gateway, policy) = decode_traffic(&body.value)?;
            Update::TrafficPolicy(gateway, Box::new(policy))
        }
    };
    let named = update.resource_name();
    if named != resource.name {
        // It could never be removed again.
        return Err(Error::Invalid {
            field: "name",
            why: format!("the content is of {named:?}"),
        });
    }
    Ok(update)
}

/// What has to be known of a policy that cannot be read; nothing of what is no policy.
fn unreadable(kind: ResourceType, name: &str) -> Option<Update> {
    match kind {
        ResourceType::Authorization => Some(Update::RejectedPolicy(PolicyKey(name.into()))),
        ResourceType::Access | ResourceType::Authentication => {
            Some(Update::RejectedOfGateway(kind, name.to_owned()))
        }
        _ => None,
    }
}

/// Names go into the tables of refused policies, so they are bounded like any other.
fn is_acceptable_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 4 * 253 + 3
}

fn refusal(rejections: &[Rejection]) -> Option<Status> {
    if rejections.is_empty() {
        return None;
    }
    let mut message = String::new();
    for Rejection { name, reason } in rejections {
        if message.len() > MAX_REFUSAL {
            message.push_str("; ...");
            break;
        }
        let separator = if message.is_empty() { "" } else { "; " };
        message.push_str(&format!("{separator}{name:.1024}: {reason:.1024}"));
    }
    Some(Status {
        code: Code::InvalidArgument.into(),
        message,
    })
}
