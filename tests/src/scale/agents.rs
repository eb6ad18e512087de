//! The clients of all nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_net::drain::{self, Drain, Watcher};
use agent_xds::{Apply, ClientConfig, ClientStatus, NodeFacts, Rejection, Update, client};
use anyhow::{Context, Result, ensure};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;

use super::Settings;
use super::objects::{SYSTEM, node_name, revision};
use super::replica::token;
use crate::apiserver::ApiServer;
use crate::{CLUSTER_ID, poll};

/// Many agents, by index.
#[derive(Debug)]
pub(super) struct Agents {
    runtime: Handle,
    root_cert: PathBuf,
    tokens: PathBuf,
    /// Workloads that everyone must hold.
    workloads: usize,
    status: Vec<watch::Receiver<ClientStatus>>,
    clock: Arc<Clock>,
    drain: Drain,
    draining: Watcher,
}

/// When each change was made, and how long it took to each agent.
#[derive(Debug, Default)]
struct Clock {
    sent: Mutex<Vec<Instant>>,
    delays: Mutex<Vec<Duration>>,
    /// Agents that each change has reached, by its number.
    reached: Mutex<BTreeMap<usize, BTreeSet<usize>>>,
}

impl Agents {
    /// None yet. Waits for the roots that the control plane hands out.
    pub(super) fn new(runtime: &Runtime, settings: &Settings, server: &ApiServer) -> Result<Self> {
        let root_cert = settings.directory.join("root-cert.pem");
        let roots = poll::until("the root certificate", Duration::from_secs(60), || {
            let map = server.get("configmaps", SYSTEM, "culvert-ca-root-cert");
            let map = map.context("no such ConfigMap")?;
            let roots = map["data"]["root-cert.pem"].as_str();
            roots.map(str::to_owned).context("nothing in it")
        })?;
        std::fs::write(&root_cert, roots).context("the root certificate")?;
        let tokens = settings.directory.join("tokens");
        std::fs::create_dir_all(&tokens).context("the folder of tokens")?;
        let (drain, draining) = drain::channel();
        Ok(Self {
            runtime: runtime.handle().clone(),
            root_cert,
            tokens,
            workloads: settings.workloads,
            status: Vec::new(),
            clock: Arc::default(),
            drain,
            draining,
        })
    }

    /// Starts the next agent, which must be `index`.
    pub(super) fn start(&mut self, index: usize, server: SocketAddr) {
        assert_eq!(index, self.status.len(), "agents start in order");
        let node = node_name(index);
        let token_file = write_token(&self.tokens, &node);
        let config = ClientConfig {
            address: server.to_string(),
            root_cert: self.root_cert.clone(),
            token_file,
            node: NodeFacts::new(&node, CLUSTER_ID, ""),
        };
        let (status, current) = watch::channel(ClientStatus::default());
        let seen = Seen {
            agent: index,
            clock: Arc::clone(&self.clock),
        };
        self.runtime
            .spawn(client::run(config, seen, status, self.draining.clone()));
        self.status.push(current);
    }

    /// Waits until the first `count` agents hold everything.
    pub(super) fn wait_synced(&self, count: usize, patience: Duration) -> Result<()> {
        poll::until("agents in sync", patience, || {
            let synced = self.status.iter().take(count).filter(|status| {
                let status = status.borrow();
                status.synced && status.addresses >= self.workloads
            });
            let synced = synced.count();
            ensure!(synced == count, "{synced} of {count} agents are in sync");
            Ok(())
        })
    }

    /// Change `number` is about to be made.
    pub(super) fn sent(&self, number: u32) {
        let mut sent = lock(&self.clock.sent);
        assert_eq!(sent.len(), number as usize, "changes are made in order");
        sent.push(Instant::now());
    }

    /// Waits until everyone has seen each of `count` changes.
    pub(super) fn wait_changes(&self, count: u32, patience: Duration) -> Result<()> {
        let wanted = count as usize * self.status.len();
        poll::until("changes at every agent", patience, || {
            let seen = lock(&self.clock.delays).len();
            ensure!(seen >= wanted, "{seen} of {wanted} arrived");
            Ok(())
        })
        .with_context(|| self.missing(count))
    }

    /// Which changes have not arrived where, for people.
    fn missing(&self, count: u32) -> String {
        let reached = lock(&self.clock.reached);
        let nobody = BTreeSet::new();
        let mut of_agents: BTreeMap<usize, u32> = BTreeMap::new();
        let mut of_changes: BTreeMap<usize, usize> = BTreeMap::new();
        for number in 0..count as usize {
            let by = reached.get(&number).unwrap_or(&nobody);
            for agent in (0..self.status.len()).filter(|agent| !by.contains(agent)) {
                *of_agents.entry(agent).or_default() += 1;
                *of_changes.entry(number).or_default() += 1;
            }
        }
        let agents: Vec<_> = of_agents.into_iter().take(10).collect();
        let changes: Vec<_> = of_changes.into_iter().take(10).collect();
        format!("missing changes by agent: {agents:?}, missing agents by change: {changes:?}")
    }

    /// How long each change took to each agent, sorted.
    pub(super) fn delays(&self) -> Vec<Duration> {
        let mut delays = lock(&self.clock.delays).clone();
        delays.sort_unstable();
        delays
    }

    /// Responses that an agent has had.
    pub(super) fn messages(&self, index: usize) -> u64 {
        messages(&self.status[index].borrow())
    }

    /// Waits until it has had so many.
    pub(super) fn wait_messages(&self, index: usize, count: u64, patience: Duration) -> Result<()> {
        poll::until("an agent's reconnect", patience, || {
            let status = self.status[index].borrow();
            let is_back = status.connected && messages(&status) >= count;
            ensure!(is_back, "{:?}", status.last_error);
            Ok(())
        })
    }

    /// Ends them all.
    pub(super) fn stop(self, runtime: &Runtime) {
        drop(self.draining);
        runtime.block_on(self.drain.drain(Duration::from_secs(10)));
    }
}

/// Counts what arrives and forgets it.
struct Seen {
    agent: usize,
    clock: Arc<Clock>,
}

impl Apply for Seen {
    fn apply(&mut self, updates: Vec<Update>) -> Vec<Rejection> {
        let now = Instant::now();
        for update in updates {
            let Update::Workload(workload) = update else {
                continue;
            };
            let Some(number) = workload.canonical_revision.strip_prefix(&revision_prefix()) else {
                continue;
            };
            let Ok(number) = number.parse::<usize>() else {
                continue;
            };
            let sent = lock(&self.clock.sent).get(number).copied();
            let mut reached = lock(&self.clock.reached);
            // Who reconnects may be sent it twice.
            let is_first = reached.entry(number).or_default().insert(self.agent);
            if let Some(sent) = sent.filter(|_| is_first) {
                lock(&self.clock.delays).push(now.duration_since(sent));
            }
        }
        Vec::new()
    }
}

fn messages(status: &ClientStatus) -> u64 {
    status.received.values().map(|kind| kind.messages).sum()
}

fn revision_prefix() -> String {
    revision(0).trim_end_matches('0').to_owned()
}

fn write_token(folder: &Path, node: &str) -> PathBuf {
    let file = folder.join(node);
    // An agent without token would say so for as long as the run is patient.
    let _ = std::fs::write(&file, token(node));
    file
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
