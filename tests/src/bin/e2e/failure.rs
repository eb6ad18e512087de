//! An agent that dies, comes back, or leaves.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agent_model::READINESS_PORT;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::command::check;
use tests::http::get_within;
use tests::process::cpu_of;
use tests::server::{Behaviour, Server};
use tests::stopwatch::Stopwatch;
use tests::traffic::{Outcome, attempt, echo_on, must_refuse, must_serve, wait_closed};
use tests::{Cluster, ClusterSpec, Place, PodSpec, poll};

use crate::scene::{OUTSIDE, PORT, Scene};
use crate::{Case, alone, long, shared};

pub(crate) const CASES: &[Case] = &[
    shared(
        "failure: F-01 agent killed: nothing unverified reaches an application",
        killed,
    ),
    shared(
        "failure: F-02 restarted: connections within 1 s, nothing twice",
        restarted,
    ),
    shared(
        "failure: F-03 an agent that hangs is noticed within 10 s, lets nothing through and wakes up calm",
        hangs,
    ),
    long("failure: F-03 the same for 30 s", hangs_long),
    shared(
        "failure: killed under load, the source's side",
        source_killed,
    ),
    shared("failure: planned stop and start", planned),
    alone(
        "failure: --release leaves pods connected and nothing attached",
        released,
    ),
];

const LIMIT: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);

fn killed(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let plain = cluster.pod(&PodSpec::new(OUTSIDE, "plain").on(2).outside())?;
    let _plain_server = Server::start(&plain, PORT, Behaviour::Echo)?;
    let mut flows = Vec::new();
    for to in scene.server.sockets(PORT) {
        let mut stream = scene.client.connect(to, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        echo_on(&mut stream, b"before")?;
        flows.push(stream);
    }
    let agent = cluster.node(2)?.agent()?;
    agent.kill9()?;
    let accepted = server.accepted();
    for flow in &mut flows {
        let watch = Stopwatch::start();
        wait_closed(flow, LIMIT).context("an established flow")?;
        let took = watch.took();
        ensure!(
            took < SECOND,
            "an established flow ended only after {took:?}"
        );
    }
    let until = Instant::now() + Duration::from_secs(2);
    let mut refusals = Vec::new();
    while Instant::now() < until {
        for to in scene.server.sockets(PORT) {
            refusals.push(quick_refusal(&scene.outsider, to)?);
            refusals.push(quick_refusal(cluster.node(1)?.host(), to)?);
            must_refuse(&scene.client, to)?;
        }
        for to in plain.sockets(PORT) {
            must_serve(&scene.outsider, to).context("pods outside the mesh")?;
        }
    }
    refusals.sort();
    let median = refusals[refusals.len() / 2];
    println!("  {} refused, in {median:?} (median)", refusals.len());
    // A handshake that nobody answers would be tried again after a second.
    ensure!(median < Duration::from_millis(50), "refused in {median:?}");
    ensure!(
        server.accepted() == accepted,
        "the application was reached without an agent"
    );
    for to in scene.server.sockets(PORT) {
        // Probes of the node need no agent.
        must_serve(cluster.node(2)?.host(), to).context("a node probe without an agent")?;
    }
    agent.start_ready()?;
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.client, to).context("after the restart")?;
        must_refuse(&scene.outsider, to).context("after the restart")?;
    }
    Ok(())
}

/// Refused by the kernel: no handshake with a dead agent, no wait for one.
fn quick_refusal(from: &Place, to: SocketAddr) -> Result<Duration> {
    match attempt(from, to, SECOND)? {
        Outcome::Refused(_, took) => Ok(took),
        other => bail!("{} -> {to}: {other:?}", from.name()),
    }
}

