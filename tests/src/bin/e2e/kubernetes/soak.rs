//! F-50: traffic of every kind while pods and policies come and go.

use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::manifests::authorization_policy;
use tests::server::{Behaviour, Server};
use tests::traffic::{download, echo_on, must_serve};
use tests::trend::{growth_per_hour, percentile};
use tests::{Cluster, Place, PodSpec};

use super::{DENY_CLIENT, LIMIT, serves};
use crate::scene::{MESHED, PORT, Scene};
use crate::{Case, long_on_kubernetes, on_kubernetes};

pub(crate) const CASES: &[Case] = &[
    on_kubernetes(
        "kubernetes: F-50 mixed traffic while pods and policies come and go",
        |cluster| soak(cluster, &SHORT),
    ),
    long_on_kubernetes(
        "kubernetes: F-50 mixed traffic while pods and policies come and go, an hour",
        |cluster| soak(cluster, &full()?),
    ),
];

const SECOND: Duration = Duration::from_secs(1);
/// Minutes of the long soak, where the variable does not say.
const MINUTES: u64 = 60;
/// In less than this there is no trend to see.
const TREND: Duration = Duration::from_secs(1800);
const VARIABLE: &str = "CULVERT_SOAK_MINUTES";

/// How much of everything.
struct Soak {
    time: Duration,
    /// Short connections a second.
    connections: u32,
    /// Connections that only stay.
    idle: usize,
    /// Time between two pods of each of two hands.
    pods: Duration,
    /// Time between two changes of a policy.
    policies: Duration,
}

const SHORT: Soak = Soak {
    time: Duration::from_secs(8),
    connections: 100,
    idle: 50,
    pods: SECOND,
    policies: SECOND,
};

fn full() -> Result<Soak> {
    let minutes = match std::env::var(VARIABLE) {
        Ok(text) => text.parse().with_context(|| format!("{VARIABLE}={text}"))?,
        Err(_) => MINUTES,
    };
    Ok(Soak {
        time: Duration::from_secs(60 * minutes),
        connections: 200,
        idle: 500,
        ..SHORT
    })
}

/// What was seen: of every short connection when it began and how long it took, and now and then
/// the memory of each agent.
#[derive(Default)]
struct Seen {
    exchanges: Mutex<Vec<(Duration, Duration)>>,
    memory: Vec<(Duration, Vec<u64>)>,
    pods: AtomicUsize,
}

/// What it leaves behind is found by the gate after the case, what it costs here.
fn soak(cluster: &Cluster, plan: &Soak) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let _sender = Server::start(&scene.server, PORT + 1, Behaviour::Send(200_000))?;
    serves(&scene.client, &scene.server, "before")?;
    let mut seen = Seen::default();
    let idle = open_idle(&scene, plan.idle)?;
    run(cluster, &scene, plan, &mut seen)?;
    for mut stream in idle {
        echo_on(&mut stream, b"after idling").context("an idle connection")?;
    }
    let pods = seen.pods.load(Ordering::SeqCst);
    ensure!(pods >= 3, "only {pods} pods in {:?}", plan.time);
    judge(plan, seen)
}

