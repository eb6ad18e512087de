//! The metrics and the readiness port. Both pass from one agent to the next where they share a
//! network namespace; else each agent has its own.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};

use agent_proxy::handover::ListenerName;
use anyhow::Context;

use super::MeshView;
use crate::config::NodeConfig;
use crate::http::Route;
use crate::listen::{Listeners, Serving, bind, metrics_route, readiness_route};

/// The ports this agent has so far.
#[derive(Default)]
pub(super) struct Ports {
    listeners: BTreeMap<ListenerName, TcpListener>,
    serving: Vec<Serving>,
}

impl Ports {
    /// Serves those that are free. One that is not may be the predecessor's, see
    /// [`Self::inherit`].
    pub(super) fn bind(config: &NodeConfig, view: &MeshView) -> anyhow::Result<Self> {
        let mut ports = Self::default();
        for (name, address) in addresses(config) {
            match bind(address) {
                Ok(listener) => ports.serve(name, listener, view)?,
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error).with_context(|| listening(address)),
            }
        }
        Ok(ports)
    }

    /// Serves the predecessor's. Fails when one is still missing.
    pub(super) fn inherit(
        &mut self,
        mut inherited: BTreeMap<ListenerName, TcpListener>,
        config: &NodeConfig,
        view: &MeshView,
    ) -> anyhow::Result<()> {
        for (name, address) in addresses(config) {
            if self.listeners.contains_key(&name) {
                continue;
            }
            let listener = match inherited.remove(&name) {
                Some(listener) => listener,
                None => bind(address).with_context(|| listening(address))?,
            };
            self.serve(name, listener, view)?;
        }
        Ok(())
    }

    /// Second descriptors, for a successor.
    pub(super) fn share(&self) -> io::Result<BTreeMap<ListenerName, TcpListener>> {
        let share =
            |(name, listener): (&ListenerName, &TcpListener)| Ok((*name, listener.try_clone()?));
        self.listeners.iter().map(share).collect()
    }

    /// What serves them.
    pub(super) fn serving(self) -> Vec<Serving> {
        self.serving
    }

    fn serve(
        &mut self,
        name: ListenerName,
        listener: TcpListener,
        view: &MeshView,
    ) -> anyhow::Result<()> {
        let serving = Listeners::default()
            .tcp(listener.try_clone()?, &[route(name, view)])?
            .start()?;
        self.serving.push(serving);
        self.listeners.insert(name, listener);
        Ok(())
    }
}

fn addresses(config: &NodeConfig) -> [(ListenerName, SocketAddr); 2] {
    [
        (ListenerName::Metrics, config.metrics_listen),
        (ListenerName::Readiness, config.ready_listen),
    ]
}

fn route(name: ListenerName, view: &MeshView) -> Route {
    match name {
        ListenerName::Metrics => metrics_route(std::sync::Arc::clone(&view.metrics)),
        _ => readiness_route(view.readiness.clone()),
    }
}

fn listening(address: SocketAddr) -> String {
    format!("listening on {address}")
}
