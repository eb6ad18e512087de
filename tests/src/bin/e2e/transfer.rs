//! Bytes: all of them, in order, with the ends of a connection as the ends meant them.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tests::server::{Behaviour, Server};
use tests::stopwatch::Stopwatch;
use tests::traffic::{self, download, echo_on, must_serve, upload, wait_closed};
use tests::{Cluster, poll};

use crate::scene::{PORT, Scene};
use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[
    shared("transfer: half-close in both directions", half_close),
    shared(
        "transfer: a reset arrives as a reset at the other end",
        resets,
    ),
    shared("transfer: the server speaks first", server_first),
    shared("transfer: 1 GB up and down, every byte compared", gigabyte),
    shared(
        "transfer: a reader that stops holds nobody else up",
        slow_reader,
    ),
    shared("transfer: 200 connections at once", many),
];

const LIMIT: Duration = Duration::from_secs(5);

fn half_close(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _hash = Server::start(&scene.server, PORT, Behaviour::Hash)?;
    let _send = Server::start(&scene.server, PORT + 1, Behaviour::Send(3_000_001))?;
    for family in 0..2 {
        // The server answers after our FIN, over what is left of the connection.
        for bytes in [0, 1, 70_000] {
            upload(&scene.client, scene.server.sockets(PORT)[family], bytes)?;
        }
        // Our half is closed before the server has sent anything.
        let to = scene.server.sockets(PORT + 1)[family];
        let mut stream = scene.client.connect(to, LIMIT)?;
        stream.shutdown(Shutdown::Write)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).context("after our FIN")?;
        ensure!(
            bytes.len() == 3_000_001,
            "{} bytes came after our FIN",
            bytes.len()
        );
    }
    Ok(())
}

fn resets(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _reset = Server::start(&scene.server, PORT, Behaviour::Reset)?;
    let echo = Server::start(&scene.server, PORT + 1, Behaviour::Echo)?;
    for family in 0..2 {
        let mut stream = scene
            .client
            .connect(scene.server.sockets(PORT)[family], LIMIT)?;
        stream.write_all(b"x")?;
        stream.set_read_timeout(Some(LIMIT))?;
        match stream.read(&mut [0; 16]) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => bail!("the server's reset arrived as {other:?}"),
        }
        let mut stream = scene
            .client
            .connect(scene.server.sockets(PORT + 1)[family], LIMIT)?;
        echo_on(&mut stream, b"hello")?;
        let mut far = echo.last().context("the server has no connection")?;
        traffic::close_with_reset(stream)?;
        poll::until("the client's reset at the server", LIMIT, || {
            far.set_read_timeout(Some(Duration::from_millis(50)))?;
            let error = far.take_error()?;
            let read = far.read(&mut [0; 16]);
            let ended = error.is_some() || matches!(&read, Ok(0)) || closed(&read);
            ensure!(ended, "still open: {read:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn closed(read: &std::io::Result<usize>) -> bool {
    matches!(read, Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

fn server_first(cluster: &Cluster) -> Result<()> {
    const GREETING: &[u8] = b"220 I speak first\r\n";
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Greet(GREETING))?;
    for to in scene.server.sockets(PORT) {
        let mut stream = scene.client.connect(to, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut greeting = [0; GREETING.len()];
        stream.read_exact(&mut greeting).context("the greeting")?;
        ensure!(greeting == GREETING, "the greeting came as {greeting:?}");
        echo_on(&mut stream, b"and then I")?;
    }
    Ok(())
}

fn gigabyte(cluster: &Cluster) -> Result<()> {
    const SIZE: u64 = 1 << 30;
    let scene = Scene::strict(cluster)?;
    let _up = Server::start(&scene.server, PORT, Behaviour::Hash)?;
    let _down = Server::start(&scene.server, PORT + 1, Behaviour::Send(SIZE))?;
    for family in 0..2 {
        upload(&scene.client, scene.server.sockets(PORT)[family], SIZE)?;
        download(&scene.client, scene.server.sockets(PORT + 1)[family], SIZE)?;
    }
    Ok(())
}

/// A stalled flow may hold 1 MiB in each agent besides kernel buffers, and no other flow.
fn slow_reader(cluster: &Cluster) -> Result<()> {
    const FLOWS: usize = 8;
    const MOST_PER_FLOW: u64 = 4 << 20;
    let scene = Scene::strict(cluster)?;
    let _stall = Server::start(&scene.server, PORT, Behaviour::Stall)?;
    let _echo = Server::start(&scene.server, PORT + 1, Behaviour::Echo)?;
    let before = resident(cluster)?;
    let mut stalled = Vec::new();
    for flow in 0..FLOWS {
        let to = scene.server.sockets(PORT)[flow % 2];
        stalled.push(scene.client.connect(to, LIMIT)?);
    }
    thread::scope(|scope| {
        for stream in &stalled {
            scope.spawn(move || fill(stream));
        }
    });
    for to in scene.server.sockets(PORT + 1) {
        let watch = Stopwatch::start();
        must_serve(&scene.client, to).context("beside stalled flows")?;
        let took = watch.took();
        ensure!(took < Duration::from_secs(1), "an echo took {took:?}");
    }
    for (now, then) in resident(cluster)?.into_iter().zip(before) {
        let grown = now.saturating_sub(then);
        ensure!(
            grown < FLOWS as u64 * MOST_PER_FLOW,
            "{FLOWS} stalled flows cost an agent {grown} bytes"
        );
    }
    Ok(())
}

/// Writes until nothing more is taken.
fn fill(mut stream: &std::net::TcpStream) {
    let block = traffic::pattern();
    let _ = stream.set_write_timeout(Some(Duration::from_millis(500)));
    for _ in 0..256 {
        if stream.write_all(&block).is_err() {
            return;
        }
    }
}

fn resident(cluster: &Cluster) -> Result<Vec<u64>> {
    cluster
        .nodes()
        .iter()
        .map(|node| node.agent()?.rss())
        .collect()
}

fn many(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let mut streams = Vec::new();
    for number in 0..200 {
        let to = scene.server.sockets(PORT)[number % 2];
        streams.push(scene.client.connect(to, LIMIT)?);
    }
    for round in 0..3 {
        for (number, stream) in streams.iter_mut().enumerate() {
            stream.set_read_timeout(Some(LIMIT))?;
            let text = format!("round {round} of connection {number}");
            echo_on(stream, text.as_bytes()).with_context(|| text.clone())?;
        }
    }
    ensure!(server.accepted() == 200, "{} accepts", server.accepted());
    // Ours end one by one; the others stay.
    while let Some(mut last) = streams.pop() {
        last.shutdown(Shutdown::Write)?;
        wait_closed(&mut last, LIMIT)?;
        if let Some(other) = streams.last_mut() {
            echo_on(other, b"after a neighbour's end")?;
        }
        if streams.len() < 190 {
            break;
        }
    }
    Ok(())
}
