//! Agents of two builds that do not understand each other (F-08).

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use agent_net::passing;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::agent::Agent;
use tests::server::{Behaviour, Server};
use tests::traffic::{Outcome, attempt, must_refuse, must_serve};
use tests::{Cluster, poll};

use super::LIMIT;
use crate::scene::{PORT, Scene};

/// Neither is followed; the later one replaces the earlier as after a crash, and nobody who must not
/// gets through meanwhile.
pub(super) fn another_protocol(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let targets = scene.server.sockets(PORT);
    for to in targets {
        must_serve(&scene.client, to)?;
    }
    let agent = cluster.node(2)?.agent()?;
    let generation = agent.generation()?;
    a_later_one_asks(agent)?;
    ensure!(agent.generation()? == generation, "it gave the node up");
    must_serve(&scene.client, targets[0]).context("after a stranger asked")?;

    let socket = agent.settings().directory.join("handover.sock");
    fs::remove_file(&socket)?;
    let earlier = UnixListener::bind(&socket)?;
    let accepted = server.accepted();
    let first = thread::scope(|scope| -> Result<_> {
        let asked = scope.spawn(|| an_earlier_one_answers(&earlier));
        let first = agent.replace()?;
        let mut denied = 0;
        let started = format!("generation={}", generation + 1);
        let until = Instant::now() + 4 * LIMIT;
        while agent.log_lines(&["started", &started]).is_empty() {
            ensure!(Instant::now() < until, "log:\n{}", agent.log_tail(15));
            for to in targets {
                let outcome = attempt(&scene.outsider, to, LIMIT)?;
                ensure!(outcome != Outcome::Served, "{to} is open");
                denied += 1;
            }
        }
        let asked = asked.join();
        let hello = asked.map_err(|_| anyhow::anyhow!("the earlier one panicked"))??;
        ensure!(hello["protocol"] == 1, "{hello}");
        println!("  {denied} probes were refused meanwhile");
        ensure!(denied > 2, "{denied} probes");
        Ok(first)
    })?;
    ensure!(server.accepted() == accepted, "the application was reached");
    for to in targets {
        poll::until("the second agent serves", LIMIT, || {
            must_serve(&scene.client, to)
        })?;
        must_refuse(&scene.outsider, to)?;
    }
    let status = first.wait_end(Duration::from_secs(20))?;
    ensure!(!status.success(), "it should say that it was replaced");
    agent.wait_log(&["another agent owns"], LIMIT)?;
    agent.wait_ready(LIMIT)?;
    ensure!(agent.generation()? == generation + 1);
    for to in targets {
        must_serve(&scene.client, to).context("with the first gone")?;
    }
    Ok(())
}

/// A successor whose messages this build does not know.
fn a_later_one_asks(agent: &Agent) -> Result<()> {
    let stream = UnixStream::connect(agent.settings().directory.join("handover.sock"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    let hello = json!({"message": "hello", "protocol": 2, "version": "99.0.0",
        "instance": "later", "namespace": 1, "more": {"than": "is known"}});
    passing::send(&stream, hello.to_string().as_bytes(), &[], &[])?;
    let answer = passing::receive(&stream).context("no answer to a later protocol")?;
    let answer: Value = serde_json::from_slice(&answer.header)?;
    let refused = json!({"message": "refused", "because": "protocol"});
    ensure!(answer == refused, "{answer}");
    Ok(())
}

/// A predecessor that does not know this build's messages; what it was asked. As long as the mesh is
/// not known to who follows, it only looks whether there is somebody.
fn an_earlier_one_answers(socket: &UnixListener) -> Result<Value> {
    for _ in 0..40 {
        let (stream, _) = socket.accept()?;
        stream.set_read_timeout(Some(LIMIT))?;
        let Ok(hello) = passing::receive(&stream) else {
            continue;
        };
        let refused = json!({"message": "refused", "because": "protocol"});
        passing::send(&stream, refused.to_string().as_bytes(), &[], &[])?;
        return Ok(serde_json::from_slice(&hello.header)?);
    }
    bail!("nobody asks")
}
