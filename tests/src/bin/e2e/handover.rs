//! One agent follows another, while everybody goes on.

mod load;
mod versions;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::agent::Agent;
use tests::command::check;
use tests::manifests::peer_authentication;
use tests::process::Process;
use tests::server::{Behaviour, Server};
use tests::traffic::{Outcome, attempt, echo_on, must_refuse, must_serve};
use tests::{Cluster, ClusterSpec, Place, PodSpec, poll};

use crate::scene::{MESHED, PORT, Scene};
use crate::{Case, alone, long, shared};
use load::{FULL, Load, SHORT, Terms, once};

pub(crate) const CASES: &[Case] = &[
    shared(
        "handover: F-05 agents replaced under load, no connection notices",
        under_load,
    ),
    shared(
        "handover: F-07 what the first agent carries goes on, then ends with FIN",
        flows,
    ),
    shared(
        "handover: F-09 two agents alive, one owner; pods come and go meanwhile",
        one_owner,
    ),
    shared(
        "handover: F-09 an agent that hangs is replaced and wakes up harmless",
        hung,
    ),
    shared(
        "handover: connections that wait to be accepted are served all the same",
        queued,
    ),
    shared(
        "handover: an update as a DaemonSet makes it: two namespaces, the first started again",
        update,
    ),
    shared(
        "handover: F-13 a peer that does not read holds nobody up",
        stuck,
    ),
    shared(
        "handover: F-04 an agent that cannot start leaves all as it is",
        crash_loop,
    ),
    shared(
        "handover: F-10 whatever is missing at the start is awaited",
        any_order,
    ),
    shared(
        "handover: F-08 an agent that speaks otherwise is replaced, not followed, and nobody gets through",
        versions::another_protocol,
    ),
    shared("handover: a successor brings no certificate service", keys),
    long(
        "handover: F-05 100 agents in a row at 500 connections a second",
        hundred,
    ),
    long(
        "handover: F-10 whatever is missing at the start, in every order",
        every_order,
    ),
    alone("handover: --release ends it for both", released),
];

const LIMIT: Duration = Duration::from_secs(10);

fn under_load(cluster: &Cluster) -> Result<()> {
    restarts(cluster, 5, SHORT, Duration::from_secs(3))
}

fn hundred() -> Result<()> {
    let cluster = Cluster::start(&ClusterSpec::new("hlong"))?;
    restarts(&cluster, 100, FULL, Duration::from_secs(30))
}

/// Under load for a while without a hand-over, to compare with, and then with so many.
fn restarts(cluster: &Cluster, times: u32, terms: Terms, quiet: Duration) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let targets = scene.server.sockets(PORT);
    for to in targets {
        must_serve(&scene.client, to)?;
    }
    // Each port that a connection had rests for a minute: at this rate a pod would run short of them,
    // and looking for one would be what is measured.
    for pod in [&scene.client, &scene.server] {
        pod.place()
            .sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
    }
    let before: Vec<usize> = pins(cluster)?;
    let serials = serials(cluster.node(2)?.agent()?)?;
    let load = Load::new(terms);
    let (quiet, changing) = load.during(scene.client.place(), targets, || {
        many(cluster, times, quiet, &load)
    })?;
    let quiet = load.seen(quiet.start, quiet.end)?;
    let changing = load.seen(changing.start, changing.end)?;
    println!("  without a hand-over: {quiet}");
    println!("  with {times} of them: {changing}");
    changing.must_be_hardly_worse_than(&quiet, terms)?;
    ensure!(
        pins(cluster)? == before,
        "pins {before:?} -> {:?}",
        pins(cluster)?
    );
    let after = serials_of(cluster.node(2)?.agent()?)?;
    ensure!(after == serials, "certificates {serials:?} -> {after:?}");
    for to in targets {
        must_refuse(&scene.outsider, to).context("STRICT after all of them")?;
    }
    Ok(())
}

