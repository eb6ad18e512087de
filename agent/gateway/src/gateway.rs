//! The worker threads, and what they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::thread;
use std::time::{Duration, Instant};

use agent_net::datagram::ServingSocket;
use agent_net::drain::{self, Drain};
use agent_net::tasks::spawn_local;
use agent_state::Reader;
use agent_telemetry::Requests;
use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, LocalSet};

use crate::config::Config;
use crate::keeper::Keeper;
use crate::keys::Keys;
use crate::listener;
use crate::mesh::Mesh;
use crate::place::{Door, Place, Transport};
use crate::plan::Plan;
use crate::record::Records;
use crate::tuning::Tuning;
use crate::upstream::{BackendView, Groups};
use crate::worker::{Reports, Worker};

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
    #[error("cannot listen on port {place}")]
    Listen {
        /// Which one.
        place: Place,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A running gateway.
pub struct Gateway {
    threads: Vec<Thread>,
    plan: Arc<ArcSwap<Plan>>,
    /// Counts changes of plan and tuning, for what is under way and has to be judged again.
    changes: watch::Sender<u64>,
    groups: Arc<Groups>,
    keys: Keys,
    requests: Arc<Requests>,
    places: Mutex<BTreeSet<Place>>,
    _keeper: Keeper,
}

/// The plan in force, and when it changes.
type Served = (Arc<ArcSwap<Plan>>, watch::Receiver<u64>);

struct Thread {
    commands: mpsc::Sender<Command>,
    handle: Mutex<Option<thread::JoinHandle<()>>>,
}

enum Command {
    Listen {
        port: u16,
        door: Door,
    },
    Close {
        place: Place,
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
        let plan = Arc::new(ArcSwap::from_pointee(Plan::closed(None)));
        let (changes, seen) = watch::channel(0);
        let groups = Groups::new(Arc::clone(&config.network), config.locality.clone());
        let threads = (0..config.workers.max(1)).map(|index| {
            let plan = (Arc::clone(&plan), seen.clone());
            let shared = (plan, Arc::clone(&groups), Arc::clone(records));
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
                Arc::clone(&config.network),
            )
            .map_err(GatewayError::StartKeeper)?,
            plan,
            changes,
            groups,
            keys: config.keys.clone(),
            requests: Arc::clone(&config.requests),
            places: Mutex::default(),
        })
    }

    /// Treats endpoints by other settings from now on. Those that did not change keep their
    /// connections and what is known of them.
    pub fn tune(&self, tuning: Tuning) {
        self.groups.configure(tuning, Instant::now());
        self.tell_of_change();
    }

    /// What is known of the backends that were talked to, in order of service and port.
    pub fn backends(&self) -> Vec<BackendView> {
        self.groups.view(Instant::now())
    }

    /// Serves `plan` from now on. Requests that are under way end as they began; ports and
    /// connections that both plans have are not touched, but for connections that pass as bytes and
    /// would be refused, or looked into, by this plan: they end within 2 s. New ports are listened on by `listen`
    /// (see [`bind`](crate::bind)), and ports that are gone let their requests finish.
    pub fn apply(
        &self,
        plan: Plan,
        mut listen: impl FnMut(Place) -> io::Result<Door>,
    ) -> Vec<GatewayError> {
        let wanted: BTreeSet<Place> = plan.places().collect();
        plan.inherit(&self.plan.load());
        let beyond = self.keys.want(plan.guards().remote_keys());
        if beyond > 0 {
            tracing::warn!(
                beyond,
                "too many addresses of keys: tokens of some issuers are refused"
            );
        }
        let labels = plan.labels();
        self.plan.store(Arc::new(plan));
        self.tell_of_change();
        self.requests.keep_routes(|label| labels.contains(label));
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        for place in places.difference(&wanted) {
            self.close(*place);
        }
        places.retain(|place| wanted.contains(place));
        let mut errors = Vec::new();
        for place in wanted {
            if places.contains(&place) {
                continue;
            }
            let opened = listen(place).and_then(|door| self.open(place, &door));
            match opened {
                Ok(()) => {
                    places.insert(place);
                }
                Err(source) => errors.push(GatewayError::Listen { place, source }),
            }
        }
        errors
    }

    /// What is served now.
    pub fn plan(&self) -> Arc<Plan> {
        self.plan.load_full()
    }

    /// Workers see the plan, and have heard of nothing else that it brings.
    #[cfg(test)]
    pub(crate) fn store(&self, plan: Plan) {
        self.plan.store(Arc::new(plan));
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

    fn tell_of_change(&self) {
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    fn open(&self, place: Place, door: &Door) -> io::Result<()> {
        for thread in self.threads_of(place) {
            let door = match door {
                Door::Connections(listener) => {
                    listener.set_nonblocking(true)?;
                    Door::Connections(listener.try_clone()?)
                }
                Door::Datagrams(socket) => Door::Datagrams(socket.try_clone()?),
            };
            let port = place.port;
            thread.tell(Command::Listen { port, door })?;
        }
        Ok(())
    }

    /// Has workers close a port, and waits for it: it may be wanted again.
    fn close(&self, place: Place) {
        let threads = self.threads_of(place);
        let (closed, all_closed) = std_mpsc::sync_channel(threads.len());
        for thread in threads {
            let closed = closed.clone();
            if let Err(error) = thread.tell(Command::Close { place, closed }) {
                tracing::error!(%place, %error, "cannot close a port");
            }
        }
        drop(closed);
        for _ in threads {
            if all_closed.recv_timeout(LISTENER_DEADLINE).is_err() {
                tracing::error!(%place, "a worker did not close a port in time");
            }
        }
    }

    /// Who serves a port. All do, but for datagrams: each of a session has to come to the same
    /// worker, so that one serves all of a port.
    fn threads_of(&self, place: Place) -> &[Thread] {
        match place.transport {
            Transport::Tcp => &self.threads,
            Transport::Udp => {
                let at = usize::from(place.port) % self.threads.len();
                &self.threads[at..=at]
            }
        }
    }
}

impl Thread {
    fn tell(&self, command: Command) -> io::Result<()> {
        self.commands
            .try_send(command)
            .map_err(|error| io::Error::other(format!("worker: {error}")))
    }
}

fn start_thread(
    index: usize,
    config: Config,
    (plan, groups, records): (Served, Arc<Groups>, Arc<dyn Records>),
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
                let reports = Reports {
                    records,
                    shard: config.requests.shard(),
                    traced: config.traced,
                    own: config.own.clone(),
                };
                let worker = Worker::new(plan, state, &config, groups, mesh, reports);
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
    open: BTreeMap<Place, (Drain, JoinHandle<()>)>,
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
                Command::Listen { port, door } => self.listen(port, door),
                Command::Close { place, closed } => {
                    if let Some((drain, accepting)) = self.open.remove(&place) {
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

    fn listen(&mut self, port: u16, door: Door) {
        let worker = std::rc::Rc::clone(&self.worker);
        let (drain, draining) = drain::channel();
        let served = match door {
            Door::Connections(listener) => TcpListener::from_std(listener).map(|listener| {
                let serving = listener::run(worker, listener, port, draining);
                (Place::tcp(port), spawn_local(serving))
            }),
            Door::Datagrams(socket) => ServingSocket::new(socket).map(|socket| {
                let serving = listener::run_datagrams(worker, socket, port, draining);
                (Place::udp(port), spawn_local(serving))
            }),
        };
        match served {
            Ok((place, serving)) => {
                self.open.insert(place, (drain, serving));
            }
            Err(error) => tracing::error!(port, %error, "cannot serve a port"),
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
