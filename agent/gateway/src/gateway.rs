//! The worker threads, and what they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::thread;
use std::time::{Duration, Instant};

use agent_model::Locality;
use agent_net::drain::{self, Drain};
use agent_net::tasks::spawn_local;
use agent_state::Reader;
use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};

use crate::keeper::Keeper;
use crate::listener;
use crate::mesh::Mesh;
use crate::plan::Plan;
use crate::record::Records;
use crate::tuning::Tuning;
use crate::upstream::{BackendView, Groups};
use crate::worker::{Limits, Worker};

/// Errors of the gateway as a whole; those of one request are [`Refusal`](crate::Refusal)s.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A worker thread could not be started.
    #[error("cannot start worker {index}")]
    Start {
        /// Which one.
        index: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread that judges endpoints could not be started.
    #[error("cannot start the keeper of endpoints")]
    StartKeeper(#[source] io::Error),
    /// A port could not be listened on. The other ports are served.
    #[error("cannot listen on port {port}")]
    Listen {
        /// Which one.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Settings of the gateway.
#[derive(Debug, Clone)]
pub struct Config {
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Network the gateway is in (`""` is the default).
    pub network: Arc<str>,
    /// Connections of clients that one worker has at a time; more are closed. Default 16384.
    pub connections_per_worker: usize,
    /// Copies of requests (mirrors) that one worker has under way; more are not made. Default 1024.
    pub mirrors_per_worker: usize,
    /// Where the gateway is; `None`: where the mesh says that the workload of its address is.
    pub locality: Option<Locality>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 1,
            network: "".into(),
            connections_per_worker: 16384,
            mirrors_per_worker: 1024,
            locality: None,
        }
    }
}

/// A running gateway.
pub struct Gateway {
    threads: Vec<Thread>,
    plan: Arc<ArcSwap<Plan>>,
    groups: Arc<Groups>,
    ports: Mutex<BTreeSet<u16>>,
    _keeper: Keeper,
}

struct Thread {
    commands: mpsc::Sender<Command>,
    handle: Mutex<Option<thread::JoinHandle<()>>>,
}

enum Command {
    Listen {
        port: u16,
        listener: StdListener,
    },
    Close {
        port: u16,
        /// Told when the listener is closed; its connections may live on.
        closed: std_mpsc::SyncSender<()>,
    },
    Stop {
        deadline: Duration,
        done: std_mpsc::SyncSender<bool>,
    },
}

/// Commands waiting for a worker.
const COMMAND_QUEUE: usize = 256;
/// How long a worker may take to close a listener.
const LISTENER_DEADLINE: Duration = Duration::from_secs(1);
/// How long requests of a port that is closed may take to end.
const CLOSE_DEADLINE: Duration = Duration::from_secs(30);

impl Gateway {
    /// Starts the workers. Nothing is served before [`Self::apply`].
    pub fn start(
        config: &Config,
        state: &Reader,
        mesh: Option<&Mesh>,
        records: &Arc<dyn Records>,
    ) -> Result<Self, GatewayError> {
        let plan = Arc::new(ArcSwap::default());
        let groups = Groups::new(Arc::clone(&config.network), config.locality.clone());
        let threads = (0..config.workers.max(1)).map(|index| {
            let shared = (Arc::clone(&plan), Arc::clone(&groups), Arc::clone(records));
            start_thread(index, config.clone(), shared, state.clone(), mesh.cloned())
                .map_err(|source| GatewayError::Start { index, source })
        });
        Ok(Self {
            threads: threads.collect::<Result<_, _>>()?,
            _keeper: Keeper::start(
                Arc::clone(&groups),
                state.clone(),
                Arc::clone(&plan),
                mesh.cloned(),
            )
            .map_err(GatewayError::StartKeeper)?,
            plan,
            groups,
            ports: Mutex::default(),
        })
    }

    /// Treats endpoints by other settings from now on. Those that did not change keep their
    /// connections and what is known of them.
    pub fn tune(&self, tuning: Tuning) {
        self.groups.configure(tuning, Instant::now());
    }

    /// What is known of the backends that were talked to, in order of service and port.
    pub fn backends(&self) -> Vec<BackendView> {
        self.groups.view(Instant::now())
    }

    /// Serves `plan` from now on. Requests that are under way end as they began; ports and
    /// connections that both plans have are not touched. New ports are listened on by `listen`
    /// (see [`bind`]), and ports that are gone let their requests finish.
    pub fn apply(
        &self,
        plan: Plan,
        mut listen: impl FnMut(u16) -> io::Result<StdListener>,
    ) -> Vec<GatewayError> {
        let wanted: BTreeSet<u16> = plan.ports().collect();
        plan.inherit(&self.plan.load());
        self.plan.store(Arc::new(plan));
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        for port in ports.difference(&wanted) {
            self.close(*port);
        }
        ports.retain(|port| wanted.contains(port));
        let mut errors = Vec::new();
        for port in wanted {
            if ports.contains(&port) {
                continue;
            }
            let listened = listen(port).and_then(|listener| {
                listener.set_nonblocking(true)?;
                self.tell(|| {
                    Ok(Command::Listen {
                        port,
                        listener: listener.try_clone()?,
                    })
                })
            });
            match listened {
                Ok(()) => {
                    ports.insert(port);
                }
                Err(source) => errors.push(GatewayError::Listen { port, source }),
            }
        }
        errors
    }

    /// What is served now.
    pub fn plan(&self) -> Arc<Plan> {
        self.plan.load_full()
    }

    /// Judges endpoints as if it were that late.
    #[cfg(test)]
    pub(crate) fn judge(&self, now: Instant) {
        self.groups.judge(now);
    }

    /// Stops accepting, lets requests finish until `deadline` and ends the rest. True when all
    /// finished in time. Blocks; call it off the runtimes.
    pub fn stop(&self, deadline: Duration) -> bool {
        let (done, results) = std_mpsc::sync_channel(self.threads.len());
        for thread in &self.threads {
            let command = Command::Stop {
                deadline,
                done: done.clone(),
            };
            if thread.commands.try_send(command).is_err() {
                tracing::error!("a worker is gone or overwhelmed");
            }
        }
        drop(done);
        let finished = results.iter().all(|in_time| in_time);
        for thread in &self.threads {
            let mut handle = thread.handle.lock().unwrap_or_else(PoisonError::into_inner);
            if handle.take().is_some_and(|handle| handle.join().is_err()) {
                tracing::error!("a worker panicked");
            }
        }
        finished
    }

    /// Has every worker close a listener, and waits for it: the port may be wanted again.
    fn close(&self, port: u16) {
        let (closed, all_closed) = std_mpsc::sync_channel(self.threads.len());
        let told = self.tell(|| {
            let closed = closed.clone();
            Ok(Command::Close { port, closed })
        });
        if let Err(error) = told {
            tracing::error!(port, %error, "cannot close a listener");
        }
        drop(closed);
        for _ in &self.threads {
            if all_closed.recv_timeout(LISTENER_DEADLINE).is_err() {
                tracing::error!(port, "a worker did not close a listener in time");
            }
        }
    }

    fn tell(&self, mut command: impl FnMut() -> io::Result<Command>) -> io::Result<()> {
        for thread in &self.threads {
            thread
                .commands
                .try_send(command()?)
                .map_err(|error| io::Error::other(format!("worker: {error}")))?;
        }
        Ok(())
    }
}

/// Listens on an address. `SO_REUSEADDR`, so that a gateway can start where another one has just
/// stopped; an IPv6 address that is unspecified takes IPv4 too.
pub fn bind(ip: IpAddr, port: u16) -> io::Result<StdListener> {
    /// Connections that wait to be accepted; the kernel caps it at `net.core.somaxconn`.
    const BACKLOG: i32 = 4096;
    let address = SocketAddr::new(ip, port);
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if ip.is_ipv6() {
        socket.set_only_v6(!ip.is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn start_thread(
    index: usize,
    config: Config,
    (plan, groups, records): (Arc<ArcSwap<Plan>>, Arc<Groups>, Arc<dyn Records>),
    state: Reader,
    mesh: Option<Mesh>,
) -> io::Result<Thread> {
    let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = thread::Builder::new()
        .name(format!("gateway-{index}"))
        .spawn(move || {
            let local = LocalSet::new();
            local.block_on(&runtime, async move {
                let limits = Limits {
                    connections: config.connections_per_worker,
                    mirrors: config.mirrors_per_worker,
                };
                let worker =
                    Worker::new(plan, state, (config.network, groups), mesh, records, limits);
                Ports::new(worker).run(receiver).await;
            });
        })?;
    Ok(Thread {
        commands,
        handle: Mutex::new(Some(handle)),
    })
}

/// The ports of one worker.
struct Ports {
    worker: std::rc::Rc<Worker>,
    open: BTreeMap<u16, (Drain, JoinHandle<()>)>,
}

impl Ports {
    fn new(worker: std::rc::Rc<Worker>) -> Self {
        Self {
            worker,
            open: BTreeMap::new(),
        }
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Listen { port, listener } => self.listen(port, listener),
                Command::Close { port, closed } => {
                    if let Some((drain, accepting)) = self.open.remove(&port) {
                        spawn_local(drain.drain(CLOSE_DEADLINE));
                        spawn_local(async move {
                            let _ = accepting.await;
                            let _ = closed.send(());
                        });
                    }
                }
                Command::Stop { deadline, done } => {
                    let _ = done.send(self.stop(deadline).await);
                    return;
                }
            }
        }
    }

    fn listen(&mut self, port: u16, listener: StdListener) {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                let (drain, draining) = drain::channel();
                let worker = std::rc::Rc::clone(&self.worker);
                let accepting = spawn_local(listener::run(worker, listener, port, draining));
                self.open.insert(port, (drain, accepting));
            }
            Err(error) => tracing::error!(port, %error, "cannot serve listener"),
        }
    }

    /// What is not over by then ends with the runtime.
    async fn stop(self, deadline: Duration) -> bool {
        let drains: Vec<_> = self
            .open
            .into_values()
            .map(|(drain, _)| spawn_local(drain.drain(deadline)))
            .collect();
        let mut in_time = true;
        for drain in drains {
            in_time &= drain.await.unwrap_or(false);
        }
        in_time
    }
}