/// Replaces the agents in turn; the time before that and the time it took.
fn many(
    cluster: &Cluster,
    times: u32,
    quiet: Duration,
    load: &Load,
) -> Result<(Range<Instant>, Range<Instant>)> {
    // What is dialled once is not counted.
    thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    thread::sleep(quiet);
    let mut longest = Duration::ZERO;
    let changes = Instant::now();
    for round in 0..times {
        let agent = cluster.node(if round % 2 == 0 { 2 } else { 1 })?.agent()?;
        let start = Instant::now();
        let first = agent
            .hand_over()
            .with_context(|| format!("round {round}"))?;
        longest = longest.max(start.elapsed());
        end_of(&first, Duration::from_secs(20))?;
        load.must_have_served_all()
            .with_context(|| format!("round {round}"))?;
    }
    println!(
        "  {times} agents followed, {} ms at most from start to readiness",
        longest.as_millis()
    );
    Ok((start..changes, changes..Instant::now()))
}

fn end_of(first: &Process, limit: Duration) -> Result<Duration> {
    let start = Instant::now();
    let status = first.wait_end(limit)?;
    ensure!(status.success(), "the first agent ended with {status}");
    Ok(start.elapsed())
}

fn pins(cluster: &Cluster) -> Result<Vec<usize>> {
    let count = |node: &std::sync::Arc<tests::Node>| Ok(node.agent()?.pins());
    cluster.nodes().iter().map(count).collect()
}

fn serials(agent: &Agent) -> Result<Vec<String>> {
    poll::until("certificates", LIMIT, || {
        let serials = serials_of(agent)?;
        ensure!(!serials.is_empty(), "none yet");
        Ok(serials)
    })
}

fn serials_of(agent: &Agent) -> Result<Vec<String>> {
    let status = agent.status()?;
    let rows = status["certificates"].as_array().cloned();
    let serial = |row: &Value| row["serial"].as_str().map(str::to_owned);
    let mut serials: Vec<_> = rows.iter().flatten().filter_map(serial).collect();
    serials.sort();
    Ok(serials)
}

/// Fifty echo flows in step, each with its own bytes.
fn flows(cluster: &Cluster) -> Result<()> {
    const FLOWS: usize = 50;
    const DRAIN: Duration = Duration::from_secs(2);
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    for number in [2, 1] {
        let agent = cluster.node(number)?.agent()?;
        with_drain(agent, DRAIN)?;
        let targets = scene.server.sockets(PORT);
        let handed = AtomicU64::new(0);
        let start = Instant::now();
        let ends = thread::scope(|scope| -> Result<Vec<Duration>> {
            let flows: Vec<_> = (0..FLOWS)
                .map(|flow| {
                    let (to, place, handed) = (targets[flow % 2], scene.client.place(), &handed);
                    scope.spawn(move || place.within(|| flow_to_its_end(to, flow as u8, handed)))
                })
                .collect();
            thread::sleep(Duration::from_millis(500));
            // From here on a flow may be drained; not before the deadline, which begins later.
            let before = start.elapsed();
            handed.store(1, Ordering::SeqCst);
            let first = agent.hand_over()?;
            for to in targets {
                must_serve(&scene.client, to).context("while the first drains")?;
            }
            let mut ends = Vec::new();
            for flow in flows {
                let ended = flow
                    .join()
                    .map_err(|_| anyhow::anyhow!("a flow panicked"))??;
                let ended = ended?.duration_since(start);
                ensure!(
                    ended >= before + DRAIN,
                    "a flow ended {ended:?} after the start, the drain began after {before:?}"
                );
                ends.push(ended);
            }
            end_of(&first, LIMIT)?;
            Ok(ends)
        })?;
        let last = ends.iter().max().context("no flow")?;
        println!("  node {number}: {FLOWS} flows, FIN for the last after {last:?}");
        agent.wait_log(&["reason=\"drained\""], LIMIT)?;
        let reset = agent.log_lines(&["reason=\"connection-reset\""]);
        ensure!(reset.is_empty(), "{reset:#?}");
        with_drain(agent, Duration::from_secs(10))?;
    }
    Ok(())
}

