//! Worker threads: a current-thread runtime each, owning its connections and tunnels.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener as StdListener;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent_datapath::{EnrolledPod, PodSink};
use agent_hbone::{Pool, PoolStats, Settings};
use agent_model::{NodeWishes, Reason};
use agent_net::NetnsCookie;
use agent_net::drain::{self, Drain, Watcher};
use agent_net::lookup::Lookup;
use agent_net::tasks::spawn_local;
use tokio::net::TcpListener;
use tokio::runtime::RuntimeMetrics;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use crate::connections::Grace;
use crate::dns;
use crate::endpoints::ActiveEndpoints;
use crate::local::LocalPod;
use crate::mesh::{Mesh, Worker};
use crate::names::{Choice, Chosen, Names, serve};
use crate::pod::Pod;
use crate::{accept, inbound, outbound, passthrough};

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
}

/// The worker threads.
pub struct Workers {
    threads: Vec<Thread>,
    pods: Mutex<BTreeMap<NetnsCookie, Arc<Pod>>>,
    /// Whose names are answered; held while that is put into practice.
    choice: Choice,
    pub(crate) mesh: Arc<Mesh>,
    /// Told of every pod that is added.
    pub(crate) enrolled: watch::Sender<()>,
    /// Pods added, and pods removed, since start.
    turnover: [AtomicU64; 2],
}

/// Places in `Workers::turnover`.
const ADDED: usize = 0;
const REMOVED: usize = 1;

