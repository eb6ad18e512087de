//! Worker threads: a current-thread runtime each, owning its connections and tunnels.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use agent_datapath::{EnrolledPod, PodSink};
use agent_hbone::{Pool, PoolStats, Settings};
use agent_identity::Certificates;
use agent_net::drain::{self, Drain, Watcher};
use agent_net::tasks::spawn_local;
use agent_net::{NetnsCookie, OriginalDst, SocketTags};
use agent_telemetry::Metrics;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::LocalSet;

use crate::connections::Connections;
use crate::pod::{LocalPod, Pod};
use crate::{accept, inbound, outbound, passthrough};

/// What the kernel side gives to the proxy.
pub trait Kernel: OriginalDst + SocketTags {}

impl<T: OriginalDst + SocketTags> Kernel for T {}

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
    /// TLS handshakes one worker serves at a time; more wait in the accept queue. Default 64.
    pub handshakes_per_worker: usize,
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
    /// Settings.
    pub config: Config,
}

/// Errors of the proxy as a whole; those of one connection are [`Refusal`](crate::Refusal)s.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A worker thread could not be started.
    #[error("cannot start worker {index}")]
    Start {
        /// Which one.
        index: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A worker did not take a command in time or is gone.
    #[error("worker {index} does not answer")]
    Unresponsive {
        /// Which one.
        index: usize,
    },
}

/// The worker threads.
pub struct Workers {
    threads: Vec<Thread>,
    pods: Mutex<BTreeMap<NetnsCookie, Arc<Pod>>>,
}

struct Thread {
    commands: mpsc::Sender<Command>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

enum Command {
    Stats { reply: std_mpsc::SyncSender<PoolStats> },
    Add {
        pod: Arc<Pod>,
        listeners: Listeners,
    },
    Remove {
        pod: NetnsCookie,
        done: std_mpsc::SyncSender<()>,
    },
    Stop {
        deadline: Duration,
        done: std_mpsc::SyncSender<bool>,
    },
}

/// One worker's descriptors of a pod's listeners.
struct Listeners {
    outbound: StdListener,
    inbound: StdListener,
    hbone: StdListener,
}

/// Commands waiting for a worker.
const COMMAND_QUEUE: usize = 256;
/// Time in which a worker must have closed every socket of a removed pod.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(5);

/// Time in which a worker must say what it has.
const STATS_DEADLINE: Duration = Duration::from_millis(500);

impl Workers {
    /// Starts the worker threads.
    pub fn start(mesh: Mesh) -> Result<Self, ProxyError> {
        let mesh = Arc::new(mesh);
        let threads = (0..mesh.config.workers.max(1))
            .map(|index| {
                start_thread(index, Arc::clone(&mesh))
                    .map_err(|source| ProxyError::Start { index, source })
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            threads,
            pods: Mutex::default(),
        })
    }

    /// The pods served now.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Pooled tunnels and their streams, as each worker says when asked; one that does not answer
    /// within half a second counts as none. Blocks; not for the data path.
    pub fn tunnels(&self) -> PoolStats {
        let (reply, answers) = std_mpsc::sync_channel(self.threads.len());
        for thread in &self.threads {
            // A full queue belongs to a worker that would not answer in time.
            let _ = thread.commands.try_send(Command::Stats { reply: reply.clone() });
        }
        drop(reply);
        let mut sum = PoolStats::default();
        while let Ok(stats) = answers.recv_timeout(STATS_DEADLINE) {
            sum.keys += stats.keys;
            sum.tunnels += stats.tunnels;
            sum.streams += stats.streams;
            sum.dials += stats.dials;
        }
        sum
    }

    /// Stops accepting, tells tunnel peers to go away, lets connections finish until `deadline`
    /// and resets the rest. True when all finished in time. Blocks; call it off the runtimes.
    pub fn stop(&self, deadline: Duration) -> bool {
        let (done, results) = std_mpsc::sync_channel(self.threads.len());
        for thread in &self.threads {
            let command = Command::Stop {
                deadline,
                done: done.clone(),
            };
            if thread.commands.blocking_send(command).is_err() {
                tracing::error!("a worker is gone");
            }
        }
        drop(done);
        let finished = results.iter().all(|in_time| in_time);
        for thread in &self.threads {
            let handle = thread
                .handle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if handle.is_some_and(|handle| handle.join().is_err()) {
                tracing::error!("a worker panicked");
            }
        }
        finished
    }
}

impl PodSink for Workers {
    fn add(&self, enrolled: EnrolledPod) -> io::Result<()> {
        let EnrolledPod {
            info,
            netns,
            outbound,
            inbound,
            hbone,
        } = enrolled;
        let pod = Arc::new(Pod::new(info, netns));
        self.pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(pod.cookie(), Arc::clone(&pod));
        for thread in &self.threads {
            let listeners = Listeners {
                outbound: outbound.try_clone()?,
                inbound: inbound.try_clone()?,
                hbone: hbone.try_clone()?,
            };
            let command = Command::Add {
                pod: Arc::clone(&pod),
                listeners,
            };
            thread
                .commands
                .try_send(command)
                .map_err(|error| io::Error::other(format!("worker: {error}")))?;
        }
        Ok(())
    }

