//! What changes around running pods: they go, they come late, they change sides.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::agent::Agent;
use tests::manifests::peer_authentication;
use tests::peer::{Peer, spiffe};
use tests::server::{Behaviour, Server};
use tests::traffic::{echo_on, must_refuse, must_serve, wait_closed};
use tests::{Cluster, Pod, PodSpec, poll};

use crate::scene::{MESHED, OUTSIDE, PORT, Scene, namespaces};
use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[
    shared(
        "lifecycle: a deleted pod's connections end at both ends",
        deleted,
    ),
    shared(
        "lifecycle: connections older than enrolment stay until policy denies them",
        older,
    ),
    shared(
        "lifecycle: a namespace joins and leaves the mesh under traffic",
        label,
    ),
    shared(
        "lifecycle: no certificate service, no certificate, no connection",
        no_issuer,
    ),
    shared(
        "lifecycle: T-NODE-1 a node gets certificates of its own pods only",
        own_pods_only,
    ),
    shared(
        "lifecycle: certificates expire and are replaced without a pause",
        short_lived,
    ),
];

const LIMIT: Duration = Duration::from_secs(5);

fn deleted(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    for to in scene.server.sockets(PORT) {
        let brief = cluster.pod(&PodSpec::new(MESHED, "brief"))?;
        let mut near = brief.connect(to, LIMIT)?;
        near.set_read_timeout(Some(LIMIT))?;
        echo_on(&mut near, b"before")?;
        let mut far = server.last().context("the server has no connection")?;
        brief.delete()?;
        wait_closed(&mut near, Duration::from_secs(2)).context("in the deleted pod")?;
        wait_closed(&mut far, Duration::from_secs(2)).context("at the server")?;
    }
    for to in scene.server.sockets(PORT) {
        let doomed = cluster.pod(&PodSpec::new(MESHED, "doomed").on(2))?;
        let _doomed_server = Server::start(&doomed, PORT, Behaviour::Echo)?;
        cluster.settle()?;
        let to = doomed.sockets(PORT)[usize::from(to.is_ipv6())];
        let mut stream = scene.client.connect(to, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        echo_on(&mut stream, b"before")?;
        doomed.delete()?;
        wait_closed(&mut stream, Duration::from_secs(2)).context("the server's pod deleted")?;
    }
    Ok(())
}

/// A pod is running, with connections both ways, when the mesh comes to it.
fn older(cluster: &Cluster) -> Result<()> {
    namespaces(cluster)?;
    let client = cluster.pod(&PodSpec::new(OUTSIDE, "client").outside())?;
    let server = cluster.pod(&PodSpec::new(MESHED, "server").on(2).outside())?;
    cluster.settle()?;
    let agent = cluster.node(2)?.agent()?;
    let _echo = Server::start(&server, PORT, Behaviour::Echo)?;
    let _elsewhere = Server::start(&client, PORT, Behaviour::Echo)?;
    let connect = |from: &Pod, to: &Pod| -> Result<Vec<TcpStream>> {
        let open = |to| Ok(from.connect(to, LIMIT)?);
        to.sockets(PORT).into_iter().map(open).collect()
    };
    let mut old = connect(&client, &server)?;
    let mut outbound = connect(&server, &client)?;
    let all_work = |streams: &mut Vec<TcpStream>| {
        streams.iter_mut().try_for_each(|stream| {
            stream.set_read_timeout(Some(LIMIT))?;
            echo_on(stream, b"does it work?")
        })
    };
    all_work(&mut old).context("before enrolment")?;
    let mut sandbox = server.sandbox().clone();
    sandbox.arguments.clear();
    let chain = server.node().chain();
    chain.call_last("ADD", &sandbox, &server.ips())?;
    all_work(&mut old).context("PERMISSIVE leaves it alone")?;
    listed(agent, "inbound", &old)?;
    listed(agent, "outbound", &outbound)?;
    agent.kill9()?;
    agent.start_ready()?;
    all_work(&mut old).context("a new agent leaves it alone")?;
    listed(agent, "inbound", &old).context("by a new agent")?;
    let quit = old.pop().context("the last of them")?;
    drop(quit);
    listed(agent, "inbound", &old).context("one is gone")?;
    old.push(client.connect(server.sockets(PORT)[1], LIMIT)?);
    all_work(&mut old).context("a new one passes the agent")?;
    listed(agent, "inbound", &old[..1]).context("a new one is not older")?;
    cluster.apply("mode", &peer_authentication(MESHED, "STRICT"))?;
    for stream in &mut old {
        wait_closed(stream, Duration::from_secs(2)).context("STRICT refuses it")?;
    }
    for to in server.sockets(PORT) {
        must_refuse(&client, to)?;
    }
    listed(agent, "inbound", &[])?;
    agent.wait_log(&["older than enrolment"], LIMIT)?;
    let told = agent.log_lines(&["reason=\"policy-changed\"", "older than enrolment"]);
    ensure!(
        told.len() == 1
            && told[0].contains("policy=")
            && told[0].contains("dst.workload=\"server\""),
        "the log says {told:#?}"
    );
    all_work(&mut outbound).context("policy is the destination's")?;
    listed(agent, "outbound", &outbound)
}

/// Status lists exactly those, by the end that this test holds.
fn listed(agent: &Agent, direction: &str, streams: &[TcpStream]) -> Result<()> {
    let end = |stream: &TcpStream| -> Result<String> { Ok(stream.local_addr()?.to_string()) };
    let mut expected: Vec<String> = streams.iter().map(end).collect::<Result<_>>()?;
    expected.sort();
    let key = if direction == "inbound" {
        "peer"
    } else {
        "local"
    };
    poll::until("status lists the older connections", LIMIT, || {
        let status = agent.status()?;
        let rows = status["pods"][0]["olderConnections"].as_array().cloned();
        let rows = rows.unwrap_or_default().into_iter();
        let mut rows: Vec<String> = rows
            .filter(|row| row["direction"] == direction)
            .filter_map(|row| Some(row[key].as_str()?.to_owned()))
            .collect();
        rows.sort();
        ensure!(rows == expected, "{direction}: {rows:?}, not {expected:?}");
        Ok(())
    })
}

/// The label alone decides what peers are told; captured pods stay connected either way.
fn label(cluster: &Cluster) -> Result<()> {
    let scene = Scene::permissive(cluster)?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let agent = cluster.node(2)?.agent()?;
    for meshed in [Some(false), Some(true), None, Some(true)] {
        cluster.manifests().namespace(MESHED, meshed)?;
        cluster.settle()?;
        for (family, to) in scene.server.sockets(PORT).into_iter().enumerate() {
            must_serve(&scene.client, to).with_context(|| format!("label {meshed:?}"))?;
            let peer = server.peers().pop().context("nothing was accepted")?;
            ensure!(
                peer.ip() == scene.client.ips()[family],
                "the server saw {peer}"
            );
        }
    }
    poll::until("half of the connections were tunnelled", LIMIT, || {
        let parts = [
            "direction=\"inbound\"",
            "dst.hbone_addr",
            "src.workload=\"client\"",
        ];
        let tunnelled = agent.log_lines(&parts);
        ensure!(
            tunnelled.len() == 4,
            "{} of 8 were:\n{tunnelled:#?}",
            tunnelled.len()
        );
        Ok(())
    })
}

/// Nothing goes out as plaintext for want of a certificate, and waiting ends when one comes.
fn no_issuer(cluster: &Cluster) -> Result<()> {
    let scene = Scene::permissive(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let agent = cluster.node(1)?.agent()?;
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.client, to)?;
    }
    // A crash loses the keys, the list of pods stays, and what the mesh looks like is unknown.
    cluster.control()?.kill9()?;
    agent.kill9()?;
    agent.start()?;
    poll::until("the pod captured again", LIMIT, || {
        let status = agent.status()?;
        ensure!(status["pods"][0]["verified"] == true, "not yet: {status}");
        Ok(())
    })?;
    for to in scene.server.sockets(PORT) {
        let outcome = tests::traffic::attempt(&scene.client, to, Duration::from_secs(10))?;
        ensure!(outcome.refused(), "{to} without keys: {outcome:?}");
    }
    cluster.control()?.start()?;
    // Readiness says nothing here: what the agent wrote down before may be older than the pod.
    cluster.wait_connected()?;
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.client, to).context("the certificate service is back")?;
    }
    cluster.settle()
}

