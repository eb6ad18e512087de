//! Endpoints, and which of them takes a request.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use agent_model::Workload;
use tokio::time::Instant;

use super::h1::Idle;
use super::h2::Shared;
use crate::plan::Origination;

/// An endpoint and this worker's connections to it.
pub(crate) struct Endpoint {
    address: SocketAddr,
    workload: RefCell<Arc<Workload>>,
    /// TLS of its own, over what the mesh reaches it by.
    tls: Option<Arc<Origination>>,
    /// Requests that are under way.
    active: Cell<u32>,
    /// The most recently used last.
    pub(super) idle: RefCell<Vec<Idle>>,
    pub(super) shared: Shared,
}

impl Endpoint {
    pub(super) fn new(
        address: SocketAddr,
        workload: Arc<Workload>,
        tls: Option<Arc<Origination>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            address,
            workload: RefCell::new(workload),
            tls,
            active: Cell::new(0),
            idle: RefCell::default(),
            shared: Shared::default(),
        })
    }

    /// The address that is dialled.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// True when connections to it may be used for this workload.
    pub(super) fn is_reached_as(&self, workload: &Workload) -> bool {
        let known = self.workload.borrow();
        known.uid == workload.uid
            && known.tunnel_protocol == workload.tunnel_protocol
            && known.identity() == workload.identity()
    }

    /// The workload behind it changed in a way that does not touch connections.
    pub(super) fn describe(&self, workload: &Arc<Workload>) {
        let mut known = self.workload.borrow_mut();
        if !Arc::ptr_eq(&known, workload) {
            *known = Arc::clone(workload);
        }
    }

    /// The workload behind it.
    pub(super) fn workload(&self) -> Arc<Workload> {
        Arc::clone(&self.workload.borrow())
    }

    /// The TLS it wants to be spoken to by.
    pub(super) fn tls(&self) -> Option<&Arc<Origination>> {
        self.tls.as_ref()
    }

    /// Counts a request until the result is dropped.
    pub(super) fn begin(self: &Rc<Self>) -> Active {
        self.active.set(self.active.get() + 1);
        Active(Rc::clone(self))
    }

    pub(super) fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain(|idle| idle.is_fresh(now));
    }
}

/// A request that is under way.
pub(crate) struct Active(Rc<Endpoint>);

impl Active {
    pub(super) fn endpoint(&self) -> &Rc<Endpoint> {
        &self.0
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

/// Of two random endpoints the one with fewer requests (power of two choices); those in `tried` do
/// not count. `random` is uniform over all of `u64`.
pub(super) fn choose<'a>(
    endpoints: &'a [Rc<Endpoint>],
    tried: &[SocketAddr],
    random: u64,
) -> Option<&'a Rc<Endpoint>> {
    if !tried.is_empty() {
        let untried = endpoints.iter().filter(|one| !tried.contains(&one.address));
        return untried.min_by_key(|one| one.active.get());
    }
    let (high, low) = (
        (random >> 32) as usize,
        (random & u64::from(u32::MAX)) as usize,
    );
    match endpoints {
        [] | [_] => endpoints.first(),
        _ => {
            let first = high % endpoints.len();
            let second = (first + 1 + low % (endpoints.len() - 1)) % endpoints.len();
            let (first, second) = (&endpoints[first], &endpoints[second]);
            match first.active.get() <= second.active.get() {
                true => Some(first),
                false => Some(second),
            }
        }
    }
}
