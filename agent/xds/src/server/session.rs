//! The protocol of the control plane's end, without I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use prost::Message;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

use super::catalog::{Catalog, Offer, Table};
use crate::resource_type::PerType;
use crate::{Error, ResourceType};

/// Largest response by intention, in bytes; a single larger resource is still sent.
const MAX_RESPONSE: usize = 4 * 1024 * 1024 - 64 * 1024;
/// Ends `system_version_info` of a response whose continuation follows. Our client is not in sync
/// before the last part; others do not look at it.
pub(crate) const MORE_FOLLOWS: &str = "+more";
/// Most names one client subscribes by name.
const MAX_NAMES: usize = 100_000;
/// Longest refusal kept for status, in bytes.
const MAX_REFUSAL: usize = 4096;

/// The protocol of the control plane's end of one stream: responses out of requests and changes.
#[derive(Debug, Default)]
pub struct ServerSession {
    types: PerType<Subscription>,
    nonce: u64,
    acknowledged: u64,
    last_refusal: Option<String>,
}

#[derive(Debug, Clone, Default)]
struct Subscription {
    open: bool,
    wildcard: bool,
    /// Names and aliases asked for one by one.
    names: BTreeSet<String>,
    /// What the client holds: it said so, or it was sent. A refused resource stays here, so it is
    /// not sent again before it changes.
    held: BTreeMap<Arc<str>, Arc<str>>,
    /// The table of the last comparison.
    seen: Option<Arc<Table>>,
}

/// What a client lacks and what it has too much of.
#[derive(Debug, Default)]
struct Difference {
    changed: Vec<Resource>,
    gone: Vec<String>,
}

impl ServerSession {
    /// A session that has heard nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers a request. The first one of a type is always answered, an acknowledgement never.
    /// Fails when the client asks for more names than are allowed.
    pub fn request(
        &mut self,
        request: DeltaDiscoveryRequest,
        catalog: &Catalog,
    ) -> Result<Vec<DeltaDiscoveryResponse>, Error> {
        self.note_acknowledgement(&request);
        let Some(kind) = ResourceType::from_url(&request.type_url) else {
            // Nothing of that type exists, which is an answer too.
            let first = request.response_nonce.is_empty();
            return Ok(first
                .then(|| self.empty(request.type_url))
                .into_iter()
                .collect());
        };
        let subscription = self.types.get_mut(kind);
        let opening = !mem::replace(&mut subscription.open, true);
        let asked = subscription.update(opening, request)?;
        if !opening && asked.is_empty() {
            return Ok(Vec::new());
        }
        let table = catalog.table(kind);
        let mut difference = subscription.difference(table);
        let unknown = asked
            .into_iter()
            .filter(|name| table.find(name).next().is_none());
        difference.gone.extend(unknown);
        Ok(self.respond(kind, difference))
    }

    /// The catalog changed: what this client has to hear of it. Policies come before the workloads
    /// that list them and leave after, because a listed policy that is missing denies.
    pub fn changed(&mut self, catalog: &Catalog) -> Vec<DeltaDiscoveryResponse> {
        let mut difference = |kind| {
            let subscription = self.types.get_mut(kind);
            let table = catalog.table(kind);
            let unchanged = subscription
                .seen
                .as_ref()
                .is_some_and(|seen| Arc::ptr_eq(seen, table));
            if !subscription.open || unchanged {
                return Difference::default();
            }
            subscription.difference(table)
        };
        let mut policies = difference(ResourceType::Authorization);
        let addresses = difference(ResourceType::Address);
        let leaving = Difference {
            changed: Vec::new(),
            gone: mem::take(&mut policies.gone),
        };
        let steps = [
            (ResourceType::Authorization, policies),
            (ResourceType::Address, addresses),
            (ResourceType::Authorization, leaving),
        ];
        let steps = steps.into_iter().filter(|(_, step)| !step.is_empty());
        steps
            .flat_map(|(kind, step)| self.respond(kind, step))
            .collect()
    }

    /// Responses sent so far.
    pub fn sent(&self) -> u64 {
        self.nonce
    }

    /// Responses the client has acknowledged or refused.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The client's last refusal on this stream.
    pub fn last_refusal(&self) -> Option<&str> {
        self.last_refusal.as_deref()
    }

