//! F-96: what servers do wrong reaches the application as it is, and costs the agent little.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::manifests::ServiceSpec;
use tests::{Cluster, Pod, PodSpec, poll};

use super::resolver::{DNS, Mode, Resolver, SOON, framed, question, read_framed};
use super::{OF_SERVER, OTHER_NAME, OWN_NAME, udp};
use crate::scene::{MESHED, OUTSIDE, PORT, Scene};

/// Questions that a pod may have under way.
const UNDER_WAY: usize = 256;
/// Questions of the mesh's that are asked in a row, and in how long.
const MANY: usize = 10_000;
/// So few that none is lost for want of room.
const AT_A_TIME: usize = 50;
const NOT_LONG: Duration = Duration::from_secs(10);

pub(super) fn upstream(cluster: &Cluster) -> Result<()> {
    let scene = Scene::permissive(cluster)?;
    let resolver = cluster.pod(&PodSpec::new(OUTSIDE, "resolver").on(2).outside())?;
    cluster.service(&ServiceSpec::new(MESHED, "server", PORT))?;
    cluster.settle()?;
    let addresses = [OF_SERVER[0].parse()?, OF_SERVER[1].parse()?];
    let server = Resolver::start(&resolver, addresses)?;
    for to in resolver.sockets(DNS) {
        as_it_is(&scene.client, to, &server).with_context(|| to.to_string())?;
    }
    let to = resolver.sockets(DNS)[0];
    let agent = cluster.node(1)?.agent()?;
    let fds =
        || -> Result<usize> { Ok(fs::read_dir(format!("/proc/{}/fd", agent.pid()?))?.count()) };
    let count = |outcome: &str| -> Result<f64> {
        let label = format!("outcome=\"{outcome}\"");
        Ok(agent
            .metrics()?
            .sum("culvert_dns_questions_total", &[&label]))
    };
    let (dropped, unanswered) = (count("dropped")?, count("unanswered")?);
    server.set(Mode::Ignore);
    let before = fds()?;
    let socket = socket_to(&scene.client, to)?;
    for _ in 0..4 * UNDER_WAY {
        // A full buffer is a question lost, as on any network.
        let _ = socket.send(&question(OTHER_NAME, 1));
    }
    poll::until("questions beyond the limit are dropped", SOON, || {
        ensure!(count("dropped")? > dropped, "none yet");
        Ok(())
    })?;
    let most = fds()?;
    ensure!(
        most <= before + UNDER_WAY + 16,
        "{before} -> {most} sockets"
    );
    // The mesh's names need no place, and no server. First what came before has to be taken.
    poll::until("an answer", 2 * SOON, || {
        udp(&scene.client, to, true, OWN_NAME).map(drop)
    })?;
    must_answer_many(&scene.client, to)?;
    poll::until("what nobody answers ends", Duration::from_secs(8), || {
        ensure!(count("unanswered")? > unanswered, "none yet");
        ensure!(fds()? <= before + 16, "{before} -> {} sockets", fds()?);
        Ok(())
    })?;
    // Gone, and back.
    server.stop()?;
    ensure!(
        udp(&scene.client, to, true, OWN_NAME).is_ok(),
        "without a server"
    );
    let server = Resolver::start(&resolver, addresses)?;
    ensure!(
        udp(&scene.client, to, false, OTHER_NAME)? == addresses,
        "back"
    );
    server.stop()
}

/// Every reply of the server is the application's, byte for byte.
fn as_it_is(client: &Pod, to: SocketAddr, server: &Resolver) -> Result<()> {
    for (mode, flags) in [
        (Mode::Fail, [0x81, 0x82]),
        (Mode::Deny, [0x81, 0x83]),
        (Mode::Truncate, [0x83, 0x80]),
        (Mode::Loop, [0x81, 0x80]),
    ] {
        server.set(mode);
        let asked = question(OTHER_NAME, 1);
        let reply = exchange(client, to, &asked).with_context(|| format!("{mode:?}"))?;
        ensure!(reply[..2] == asked[..2], "{mode:?}: another id");
        ensure!(reply[2..4] == flags, "{mode:?}: {:?}", &reply[2..4]);
        if mode == Mode::Loop {
            let at = asked.len();
            ensure!(reply[at..at + 2] == [0xc0, at as u8], "not the server's");
        }
    }
    // What does not fit is there over TCP, all of it.
    server.set(Mode::Truncate);
    let mut stream = client.connect(to, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    std::io::Write::write_all(&mut stream, &framed(&question(OTHER_NAME, 1)))?;
    let reply = read_framed(&mut stream)?.context("no reply")?;
    ensure!(reply.len() >= 65_500, "{} bytes", reply.len());
    server.set(Mode::Answer);
    // Not ours to judge: a name that is too long, another type, a message that is none.
    let long = vec!["x".repeat(63); 5].join(".");
    for asked in [question(&long, 1), question(OWN_NAME, 16)] {
        server.forget();
        exchange(client, to, &asked)?;
        ensure!(
            server.asked() == 1,
            "the server was asked {} times",
            server.asked()
        );
    }
    Ok(())
}

fn exchange(client: &Pod, to: SocketAddr, question: &[u8]) -> Result<Vec<u8>> {
    let socket = socket_to(client, to)?;
    socket.send(question)?;
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

fn socket_to(client: &Pod, to: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => [0; 4].into(),
        SocketAddr::V6(_) => [0; 16].into(),
    };
    let socket = client.place().within(|| {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        std::io::Result::Ok(socket)
    })??;
    socket.set_read_timeout(Some(SOON))?;
    Ok(socket)
}

fn must_answer_many(client: &Pod, to: SocketAddr) -> Result<()> {
    let socket = socket_to(client, to)?;
    let start = Instant::now();
    let mut buffer = [0; 512];
    for _ in 0..MANY / AT_A_TIME {
        for _ in 0..AT_A_TIME {
            socket.send(&question(OWN_NAME, 1))?;
        }
        for _ in 0..AT_A_TIME {
            let length = socket.recv(&mut buffer)?;
            let answers = buffer[..length].get(6..8);
            ensure!(answers == Some(&[0, 1]), "{:?}", &buffer[..length]);
        }
    }
    let took = start.elapsed();
    println!("      {MANY} questions in {took:?}");
    ensure!(took < NOT_LONG, "{MANY} questions took {took:?}");
    Ok(())
}
