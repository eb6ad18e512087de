//! One worker's side of a port of a service.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use agent_model::Reason;
use agent_state::Snapshot;
use http::HeaderMap;
use tokio::time::Instant;

use super::Call;
use super::endpoint::Endpoint;
use super::group::Group;
use super::groups::Place;
use super::list::List;
use crate::plan::{Plan, Reached};
use crate::refusal::Refusal;
use crate::tuning::Features;

/// The endpoints with this worker's connections. Endpoints that stay keep theirs.
pub(super) struct Cluster {
    group: Arc<Group>,
    /// Of the snapshot that the group was shown last.
    version: Cell<Option<u64>>,
    /// Number of the list below.
    epoch: Cell<Option<u64>>,
    list: RefCell<Arc<List>>,
    /// In the order of the list.
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
    /// TLS to the endpoints, where they want it.
    tls: RefCell<Option<Reached>>,
}

impl Cluster {
    pub(super) fn new(group: Arc<Group>) -> Self {
        let (list, _) = group.list();
        Self {
            group,
            version: Cell::new(None),
            epoch: Cell::new(None),
            list: RefCell::new(list),
            endpoints: RefCell::default(),
            tls: RefCell::default(),
        }
    }

    /// Of a group whose endpoints never change.
    pub(super) fn fixed(group: Arc<Group>) -> Self {
        let cluster = Self::new(group);
        cluster.take();
        cluster
    }

    pub(super) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Takes what a plan says of the endpoints. Where that is news, all of them are reached by new
    /// connections.
    pub(super) fn follow(&self, plan: &Plan) {
        let tls = plan.origination(self.group.service(), self.group.port());
        if is_same(self.tls.borrow().as_ref(), tls) {
            return;
        }
        *self.tls.borrow_mut() = tls.cloned();
        self.endpoints.take();
        self.epoch.set(None);
    }

    /// Takes what is new in a snapshot, and what other workers have found.
    pub(super) fn update(&self, snapshot: &Snapshot, place: &Place) {
        if self.epoch.get() != Some(self.group.epoch()) {
            // Settings may have changed, which the snapshot has to be looked at with.
            self.version.set(None);
        }
        if self.version.get() != Some(snapshot.version()) {
            self.version.set(Some(snapshot.version()));
            self.group.follow(snapshot, place);
        }
        if self.epoch.get() != Some(self.group.epoch()) {
            self.take();
        }
    }

    fn take(&self) {
        let (list, epoch) = self.group.list();
        let mut endpoints = self.endpoints.borrow_mut();
        let mut before: std::collections::HashMap<u64, Rc<Endpoint>> = endpoints
            .drain(..)
            .map(|endpoint| (endpoint.vital().id, endpoint))
            .collect();
        let tls = self.tls.borrow();
        let tls = tls.as_ref().and_then(|tls| tls.as_ref().ok());
        let now = list.members.iter();
        endpoints.extend(now.map(|member| match before.remove(&member.vital.id) {
            Some(endpoint) => {
                endpoint.describe(&member.workload);
                endpoint
            }
            None => Endpoint::new(member, &self.group, tls),
        }));
        *self.list.borrow_mut() = list;
        self.epoch.set(Some(epoch));
    }

    /// How many endpoints there are.
    pub(super) fn len(&self) -> usize {
        self.endpoints.borrow().len()
    }

    /// True when that is one of them.
    pub(super) fn has(&self, address: SocketAddr) -> bool {
        let endpoints = self.endpoints.borrow();
        endpoints.iter().any(|one| one.address() == address)
    }

    /// The endpoint that takes a request: the one of its session, else by the algorithm; one of
    /// those in `tried` only when there is no other.
    pub(super) fn choose(
        &self,
        call: &Call<'_>,
        headers: Option<&HeaderMap>,
        tried: &[u64],
        now: std::time::Instant,
    ) -> Result<Rc<Endpoint>, Refusal> {
        if let Some(Err(why)) = &*self.tls.borrow() {
            return Err(Refusal::new(Reason::BackendInvalid, why.as_ref()));
        }
        let list = self.list.borrow();
        let of_session = call.session.filter(|_| tried.is_empty());
        let chosen = of_session.and_then(|key| list.usable(key)).or_else(|| {
            let features = Features {
                headers,
                client: call.client,
            };
            let hash = list.settings.hash.as_ref();
            let hash = hash.and_then(|on| on.of(&features)).or(call.hash);
            let was_tried = |index: usize| {
                let member = list.members.get(index);
                member.is_some_and(|member| tried.contains(&member.vital.id))
            };
            let pick = |skip: &dyn Fn(usize) -> bool| {
                list.balancer.pick(hash, now, &mut || rand::random(), skip)
            };
            let again = || match tried {
                [] => None,
                _ => pick(&|_| false),
            };
            pick(&was_tried).or_else(again)
        });
        let endpoints = self.endpoints.borrow();
        let chosen = chosen.and_then(|index| endpoints.get(index));
        chosen
            .cloned()
            .ok_or_else(|| list.none(self.group.service(), self.group.port()))
    }

    pub(super) fn sweep(&self, now: Instant) {
        for endpoint in self.endpoints.borrow().iter() {
            endpoint.sweep(now);
        }
    }

    /// Closes connections that nobody uses, if somebody waits for one.
    pub(super) fn reclaim(&self) {
        if self.group.is_wanted() {
            let endpoints = self.endpoints.borrow();
            endpoints
                .iter()
                .for_each(|endpoint| endpoint.close_unused());
        }
    }
}

fn is_same(known: Option<&Reached>, said: Option<&Reached>) -> bool {
    match (known, said) {
        (None, None) => true,
        (Some(Ok(known)), Some(Ok(said))) => Arc::ptr_eq(known, said),
        (Some(Err(known)), Some(Err(said))) => known == said,
        _ => false,
    }
}
