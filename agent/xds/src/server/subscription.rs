//! What one client wants of one type, and what it still has to hear.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use proto::discovery::DeltaDiscoveryRequest;

use super::caller::Client;
use super::catalog::Offer;
use super::table::{Since, Table};
use crate::{Error, ResourceType, links};

/// Most names one client subscribes by name.
const MAX_NAMES: usize = 100_000;

/// What one client wants of one type. Of a client that wants everything nothing is remembered but
/// how far it has heard: it holds what was on offer then.
#[derive(Debug, Clone, Default)]
pub(super) struct Subscription {
    is_open: bool,
    wildcard: bool,
    /// Names and aliases asked for one by one.
    names: BTreeSet<Arc<str>>,
    /// What a client that asks by name was sent, or said that it holds.
    held: BTreeSet<Arc<str>>,
    /// The last change the client was told of.
    seen: u64,
}

/// What a client lacks and what it has too much of.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) changed: Vec<Arc<str>>,
    pub(super) gone: Vec<String>,
    /// What was asked for and led to something: an alias may lead nowhere by the time that is sent.
    pub(super) asked: Vec<Arc<str>>,
}

impl Subscription {
    /// The client has asked for the type.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(super) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Takes over what a request says. What there is to answer, if anything: the first request of
    /// a type is always answered, an acknowledgement never. Fails when the client asks for more
    /// names than are allowed.
    pub(super) fn request(
        &mut self,
        request: DeltaDiscoveryRequest,
        node: &str,
        table: &Table,
    ) -> Result<Option<Difference>, Error> {
        let opening = !self.is_open;
        self.is_open = true;
        if opening {
            self.wildcard = request.resource_names_subscribe.is_empty();
        }
        let asked = self.update_names(&request)?;
        let dropped = request.resource_names_unsubscribe.iter();
        let dropped: BTreeSet<Arc<str>> = dropped.map(|name| name.as_str().into()).collect();
        if opening {
            self.seen = table.last();
            let versions = request.initial_resource_versions;
            let mut answer = if self.wildcard {
                all(table, &versions)
            } else {
                self.resume(table, node, versions)
            };
            self.reopen(table, asked, &mut answer);
            return Ok(Some(answer));
        }
        let has_asked = !asked.is_empty();
        let mut answer = Difference::default();
        if !self.wildcard && !dropped.is_empty() {
            self.forget(table, node, &dropped, &mut answer);
        }
        self.ask(table, asked, &mut answer);
        Ok((has_asked || !answer.is_empty()).then_some(answer))
    }

    /// What changed since the client last heard. Fails when that is too long ago to tell.
    pub(super) fn since(&mut self, table: &Table, node: &str) -> Result<Difference, Error> {
        if !self.is_open || self.seen == table.last() {
            return Ok(Difference::default());
        }
        let Since { changed, gone } = table.since(self.seen).ok_or(Error::TooFarBehind)?;
        self.seen = table.last();
        if self.wildcard {
            let gone = gone.iter().map(ToString::to_string).collect();
            return Ok(Difference {
                changed,
                gone,
                ..Difference::default()
            });
        }
        let mut difference = Difference::default();
        for name in gone {
            if self.held.remove(&name) {
                difference.gone.push(name.to_string());
            }
        }
        // Services before their endpoints, which are wanted for the service's sake.
        let offers = changed
            .iter()
            .filter_map(|name| Some((name, table.get(name)?)));
        let (endpoints, others): (Vec<_>, Vec<_>) =
            offers.partition(|(_, offer)| !offer.links.services.is_empty());
        for (name, offer) in others.into_iter().chain(endpoints) {
            if self.wants(name, offer, node) {
                self.send(table, name, &mut difference);
            }
        }
        Ok(difference)
    }

    /// Returns the names asked for.
    fn update_names(&mut self, request: &DeltaDiscoveryRequest) -> Result<Vec<Arc<str>>, Error> {
        let mut asked = Vec::new();
        for name in &request.resource_names_subscribe {
            if name == "*" {
                self.wildcard = true;
                continue;
            }
            let name: Arc<str> = name.as_str().into();
            self.names.insert(Arc::clone(&name));
            asked.push(name);
        }
        for name in &request.resource_names_unsubscribe {
            if name == "*" {
                self.wildcard = false;
            }
            self.names.remove(name.as_str());
        }
        let versions = request.initial_resource_versions.len();
        if self.names.len() + if self.wildcard { 0 } else { versions } > MAX_NAMES {
            return Err(Error::TooLarge {
                field: "resource_names_subscribe",
                found: self.names.len(),
                limit: MAX_NAMES,
            });
        }
        Ok(asked)
    }