fn restarted(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.client, to)?;
    }
    for node in [2, 1] {
        let agent = cluster.node(node)?.agent()?;
        // What no descriptor of a dead process holds is pinned: equal pins, nothing twice.
        let before = agent.pins();
        agent.kill9()?;
        let (start, watch) = (Instant::now(), Stopwatch::start());
        agent.start()?;
        for to in scene.server.sockets(PORT) {
            poll::until("served after the restart", 4 * LIMIT, || {
                must_serve(&scene.client, to)
            })?;
        }
        let took = watch.took();
        println!(
            "  node {node}: served again {} ms after the start, {} of them the machine's",
            start.elapsed().as_millis(),
            start.elapsed().saturating_sub(took).as_millis()
        );
        ensure!(
            took <= SECOND,
            "node {node}: served again only after {took:?}"
        );
        agent.wait_ready(4 * LIMIT)?;
        let status = agent.status()?;
        let verified = status["pods"]
            .as_array()
            .into_iter()
            .flatten()
            .all(|pod| pod["verified"] == true);
        ensure!(verified, "not every pod is enrolled again: {status}");
        let after = agent.pins();
        ensure!(before == after, "pins went from {before} to {after}");
        for to in scene.server.sockets(PORT) {
            must_refuse(&scene.outsider, to).context("STRICT after the restart")?;
        }
    }
    let peers = server.peers();
    let unknown = peers
        .iter()
        .find(|peer| !scene.client.ips().contains(&peer.ip()));
    ensure!(unknown.is_none(), "the application saw {unknown:?}");
    Ok(())
}

fn hangs(cluster: &Cluster) -> Result<()> {
    hangs_for(cluster, Duration::ZERO)
}

fn hangs_long() -> Result<()> {
    let cluster = Cluster::start(&ClusterSpec::new("hang"))?;
    hangs_for(&cluster, Duration::from_secs(30))
}

/// It hangs until the kubelet would know, and for that long at least.
fn hangs_for(cluster: &Cluster, time: Duration) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let plain = cluster.pod(&PodSpec::new(OUTSIDE, "plain").on(2).outside())?;
    let _plain_server = Server::start(&plain, PORT, Behaviour::Echo)?;
    let targets = scene.server.sockets(PORT);
    for to in targets {
        must_serve(&scene.client, to)?;
    }
    let agent = cluster.node(2)?.agent()?;
    let probe = Liveness::of_the_manifest()?;
    ensure!(probe.ask(agent.place())?, "alive, and said not to be");
    let (accepted, generation, pins) = (server.accepted(), agent.generation()?, agent.pins());

    agent.signal(Signal::SIGSTOP)?;
    let start = Instant::now();
    let noticed = thread::scope(|scope| -> Result<Duration> {
        let kubelet = scope.spawn(|| probe.trips(agent.place()));
        while !kubelet.is_finished() || start.elapsed() < time {
            for to in targets {
                for from in [&scene.outsider, &scene.client] {
                    let outcome = attempt(from, to, Duration::from_millis(250))?;
                    ensure!(outcome != Outcome::Served, "{to} serves {}", from.name());
                }
                // Probes of the node need no agent.
                must_serve(cluster.node(2)?.host(), to)?;
            }
            for to in plain.sockets(PORT) {
                must_serve(&scene.outsider, to).context("pods outside the mesh")?;
            }
        }
        let noticed = kubelet.join();
        noticed.map_err(|_| anyhow::anyhow!("the probe panicked"))?
    });
    let hung = start.elapsed();
    let probes = server.peers().into_iter().skip(accepted);
    let meshed: Vec<_> = probes
        .filter(|peer| {
            scene.client.ips().contains(&peer.ip()) || scene.outsider.ips().contains(&peer.ip())
        })
        .collect();
    let (cpu, lines) = (cpu_of(agent.pid()?)?, agent.log().lines().count());
    agent.signal(Signal::SIGCONT)?;
    let noticed = noticed?;
    ensure!(meshed.is_empty(), "{meshed:?} reached the application");
    println!("  hung for {hung:?}, noticed after {noticed:?}");
    ensure!(
        noticed <= Duration::from_secs(10),
        "noticed after {noticed:?}"
    );

    for to in targets {
        poll::until("served after it woke up", LIMIT, || {
            must_serve(&scene.client, to)
        })?;
        must_refuse(&scene.outsider, to).context("after it woke up")?;
    }
    thread::sleep(SECOND * 3);
    let (cpu, lines) = (
        cpu_of(agent.pid()?)?.saturating_sub(cpu),
        agent.log().lines().count() - lines,
    );
    println!("  then {cpu:?} of processor time and {lines} lines of log in three seconds");
    ensure!(cpu < SECOND, "a storm: {cpu:?} of processor time");
    let status = agent.status()?;
    ensure!(status["pending"] == Value::Array(Vec::new()), "{status}");
    ensure!(agent.generation()? == generation && agent.pins() == pins);
    Ok(())
}

