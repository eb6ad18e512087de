//! One worker's side of an endpoint: its connections.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use agent_model::Workload;
use tokio::time::Instant;

use super::group::Group;
use super::h1::Idle;
use super::h2::Shared;
use super::list::{Member, Vital};
use crate::plan::Origination;

/// An endpoint and this worker's connections to it.
pub(crate) struct Endpoint {
    address: SocketAddr,
    workload: RefCell<Arc<Workload>>,
    vital: Arc<Vital>,
    group: Arc<Group>,
    /// TLS of its own, over what the mesh reaches it by.
    tls: Option<Arc<Origination>>,
    /// The most recently used last.
    pub(super) idle: RefCell<Vec<Idle>>,
    pub(super) shared: Shared,
}

impl Endpoint {
    pub(super) fn new(
        member: &Member,
        group: &Arc<Group>,
        tls: Option<&Arc<Origination>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            address: member.address,
            workload: RefCell::new(Arc::clone(&member.workload)),
            vital: Arc::clone(&member.vital),
            group: Arc::clone(group),
            tls: tls.cloned(),
            idle: RefCell::default(),
            shared: Shared::default(),
        })
    }

    /// The address that is dialled.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same in every gateway.
    pub(crate) fn key(&self) -> u64 {
        self.vital.key
    }

    /// Of this process only: what [`Upstreams::send`](super::Upstreams::send) has tried.
    pub(crate) fn id(&self) -> u64 {
        self.vital.id
    }

    pub(super) fn vital(&self) -> &Arc<Vital> {
        &self.vital
    }

    pub(super) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// The workload behind it changed in a way that does not touch connections.
    pub(super) fn describe(&self, workload: &Arc<Workload>) {
        let mut known = self.workload.borrow_mut();
        if !Arc::ptr_eq(&known, workload) {
            *known = Arc::clone(workload);
        }
    }

    /// The workload behind it.
    pub(crate) fn workload(&self) -> Arc<Workload> {
        Arc::clone(&self.workload.borrow())
    }

    /// The TLS it wants to be spoken to by.
    pub(super) fn tls(&self) -> Option<&Arc<Origination>> {
        self.tls.as_ref()
    }

    pub(super) fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain(|idle| idle.is_fresh(now));
    }

    /// Closes what nobody uses.
    pub(super) fn close_unused(&self) {
        self.idle.borrow_mut().clear();
        self.shared.close_unused();
    }
}
