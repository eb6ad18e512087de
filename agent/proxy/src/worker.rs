//! One worker thread: a current-thread runtime that owns its connections and tunnels.

mod pods;

use std::cell::RefCell;
use std::io;
use std::net::TcpListener as StdListener;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use agent_hbone::{Pool, PoolStats, Settings};
use agent_model::Reason;
use agent_net::NetnsCookie;
use agent_net::drain::{self, Drain};
use agent_net::tasks::spawn_local;
use tokio::runtime::RuntimeMetrics;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use crate::connections::Grace;
use crate::endpoints::ActiveEndpoints;
use crate::mesh::{Mesh, Worker};
use crate::names::Names;
use crate::pod::Pod;

/// Commands waiting for a worker.
const COMMAND_QUEUE: usize = 256;
/// Time in which a worker must have closed every socket of a removed pod.
pub(crate) const REMOVAL_DEADLINE: Duration = Duration::from_secs(5);
/// Time the tasks have to end their connections once the drain deadline passed: what a flow takes
/// at most ([`crate::forward::CLEAN_END`]) and some more.
const CUT_DEADLINE: Duration = Duration::from_millis(800);
/// Time the tunnels then have to send what the streams left in them.
const FLUSH_DEADLINE: Duration = Duration::from_millis(100);

/// A worker as others see it.
pub(crate) struct Thread {
    /// What its runtime says of itself.
    pub(crate) runtime: RuntimeMetrics,
    pub(crate) commands: mpsc::Sender<Command>,
    /// Until it is waited for.
    pub(crate) handle: Mutex<Option<JoinHandle<()>>>,
}

/// What a worker is told.
pub(crate) enum Command {
    /// Say what tunnels there are.
    Stats {
        reply: std_mpsc::SyncSender<PoolStats>,
    },
    /// Serve a pod.
    Add { pod: Arc<Pod>, listeners: Listeners },
    /// Answer a pod's questions for names; for one worker only.
    Serve { pod: NetnsCookie, names: Names },
    /// Take no more connections of a pod; those it has live on.
    Leave {
        pod: NetnsCookie,
        done: std_mpsc::SyncSender<()>,
    },
    /// End everything of a pod.
    Remove {
        pod: NetnsCookie,
        done: std_mpsc::SyncSender<()>,
    },
    /// End everything, and say whether all connections finished before the deadline.
    Stop {
        deadline: Duration,
        done: std_mpsc::SyncSender<bool>,
    },
}

/// One worker's descriptors of a pod's listeners.
pub(crate) struct Listeners {
    pub(crate) outbound: StdListener,
    pub(crate) inbound: StdListener,
    pub(crate) hbone: StdListener,
}

/// Starts a worker thread.
pub(crate) fn start(index: usize, mesh: Arc<Mesh>) -> io::Result<Thread> {
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