/// Sends and receives in step until the end, which must be a clean one between two steps.
fn flow_to_its_end(to: SocketAddr, seed: u8, handed: &AtomicU64) -> Result<Instant> {
    let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut sent = [0u8; 1500];
    let mut answer = [0u8; 1500];
    for step in 0u32.. {
        let fill = |(at, byte): (usize, &mut u8)| *byte = seed ^ (step as u8) ^ (at as u8);
        sent.iter_mut().enumerate().for_each(fill);
        stream.write_all(&sent).context("a write fails")?;
        let mut got = 0;
        while got < answer.len() {
            match stream.read(&mut answer[got..]) {
                // What was sent now came too late; what had been sent was answered in full.
                Ok(0) if got == 0 && handed.load(Ordering::SeqCst) == 1 => {
                    return Ok(Instant::now());
                }
                Ok(0) => bail!("an early end, {got} bytes into an answer, step {step}"),
                Ok(read) => got += read,
                Err(error) => bail!("step {step}: {error} instead of an end"),
            }
        }
        ensure!(answer == sent, "step {step}: bytes differ");
        thread::sleep(Duration::from_millis(20));
    }
    bail!("no end")
}

/// Has the agent run with this drain deadline from now on.
fn with_drain(agent: &Agent, deadline: Duration) -> Result<()> {
    agent.change(|settings| {
        settings.extra = vec![
            "--drain-deadline".into(),
            format!("{}ms", deadline.as_millis()),
        ];
    });
    let first = agent.hand_over()?;
    end_of(&first, Duration::from_secs(20)).map(drop)
}

fn one_owner(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let agent = cluster.node(2)?.agent()?;
    let mut held = scene.client.connect(scene.server.sockets(PORT)[0], LIMIT)?;
    held.set_read_timeout(Some(LIMIT))?;
    echo_on(&mut held, b"before")?;
    let generation = agent.generation()?;
    let pins = agent.pins();
    // Pods come and go all the time; each request is served once, by the one or by the other.
    let stop = AtomicBool::new(false);
    let first = thread::scope(|scope| -> Result<Process> {
        let pods = scope.spawn(|| -> Result<u32> {
            let mut pods = 0;
            while !stop.load(Ordering::SeqCst) {
                let pod = cluster.pod(&PodSpec::new(MESHED, &format!("brief-{pods}")).on(2))?;
                pod.delete()?;
                pods += 1;
            }
            Ok(pods)
        });
        let handed = agent.hand_over();
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::SeqCst);
        let pods = pods
            .join()
            .map_err(|_| anyhow::anyhow!("pods panicked"))??;
        println!("  {pods} pods came and went meanwhile");
        ensure!(pods > 1, "no pod came");
        handed
    })?;
    ensure!(first.ended().is_none(), "the first agent has a connection");
    echo_on(&mut held, b"carried by the first").context("the held flow")?;
    ensure!(agent.generation()? == generation + 1);
    // What changes now is the second's doing, and stays so when the first goes.
    let late = cluster.pod(&PodSpec::new(MESHED, "late").on(2))?;
    let _late_server = Server::start(&late, PORT, Behaviour::Echo)?;
    cluster.settle()?;
    let listed = || -> Result<String> {
        let list = agent.settings().directory.join("state/pods.json");
        fs::read_to_string(list).context("the list of pods")
    };
    let (pins_now, list) = (agent.pins(), listed()?);
    drop(held);
    end_of(&first, Duration::from_secs(20))?;
    ensure!(agent.pins() == pins_now, "the first took pins away");
    ensure!(listed()? == list, "the first wrote the list");
    for to in late
        .sockets(PORT)
        .into_iter()
        .chain(scene.server.sockets(PORT))
    {
        must_serve(&scene.client, to)?;
        must_refuse(&scene.outsider, to)?;
    }
    late.delete()?;
    poll::until("pins as before", LIMIT, || {
        ensure!(agent.pins() == pins, "{} pins, not {pins}", agent.pins());
        Ok(())
    })
}

fn hung(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let agent = cluster.node(2)?.agent()?;
    let generation = agent.generation()?;
    let first = agent.replace_hung()?;
    let start = Instant::now();
    // The first has the readiness port, being in the same namespace, and answers nobody.
    let started = format!("generation={}", generation + 1);
    agent.wait_log(&["started", &started], Duration::from_secs(20))?;
    poll::until("the second agent serves", LIMIT, || {
        let status = agent.status()?;
        ensure!(status["generation"] == generation + 1, "{status}");
        ensure!(status["pending"] == Value::Array(Vec::new()), "{status}");
        Ok(())
    })?;
    println!(
        "  serves {} ms after the start",
        start.elapsed().as_millis()
    );
    let serve = |when: &'static str| -> Result<()> {
        for to in scene.server.sockets(PORT) {
            must_serve(&scene.client, to).context(when)?;
            must_refuse(&scene.outsider, to).context(when)?;
        }
        Ok(())
    };
    serve("while the first hangs")?;
    let pins = agent.pins();
    first.signal(Signal::SIGCONT)?;
    let status = first.wait_end(Duration::from_secs(20))?;
    ensure!(
        !status.success(),
        "it should have said that it was replaced"
    );
    agent.wait_log(&["another agent owns"], LIMIT)?;
    ensure!(agent.pins() == pins && agent.generation()? == generation + 1);
    // Its ports were waited for.
    agent.wait_ready(LIMIT)?;
    serve("after the first woke up")
}