/// The probe by which the kubelet learns that an agent hangs, with the numbers of the manifest.
struct Liveness {
    path: String,
    port: u16,
    period: Duration,
    timeout: Duration,
    failures: u64,
}

impl Liveness {
    fn of_the_manifest() -> Result<Self> {
        let manifest = include_str!("../../../../deploy/kubernetes/base/node.yaml");
        let objects: Vec<Value> = serde_saphyr::from_multiple(manifest)?;
        let agents = objects.iter().find(|object| object["kind"] == "DaemonSet");
        let pod = &agents.context("no DaemonSet")?["spec"]["template"]["spec"];
        let probe = &pod["containers"][0]["livenessProbe"];
        let number = |name: &str| probe[name].as_u64().with_context(|| format!("no {name}"));
        let path = probe["httpGet"]["path"].as_str().context("no path")?;
        ensure!(probe["httpGet"]["port"] == "http-ready", "{probe}");
        Ok(Self {
            path: path.to_owned(),
            port: READINESS_PORT,
            period: Duration::from_secs(number("periodSeconds")?),
            timeout: Duration::from_secs(number("timeoutSeconds")?),
            failures: number("failureThreshold")?,
        })
    }

    /// Asks once, as the kubelet does.
    fn ask(&self, place: &Place) -> Result<bool> {
        let to = (Ipv6Addr::LOCALHOST, self.port).into();
        let stream = place.connect(to, self.timeout)?;
        Ok(get_within(stream, &self.path, self.timeout).is_ok_and(|answer| answer.status == 200))
    }

    /// Asks until the agent counts as hung; how long that took.
    fn trips(&self, place: &Place) -> Result<Duration> {
        let start = Instant::now();
        let mut failed = 0;
        let mut next = start;
        while failed < self.failures {
            ensure!(start.elapsed() < 4 * LIMIT, "nobody notices");
            thread::sleep(next.saturating_duration_since(Instant::now()));
            next = Instant::now() + self.period;
            failed = match self.ask(place) {
                Ok(true) => 0,
                _ => failed + 1,
            };
        }
        Ok(start.elapsed())
    }
}

fn programs() -> Result<usize> {
    let list: Value = serde_json::from_str(&check("bpftool", &["-j", "prog", "show"])?)?;
    Ok(list.as_array().map_or(0, Vec::len))
}

