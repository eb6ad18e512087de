//! Connections and pods that come and go.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::server::{Behaviour, Server};
use tests::traffic::{download, echo_on, must_serve};
use tests::trend::percentile;
use tests::{Cluster, Place, PodSpec, poll};

use super::LIMIT;
use super::sandboxed::Sandboxed;
use crate::scene::{MESHED, PORT, Scene};
use crate::{Case, long_on_kubernetes, on_kubernetes};

pub(crate) const CASES: &[Case] = &[
    on_kubernetes(
        "kubernetes: F-51 whoever closes first, no half-closed connection stays",
        half_closed,
    ),
    on_kubernetes(
        "kubernetes: F-52 pods come and go, each connects at once and as itself",
        |cluster| pod_churn(cluster, &SHORT),
    ),
    long_on_kubernetes(
        "kubernetes: F-52 pods come and go, 100 a second for 30 s",
        |cluster| pod_churn(cluster, &FULL),
    ),
];

/// HTTP/1.0 and its like: a connection a request, closed by the client or by the server.
fn half_closed(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _echo = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let _sender = Server::start(&scene.server, PORT + 1, Behaviour::Send(1000))?;
    for _ in 0..50 {
        for to in scene.server.sockets(PORT) {
            must_serve(&scene.client, to).context("the client closes first")?;
        }
        for from in scene.server.sockets(PORT + 1) {
            download(&scene.client, from, 1000).context("the server closes first")?;
        }
    }
    let mut places: Vec<&Place> = vec![scene.client.place(), scene.server.place()];
    for node in cluster.nodes() {
        places.extend([node.host(), node.agent()?.place()]);
    }
    poll::until("nothing half-closed", LIMIT, || {
        for place in &places {
            let left = place.check(&["ss", "-Htn", "state", "close-wait"])?
                + &place.check(&["ss", "-Htn", "state", "fin-wait-2"])?;
            ensure!(left.trim().is_empty(), "in {}:\n{left}", place.name());
        }
        Ok(())
    })
}

/// How pods come and go.
struct Churn {
    /// Pods a second, in namespaces out of a pool.
    rate: u32,
    /// So many of them must be reached; the rest is up to the machine.
    least: f64,
    time: Duration,
    /// Who starts them.
    hands: usize,
    /// Namespaces of the pool.
    pool: u8,
    /// Pods that are made whole meanwhile, so that numbers of network namespaces are used again.
    whole: usize,
    /// The longest that a first connection may wait, at the 99th percentile.
    wait: Duration,
}

const SHORT: Churn = Churn {
    rate: 5,
    least: 0.0,
    time: Duration::from_secs(3),
    hands: 4,
    pool: 4,
    whole: 8,
    wait: Duration::from_secs(5),
};

const FULL: Churn = Churn {
    rate: 100,
    least: 90.0,
    time: Duration::from_secs(30),
    hands: 32,
    pool: 48,
    whole: 60,
    wait: Duration::from_millis(200),
};

/// Accounts of the pool's pods: each namespace of it has another one every time.
const ACCOUNTS: usize = 37;

/// What became of a pod.
struct Life {
    account: String,
    /// Where its only connection came from.
    from: SocketAddr,
    /// Until its ADD was answered.
    added: Duration,
    /// From then until its first exchange was complete.
    waited: Duration,
}

/// Numbers and addresses of network namespaces are used again at once; identities must not be.
fn pod_churn(cluster: &Cluster, plan: &Churn) -> Result<()> {
    let scene = &Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    for number in 0..ACCOUNTS {
        cluster
            .manifests()
            .account(MESHED, &format!("churn-{number}"))?;
    }
    let pool = &Pool::new(cluster, plan.pool)?;
    cluster.settle()?;
    let next = &AtomicUsize::new(0);
    let start = Instant::now();
    let (lives, whole) = thread::scope(|scope| -> Result<_> {
        let hands = (0..plan.hands).map(|_| scope.spawn(move || live(scene, pool, plan, start)));
        let hands: Vec<_> = hands.collect();
        let whole = scope.spawn(move || one_after_the_other(cluster, scene, next, plan.whole));
        let mut lives = Vec::new();
        for hand in hands {
            lives.extend(hand.join().map_err(|_| anyhow!("a hand panicked"))??);
        }
        let took = start.elapsed();
        let whole = whole.join().map_err(|_| anyhow!("a hand panicked"))??;
        Ok(((lives, took), whole))
    })?;
    pool.end()?;
    let (lives, took) = lives;
    let waits = lives.iter().map(|life| life.waited).chain(whole);
    let waits: Vec<Duration> = waits.collect();
    let adds: Vec<Duration> = lives.iter().map(|life| life.added).collect();
    let rate = lives.len() as f64 / took.as_secs_f64();
    println!(
        "  {} pods, {rate:.1} a second, and {} whole ones",
        lives.len(),
        plan.whole
    );
    for (what, times) in [("ADD", &adds), ("first exchange", &waits)] {
        let [half, most, all] = [0.5, 0.99, 1.0].map(|share| percentile(times, share));
        println!(
            "  {what}: p50 {:?}, p99 {:?}, longest {:?}",
            half.unwrap_or_default(),
            most.unwrap_or_default(),
            all.unwrap_or_default()
        );
    }
    as_themselves(cluster, &lives, plan.whole)?;
    ensure!(rate >= plan.least, "{rate:.1} pods a second");
    let most = percentile(&waits, 0.99).context("no pod")?;
    ensure!(most <= plan.wait, "a first connection waited {most:?}");
    Ok(())
}