fn own_pods_only(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let (first, second) = (cluster.node(1)?, cluster.node(2)?);
    let peer = Peer::start(cluster.run(), scene.outsider.place(), "t-node-peer")?;
    let own = peer.join(cluster, first, "own", MESHED, "client")?;
    ensure!(
        own["uris"] == json!([spiffe(MESHED, "client")]),
        "issued {own}"
    );
    for (account, why) in [
        ("server", "a pod of the other node"),
        ("nobody", "no pod at all"),
    ] {
        let request = json!({
            "op": "issue", "name": "other", "url": cluster.control()?.url(),
            "root": cluster.control()?.root_cert(),
            "token_file": first.agent()?.settings().token_file,
            "identity": spiffe(MESHED, account),
        });
        let error = peer.must_fail(&request).context(why)?;
        // gRPC status 7: PERMISSION_DENIED.
        ensure!(
            error.contains('7') || error.contains("PERMISSION"),
            "{why}: {error}"
        );
    }
    peer.join(cluster, second, "other", MESHED, "server")?;
    let request = json!({
        "op": "issue", "name": "none", "url": cluster.control()?.url(),
        "root": cluster.control()?.root_cert(), "token": "not-a-token",
        "identity": spiffe(MESHED, "client"),
    });
    // gRPC status 16: UNAUTHENTICATED.
    let error = peer.must_fail(&request).context("an unknown token")?;
    ensure!(
        error.contains("16") || error.contains("UNAUTHENTICATED"),
        "{error}"
    );
    Ok(())
}

/// New connections over several lifetimes of a certificate; old ones live on.
fn short_lived(cluster: &Cluster) -> Result<()> {
    let control = cluster.control()?;
    control.set_certificate_ttl(Duration::from_secs(4));
    control.stop()?;
    control.start()?;
    let result = through_lifetimes(cluster);
    control.set_certificate_ttl(Duration::from_secs(24 * 3600));
    control.stop()?;
    control.start()?;
    result
}

fn through_lifetimes(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let mut old = scene.client.connect(scene.server.sockets(PORT)[0], LIMIT)?;
    old.set_read_timeout(Some(LIMIT))?;
    for round in 0..50 {
        echo_on(&mut old, b"old").with_context(|| format!("round {round}, old connection"))?;
        for to in scene.server.sockets(PORT) {
            must_serve(&scene.client, to).with_context(|| format!("round {round}"))?;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