    fn remove(&self, pod: NetnsCookie) {
        self.pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&pod);
        let (done, removed) = std_mpsc::sync_channel(self.threads.len());
        for thread in &self.threads {
            let command = Command::Remove {
                pod,
                done: done.clone(),
            };
            if thread.commands.try_send(command).is_err() {
                tracing::error!(
                    ?pod,
                    "a worker is gone or overwhelmed; the pod stays with it"
                );
            }
        }
        drop(done);
        for _ in &self.threads {
            if removed.recv_timeout(REMOVAL_DEADLINE).is_err() {
                tracing::error!(?pod, "a worker did not close the pod's sockets in time");
            }
        }
    }
}

fn start_thread(index: usize, mesh: Arc<Mesh>) -> io::Result<Thread> {
    let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let local = LocalSet::new();
            local.block_on(&runtime, Worker::run(mesh, receiver));
        })?;
    Ok(Thread {
        commands,
        handle: Mutex::new(Some(handle)),
    })
}

/// What the tasks of one worker share.
pub(crate) struct Worker {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) tunnels: Pool,
    pub(crate) settings: Rc<Settings>,
    pub(crate) connections: Rc<Connections>,
    pub(crate) active: outbound::ActiveEndpoints,
    pub(crate) handshakes: Semaphore,
    pub(crate) draining: Watcher,
    pods: RefCell<BTreeMap<NetnsCookie, (Arc<Pod>, Drain)>>,
}

impl Worker {
    async fn run(mesh: Arc<Mesh>, mut commands: mpsc::Receiver<Command>) {
        let (drain, draining) = drain::channel();
        let handshakes = Semaphore::new(mesh.config.handshakes_per_worker);
        let worker = Rc::new(Self {
            mesh,
            tunnels: Pool::new(Settings::default()),
            settings: Rc::new(Settings::default()),
            connections: Rc::default(),
            active: outbound::ActiveEndpoints::default(),
            handshakes,
            draining,
            pods: RefCell::default(),
        });
        let recheck = spawn_local(Rc::clone(&worker).recheck_on_change());
        while let Some(command) = commands.recv().await {
            match command {
                Command::Stats { reply } => {
                    let _ = reply.send(worker.tunnels.stats());
                }
                Command::Add { pod, listeners } => worker.add(pod, listeners),
                Command::Remove { pod, done } => {
                    let removal = Rc::clone(&worker).remove(pod);
                    spawn_local(async move {
                        removal.await;
                        let _ = done.send(());
                    });
                }
                Command::Stop { deadline, done } => {
                    recheck.abort();
                    let _ = done.send(worker.stop(drain, deadline).await);
                    return;
                }
            }
        }
    }

    fn add(self: &Rc<Self>, pod: Arc<Pod>, listeners: Listeners) {
        let (drain, removal) = drain::channel();
        self.pods
            .borrow_mut()
            .insert(pod.cookie(), (Arc::clone(&pod), drain));
        let local = LocalPod::new(Rc::clone(self), pod, removal);
        self.accept(&local, listeners.outbound, "outbound", outbound::handle);
        self.accept(&local, listeners.inbound, "inbound", passthrough::handle);
        self.accept(&local, listeners.hbone, "hbone", inbound::handle);
    }

    fn accept<F>(
        &self,
        pod: &LocalPod,
        listener: StdListener,
        purpose: &'static str,
        handle: fn(LocalPod, accept::Accepted) -> F,
    ) where
        F: Future<Output = ()> + 'static,
    {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                let draining = self.draining.clone();
                spawn_local(accept::run(
                    pod.clone(),
                    listener,
                    draining,
                    purpose,
                    handle,
                ));
            }
            Err(error) => {
                tracing::error!(pod = %pod.pod.info().name, purpose, %error, "cannot serve listener");
            }
        }
    }

    /// Ends every task of the pod and with them every socket this worker has in its namespace.
    async fn remove(self: Rc<Self>, pod: NetnsCookie) {
        let Some((pod, drain)) = self.pods.borrow_mut().remove(&pod) else {
            return;
        };
        self.tunnels.drop_source(pod.cookie());
        if !drain.drain(REMOVAL_DEADLINE).await {
            tracing::error!(pod = %pod.info().name, "connections of a removed pod linger");
        }
    }

    /// Live connections are decided again on every change of the mesh.
    async fn recheck_on_change(self: Rc<Self>) {
        let mut changes = self.mesh.state.changed();
        while changes.changed().await.is_ok() {
            let snapshot = self.mesh.state.load();
            let network = &*self.mesh.config.network;
            let pods = self.pods.borrow();
            self.connections.recheck(&snapshot, network, |local| {
                let (pod, _) = pods
                    .values()
                    .find(|(pod, _)| pod.info().ips.contains(&local))?;
                pod.workload_in(&snapshot, network)
            });
        }
    }

    async fn stop(self: Rc<Self>, drain: Drain, deadline: Duration) -> bool {
        self.tunnels.drain();
        // Dropping a pod's drain would cut its connections; they may go on until the deadline.
        let pods = self.pods.take();
        drop(self);
        let in_time = drain.drain(deadline).await;
        drop(pods);
        in_time
    }
}