/// Clients never get past a dead agent of their own, and every failure lies inside the gap.
fn source_killed(cluster: &Cluster) -> Result<()> {
    let scene = Scene::permissive(cluster)?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let agent = cluster.node(1)?.agent()?;
    let (stop, served) = (&AtomicBool::new(false), &AtomicU64::new(0));
    let scene = &scene;
    let (failures, away) = thread::scope(|scope| -> Result<(Vec<Instant>, [Duration; 2])> {
        let loads: Vec<_> = scene
            .server
            .sockets(PORT)
            .into_iter()
            .map(|to| scope.spawn(move || load(&scene.client, to, stop, served)))
            .collect();
        thread::sleep(Duration::from_millis(500));
        let (start, watch) = (Instant::now(), Stopwatch::start());
        let result = agent.kill9().and_then(|()| {
            thread::sleep(Duration::from_millis(500));
            agent.start_ready()
        });
        let away = [start.elapsed(), watch.took()];
        thread::sleep(SECOND);
        stop.store(true, Ordering::SeqCst);
        let mut failures = Vec::new();
        for load in loads {
            failures.extend(
                load.join()
                    .map_err(|_| anyhow::anyhow!("a load panicked"))??,
            );
        }
        result.map(|()| (failures, away))
    })?;
    let gap = failures.iter().min().zip(failures.iter().max());
    let (first, last) = gap.context("killing the agent was not noticed")?;
    let gap = last.duration_since(*first);
    let served = served.load(Ordering::SeqCst);
    println!(
        "  {served} served, {} failed within {gap:?}",
        failures.len()
    );
    // Until it is ready, and no longer; being ready takes as long as the machine has it.
    let [until_ready, took] = away;
    ensure!(gap <= until_ready + SECOND, "failures over {gap:?}");
    ensure!(took < SECOND * 3, "away for {took:?}");
    // PERMISSIVE would have let a captured connect slip out as plaintext: it must not.
    let log = cluster
        .node(2)?
        .agent()?
        .log_lines(&["direction=\"inbound\"", "reason=\"ok\""]);
    let plaintext = log
        .iter()
        .filter(|line| line.contains("src.workload=\"client\"") && !line.contains("src.identity"))
        .count();
    ensure!(
        plaintext == 0,
        "{plaintext} connections left the client uncaptured"
    );
    ensure!(
        server.accepted() as u64 >= served,
        "more answers than connections"
    );
    Ok(())
}

fn load(
    from: &Place,
    to: SocketAddr,
    stop: &AtomicBool,
    served: &AtomicU64,
) -> Result<Vec<Instant>> {
    let mut failures = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        match attempt(from, to, Duration::from_secs(2))? {
            Outcome::Served => {
                served.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Refused(..) => failures.push(Instant::now()),
            Outcome::Hung => bail!("{to} hangs while the agent is dead"),
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(failures)
}

fn planned(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    for node in [1, 2] {
        let agent = cluster.node(node)?.agent()?;
        agent.stop().context("SIGTERM")?;
        let accepted = server.accepted();
        for to in scene.server.sockets(PORT) {
            must_refuse(&scene.outsider, to).context("between stop and start")?;
        }
        ensure!(
            server.accepted() == accepted,
            "the application was reached without an agent"
        );
        agent.start_ready()?;
        for to in scene.server.sockets(PORT) {
            must_serve(&scene.client, to)?;
        }
    }
    Ok(())
}

fn released() -> Result<()> {
    let before = programs()?;
    let cluster = Cluster::start(&ClusterSpec::new("release"))?;
    let scene = Scene::permissive(&cluster)?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.client, to)?;
    }
    for node in cluster.nodes() {
        let agent = node.agent()?;
        agent.stop()?;
        agent.release()?;
        let pins = std::fs::read_dir(agent.bpffs())?.count();
        ensure!(
            pins == 0,
            "{pins} entries are left in {}",
            agent.bpffs().display()
        );
    }
    for (family, to) in scene.server.sockets(PORT).into_iter().enumerate() {
        must_serve(&scene.client, to).context("unmeshed but connected")?;
        must_serve(&scene.outsider, to).context("unmeshed but connected")?;
        let peer = server.peers().into_iter().rev().nth(1).context("no peer")?;
        ensure!(
            peer.ip() == scene.client.ips()[family],
            "the server saw {peer}"
        );
    }
    poll::until("programs gone", Duration::from_secs(30), || {
        let now = programs()?;
        ensure!(now <= before, "{now} programs, {before} before");
        Ok(())
    })?;
    Ok(())
}
