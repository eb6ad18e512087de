//! The protocol of the control plane's end, without I/O.

use std::collections::VecDeque;
use std::sync::Arc;

use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::caller::Client;
use super::catalog::Catalog;
use super::subscription::{Difference, Subscription};
use super::taken::{Listening, Taken};
use crate::resource_type::PerType;
use crate::{Error, ResourceType};

/// Largest response by intention, in bytes; a single larger resource is still sent. Small, because
/// hundreds of nodes may be sent everything at once.
const MAX_RESPONSE: usize = 256 * 1024;
/// Ends `system_version_info` of a response whose continuation follows. Our client is not in sync
/// before the last part; others do not look at it.
pub(crate) const MORE_FOLLOWS: &str = "+more";
/// Answers that wait at most before no more requests are taken.
const MAX_STEPS: usize = 16;
/// Longest refusal kept for status, in bytes.
const MAX_REFUSAL: usize = 4096;

/// The protocol of the control plane's end of one stream. Requests come in; responses are made
/// one at a time when there is room to send one, from what is on offer at that moment. A client
/// that lags behind is sent the latest state, never each change on the way.
#[derive(Debug)]
pub struct ServerSession {
    /// Who listens: nothing of a gateway goes to anybody else.
    client: Client,
    types: PerType<Subscription>,
    /// What is to be sent, in order.
    steps: VecDeque<Step>,
    /// What protected a gateway while its stream was away, to be taken from it after it is told
    /// of itself.
    leaving: Vec<(ResourceType, Difference)>,
    /// What a gateway has taken; `None` for a node.
    listening: Option<Listening>,
    nonce: u64,
    acknowledged: u64,
    last_refusal: Option<String>,
}

/// Something that the client has to hear in one or more responses.
#[derive(Debug)]
struct Step {
    type_url: String,
    /// `None` for a type that does not exist here.
    kind: Option<ResourceType>,
    changed: VecDeque<Arc<str>>,
    gone: VecDeque<String>,
    /// Whoever asked for these waits to be told at the end, of those that lead nowhere by then, too.
    asked: Vec<Arc<str>>,
}

impl ServerSession {
    /// A session with a client that has heard nothing yet.
    pub fn new(client: Client) -> Self {
        let listening = match &client {
            Client::Node(_) => None,
            Client::Gateway(key, _) => Some(Listening::to(key)),
        };
        Self {
            client,
            types: PerType::default(),
            steps: VecDeque::new(),
            leaving: Vec::new(),
            listening,
            nonce: 0,
            acknowledged: 0,
            last_refusal: None,
        }
    }

    /// Takes a request; [`Self::respond`] has the answers. Fails when the client asks for more
    /// names than are allowed.
    pub fn request(
        &mut self,
        request: DeltaDiscoveryRequest,
        catalog: &Catalog,
    ) -> Result<(), Error> {
        self.note_acknowledgement(&request);
        let Some(kind) = ResourceType::from_url(&request.type_url) else {
            // Nothing of that type exists, which is an answer too.
            if request.response_nonce.is_empty() {
                self.steps.push_back(Step {
                    type_url: request.type_url,
                    kind: None,
                    changed: VecDeque::new(),
                    gone: VecDeque::new(),
                    asked: Vec::new(),
                });
            }
            return Ok(());
        };
        let subscription = self.types.get_mut(kind);
        let opens = !subscription.is_open();
        if let Some(listening) = self.listening.as_mut().filter(|_| opens) {
            listening.opens(kind, &request);
        }
        let node = self.client.node();
        let answer = subscription.request(request, node, catalog.table(kind))?;
        let mut answer = answer.map(|difference| difference.told_to(&self.client, kind));
        // Who asks by name waits for an answer to each.
        let is_told_all = self.types.get(kind).is_wildcard();
        if let Some(answer) = &mut answer
            && opens
            && is_told_all
            && kind.protects()
        {
            self.leaving.push((kind, answer.leaving()));
        }
        self.steps
            .extend(answer.map(|difference| Step::new(kind, difference)));
        Ok(())
    }

    /// False while so many answers wait that requests have to, too: a client that asks and does not
    /// read uses up no memory here.
    pub fn listens(&self) -> bool {
        self.steps.len() < MAX_STEPS
    }

