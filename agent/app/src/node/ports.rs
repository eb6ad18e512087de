//! The metrics and the readiness port. Both pass from one agent to the next where they share a
//! network namespace; else each agent has its own.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use agent_net::socket::listen_on;
use agent_proxy::Workers;
use agent_proxy::handover::ListenerName;
use agent_telemetry::Metrics;
use anyhow::Context;
use tokio::runtime::Runtime;

use super::MeshView;
use crate::config::NodeConfig;
use crate::http::Route;
use crate::listen::{Listeners, Serving, liveness_route, metrics_route, readiness_route};
use crate::readiness::Readiness;

/// Time between two tries for a port that another process has.
const RETRY: Duration = Duration::from_millis(500);
/// Time a worker has to answer who asks whether it is alive; the kubelet waits longer.
const ANSWER: Duration = Duration::from_secs(1);

/// The ports of this agent; clones are the same.
#[derive(Clone)]
pub(super) struct Ports {
    held: Arc<Mutex<Held>>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    /// Who must answer for the agent to be alive, once there is somebody.
    workers: Arc<OnceLock<Arc<Workers>>>,
}

#[derive(Default)]
struct Held {
    listeners: BTreeMap<ListenerName, TcpListener>,
    serving: Vec<Serving>,
    is_closed: bool,
}

impl Ports {
    /// Serves those that are free. One that is not may be the predecessor's, see
    /// [`Self::inherit`].
    pub(super) fn bind(config: &NodeConfig, view: &MeshView) -> anyhow::Result<Self> {
        let ports = Self {
            held: Arc::default(),
            metrics: Arc::clone(&view.metrics),
            readiness: view.readiness.clone(),
            workers: Arc::default(),
        };
        for (name, address) in addresses(config) {
            ports.try_bind(name, address)?;
        }
        Ok(ports)
    }

    /// From now on the agent is alive while these are.
    pub(super) fn watch(&self, workers: &Arc<Workers>) {
        // There is one set of workers.
        let _ = self.workers.set(Arc::clone(workers));
    }

    /// Serves the predecessor's. One that is still missing is another process's, such as a
    /// predecessor's that hangs: it is waited for, while the pods are served.
    pub(super) fn inherit(
        &self,
        mut inherited: BTreeMap<ListenerName, TcpListener>,
        config: &NodeConfig,
        control: &Runtime,
    ) -> anyhow::Result<()> {
        for (name, address) in addresses(config) {
            if self.lock().listeners.contains_key(&name) {
                continue;
            }
            match inherited.remove(&name) {
                Some(listener) => self.serve(name, listener)?,
                None if self.try_bind(name, address)? => {}
                None => {
                    tracing::warn!(%address, "another process has this port, waiting for it");
                    control.spawn(self.clone().wait(name, address));
                }
            }
        }
        Ok(())
    }

    /// Second descriptors, for a successor.
    pub(super) fn share(&self) -> io::Result<BTreeMap<ListenerName, TcpListener>> {
        let share =
            |(name, listener): (&ListenerName, &TcpListener)| Ok((*name, listener.try_clone()?));
        self.lock().listeners.iter().map(share).collect()
    }

    /// Serves none of them any more.
    pub(super) fn close(&self) {
        let mut held = self.lock();
        held.is_closed = true;
        held.listeners.clear();
        let serving = std::mem::take(&mut held.serving);
        drop(held);
        // Waits for their threads.
        drop(serving);
    }

    async fn wait(self, name: ListenerName, address: SocketAddr) {
        loop {
            tokio::time::sleep(RETRY).await;
            match self.try_bind(name, address) {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(%address, "the port is free now");
                    return;
                }
                Err(error) => {
                    tracing::error!(%address, error = format!("{error:#}"), "port given up");
                    return;
                }
            }
        }
    }

    /// False when another process has it.
    fn try_bind(&self, name: ListenerName, address: SocketAddr) -> anyhow::Result<bool> {
        match listen_on(address) {
            Ok(listener) => self.serve(name, listener).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(false),
            Err(error) => Err(error).with_context(|| format!("listening on {address}")),
        }
    }

    fn serve(&self, name: ListenerName, listener: TcpListener) -> anyhow::Result<()> {
        let mut held = self.lock();
        if held.is_closed {
            return Ok(());
        }
        let serving = Listeners::default()
            .tcp(listener.try_clone()?, &self.routes(name))?
            .start()?;
        held.serving.push(serving);
        held.listeners.insert(name, listener);
        Ok(())
    }

    fn routes(&self, name: ListenerName) -> Vec<Route> {
        if name == ListenerName::Metrics {
            return vec![metrics_route(Arc::clone(&self.metrics))];
        }
        let workers = Arc::clone(&self.workers);
        let is_alive = move || workers.get().is_none_or(|workers| workers.answer(ANSWER));
        vec![
            readiness_route(self.readiness.clone()),
            liveness_route(is_alive),
        ]
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn addresses(config: &NodeConfig) -> [(ListenerName, SocketAddr); 2] {
    [
        (ListenerName::Metrics, config.metrics_listen),
        (ListenerName::Readiness, config.ready_listen),
    ]
}
