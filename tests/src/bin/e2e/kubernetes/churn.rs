//! Much that comes and goes: pods, connections, policies, and pods that go at the wrong moment.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::agent::Agent;
use tests::cni::Sandbox;
use tests::manifests::{PodManifest, authorization_policy};
use tests::server::{Behaviour, Server};
use tests::traffic::{download, echo_on, must_serve, wait_closed};
use tests::{Cluster, Node, Place, PodSpec, poll};

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
    on_kubernetes(
        "kubernetes: F-53 a network namespace goes while its pod is connected",
        namespace_gone,
    ),
    on_kubernetes(
        "kubernetes: F-54 pods that go too early, or come twice, hold up nobody",
        untimely,
    ),
];

const SECOND: Duration = Duration::from_secs(1);

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

fn namespace_gone(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    for family in [0, 1] {
        let doomed = Sandboxed::start(cluster, 1, "doomed", None)?;
        let to = scene.server.sockets(PORT)[family];
        let mut near = doomed.place.connect(to, LIMIT)?;
        near.set_read_timeout(Some(LIMIT))?;
        echo_on(&mut near, b"before")?;
        let mut far = server.last().context("the server has no connection")?;
        // Its name goes, then the runtime cleans up what it no longer finds.
        doomed.place.delete()?;
        doomed.stop_gone()?;
        let took = wait_closed(&mut near, LIMIT).context("the near end")?;
        ensure!(took < SECOND, "the near end was open for {took:?}");
        let took = wait_closed(&mut far, LIMIT).context("the far end")?;
        ensure!(took < SECOND, "the far end was open for {took:?}");
    }
    for family in [0, 1] {
        let doomed = Sandboxed::start(cluster, 2, "doomed", None)?;
        let _echo = Server::start(&doomed.place, PORT, Behaviour::Echo)?;
        let to = doomed.sockets(PORT)[family];
        let mut stream = poll::until("the doomed pod serves", LIMIT, || {
            let mut stream = scene.client.connect(to, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            echo_on(&mut stream, b"before")?;
            Ok(stream)
        })?;
        doomed.place.delete()?;
        doomed.stop_gone()?;
        let took = wait_closed(&mut stream, LIMIT).context("the server's pod is gone")?;
        ensure!(took < SECOND, "open for {took:?}");
    }
    serves(&scene.client, &scene.server, "others")
}

fn untimely(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    thread::scope(|scope| -> Result<()> {
        let ghost = scope.spawn(|| deleted_during_add(cluster));
        for number in 0..3 {
            let pod = cluster.pod(&PodSpec::new(MESHED, &format!("fine-{number}")))?;
            serves(&pod, &scene.server, "a pod beside one that is gone")?;
        }
        cluster.node(1)?.agent()?.wait_ready(SECOND)?;
        ghost.join().map_err(|_| anyhow!("the runtime panicked"))?
    })
    .context("deleted while the runtime adds it")?;
    dead_in_the_list(cluster, &scene).context("dead in the agent's own list")?;
    same_uid_again(cluster, &scene).context("a UID used again")
}

/// The pod is deleted between the plugins of its chain. The runtime is answered either way, in
/// the time it gives, and takes back what it made.
fn deleted_during_add(cluster: &Cluster) -> Result<()> {
    let ghost = Sandboxed::prepare(cluster, 1, "ghost", None)?;
    let start = Instant::now();
    let added = ghost.node.chain().add(&ghost.sandbox, |_| ghost.forget());
    let took = start.elapsed();
    ensure!(
        took < Duration::from_secs(30),
        "the runtime waited {took:?}"
    );
    println!("  ADD of a deleted pod: {:?} after {took:?}", added.is_ok());
    ghost.node.chain().delete(&ghost.sandbox)?;
    ghost.place.delete()
}

/// The agent is away when a pod's namespace goes without a word.
fn dead_in_the_list(cluster: &Cluster, scene: &Scene) -> Result<()> {
    let lost = Sandboxed::start(cluster, 1, "lost", None)?;
    let agent = cluster.node(1)?.agent()?;
    knows(agent, "lost", true)?;
    agent.kill9()?;
    lost.place.ip(&["link del eth0"])?;
    lost.place.delete()?;
    lost.forget()?;
    agent.start_ready().context("with a dead pod in its list")?;
    serves(&scene.client, &scene.server, "those that live")?;
    lost.stop_gone()?;
    poll::until("the dead pod forgotten", LIMIT, || {
        knows(agent, "lost", false)
    })
}

fn knows(agent: &Agent, name: &str, expected: bool) -> Result<()> {
    let status = agent.status()?;
    let mut pods = status["pods"].as_array().into_iter().flatten();
    let found = pods.any(|pod| pod["name"] == name);
    ensure!(found == expected, "{name}: {}", status["pods"]);
    Ok(())
}

/// A static pod keeps its UID from sandbox to sandbox, and a new sandbox may come before the old
/// one's DEL.
fn same_uid_again(cluster: &Cluster, scene: &Scene) -> Result<()> {
    let first = Sandboxed::start(cluster, 1, "static", None)?;
    first.serves(scene)?;
    let uid = first.sandbox.uid.clone();
    let second = Sandboxed::start(cluster, 1, "static", Some(&uid))?;
    second.serves(scene)?;
    first.stop()?;
    second.serves(scene).context("after the first one's DEL")?;
    let agent = cluster.node(1)?.agent()?;
    knows(agent, "static", true)?;
    second.stop()?;
    second.forget()
}

/// A pod made step by step, as a runtime does it, so that steps can be left out.
struct Sandboxed {
    node: Arc<Node>,
    place: Place,
    sandbox: Sandbox,
    manifests: tests::manifests::Manifests,
    manifest: std::sync::Mutex<PodManifest>,
}

impl Sandboxed {
    /// Bound to a node, with a namespace of its own and nothing in it.
    fn prepare(cluster: &Cluster, node: u8, name: &str, uid: Option<&str>) -> Result<Self> {
        let node = Arc::clone(cluster.node(node)?);
        let attempt = uid.map_or("", |_| "-again");
        let short = format!("p-{MESHED}-{name}{attempt}");
        let hosts = cluster.run().path("hosts");
        let place = Place::create(&cluster.run().namespace(&short), Some(hosts))?;
        let manifests = cluster.manifests().clone();
        manifests.account(MESHED, name)?;
        let fresh = uuid()?;
        let sandbox = Sandbox {
            id: format!("{}{}", uuid()?, uuid()?).replace('-', ""),
            netns: place.path(),
            namespace: MESHED.to_owned(),
            name: name.to_owned(),
            uid: uid.unwrap_or(&fresh).to_owned(),
            arguments: Vec::new(),
        };
        let manifest = PodManifest {
            namespace: MESHED.to_owned(),
            name: name.to_owned(),
            uid: sandbox.uid.clone(),
            account: name.to_owned(),
            node: node.name(),
            labels: Vec::new(),
            ports: Vec::new(),
            ips: Vec::new(),
            ready: true,
            host_network: false,
        };
        if uid.is_none() {
            manifests.write(&format!("pod-{MESHED}-{name}"), &manifest.yaml())?;
        }
        Ok(Self {
            node,
            place,
            sandbox,
            manifests,
            manifest: manifest.into(),
        })
    }

    /// The same, joined to the network and known with its addresses.
    fn start(cluster: &Cluster, node: u8, name: &str, uid: Option<&str>) -> Result<Self> {
        let pod = Self::prepare(cluster, node, name, uid)?;
        let ips = pod.node.chain().add(&pod.sandbox, |_| Ok(()))?;
        let mut manifest = pod.manifest();
        manifest.ips = ips;
        pod.manifests.write(&pod.file(), &manifest.yaml())?;
        drop(manifest);
        Ok(pod)
    }

    fn sockets(&self, port: u16) -> Vec<SocketAddr> {
        let mut ips: Vec<IpAddr> = self.manifest().ips.clone();
        ips.sort();
        ips.into_iter()
            .map(|ip| SocketAddr::new(ip, port))
            .collect()
    }

    fn serves(&self, scene: &Scene) -> Result<()> {
        for to in scene.server.sockets(PORT) {
            must_serve(&self.place, to)?;
        }
        Ok(())
    }

    /// The object goes, whatever else is left.
    fn forget(&self) -> Result<()> {
        self.manifests.remove(&self.file())
    }

    /// DEL, and the namespace.
    fn stop(&self) -> Result<()> {
        self.node.chain().delete(&self.sandbox)?;
        self.place.delete()
    }

    /// DEL of a sandbox whose namespace is gone already, and the object.
    fn stop_gone(&self) -> Result<()> {
        self.node.chain().delete(&self.sandbox)?;
        self.forget()
    }

    fn file(&self) -> String {
        format!("pod-{MESHED}-{}", self.sandbox.name)
    }

    fn manifest(&self) -> std::sync::MutexGuard<'_, PodManifest> {
        self.manifest
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn uuid() -> Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(text.trim().to_owned())
}