/// The second agent's pod has a namespace of its own; the first one's container is started again by
/// the kubelet, and is needed when the second is taken away.
fn update(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let serve = |when: &'static str| -> Result<()> {
        for to in scene.server.sockets(PORT) {
            must_serve(&scene.client, to).context(when)?;
            must_refuse(&scene.outsider, to).context(when)?;
        }
        Ok(())
    };
    let node = cluster.node(2)?;
    let agent = node.agent()?;
    named(agent, "first");
    end_of(&agent.hand_over()?, Duration::from_secs(20))?;
    let generation = agent.generation()?;
    let mut held = scene.client.connect(scene.server.sockets(PORT)[0], LIMIT)?;
    held.set_read_timeout(Some(LIMIT))?;
    echo_on(&mut held, b"before")?;

    let place = Place::create(&cluster.run().namespace("n2b"), None)?;
    tests::topology::plug_second_agent(node.host(), &place, 2)?;
    let second = agent.beside(place.clone())?;
    named(&second, "second");
    second.start_ready()?;
    ensure!(second.generation()? == generation + 1);
    poll::until("the first is not ready", LIMIT, || {
        let (status, body) = agent.readiness()?;
        ensure!(
            status == 500 && body.contains("taken over"),
            "{status} {body}"
        );
        Ok(())
    })?;
    echo_on(&mut held, b"carried by the first")?;
    serve("by the second, while the first drains")?;
    drop(held);
    agent.wait_end(Duration::from_secs(20))?;

    agent.start()?;
    poll::until("it stands by", LIMIT, || {
        let (status, body) = agent.readiness()?;
        ensure!(
            status == 500 && body.contains("has followed this one"),
            "{status} {body}"
        );
        Ok(())
    })?;
    ensure!(second.generation()? == generation + 1, "it is left alone");
    serve("with the first standing by")?;
    second.kill9()?;
    agent.wait_ready(LIMIT)?;
    serve("by the first again")?;
    place.delete()?;
    agent.change(|settings| settings.extra.clear());
    Ok(())
}

fn named(agent: &Agent, instance: &str) {
    agent.change(|settings| settings.extra = vec!["--instance".into(), instance.into()]);
}

/// They wait in the listeners while the first agent hangs for a moment, and while it hands over.
fn queued(cluster: &Cluster) -> Result<()> {
    const WAITING: usize = 40;
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let targets = scene.server.sockets(PORT);
    must_serve(&scene.client, targets[0])?;
    for number in [2, 1] {
        let agent = cluster.node(number)?.agent()?;
        let generation = agent.generation()?;
        let first = agent.replace_hung()?;
        let answered = thread::scope(|scope| -> Result<usize> {
            let waiting: Vec<_> = (0..WAITING)
                .map(|at| {
                    let (to, place) = (targets[at % 2], scene.client.place());
                    scope.spawn(move || place.within(|| once(to)))
                })
                .collect();
            // The second has asked by then, and the connections are there.
            thread::sleep(Duration::from_millis(700));
            first.signal(Signal::SIGCONT)?;
            let mut answered = 0;
            for one in waiting {
                one.join()
                    .map_err(|_| anyhow::anyhow!("a client panicked"))??
                    .context("a connection that waited")?;
                answered += 1;
            }
            Ok(answered)
        })?;
        poll::until("the second agent serves", LIMIT, || {
            ensure!(agent.generation()? == generation + 1);
            Ok(())
        })?;
        println!("  node {number}: {answered} waited and were served");
        end_of(&first, Duration::from_secs(20))?;
        agent.wait_ready(LIMIT)?;
    }
    Ok(())
}

