//! The endpoints of one port of a service, as the newest snapshot has them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use agent_model::{NamespacedHostname, Reason};
use agent_state::{Snapshot, resolve};
use tokio::time::Instant;

use super::choose::{Endpoint, choose};
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
        }
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
                _ => Endpoint::new(address, workload),
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
