//! What the workers share, and what the tasks of one worker share.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use agent_hbone::{Pool, Settings};
use agent_identity::Certificates;
use agent_net::drain::{Drain, Watcher};
use agent_net::lookup::Lookup;
use agent_net::{NameSockets, NetnsCookie, OriginalDst, SocketTags};
use agent_telemetry::Metrics;
use tokio::sync::watch;

use crate::connections::Connections;
use crate::dns;
use crate::endpoints::ActiveEndpoints;
use crate::left::LeftPods;
use crate::pod::Pod;

/// What the kernel side gives to the proxy.
pub trait Kernel: OriginalDst + SocketTags + NameSockets {}

impl<T: OriginalDst + SocketTags + NameSockets> Kernel for T {}

/// Settings of the proxy.
#[derive(Debug, Clone)]
pub struct Config {
    /// Network the node's workloads are in (`""` is the default).
    pub network: Arc<str>,
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Connections the agent carries for one pod at a time; more are refused
    /// (`limit-exceeded`). Default 4096.
    pub connections_per_pod: u32,
    /// TLS handshakes one worker serves for one pod at a time; more wait, up to 5 s. Default 64.
    pub handshakes_per_pod: usize,
    /// Names are answered; without it every pod asks its servers itself.
    pub names: Option<dns::Config>,
}

/// Everything the workers share.
pub struct Mesh {
    /// The mesh as the control plane describes it.
    pub state: agent_state::Reader,
    /// True once workloads and policies were both received; before that nothing is decided.
    pub synced: watch::Receiver<bool>,
    /// Certificates of local workloads.
    pub certificates: Certificates,
    /// The kernel side.
    pub kernel: Arc<dyn Kernel>,
    /// Where records go.
    pub metrics: Arc<Metrics>,
    /// Questions for names.
    pub names: Arc<dns::Counters>,
    /// Finds endpoints that have a host name and no address.
    pub lookup: Arc<Lookup>,
    /// Settings.
    pub config: Config,
}

/// What the tasks of one worker share.
pub(crate) struct Worker {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) tunnels: Pool,
    pub(crate) settings: Rc<Settings>,
    pub(crate) connections: Rc<Connections>,
    pub(crate) active: ActiveEndpoints,
    pub(crate) draining: Watcher,
    /// The pods it serves; dropping or draining the second half ends a pod's tasks.
    pub(crate) pods: RefCell<BTreeMap<NetnsCookie, (Arc<Pod>, Drain)>>,
    /// Ends the accept loops of a pod, and nothing else of it.
    pub(crate) accepting: RefCell<BTreeMap<NetnsCookie, Drain>>,
    /// Pods that left the mesh alive, for as long as they have connections from before.
    pub(crate) left: Rc<LeftPods>,
}