struct Thread {
    runtime: RuntimeMetrics,
    commands: mpsc::Sender<Command>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

enum Command {
    Stats {
        reply: std_mpsc::SyncSender<PoolStats>,
    },
    Add {
        pod: Arc<Pod>,
        listeners: Listeners,
    },
    /// For one worker only.
    Serve {
        pod: NetnsCookie,
        names: Names,
    },
    Leave {
        pod: NetnsCookie,
        done: std_mpsc::SyncSender<()>,
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

/// Time the tasks have to end their connections once the drain deadline passed: what a flow takes
/// at most ([`crate::forward::CLEAN_END`]) and some more.
const CUT_DEADLINE: Duration = Duration::from_millis(800);
/// Time the tunnels then have to send what the streams left in them.
const FLUSH_DEADLINE: Duration = Duration::from_millis(100);
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
            choice: Choice::default(),
            mesh,
            enrolled: watch::Sender::new(()),
            turnover: Default::default(),
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

    /// Questions for names.
    pub fn names(&self) -> &dns::Counters {
        &self.mesh.names
    }

    /// Finds endpoints that have a host name and no address.
    pub fn lookup(&self) -> &Lookup {
        &self.mesh.lookup
    }

    /// How many pods were taken since start.
    pub fn pods_started(&self) -> u64 {
        self.turnover[ADDED].load(Ordering::Relaxed)
    }

    /// How many pods were let go of since start.
    pub fn pods_stopped(&self) -> u64 {
        self.turnover[REMOVED].load(Ordering::Relaxed)
    }

    /// What each worker's runtime says of itself.
    pub fn runtimes(&self) -> Vec<RuntimeMetrics> {
        self.threads
            .iter()
            .map(|thread| thread.runtime.clone())
            .collect()
    }

    /// Pooled tunnels and their streams, as each worker says when asked; one that does not answer
    /// within half a second counts as none. Blocks; not for the data path.
    pub fn tunnels(&self) -> PoolStats {
        let mut sum = PoolStats::default();
        for stats in self.ask(STATS_DEADLINE) {
            sum.keys += stats.keys;
            sum.tunnels += stats.tunnels;
            sum.streams += stats.streams;
            sum.dials += stats.dials;
        }
        sum
    }

    /// Whether every worker answers when asked, within `limit`. Blocks; not for the data path.
    pub fn answer(&self, limit: Duration) -> bool {
        self.ask(limit).len() == self.threads.len()
    }

    /// The answers of the workers that give one within `limit`.
    fn ask(&self, limit: Duration) -> Vec<PoolStats> {
        let (reply, answers) = std_mpsc::sync_channel(self.threads.len());
        for thread in &self.threads {
            // A full queue belongs to a worker that would not answer in time.
            let _ = thread.commands.try_send(Command::Stats {
                reply: reply.clone(),
            });
        }
        drop(reply);
        let deadline = Instant::now() + limit;
        let left = || deadline.saturating_duration_since(Instant::now());
        std::iter::from_fn(|| answers.recv_timeout(left()).ok()).collect()
    }

    /// What a successor needs to serve the pods that are served now. Its descriptors are its own.
    pub fn hand_over(&self) -> io::Result<Vec<EnrolledPod>> {
        let pods = self.pods();
        pods.iter()
            .filter_map(|pod| pod.hand_over().transpose())
            .collect()
    }

    /// Stops accepting, tells tunnel peers to go away, lets connections finish until `deadline`
    /// and then ends the rest: with what had arrived delivered and a clean end, or within a second
    /// with a reset where that is not possible. True when all finished before the deadline.
    /// Blocks; call it off the runtimes.
    pub fn stop(&self, deadline: Duration) -> bool {
        self.pods().iter().for_each(|pod| pod.let_go());
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
        let shares = self
            .threads
            .iter()
            .map(|_| enrolled.share())
            .collect::<io::Result<Vec<_>>>()?;
        let pod = Arc::new(Pod::new(enrolled));
        self.pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(pod.cookie(), Arc::clone(&pod));
        for (thread, share) in self.threads.iter().zip(shares) {
            let listeners = Listeners {
                outbound: share.outbound,
                inbound: share.inbound,
                hbone: share.hbone,
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
        self.follow_choice(&self.choice.now(), &pod);
        self.turnover[ADDED].fetch_add(1, Ordering::Relaxed);
        self.enrolled.send_replace(());
        Ok(())
    }

    fn leave(&self, pod: NetnsCookie) {
        self.end(pod, |done| Command::Leave { pod, done });
    }

    fn remove(&self, pod: NetnsCookie) {
        self.end(pod, |done| Command::Remove { pod, done });
    }
}

impl Workers {
    /// Takes what the control plane says of the node's pods: whose questions for names are left
    /// alone. Blocks for a moment; not for the data path.
    pub fn heed(&self, wishes: Arc<NodeWishes>) {
        let chosen = self.choice.heed(wishes);
        for pod in self.pods() {
            self.follow_choice(&chosen, &pod);
        }
    }

    /// Serves the pod's names, or no longer. Which worker does it follows from the pod.
    fn follow_choice(&self, chosen: &Chosen<'_>, pod: &Pod) {
        let Some(names) = chosen.follow(&self.mesh, pod) else {
            return;
        };
        let pod = pod.cookie();
        let thread = &self.threads[(pod.0 % self.threads.len() as u64) as usize];
        let command = Command::Serve { pod, names };
        if thread.commands.try_send(command).is_err() {
            // With the command its sockets are closed, and the pod asks its servers itself.
            tracing::error!(
                ?pod,
                "a worker is gone or overwhelmed; names are not answered"
            );
        }
    }

    /// Has every worker do something to a pod that is served no longer, and waits for it.
    fn end(&self, pod: NetnsCookie, command: impl Fn(std_mpsc::SyncSender<()>) -> Command) {
        let served = self
            .pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&pod);
        if let Some(served) = served {
            served.let_go();
            self.turnover[REMOVED].fetch_add(1, Ordering::Relaxed);
        }
        let (done, ended) = std_mpsc::sync_channel(self.threads.len());
        for thread in &self.threads {
            if thread.commands.try_send(command(done.clone())).is_err() {
                tracing::error!(
                    ?pod,
                    "a worker is gone or overwhelmed; the pod stays with it"
                );
            }
        }
        drop(done);
        for _ in &self.threads {
            if ended.recv_timeout(REMOVAL_DEADLINE).is_err() {
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
    let metrics = runtime.metrics();
    let handle = std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let local = LocalSet::new();
            local.block_on(&runtime, Worker::run(mesh, receiver));
        })?;
    Ok(Thread {
        runtime: metrics,
        commands,
        handle: Mutex::new(Some(handle)),
    })
}

impl Worker {
    async fn run(mesh: Arc<Mesh>, mut commands: mpsc::Receiver<Command>) {
        let (drain, draining) = drain::channel();
        let certificates = mesh.certificates.clone();
        let worker = Rc::new(Self {
            mesh,
            tunnels: Pool::new(Settings::default(), move |chain| certificates.revoke(chain)),
            settings: Rc::new(Settings::default()),
            connections: Rc::default(),
            active: ActiveEndpoints::default(),
            draining,
            pods: RefCell::default(),
            accepting: RefCell::default(),
            left: Rc::default(),
        });
        let changes = worker.mesh.state.changed();
        spawn_local(recheck_on_change(Rc::downgrade(&worker), changes));
        let revocations = worker.mesh.certificates.revocations();
        spawn_local(drop_revoked_on_change(Rc::downgrade(&worker), revocations));
        while let Some(command) = commands.recv().await {
            match command {
                Command::Stop { deadline, done } => {
                    let _ = done.send(worker.stop(drain, deadline, commands).await);
                    return;
                }
                command => worker.obey(command),
            }
        }
    }

    fn obey(self: &Rc<Self>, command: Command) {
        match command {
            Command::Stats { reply } => {
                let _ = reply.send(self.tunnels.stats());
            }
            Command::Add { pod, listeners } => self.add(pod, listeners),
            Command::Serve { pod, names } => self.serve_names(pod, names),
            Command::Leave { pod, done } => {
                let leave = Rc::clone(self).leave(pod);
                spawn_local(async move {
                    leave.await;
                    let _ = done.send(());
                });
            }
            Command::Remove { pod, done } => {
                let removal = Rc::clone(self).remove(pod);
                spawn_local(async move {
                    removal.await;
                    let _ = done.send(());
                });
            }
            // The second of two; the first one's answer counts.
            Command::Stop { .. } => {}
        }
    }

    fn add(self: &Rc<Self>, pod: Arc<Pod>, listeners: Listeners) {
        let (drain, removal) = drain::channel();
        let (accepting, leaving) = drain::channel();
        self.accepting.borrow_mut().insert(pod.cookie(), accepting);
        self.pods
            .borrow_mut()
            .insert(pod.cookie(), (Arc::clone(&pod), drain));
        let local = LocalPod::new(Rc::clone(self), pod, removal);
        let Listeners {
            outbound,
            inbound,
            hbone,
        } = listeners;
        self.accept(&local, outbound, &leaving, "outbound", outbound::handle);
        self.accept(&local, inbound, &leaving, "inbound", passthrough::handle);
        self.accept(&local, hbone, &leaving, "hbone", inbound::handle);
    }

    /// Serves name sockets of a pod, unless it is gone or leaving.
    fn serve_names(self: &Rc<Self>, pod: NetnsCookie, names: Names) {
        let removal = self.pods.borrow().get(&pod).and_then(|(pod, removal)| {
            let removal = removal.watcher()?;
            Some((Arc::clone(pod), removal))
        });
        let accepting = self.accepting.borrow();
        let leaving = accepting.get(&pod).and_then(Drain::watcher);
        let (Some((pod, removal)), Some(leaving)) = (removal, leaving) else {
            return;
        };
        let local = LocalPod::new(Rc::clone(self), pod, removal);
        let turns = serve::turns();
        for socket in names.sockets {
            let (local, turns) = (local.clone(), Arc::clone(&turns));
            let ends = [
                self.draining.clone(),
                leaving.clone(),
                names.closing.clone(),
            ];
            spawn_local(serve::serve(local, socket, turns, ends));
        }
    }

    fn accept<F>(
        &self,
        pod: &LocalPod,
        listener: StdListener,
        leaving: &Watcher,
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
                    leaving.clone(),
                    purpose,
                    handle,
                ));
            }
            Err(error) => {
                tracing::error!(pod = %pod.pod.info().name, purpose, %error, "cannot serve listener");
            }
        }
    }