    fn note_acknowledgement(&mut self, request: &DeltaDiscoveryRequest) {
        let nonce: u64 = request.response_nonce.parse().unwrap_or(0);
        if nonce == 0 || nonce > self.nonce {
            return;
        }
        self.acknowledged = (self.acknowledged + 1).min(self.nonce);
        if let Some(error) = &request.error_detail {
            let mut message = error.message.clone();
            message.truncate(message.floor_char_boundary(MAX_REFUSAL));
            self.last_refusal = Some(message);
        }
    }

    /// Splits a difference into responses of bounded size; at least one, if an empty one.
    fn respond(
        &mut self,
        kind: ResourceType,
        difference: Difference,
    ) -> Vec<DeltaDiscoveryResponse> {
        let mut responses = vec![self.empty(kind.url().to_owned())];
        let mut size = 0;
        for resource in difference.changed {
            let last = self.part(&mut responses, &mut size, resource.encoded_len(), kind);
            last.resources.push(resource);
        }
        for name in difference.gone {
            let last = self.part(&mut responses, &mut size, name.len(), kind);
            last.removed_resources.push(name);
        }
        responses
    }

    /// The response that still has room for `more` bytes.
    fn part<'a>(
        &mut self,
        responses: &'a mut Vec<DeltaDiscoveryResponse>,
        size: &mut usize,
        more: usize,
        kind: ResourceType,
    ) -> &'a mut DeltaDiscoveryResponse {
        if *size > 0 && *size + more > MAX_RESPONSE {
            if let Some(full) = responses.last_mut() {
                full.system_version_info.push_str(MORE_FOLLOWS);
            }
            responses.push(self.empty(kind.url().to_owned()));
            *size = 0;
        }
        *size += more;
        let last = responses.len() - 1;
        &mut responses[last]
    }

    fn empty(&mut self, type_url: String) -> DeltaDiscoveryResponse {
        self.nonce += 1;
        DeltaDiscoveryResponse {
            system_version_info: self.nonce.to_string(),
            type_url,
            nonce: self.nonce.to_string(),
            ..DeltaDiscoveryResponse::default()
        }
    }
}

impl Subscription {
    /// Takes over what a request says; returns the names it asks for.
    fn update(
        &mut self,
        opening: bool,
        request: DeltaDiscoveryRequest,
    ) -> Result<Vec<String>, Error> {
        if opening {
            self.wildcard = request.resource_names_subscribe.is_empty();
            let versions = request.initial_resource_versions.into_iter();
            self.held = versions
                .map(|(name, version)| (name.into(), version.into()))
                .collect();
        }
        let mut asked = Vec::new();
        for name in request.resource_names_subscribe {
            if name == "*" {
                self.wildcard = true;
                continue;
            }
            // Who asks for a name again wants it again.
            self.held.remove(name.as_str());
            self.names.insert(name.clone());
            asked.push(name);
        }
        for name in request.resource_names_unsubscribe {
            if name == "*" {
                self.wildcard = false;
            }
            self.names.remove(&name);
        }
        if self.names.len() > MAX_NAMES {
            return Err(Error::TooLarge {
                field: "resource_names_subscribe",
                found: self.names.len(),
                limit: MAX_NAMES,
            });
        }
        Ok(asked)
    }

    /// Compares what the client should hold with what it holds, and takes the former as sent.
    fn difference(&mut self, table: &Arc<Table>) -> Difference {
        self.seen = Some(Arc::clone(table));
        let mut difference = Difference::default();
        let mut gone = Vec::new();
        if self.wildcard {
            gone.extend(
                self.held
                    .keys()
                    .filter(|name| !table.contains(name))
                    .cloned(),
            );
            for (name, offer) in table.iter() {
                self.offer(name, offer, &mut difference);
            }
        } else {
            let names = mem::take(&mut self.names);
            let wanted: BTreeMap<_, _> = names.iter().flat_map(|name| table.find(name)).collect();
            gone.extend(
                self.held
                    .keys()
                    .filter(|name| !wanted.contains_key(*name))
                    .cloned(),
            );
            for (name, offer) in wanted {
                self.offer(name, offer, &mut difference);
            }
            self.names = names;
        }
        for name in gone {
            self.held.remove(&name);
            difference.gone.push(name.to_string());
        }
        difference
    }

    fn offer(&mut self, name: &Arc<str>, offer: &Offer, difference: &mut Difference) {
        if self.held.get(name) == Some(offer.version()) {
            return;
        }
        self.held
            .insert(Arc::clone(name), Arc::clone(offer.version()));
        difference.changed.push(offer.to_wire(name, !self.wildcard));
    }
}

impl Difference {
    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.gone.is_empty()
    }
}