    /// The next thing to send; `None` while the client knows all it should. Fails when the client
    /// has not listened for so long that it has to start over with a new stream.
    pub fn respond(&mut self, catalog: &Catalog) -> Result<Option<DeltaDiscoveryResponse>, Error> {
        if self.steps.is_empty() {
            self.take_leave(catalog);
        }
        if self.steps.is_empty() {
            self.compare(catalog)?;
        }
        let Some(mut step) = self.steps.pop_front() else {
            return Ok(None);
        };
        self.nonce += 1;
        let with_aliases = step
            .kind
            .is_some_and(|kind| !self.types.get(kind).is_wildcard());
        let response = step.part(self.nonce, catalog, with_aliases);
        if let (Some(listening), Some(kind)) = (&mut self.listening, step.kind) {
            listening.sends(kind, self.nonce, &response);
        }
        if !step.is_over() {
            self.steps.push_front(step);
        }
        Ok(Some(response))
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

    /// What a gateway has taken so far; `None` for a node.
    pub fn taken(&self) -> Option<&Taken> {
        self.listening.as_ref().map(Listening::taken)
    }

    fn note_acknowledgement(&mut self, request: &DeltaDiscoveryRequest) {
        let nonce: u64 = request.response_nonce.parse().unwrap_or(0);
        if nonce == 0 || nonce > self.nonce {
            return;
        }
        self.acknowledged = (self.acknowledged + 1).min(self.nonce);
        let refusal = request.error_detail.as_ref();
        if let Some(listening) = &mut self.listening
            && let Some(kind) = ResourceType::from_url(&request.type_url)
        {
            listening.answers(kind, nonce, refusal.map(|error| error.message.as_str()));
        }
        if let Some(error) = refusal {
            let mut message = error.message.clone();
            message.truncate(message.floor_char_boundary(MAX_REFUSAL));
            self.last_refusal = Some(message);
        }
    }

    /// A gateway that comes back opens one type after the other. What protected it goes when it has
    /// heard of itself and its routes, as it does on a stream that lasts. What has come back by then
    /// is kept: it is sent when changes are compared.
    fn take_leave(&mut self, catalog: &Catalog) {
        let mut last = [ResourceType::Gateway, ResourceType::Route].into_iter();
        if !last.all(|kind| self.types.get(kind).is_open()) {
            return;
        }
        for (kind, mut difference) in self.leaving.drain(..) {
            difference
                .gone
                .retain(|name| catalog.table(kind).get(name).is_none());
            if !difference.is_empty() {
                self.steps.push_back(Step::new(kind, difference));
            }
        }
    }

    /// Finds out what changed. Policies come before the workloads that list them and leave after,
    /// because a listed policy that is missing denies; what routes name comes before the routes.
    /// What protects a gateway comes before it and leaves after it: its policies, and the TLS of its
    /// backends.
    fn compare(&mut self, catalog: &Catalog) -> Result<(), Error> {
        let mut since = |kind| {
            let subscription = self.types.get_mut(kind);
            let difference = subscription.since(catalog.table(kind), self.client.node())?;
            Ok::<_, Error>(difference.told_to(&self.client, kind))
        };
        let mut policies = since(ResourceType::Authorization)?;
        let addresses = since(ResourceType::Address)?;
        let leaving = policies.leaving();
        let mut authentications = since(ResourceType::Authentication)?;
        let mut access = since(ResourceType::Access)?;
        let mut backends = since(ResourceType::Backend)?;
        let no_tokens = authentications.leaving();
        let (no_access, no_backends) = (access.leaving(), backends.leaving());
        let steps = [
            (ResourceType::Authorization, policies),
            (ResourceType::Address, addresses),
            (ResourceType::Authorization, leaving),
            (ResourceType::Authentication, authentications),
            (ResourceType::Access, access),
            (ResourceType::Backend, backends),
            (
                ResourceType::TrafficPolicy,
                since(ResourceType::TrafficPolicy)?,
            ),
            (ResourceType::Gateway, since(ResourceType::Gateway)?),
            (ResourceType::Route, since(ResourceType::Route)?),
            (ResourceType::Authentication, no_tokens),
            (ResourceType::Access, no_access),
            (ResourceType::Backend, no_backends),
        ];
        let steps = steps.into_iter().filter(|(_, step)| !step.is_empty());
        self.steps
            .extend(steps.map(|(kind, difference)| Step::new(kind, difference)));
        Ok(())
    }
}

impl Step {
    fn new(kind: ResourceType, difference: Difference) -> Self {
        Self {
            type_url: kind.url().to_owned(),
            kind: Some(kind),
            changed: difference.changed.into(),
            gone: difference.gone.into(),
            asked: difference.asked,
        }
    }

    fn is_over(&self) -> bool {
        self.changed.is_empty() && self.gone.is_empty()
    }

    /// As much as fits into one response, removals last: a client whose stream breaks in between
    /// has lost nothing.
    fn part(
        &mut self,
        nonce: u64,
        catalog: &Catalog,
        with_aliases: bool,
    ) -> DeltaDiscoveryResponse {
        let mut response = DeltaDiscoveryResponse {
            system_version_info: nonce.to_string(),
            type_url: self.type_url.clone(),
            nonce: nonce.to_string(),
            ..DeltaDiscoveryResponse::default()
        };
        let mut size = 0;
        while let Some(name) = self.changed.front()
            && let Some(kind) = self.kind
        {
            // What has gone since is told as such when that change is compared.
            if let Some(offer) = catalog.table(kind).get(name) {
                size += offer.size(name);
                if size > MAX_RESPONSE && !response.resources.is_empty() {
                    break;
                }
                response
                    .resources
                    .push(offer.to_wire(kind, name, with_aliases));
            }
            self.changed.pop_front();
        }
        if self.changed.is_empty()
            && let Some(kind) = self.kind
        {
            let asked = self.asked.drain(..);
            let lost = asked.filter(|name| catalog.table(kind).find(name).is_empty());
            self.gone.extend(lost.map(|name| name.to_string()));
        }
        while self.changed.is_empty()
            && let Some(name) = self.gone.pop_front()
        {
            size += name.len();
            response.removed_resources.push(name);
            if size > MAX_RESPONSE {
                break;
            }
        }
        if !self.is_over() {
            response.system_version_info.push_str(MORE_FOLLOWS);
        }
        response
    }
}