fn open_idle(scene: &Scene, count: usize) -> Result<Vec<TcpStream>> {
    let targets = scene.server.sockets(PORT).into_iter().cycle().take(count);
    targets
        .map(|to| {
            let stream = scene.client.connect(to, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            Ok(stream)
        })
        .collect()
}

fn run(cluster: &Cluster, scene: &Scene, plan: &Soak, seen: &mut Seen) -> Result<()> {
    let (stop, start) = (&AtomicBool::new(false), Instant::now());
    let (exchanges, pods) = (&seen.exchanges, &seen.pods);
    let client = scene.client.place();
    thread::scope(|scope| -> Result<()> {
        let mut loads: Vec<ScopedJoinHandle<'_, Result<()>>> = Vec::new();
        let every = SECOND * 4 / plan.connections;
        for to in scene.server.sockets(PORT).into_iter().cycle().take(4) {
            let load = move || short_connections(client, to, every, start, stop, exchanges);
            loads.push(scope.spawn(load));
        }
        for from in scene.server.sockets(PORT + 1) {
            loads.push(scope.spawn(move || downloads(client, from, stop)));
        }
        for hand in 0..2 {
            let load = move || pods_come_and_go(cluster, scene, plan, hand, stop, pods);
            loads.push(scope.spawn(load));
        }
        loads.push(scope.spawn(move || policies_come_and_go(cluster, plan, stop)));
        while start.elapsed() < plan.time && !loads.iter().any(ScopedJoinHandle::is_finished) {
            thread::sleep((plan.time / 40).clamp(SECOND / 5, SECOND * 5));
            seen.memory.push((start.elapsed(), resident(cluster)?));
        }
        stop.store(true, Ordering::SeqCst);
        for load in loads {
            load.join().map_err(|_| anyhow!("a load panicked"))??;
        }
        Ok(())
    })
}

fn resident(cluster: &Cluster) -> Result<Vec<u64>> {
    let nodes = cluster.nodes().iter();
    nodes.map(|node| node.agent()?.rss()).collect()
}

fn short_connections(
    from: &Place,
    to: SocketAddr,
    every: Duration,
    begin: Instant,
    stop: &AtomicBool,
    seen: &Mutex<Vec<(Duration, Duration)>>,
) -> Result<()> {
    paced(every, stop, |_| {
        let start = Instant::now();
        must_serve(from, to)?;
        let exchange = (start - begin, start.elapsed());
        let mut seen = seen.lock().map_err(|_| anyhow!("a load panicked"))?;
        seen.push(exchange);
        Ok(())
    })
}

/// Calls `work` at steady times until the end; who is late is not hurried.
fn paced(
    every: Duration,
    stop: &AtomicBool,
    mut work: impl FnMut(usize) -> Result<()>,
) -> Result<()> {
    let mut next = Instant::now();
    for round in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        work(round)?;
        next = (next + every).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn downloads(from: &Place, server: SocketAddr, stop: &AtomicBool) -> Result<()> {
    paced(SECOND / 40, stop, |_| download(from, server, 200_000))
}

fn pods_come_and_go(
    cluster: &Cluster,
    scene: &Scene,
    plan: &Soak,
    hand: usize,
    stop: &AtomicBool,
    count: &AtomicUsize,
) -> Result<()> {
    paced(plan.pods, stop, |round| {
        let name = format!("churn-{hand}-{}", round % 50);
        let pod = cluster.pod(&PodSpec::new(MESHED, &name))?;
        serves(&pod, &scene.server, "a new pod")?;
        count.fetch_add(1, Ordering::SeqCst);
        pod.delete()
    })
}

/// Policies that change what nodes hold and nothing of what is allowed.
fn policies_come_and_go(cluster: &Cluster, plan: &Soak, stop: &AtomicBool) -> Result<()> {
    paced(plan.policies, stop, |round| {
        let name = format!("churn-{}", round / 2 % 3);
        if round.is_multiple_of(2) {
            let deny = authorization_policy(MESHED, &name, "DENY", Some("nobody"), DENY_CLIENT);
            cluster.manifests().write(&name, &deny)
        } else {
            cluster.manifests().remove(&name)
        }
    })
}

/// After this share of the time everything that is kept for good is there.
const WARM: f64 = 1.0 / 6.0;
/// Windows of the 99th percentile, half of them early ones.
const WINDOWS: u32 = 12;

fn judge(plan: &Soak, seen: Seen) -> Result<()> {
    let exchanges = seen.exchanges.into_inner()?;
    let warm = plan.time.mul_f64(WARM);
    let took = exchanges.iter().map(|(_, took)| *took);
    let took: Vec<Duration> = took.collect();
    let of = |share| percentile(&took, share).unwrap_or_default();
    println!(
        "  {} short connections, p50 {:?}, p99 {:?}; {} pods",
        took.len(),
        of(0.5),
        of(0.99),
        seen.pods.into_inner()
    );
    for agent in 0..2 {
        let points = seen.memory.iter().filter(|(at, _)| *at >= warm);
        let points = points.filter_map(|(at, memory)| Some((*at, *memory.get(agent)?)));
        memory(plan, agent + 1, &points.collect::<Vec<_>>())?;
    }
    if plan.time >= TREND {
        let asked = plan.time.as_secs() * u64::from(plan.connections);
        let made = exchanges.len() as u64;
        ensure!(made * 10 >= asked * 9, "{made} of {asked} connections");
        drift(plan, warm, &exchanges)?;
    }
    Ok(())
}

/// A shorter soak shows growth that no allocator explains; a longer one a trend.
fn memory(plan: &Soak, agent: usize, points: &[(Duration, u64)]) -> Result<()> {
    const SLACK: u64 = 24 << 20;
    let (Some((_, first)), Some((_, last))) = (points.first(), points.last()) else {
        return Err(anyhow!("memory was not looked at"));
    };
    println!("  agent {agent}: resident {first} -> {last}");
    ensure!(
        *last <= first + SLACK,
        "agent {agent}: {first} -> {last} bytes"
    );
    if plan.time >= TREND {
        let growth = growth_per_hour(points).context("a single look at memory")?;
        let mib = growth / f64::from(1 << 20);
        println!("  agent {agent}: {mib:+.2} MiB an hour");
        ensure!(mib < 1.0, "agent {agent} grows by {mib:.2} MiB an hour");
    }
    Ok(())
}

/// The later half is as fast as the earlier one: within a tenth, or half a millisecond where a
/// tenth is less than what a machine does to a percentile by itself.
fn drift(plan: &Soak, warm: Duration, exchanges: &[(Duration, Duration)]) -> Result<()> {
    let length = (plan.time - warm) / WINDOWS;
    let mut windows = Vec::new();
    for number in 0..WINDOWS {
        let (from, to) = (warm + length * number, warm + length * (number + 1));
        let within = exchanges.iter().filter(|(at, _)| (from..to).contains(at));
        let within: Vec<Duration> = within.map(|(_, took)| *took).collect();
        windows.push(percentile(&within, 0.99).context("a window without connections")?);
    }
    let (early, late) = windows.split_at(windows.len() / 2);
    let middle = |of| percentile(of, 0.5).unwrap_or_default();
    let (early, late) = (middle(early), middle(late));
    println!("  p99 early {early:?}, late {late:?}");
    let slower = late.saturating_sub(early);
    ensure!(
        slower < (early / 10).max(Duration::from_micros(500)),
        "p99 went from {early:?} to {late:?}"
    );
    Ok(())
}