    /// Takes the last connections of a pod and closes its listeners; those it has live on.
    async fn leave(self: Rc<Self>, pod: NetnsCookie) {
        let accepting = self.accepting.borrow_mut().remove(&pod);
        let served = self.pods.borrow_mut().remove(&pod);
        let (Some((pod, drain)), Some(accepting)) = (served, accepting) else {
            return;
        };
        self.left.keep(Arc::clone(&pod), drain, REMOVAL_DEADLINE);
        if !accepting.drain(REMOVAL_DEADLINE).await {
            tracing::error!(pod = %pod.info().name, "listeners of a pod that left linger");
        }
    }

    /// Ends every task of the pod and with them every socket this worker has in its namespace.
    async fn remove(self: Rc<Self>, pod: NetnsCookie) {
        for left in self.left.take(pod) {
            left.end().await;
        }
        self.accepting.borrow_mut().remove(&pod);
        let Some((pod, drain)) = self.pods.borrow_mut().remove(&pod) else {
            self.tunnels.drop_source(pod);
            return;
        };
        self.tunnels.drop_source(pod.cookie());
        let ended = async {
            drain.drain(REMOVAL_DEADLINE).await;
            // The tunnels' sockets are in the pod's namespace too.
            while self.tunnels.serves(pod.cookie()) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(REMOVAL_DEADLINE, ended).await.is_err() {
            tracing::error!(pod = %pod.info().name, "connections of a removed pod linger");
        }
    }

    /// Decides every live connection again, see [`Connections::recheck`].
    fn recheck(&self, patience: bool) -> bool {
        let snapshot = self.mesh.state.load();
        let network = &*self.mesh.config.network;
        let (pods, left) = (self.pods.borrow(), self.left.pods());
        self.connections
            .recheck(&snapshot, network, patience, |local| {
                let served = pods.values().map(|(pod, _)| pod);
                let pod = served
                    .chain(&left)
                    .find(|pod| pod.info().ips.contains(&local))?;
                pod.workload_in(&snapshot, network)
            })
    }

    /// Lets connections finish until the deadline and ends those that have not. Pods still leave
    /// meanwhile, and policy changes still close what they deny.
    async fn stop(
        self: Rc<Self>,
        drain: Drain,
        deadline: Duration,
        mut commands: mpsc::Receiver<Command>,
    ) -> bool {
        self.tunnels.drain();
        // Every task holds the worker, and the drain is over when the last one is gone.
        let worker = Rc::downgrade(&self);
        drop(self);
        let obey = async {
            while let Some(command) = commands.recv().await {
                if let Some(worker) = worker.upgrade() {
                    worker.obey(command);
                }
            }
            std::future::pending::<()>().await;
        };
        let in_time = tokio::select! {
            in_time = drain.drain(deadline) => in_time,
            () = obey => false,
        };
        if let Some(worker) = worker.upgrade() {
            worker.cut().await;
        }
        in_time
    }

    /// Ends every connection. Each does so itself: ends closed by dropping them could look complete
    /// to their peers when they are not.
    async fn cut(self: Rc<Self>) {
        let pods = self.pods.take();
        let left = self.left.take_all();
        let cuts: Vec<_> = pods
            .into_values()
            .map(|(_, drain)| spawn_local(drain.drain(CUT_DEADLINE)))
            .collect();
        let left: Vec<_> = left
            .into_iter()
            .map(|left| spawn_local(left.end()))
            .collect();
        for cut in cuts {
            let _ = cut.await;
        }
        for end in left {
            let _ = timeout(CUT_DEADLINE, end).await;
        }
        let flushed = async {
            while self.tunnels.stats().tunnels > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = timeout(FLUSH_DEADLINE, flushed).await;
    }
}

/// Ends the tunnels to peers that a new revocation list names.
async fn drop_revoked_on_change(worker: Weak<Worker>, mut changes: watch::Receiver<u64>) {
    while changes.changed().await.is_ok() {
        let Some(worker) = worker.upgrade() else {
            return;
        };
        let dropped = worker.tunnels.drop_revoked();
        if dropped > 0 {
            tracing::warn!(dropped, reason = %Reason::PeerRevoked, "tunnels to revoked peers ended");
        }
    }
}

/// Live connections are decided again on every change of the mesh, for as long as there is a
/// worker.
async fn recheck_on_change(worker: Weak<Worker>, mut changes: watch::Receiver<u64>) {
    let mut grace = Grace::default();
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = grace.over() => {}
        }
        let Some(worker) = worker.upgrade() else {
            return;
        };
        let spared = worker.recheck(grace.lasts());
        grace.note(spared);
    }
}
