//! The worker threads from outside: started, told of pods, asked, stopped.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use agent_datapath::{EnrolledPod, PodSink};
use agent_hbone::PoolStats;
use agent_model::NodeWishes;
use agent_net::NetnsCookie;
use agent_net::lookup::Lookup;
use tokio::runtime::RuntimeMetrics;
use tokio::sync::watch;

use crate::dns;
use crate::mesh::Mesh;
use crate::names::{Choice, Chosen};
use crate::pod::Pod;
use crate::worker::{self, Command, Listeners, REMOVAL_DEADLINE, Thread};

/// Time in which a worker must say what it has.
const STATS_DEADLINE: Duration = Duration::from_millis(500);

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

impl Workers {
    /// Starts the worker threads.
    pub fn start(mesh: Mesh) -> Result<Self, ProxyError> {
        let mesh = Arc::new(mesh);
        let threads = (0..mesh.config.workers.max(1))
            .map(|index| {
                worker::start(index, Arc::clone(&mesh))
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