fn stuck(cluster: &Cluster) -> Result<()> {
    const DRAIN: Duration = Duration::from_secs(1);
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Stall)?;
    for number in [2, 1] {
        let agent = cluster.node(number)?.agent()?;
        with_drain(agent, DRAIN)?;
        let mut stream = scene.client.connect(scene.server.sockets(PORT)[0], LIMIT)?;
        fill(&mut stream)?;
        let start = Instant::now();
        let first = agent.hand_over()?;
        let handed = start.elapsed();
        first.wait_end(LIMIT)?;
        let took = start.elapsed();
        println!("  node {number}: handed over by {handed:?}, ended by {took:?}");
        ensure!(took < handed + DRAIN + LIMIT / 2, "only after {took:?}");
        with_drain(agent, Duration::from_secs(10))?;
    }
    Ok(())
}

/// Writes until nothing goes any more.
fn fill(stream: &mut TcpStream) -> Result<()> {
    stream.set_write_timeout(Some(Duration::from_millis(500)))?;
    let chunk = vec![7; 1 << 20];
    for _ in 0..1000 {
        match stream.write(&chunk) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(());
            }
            Err(error) => return Err(error).context("filling a connection"),
        }
    }
    bail!("nobody reads, and yet everything is taken")
}

/// Programs and maps in the kernel.
fn kernel_objects() -> Result<usize> {
    let count = |kind| -> Result<usize> {
        let list: Value = serde_json::from_str(&check("bpftool", &["-j", kind, "show"])?)?;
        Ok(list.as_array().map_or(0, Vec::len))
    };
    Ok(count("prog")? + count("map")?)
}

fn crash_loop(cluster: &Cluster) -> Result<()> {
    const TIMES: usize = 20;
    let scene = Scene::strict(cluster)?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let agent = cluster.node(2)?.agent()?;
    let broken = agent.settings().directory.join("broken.o");
    fs::write(&broken, "no object")?;
    let broken = || ["--ebpf-object".to_owned(), broken.display().to_string()];
    let (generation, pins) = (agent.generation()?, agent.pins());
    // Beside an agent that runs: it goes on.
    for _ in 0..3 {
        let ended = agent.run_beside(&broken(), Duration::from_secs(20))?;
        ensure!(ended != Some(0), "a broken object did not matter");
        for to in scene.server.sockets(PORT) {
            must_serve(&scene.client, to).context("beside a crash loop")?;
        }
    }
    ensure!(agent.running() && agent.pins() == pins);
    poll::until("it owns the kernel side again", LIMIT, || {
        let now = agent.generation()?;
        ensure!(now >= generation && now > 0, "generation {now}");
        Ok(())
    })?;
    let brief = cluster.pod(&PodSpec::new(MESHED, "brief").on(2))?;
    brief.delete()?;
    // And without one: pods stay closed, and nothing grows.
    agent.kill9()?;
    let (accepted, objects) = (server.accepted(), kernel_objects()?);
    for _ in 0..TIMES {
        let ended = agent.run_beside(&broken(), Duration::from_secs(20))?;
        ensure!(ended != Some(0), "a broken object did not matter");
    }
    for to in scene.server.sockets(PORT) {
        must_refuse(&scene.outsider, to)?;
        must_refuse(&scene.client, to)?;
    }
    ensure!(server.accepted() == accepted, "the application was reached");
    poll::until("no object more than before", LIMIT, || {
        let now = kernel_objects()?;
        ensure!(now <= objects, "{objects} -> {now} programs and maps");
        Ok(())
    })?;
    ensure!(agent.pins() == pins, "{pins} -> {} pins", agent.pins());
    agent.start_ready()?;
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.client, to)?;
    }
    Ok(())
}

fn any_order(cluster: &Cluster) -> Result<()> {
    in_order(cluster, [0, 1, 2, 3])
}

fn every_order() -> Result<()> {
    let cluster = Cluster::start(&ClusterSpec::new("horder"))?;
    let places = || 0..MISSING;
    for first in places() {
        for second in places().filter(|at| *at != first) {
            for third in places().filter(|at| ![first, second].contains(at)) {
                let last = places().sum::<usize>() - first - second - third;
                let order = [first, second, third, last];
                in_order(&cluster, order).with_context(|| format!("in the order {order:?}"))?;
                cluster.clear()?;
            }
        }
    }
    Ok(())
}

