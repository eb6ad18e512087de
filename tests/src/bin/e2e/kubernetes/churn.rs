//! Much that comes and goes: pods, connections, policies.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::manifests::authorization_policy;
use tests::server::{Behaviour, Server};
use tests::traffic::{download, echo_on, must_serve};
use tests::{Cluster, Place, PodSpec, poll};

use super::{DENY_CLIENT, LIMIT, serves};
use crate::scene::{MESHED, PORT, Scene};
use crate::{Case, on_kubernetes};

pub(crate) const CASES: &[Case] = &[
    on_kubernetes(
        "kubernetes: F-50 mixed traffic while pods and policies come and go",
        soak,
    ),
    on_kubernetes(
        "kubernetes: F-51 whoever closes first, no half-closed connection stays",
        half_closed,
    ),
    on_kubernetes(
        "kubernetes: F-52 pods come and go, each connects at once and as itself",
        pod_churn,
    ),
];

/// A short soak. What it leaves behind is found by the gate after the case, what it costs here.
fn soak(cluster: &Cluster) -> Result<()> {
    /// What an allocator may keep for itself over some seconds.
    const SLACK: u64 = 24 << 20;
    const TIME: Duration = Duration::from_secs(8);
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let _sender = Server::start(&scene.server, PORT + 1, Behaviour::Send(200_000))?;
    serves(&scene.client, &scene.server, "before")?;
    let before = resident(cluster)?;
    let (stop, done) = (&AtomicBool::new(false), &AtomicU64::new(0));
    let idle = open_idle(&scene, 50)?;
    thread::scope(|scope| -> Result<()> {
        let mut loads = Vec::new();
        for to in scene.server.sockets(PORT) {
            let client = scene.client.place();
            loads.push(scope.spawn(move || short_connections(client, to, stop, done)));
        }
        for from in scene.server.sockets(PORT + 1) {
            let client = scene.client.place();
            loads.push(scope.spawn(move || downloads(client, from, stop, done)));
        }
        let changes = || -> Result<()> {
            let start = Instant::now();
            let mut round = 0;
            while start.elapsed() < TIME {
                policy_comes_and_goes(cluster, round)?;
                let name = format!("churn-{round}");
                let pod = cluster.pod(&PodSpec::new(MESHED, &name))?;
                serves(&pod, &scene.server, "a new pod")?;
                pod.delete()?;
                round += 1;
            }
            ensure!(round >= 3, "only {round} pods in {TIME:?}");
            Ok(())
        };
        let result = changes();
        stop.store(true, Ordering::SeqCst);
        for load in loads {
            load.join().map_err(|_| anyhow!("a load panicked"))??;
        }
        result
    })?;
    for mut stream in idle {
        echo_on(&mut stream, b"after idling").context("an idle connection")?;
    }
    let after = resident(cluster)?;
    println!(
        "  {} exchanges; resident {before:?} -> {after:?}",
        done.load(Ordering::SeqCst)
    );
    let grew = before
        .iter()
        .zip(&after)
        .any(|(then, now)| *now > then + SLACK);
    ensure!(!grew, "agents grew from {before:?} to {after:?} bytes");
    Ok(())
}

fn resident(cluster: &Cluster) -> Result<Vec<u64>> {
    let nodes = cluster.nodes().iter();
    nodes.map(|node| node.agent()?.rss()).collect()
}

fn open_idle(scene: &Scene, count: usize) -> Result<Vec<std::net::TcpStream>> {
    let targets = scene.server.sockets(PORT).into_iter().cycle().take(count);
    targets
        .map(|to| {
            let stream = scene.client.connect(to, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            Ok(stream)
        })
        .collect()
}

fn short_connections(
    from: &Place,
    to: SocketAddr,
    stop: &AtomicBool,
    done: &AtomicU64,
) -> Result<()> {
    while !stop.load(Ordering::SeqCst) {
        must_serve(from, to)?;
        done.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn downloads(from: &Place, server: SocketAddr, stop: &AtomicBool, done: &AtomicU64) -> Result<()> {
    while !stop.load(Ordering::SeqCst) {
        download(from, server, 200_000)?;
        done.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Policies that change what nodes hold and nothing of what is allowed.
fn policy_comes_and_goes(cluster: &Cluster, round: usize) -> Result<()> {
    let name = format!("churn-{}", round % 3);
    if round.is_multiple_of(2) {
        let deny = authorization_policy(MESHED, &name, "DENY", Some("nobody"), DENY_CLIENT);
        cluster.manifests().write(&name, &deny)
    } else {
        cluster
            .manifests()
            .remove(&format!("churn-{}", (round - 1) % 3))
    }
}

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
    poll::until("nothing half-closed", Duration::from_secs(10), || {
        for place in &places {
            let left = place.check(&["ss", "-Htn", "state", "close-wait"])?
                + &place.check(&["ss", "-Htn", "state", "fin-wait-2"])?;
            ensure!(left.trim().is_empty(), "in {}:\n{left}", place.name());
        }
        Ok(())
    })
}

/// Numbers of network namespaces are used again at once; identities must not be.
fn pod_churn(cluster: &Cluster) -> Result<()> {
    const PODS: usize = 24;
    const HANDS: usize = 4;
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let next = &AtomicUsize::new(0);
    let scene = &scene;
    let start = Instant::now();
    let waits = thread::scope(|scope| -> Result<Vec<Duration>> {
        let hands: Vec<_> = (0..HANDS)
            .map(|_| scope.spawn(move || one_after_the_other(cluster, scene, next, PODS)))
            .collect();
        let mut waits = Vec::new();
        for hand in hands {
            waits.extend(hand.join().map_err(|_| anyhow!("a hand panicked"))??);
        }
        Ok(waits)
    })?;
    println!(
        "  {PODS} pods in {:.1} s; longest first exchange {:?}",
        start.elapsed().as_secs_f64(),
        waits.iter().max().context("no pod")?
    );
    // STRICT served nobody without an identity; nor with another's.
    let agent = cluster.node(2)?.agent()?;
    for pod in 0..PODS {
        let workload = format!("src.workload=\"churn-{pod}\"");
        let own = format!("src.identity=\"spiffe://cluster.local/ns/app/sa/churn-{pod}\"");
        agent
            .wait_log(&["direction=\"inbound\"", &own], LIMIT)
            .with_context(|| format!("pod {pod}"))?;
        let lines = agent.log_lines(&["direction=\"inbound\"", &workload]);
        let other = lines.iter().find(|line| !line.contains(&own));
        ensure!(other.is_none(), "pod {pod} came as another: {other:?}");
    }
    Ok(())
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
        let spec = PodSpec::new(MESHED, &format!("churn-{number}"));
        let pod = cluster.pod(&spec)?;
        let start = Instant::now();
        must_serve(&pod, scene.server.sockets(PORT)[number % 2])
            .with_context(|| format!("pod {number}"))?;
        waits.push(start.elapsed());
        pod.delete()?;
    }
}