/// STRICT served nobody without an identity; nor with another's.
fn as_themselves(cluster: &Cluster, lives: &[Life], whole: usize) -> Result<()> {
    let identity =
        |account: &str| format!("src.identity=\"spiffe://cluster.local/ns/app/sa/{account}\"");
    let agent = cluster.node(1)?.agent()?;
    poll::until("every pod in the log", LIMIT, || {
        // The application's own address is in the line of the agent that captured it.
        let lines = agent.log_lines(&["direction=\"outbound\"", "dst.hbone_addr=", "sa/churn-"]);
        let mut known: Vec<(&str, &str)> = Vec::new();
        for line in &lines {
            let (_, rest) = line.split_once("src.addr=\"").context("no source")?;
            known.push((rest.split('"').next().unwrap_or_default(), line));
        }
        known.sort_unstable();
        for life in lives {
            let from = life.from.to_string();
            let begin = known.partition_point(|(source, _)| *source < &*from);
            let own = identity(&life.account);
            // A port may have been used twice.
            let mut of_it = known[begin..]
                .iter()
                .take_while(|(source, _)| *source == from);
            ensure!(
                of_it.any(|(_, line)| line.contains(&own)),
                "{from} is not {own}"
            );
        }
        Ok(())
    })?;
    let agent = cluster.node(2)?.agent()?;
    for pod in 0..whole {
        let own = identity(&format!("whole-{pod}"));
        agent
            .wait_log(&["direction=\"inbound\"", &own], LIMIT)
            .with_context(|| format!("pod {pod}"))?;
        let workload = format!("src.workload=\"whole-{pod}\"");
        let lines = agent.log_lines(&["direction=\"inbound\"", &workload]);
        let other = lines.iter().find(|line| !line.contains(&own));
        ensure!(other.is_none(), "pod {pod} came as another: {other:?}");
    }
    Ok(())
}

/// Namespaces that are joined to the network, for one pod after the other.
struct Pool {
    free: Mutex<VecDeque<Sandboxed>>,
    started: AtomicUsize,
}

impl Pool {
    fn new(cluster: &Cluster, size: u8) -> Result<Self> {
        let mut free = VecDeque::new();
        for number in 0..size {
            let slot = Sandboxed::start(cluster, 1, &format!("slot-{number}"), None)?;
            // The network stays, the pod goes.
            let ips = slot.ips();
            slot.node.chain().call_last("DEL", &slot.sandbox, &ips)?;
            slot.forget()?;
            free.push_back(slot);
        }
        Ok(Self {
            free: Mutex::new(free),
            started: AtomicUsize::new(0),
        })
    }

    fn free(&self) -> MutexGuard<'_, VecDeque<Sandboxed>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) -> Result<()> {
        self.free().drain(..).try_for_each(|slot| slot.stop())
    }
}

/// One hand: pods, each at its time.
fn live(scene: &Scene, pool: &Pool, plan: &Churn, start: Instant) -> Result<Vec<Life>> {
    let count = plan.time.as_secs() as usize * plan.rate as usize;
    let mut lives = Vec::new();
    loop {
        let number = pool.started.fetch_add(1, Ordering::SeqCst);
        if number >= count {
            return Ok(lives);
        }
        let at = start + Duration::from_secs_f64(number as f64 / f64::from(plan.rate));
        thread::sleep(at.saturating_duration_since(Instant::now()));
        let slot = pool.free().pop_front().context("the pool is empty")?;
        let to = scene.server.sockets(PORT)[number % 2];
        let life = brief(&slot, number, to).with_context(|| format!("pod {number}"))?;
        lives.push(life);
        pool.free().push_back(slot);
    }
}

/// A pod with one connection.
fn brief(slot: &Sandboxed, number: usize, to: SocketAddr) -> Result<Life> {
    let account = format!("churn-{}", number % ACCOUNTS);
    let pod = slot.other(&format!("life-{number}"), &account)?;
    let ips = slot.ips();
    let start = Instant::now();
    slot.node.chain().call_last("ADD", &pod.sandbox, &ips)?;
    let added = start.elapsed();
    // A kubelet tells the addresses when the sandbox is complete; containers do not wait for it.
    pod.told(ips.clone())?;
    let start = Instant::now();
    let mut stream = slot.place.connect(to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    echo_on(&mut stream, b"at once")?;
    let waited = start.elapsed();
    let from = stream.local_addr()?;
    drop(stream);
    slot.node.chain().call_last("DEL", &pod.sandbox, &ips)?;
    pod.forget()?;
    Ok(Life {
        account,
        from,
        added,
        waited,
    })
}

/// Makes pods while there are some to make; how long the first exchange of each took.
fn one_after_the_other(
    cluster: &Cluster,
    scene: &Scene,
    next: &AtomicUsize,
    pods: usize,
) -> Result<Vec<Duration>> {
    let mut waits = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::SeqCst);
        if number >= pods {
            return Ok(waits);
        }
        let spec = PodSpec::new(MESHED, &format!("whole-{number}"));
        let pod = cluster.pod(&spec)?;
        let start = Instant::now();
        must_serve(&pod, scene.server.sockets(PORT)[number % 2])
            .with_context(|| format!("pod {number}"))?;
        waits.push(start.elapsed());
        pod.delete()?;
    }
}
