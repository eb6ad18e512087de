//! T-ESC-5: an application dials the ports of the agent, its own pod's and others'.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{APP_PORT, Scene};
use tests::Cluster;
use tests::counters::Counters;
use tests::stopwatch::Stopwatch;
use tests::traffic::wait_closed;

/// Ports that would loop: outbound, plaintext inbound, HBONE. Nobody ever dials them for a peer.
const LOOPING: [u16; 3] = [15001, 15006, 15008];
/// Ports that are the agent's in its own namespace only (metrics, readiness, DNS): in a pod they
/// are ports like any other, here without a listener.
const ELSEWHERE: [u16; 3] = [15020, 15021, 15053];
/// The bound.
const LIMIT: Duration = Duration::from_secs(1);

/// Every pair closes within a second, reaches no application, and starts no loop.
pub(super) fn agent_ports(cluster: &Cluster) -> Result<()> {
    let scene = Scene::open(cluster)?;
    let own = scene.client.ips();
    let others = scene.neighbour.ips();
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let before = Counters::of(&scene.client)?;
    let agent = cluster.node(2)?.agent()?.place();
    let quiet = [Counters::of(&scene.neighbour)?, Counters::of(agent)?];
    let mut dialled = 0;
    for ip in own.into_iter().chain(others).chain(loopback) {
        for port in LOOPING.into_iter().chain(ELSEWHERE) {
            closes(&scene, SocketAddr::new(ip, port))?;
            dialled += 1;
        }
    }
    ensure!(dialled >= 35, "only {dialled} pairs");
    let upstream = Counters::of(&scene.neighbour)?.connects - quiet[0].connects;
    // The neighbour's agent tried the ports that are ordinary there, once in each family.
    let ordinary = 2 * ELSEWHERE.len() as u64;
    ensure!(
        upstream == ordinary,
        "{upstream} connects in the neighbour, not {ordinary}"
    );
    ensure!(
        Counters::of(agent)?.connects == quiet[1].connects,
        "connects in the agent's place"
    );
    let made = Counters::of(&scene.client)?.connects - before.connects;
    // Beside the dials themselves: a tunnel to the neighbour for each family and worker at most.
    let workers = cluster.node(2)?.agent()?.settings().workers as u64;
    let most = dialled + 2 * workers;
    ensure!(
        made <= most,
        "{made} connects in the pod for {dialled} dials: a loop"
    );
    // The agents are alive and still serve.
    for to in scene.target.sockets(APP_PORT) {
        tests::traffic::must_serve(&scene.client, to)?;
    }
    Ok(())
}

fn closes(scene: &Scene<'_>, to: SocketAddr) -> Result<()> {
    // A refused connect is an end, too.
    let watch = Stopwatch::start();
    let Ok(mut stream) = scene.client.connect(to, 5 * LIMIT) else {
        return in_time(to, watch);
    };
    // Whoever speaks a protocol there sees nonsense.
    let _ = stream.write_all(b"\r\n\r\nwho is there?\r\n\r\n");
    wait_closed(&mut stream, 5 * LIMIT).with_context(|| format!("dialled {to}"))?;
    in_time(to, watch)
}

fn in_time(to: SocketAddr, watch: Stopwatch) -> Result<()> {
    let took = watch.took();
    ensure!(took <= LIMIT, "dialled {to}: closed after {took:?}");
    Ok(())
}