/// Things that are missing at the start.
const MISSING: usize = 4;

/// What is missing comes in this order.
fn in_order(cluster: &Cluster, order: [usize; MISSING]) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let agent = cluster.node(2)?.agent()?;
    agent.stop()?;
    let settings = agent.settings();
    // Nor does it know the mesh from before: with that it would be ready in an outage (F-15).
    let known = settings.directory.join("state/mesh");
    if known.exists() {
        fs::remove_file(known)?;
    }
    let later = settings.directory.join("later");
    fs::create_dir_all(&later)?;
    let (cgroups, token, root) = (
        later.join("cgroup"),
        later.join("token"),
        later.join("root"),
    );
    agent.change(|changed| {
        changed.cgroup_root.clone_from(&cgroups);
        changed.token_file.clone_from(&token);
        changed.root_cert.clone_from(&root);
    });
    cluster.control()?.kill9()?;
    agent.start()?;
    let steps: [&dyn Fn() -> Result<()>; MISSING] = [
        &|| Ok(fs::copy(&settings.token_file, &token).map(drop)?),
        &|| Ok(std::os::unix::fs::symlink(&settings.cgroup_root, &cgroups)?),
        &|| cluster.control()?.start(),
        &|| Ok(fs::copy(&settings.root_cert, &root).map(drop)?),
    ];
    for step in order {
        thread::sleep(Duration::from_secs(1));
        ensure!(agent.running(), "it has given up:\n{}", agent.log_tail(5));
        ensure!(agent.wait_ready(Duration::ZERO).is_err(), "ready too early");
        for to in scene.server.sockets(PORT) {
            let outcome = attempt(&scene.outsider, to, Duration::from_millis(300))?;
            ensure!(outcome != Outcome::Served, "{to} is open");
        }
        steps[step]()?;
    }
    agent.wait_ready(Duration::from_secs(30))?;
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.client, to)?;
    }
    agent.change(|changed| *changed = settings.clone());
    let first = agent.hand_over()?;
    end_of(&first, Duration::from_secs(20))?;
    fs::remove_dir_all(&later)?;
    cluster.settle()
}

/// Keys pass from agent to agent; the service that issued them need not be asked.
fn keys(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.client, to)?;
    }
    for number in [1, 2] {
        let agent = cluster.node(number)?.agent()?;
        let before = serials(agent)?;
        // Nobody listens there.
        agent.change(|settings| {
            settings.ca = Some("https://[::1]:9".into());
        });
        let first = agent.hand_over()?;
        end_of(&first, Duration::from_secs(20))?;
        ensure!(serials_of(agent)? == before);
    }
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.client, to).context("with the keys that were handed over")?;
    }
    for number in [1, 2] {
        let agent = cluster.node(number)?.agent()?;
        let secrets = agent.log().contains("PRIVATE KEY");
        ensure!(!secrets, "a key in the log");
        agent.change(|settings| settings.ca = None);
        let first = agent.hand_over()?;
        end_of(&first, Duration::from_secs(20))?;
    }
    cluster.apply("mode", &peer_authentication(MESHED, "PERMISSIVE"))
}

/// The first agent still drains when the node is released: neither puts anything back.
fn released() -> Result<()> {
    let cluster = Cluster::start(&ClusterSpec::new("hrelease"))?;
    let scene = Scene::permissive(&cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let agent = cluster.node(2)?.agent()?;
    let mut held = scene.client.connect(scene.server.sockets(PORT)[0], LIMIT)?;
    held.set_read_timeout(Some(LIMIT))?;
    echo_on(&mut held, b"before")?;
    let first = agent.hand_over()?;
    agent.stop()?;
    agent.release()?;
    // Two rounds of upkeep of whoever is left.
    thread::sleep(Duration::from_secs(1));
    drop(held);
    end_of(&first, Duration::from_secs(20))?;
    ensure!(agent.pins() == 0, "{} pins", agent.pins());
    let place: &Place = scene.outsider.place();
    for to in scene.server.sockets(PORT) {
        must_serve(place, to).context("unmeshed but connected")?;
    }
    Ok(())
}
