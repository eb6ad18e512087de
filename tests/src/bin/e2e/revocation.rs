//! Certificates put on a revocation list while they are in use.

use std::fs;
use std::path::Path;
use std::time::Duration;

use agent_model::HBONE_PORT;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::peer::{Peer, spiffe};
use tests::server::{Behaviour, Server};
use tests::traffic::must_serve;
use tests::{Cluster, ClusterSpec, poll};

use crate::scene::{MESHED, PORT, Scene};
use crate::{Case, alone, run_name};

pub(crate) const CASES: &[Case] = &[alone(
    "trust: F-27 who is put on a revocation list is cut off, others are not",
    cut_off,
)];

/// From the control plane's start to the agents' first answer.
const RENEWED: Duration = Duration::from_secs(40);
/// From the list in its file to the end of a live tunnel.
const LIMIT: Duration = Duration::from_secs(15);

fn cut_off() -> Result<()> {
    let run = format!("{}v", run_name());
    let cluster = Cluster::start(&ClusterSpec::new(&run)).context("starting the cluster")?;
    on(&cluster).inspect_err(|_| cluster.keep_logs())
}

fn on(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let peer = two_clients(cluster, &scene)?;
    let file = cluster.run().path("crl.pem");
    revoke(&peer, &[], &file)?;
    let control = cluster.control()?;
    control.set_extra(&["--ca-crl", &file.to_string_lossy()]);
    control.stop()?;
    control.start()?;
    let agent = cluster.node(2)?.agent()?;
    poll::until("the agent has a list", RENEWED, || {
        let trust = agent.status()?["trust"].clone();
        ensure!(trust["revocationLists"] == 1, "{trust}");
        Ok(())
    })?;
    let hbone = scene.server.sockets(HBONE_PORT)[0];
    let to = scene.server.sockets(PORT)[0].to_string();
    let mut streams = Vec::new();
    for name in ["lost", "kept"] {
        peer.dial(name, hbone, name)?;
        let answer = peer.connect(name, &to)?;
        ensure!(answer["status"] == "200", "{name}: {answer}");
        peer.echo(name, &answer["stream"], "before", 0)?;
        streams.push(answer["stream"].clone());
    }
    revoke(&peer, &["lost"], &file)?;
    let waiting = json!({
        "op": "receive", "conn": "lost", "stream": streams[0], "count": 1_000_000,
        "wait": LIMIT.as_secs(),
    });
    let answer = peer.must(&waiting)?;
    ensure!(
        !answer["lost"].is_null(),
        "the live tunnel goes on: {answer}"
    );
    peer.echo("kept", &streams[1], "after", "before".len())
        .context("who is not on the list")?;
    let dial = |name: &str| -> Value {
        json!({
            "op": "dial", "conn": "again", "to": [hbone.ip().to_string(), hbone.port()],
            "cert": name,
        })
    };
    let error = peer.must_fail(&dial("lost"))?;
    ensure!(
        error.to_uppercase().contains("REVOKED"),
        "not refused as revoked: {error}"
    );
    peer.must(&dial("kept"))?;
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.client, to)?;
    }
    agent
        .wait_log(&["reason=\"peer-revoked\""], LIMIT)
        .map(drop)
}

/// Two pods' worth of credentials under the mesh's own root.
fn two_clients(cluster: &Cluster, scene: &Scene) -> Result<Peer> {
    let root = cluster.control()?.root_cert();
    let peer = Peer::start(cluster.run(), scene.outsider.place(), "revoked")?;
    peer.must(&json!({
        "op": "authority", "name": "mesh", "certificate": root,
        "key": root.with_file_name("root-key.pem"),
    }))?;
    for name in ["lost", "kept"] {
        peer.must(&json!({
            "op": "forge", "name": name, "authority": "mesh", "uris": [spiffe(MESHED, "client")],
        }))?;
    }
    Ok(peer)
}

/// Puts the list of the mesh's root into `file`, in one step.
fn revoke(peer: &Peer, names: &[&str], file: &Path) -> Result<()> {
    let list = peer.must(&json!({ "op": "revoke", "authority": "mesh", "names": names }))?;
    let pem = list["pem"].as_str().context("no list")?;
    let draft = file.with_extension("draft");
    fs::write(&draft, pem)?;
    fs::rename(&draft, file).context("putting the list in its place")
}