    /// Lets go of what the client no longer asks for, with the endpoints of services. It is told
    /// what that is: it may have been sent some of it meanwhile. And what it gave up but gets for
    /// another reason is sent again.
    fn forget(
        &mut self,
        table: &Table,
        node: &str,
        dropped: &BTreeSet<Arc<str>>,
        answer: &mut Difference,
    ) {
        let held = self.held.iter();
        let on_offer = held.filter_map(|name| Some((name, &table.get(name)?.links)));
        let wanted = links::wanted(on_offer, &self.names, node);
        // Of what has gone meanwhile the client is told when that change is compared.
        let (kept, unwanted) = mem::take(&mut self.held)
            .into_iter()
            .partition(|name| wanted.contains(name) || table.get(name).is_none());
        self.held = kept;
        let unwanted: BTreeSet<Arc<str>> = unwanted;
        answer.gone.extend(unwanted.iter().map(ToString::to_string));
        let again = dropped.intersection(&wanted);
        answer.changed.extend(again.cloned());
    }

    /// Goes on where an earlier stream ended: what the client holds counts as asked for, and so
    /// does whatever runs on its node.
    fn resume(
        &mut self,
        table: &Table,
        node: &str,
        versions: BTreeMap<String, String>,
    ) -> Difference {
        let mut answer = Difference::default();
        for (name, version) in versions {
            match table.get(&name) {
                Some(offer) => {
                    let name: Arc<str> = name.into();
                    if !offer.is_version(&version) {
                        answer.changed.push(Arc::clone(&name));
                    }
                    self.held.insert(name);
                }
                None => answer.gone.push(name),
            }
        }
        for name in table.on_node(node) {
            self.send_new(table, name, &mut answer);
        }
        let held: Vec<_> = self.held.iter().cloned().collect();
        for endpoint in held.iter().flat_map(|name| table.endpoints(name)) {
            self.send_new(table, endpoint, &mut answer);
        }
        answer
    }

    /// Answers for the names of a client that comes back: what it holds it is not sent again.
    fn reopen(&mut self, table: &Table, asked: Vec<Arc<str>>, answer: &mut Difference) {
        if self.wildcard {
            return self.ask(table, asked, answer);
        }
        for name in asked {
            let found = table.find(&name);
            if found.is_empty() {
                answer.gone.push(name.to_string());
            }
            for name in &found {
                self.send_new(table, name, answer);
            }
        }
    }

    /// Answers for names: who asks again wants it again, and what does not exist is said to be
    /// gone.
    fn ask(&mut self, table: &Table, asked: Vec<Arc<str>>, answer: &mut Difference) {
        if self.wildcard {
            // It is sent all of it anyway, but a name without resource has to be answered.
            let unknown = asked.iter().filter(|name| table.find(name).is_empty());
            answer.gone.extend(unknown.map(ToString::to_string));
            return;
        }
        for name in asked {
            let found = table.find(&name);
            if found.is_empty() {
                answer.gone.push(name.to_string());
                continue;
            }
            for name in found {
                self.held.insert(Arc::clone(&name));
                answer.changed.push(name);
            }
            answer.asked.push(name);
        }
    }

    /// True for what runs on the client's node, what it asked for, and endpoints of services that
    /// it was sent.
    fn wants(&self, name: &Arc<str>, offer: &Offer, node: &str) -> bool {
        self.held.contains(name)
            || self.names.contains(name)
            || offer.links.is_on(node)
            || offer.links.is_named_by(&self.names)
            || offer.links.serves_one_of(&self.held)
    }

    /// Sends a change, and the endpoints of what is a service the client did not have.
    fn send(&mut self, table: &Table, name: &Arc<str>, difference: &mut Difference) {
        difference.changed.push(Arc::clone(name));
        if self.held.insert(Arc::clone(name)) {
            for endpoint in table.endpoints(name) {
                self.send_new(table, endpoint, difference);
            }
        }
    }

    fn send_new(&mut self, table: &Table, name: &Arc<str>, difference: &mut Difference) {
        if table.get(name).is_some() && self.held.insert(Arc::clone(name)) {
            difference.changed.push(Arc::clone(name));
        }
    }
}

impl Difference {
    /// Takes out what is gone, to be told later.
    pub(super) fn leaving(&mut self) -> Self {
        Self {
            gone: mem::take(&mut self.gone),
            ..Self::default()
        }
    }

    /// Without what is not for `client`: a resource of another gateway is to it as if it did not
    /// exist.
    pub(super) fn told_to(mut self, client: &Client, kind: ResourceType) -> Self {
        if kind.is_of_one_gateway() {
            self.changed.retain(|name| client.owns(name));
            self.gone.retain(|name| client.owns(name));
        }
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.gone.is_empty()
    }
}

/// Everything on offer that differs from what the client holds already, and what it holds that is
/// not on offer.
fn all(table: &Table, versions: &BTreeMap<String, String>) -> Difference {
    let is_held = |name: &str, offer: &Offer| {
        let version = versions.get(name);
        version.is_some_and(|version| offer.is_version(version))
    };
    let changed = table.iter().filter(|(name, offer)| !is_held(name, offer));
    let gone = versions.keys().filter(|name| table.get(name).is_none());
    Difference {
        changed: changed.map(|(name, _)| Arc::clone(name)).collect(),
        gone: gone.cloned().collect(),
        asked: Vec::new(),
    }
}
