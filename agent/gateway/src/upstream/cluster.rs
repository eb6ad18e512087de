//! The endpoints of one port of a service, as the newest snapshot has them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use agent_model::{NamespacedHostname, Reason};
use agent_state::{Snapshot, resolve};
use tokio::time::Instant;

use super::choose::{Endpoint, choose};
use crate::plan::{Plan, Reached};
use crate::refusal::Refusal;

/// The endpoints of one port of a service. Those that stay keep their connections.
pub(super) struct Cluster {
    service: NamespacedHostname,
    port: u16,
    /// Of the snapshot that the endpoints are of.
    version: Cell<Option<u64>>,
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
    /// Why there are none.
    missing: Cell<Missing>,
    /// TLS to the endpoints, where they want it.
    tls: RefCell<Option<Reached>>,
}

#[derive(Clone, Copy)]
enum Missing {
    Service,
    Port,
    Endpoints,
}

impl Cluster {
    pub(super) fn new(service: NamespacedHostname, port: u16) -> Self {
        Self {
            service,
            port,
            version: Cell::new(None),
            endpoints: RefCell::default(),
            missing: Cell::new(Missing::Service),
            tls: RefCell::default(),
        }
    }

    /// Takes what a plan says of the endpoints. Where that is news, all of them are reached by new
    /// connections.
    pub(super) fn follow(&self, plan: &Plan) {
        let tls = plan.origination(&self.service, self.port);
        if is_same(self.tls.borrow().as_ref(), tls) {
            return;
        }
        *self.tls.borrow_mut() = tls.cloned();
        self.endpoints.take();
        self.version.set(None);
    }

    /// Takes the endpoints of a snapshot, unless it has them.
    pub(super) fn update(&self, snapshot: &Snapshot, network: &str) {
        if self.version.get() == Some(snapshot.version()) {
            return;
        }
        self.version.set(Some(snapshot.version()));
        let mut before: HashMap<SocketAddr, Rc<Endpoint>> = self
            .endpoints
            .take()
            .into_iter()
            .map(|endpoint| (endpoint.address(), endpoint))
            .collect();
        let Some(service) = snapshot.service(&self.service) else {
            self.missing.set(Missing::Service);
            return;
        };
        let has_port = service
            .ports
            .iter()
            .any(|port| port.service_port == self.port);
        self.missing.set(match has_port {
            true => Missing::Endpoints,
            false => Missing::Port,
        });
        let tls = self.tls.borrow().clone().and_then(Result::ok);
        let now = resolve::endpoints(snapshot, service, self.port, network);
        let now = now
            .into_iter()
            .map(|(workload, address)| match before.remove(&address) {
                // Another workload, or one that came into the mesh or left it, gets connections
                // of its own.
                Some(endpoint) if endpoint.is_reached_as(&workload) => {
                    endpoint.describe(&workload);
                    endpoint
                }
                _ => Endpoint::new(address, workload, tls.clone()),
            });
        *self.endpoints.borrow_mut() = now.collect();
    }

    /// How many endpoints there are.
    pub(super) fn len(&self) -> usize {
        self.endpoints.borrow().len()
    }

    /// The endpoint that takes a request.
    pub(super) fn choose(
        &self,
        tried: &[SocketAddr],
        random: u64,
    ) -> Result<Rc<Endpoint>, Refusal> {
        if let Some(Err(why)) = &*self.tls.borrow() {
            return Err(Refusal::new(Reason::BackendInvalid, why.as_ref()));
        }
        let endpoints = self.endpoints.borrow();
        let chosen = choose(&endpoints, tried, random);
        chosen.cloned().ok_or_else(|| self.none())
    }

    pub(super) fn sweep(&self, now: Instant) {
        for endpoint in self.endpoints.borrow().iter() {
            endpoint.sweep(now);
        }
    }

    fn none(&self) -> Refusal {
        let Self { service, port, .. } = self;
        match self.missing.get() {
            Missing::Service => {
                let detail = format!("service {service} is not known");
                Refusal::new(Reason::NoEndpoint, detail)
            }
            Missing::Port => {
                let detail = format!("service {service} has no port {port}");
                Refusal::new(Reason::ServicePortUnknown, detail)
            }
            Missing::Endpoints => {
                let detail = format!("service {service} has no ready endpoint for port {port}");
                Refusal::new(Reason::NoEndpoint, detail)
            }
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
