//! Kubernetes Service semantics at L4.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::cluster::service_sockets;
use tests::manifests::ServiceSpec;
use tests::server::{Behaviour, Server};
use tests::traffic::{must_refuse, must_serve};
use tests::{Cluster, Pod, PodSpec};

use crate::scene::{MESHED, OUTSIDE, PORT, Scene, namespaces};
use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[
    shared(
        "service: cluster IP, target port by number and by name",
        target_ports,
    ),
    shared("service: headless", headless),
    shared("service: only ready endpoints", readiness),
    shared(
        "service: no endpoint, or no such port, is refused with its Reason",
        nowhere,
    ),
    shared("service: another endpoint when a connect fails", failover),
    shared("service: endpoints share the load", spread),
    shared("service: internalTrafficPolicy Local", local_only),
    shared(
        "service: trafficDistribution prefers what is near",
        near_first,
    ),
    shared("service: an endpoint outside the mesh", unmeshed_endpoint),
];

fn target_ports(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    scene
        .server
        .update(|pod| pod.ports.push(("named".into(), PORT)))?;
    let spec = ServiceSpec::new(MESHED, "server", PORT)
        .port(80, &PORT.to_string())
        .port(81, "named");
    let service = cluster.service(&spec)?;
    cluster.settle()?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    for port in [PORT, 80, 81] {
        for (family, to) in service_sockets(service, port).into_iter().enumerate() {
            must_serve(&scene.client, to)?;
            let stream = scene.client.connect(to, Duration::from_secs(5))?;
            ensure!(
                stream.peer_addr()? == to,
                "the client sees {} instead of {to}",
                stream.peer_addr()?
            );
            drop(stream);
            let peers = server.peers();
            ensure!(
                peers
                    .iter()
                    .any(|peer| peer.ip() == scene.client.ips()[family]),
                "{to}: the server saw {peers:?}"
            );
        }
    }
    Ok(())
}

fn headless(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let mut spec = ServiceSpec::new(MESHED, "server", PORT);
    spec.headless = true;
    cluster.service(&spec)?;
    cluster.settle()?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    // DNS gives the pod's addresses for it.
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.client, to)?;
    }
    Ok(())
}

/// Two servers behind one service; which of them gets how many of `count` connections.
fn shares(
    from: &Pod,
    to: SocketAddr,
    servers: &[(&Pod, &Server)],
    count: usize,
) -> Result<Vec<usize>> {
    let before: Vec<usize> = servers
        .iter()
        .map(|(_, server)| server.accepted())
        .collect();
    for number in 0..count {
        must_serve(from, to).with_context(|| format!("connection {number}"))?;
    }
    Ok(servers
        .iter()
        .zip(before)
        .map(|((_, server), before)| server.accepted() - before)
        .collect())
}

struct Two {
    near: Pod,
    far: Pod,
    client: Pod,
    service: [SocketAddr; 2],
}

/// A client and one endpoint on node 1, another endpoint on node 2.
fn two(cluster: &Cluster, spec: ServiceSpec, far: PodSpec) -> Result<Two> {
    namespaces(cluster)?;
    let service = cluster.service(&spec)?;
    let two = Two {
        near: cluster.pod(&PodSpec::new(MESHED, "near").app("server"))?,
        far: cluster.pod(&far.app("server").on(2))?,
        client: cluster.pod(&PodSpec::new(MESHED, "client"))?,
        service: service_sockets(service, PORT),
    };
    cluster.settle()?;
    Ok(two)
}

fn plain_spec() -> ServiceSpec {
    ServiceSpec::new(MESHED, "server", PORT)
}

fn far() -> PodSpec {
    PodSpec::new(MESHED, "far")
}

fn readiness(cluster: &Cluster) -> Result<()> {
    let two = two(cluster, plain_spec(), far().unready())?;
    let near = Server::start(&two.near, PORT, Behaviour::Echo)?;
    let distant = Server::start(&two.far, PORT, Behaviour::Echo)?;
    let servers = [(&two.near, &near), (&two.far, &distant)];
    for to in two.service {
        let got = shares(&two.client, to, &servers, 10)?;
        ensure!(got == [10, 0], "an unready endpoint was used: {got:?}");
    }
    two.far.update(|pod| pod.ready = true)?;
    two.near.update(|pod| pod.ready = false)?;
    cluster.settle()?;
    for to in two.service {
        let got = shares(&two.client, to, &servers, 10)?;
        ensure!(
            got == [0, 10],
            "readiness changed, the choice did not: {got:?}"
        );
    }
    Ok(())
}

fn nowhere(cluster: &Cluster) -> Result<()> {
    let scene = Scene::permissive(cluster)?;
    let spec = ServiceSpec::new(MESHED, "empty", PORT);
    let service = cluster.service(&spec)?;
    cluster.settle()?;
    let agent = cluster.node(1)?.agent()?;
    for (port, reason) in [(PORT, "no-endpoint"), (PORT + 7, "service-port-unknown")] {
        for to in service_sockets(service, port) {
            must_refuse(&scene.client, to)?;
            let address = to.to_string();
            agent.wait_log(&[reason, &address], Duration::from_secs(10))?;
        }
    }
    Ok(())
}

/// Nothing listens in one of two endpoints: the client never notices.
fn failover(cluster: &Cluster) -> Result<()> {
    let two = two(cluster, plain_spec(), far())?;
    let alive = Server::start(&two.near, PORT, Behaviour::Echo)?;
    for to in two.service {
        let got = shares(&two.client, to, &[(&two.near, &alive)], 20)?;
        ensure!(got == [20], "the living endpoint got {got:?} of 20");
    }
    drop(alive);
    let _other = Server::start(&two.far, PORT, Behaviour::Echo)?;
    for to in two.service {
        shares(&two.client, to, &[], 20)?;
    }
    Ok(())
}

fn spread(cluster: &Cluster) -> Result<()> {
    let two = two(cluster, plain_spec(), far())?;
    let near = Server::start(&two.near, PORT, Behaviour::Echo)?;
    let distant = Server::start(&two.far, PORT, Behaviour::Echo)?;
    let limit = Duration::from_secs(5);
    for to in two.service {
        // Open at the same time: least-loaded choice evens them out.
        let streams: Result<Vec<_>, _> = (0..20).map(|_| two.client.connect(to, limit)).collect();
        let mut streams = streams?;
        for stream in &mut streams {
            stream.set_read_timeout(Some(limit))?;
            tests::traffic::echo_on(stream, b"x")?;
        }
    }
    let got = BTreeMap::from([("near", near.accepted()), ("far", distant.accepted())]);
    ensure!(
        got.values().all(|count| *count >= 10),
        "of 40 connections: {got:?}"
    );
    Ok(())
}

fn local_only(cluster: &Cluster) -> Result<()> {
    let spec = plain_spec().with("internalTrafficPolicy: Local");
    let two = two(cluster, spec, far())?;
    let near = Server::start(&two.near, PORT, Behaviour::Echo)?;
    let distant = Server::start(&two.far, PORT, Behaviour::Echo)?;
    let servers = [(&two.near, &near), (&two.far, &distant)];
    for to in two.service {
        let got = shares(&two.client, to, &servers, 10)?;
        ensure!(got == [10, 0], "Local left the node: {got:?}");
    }
    two.near.update(|pod| pod.ready = false)?;
    cluster.settle()?;
    for to in two.service {
        must_refuse(&two.client, to).context("no endpoint is left on this node")?;
    }
    Ok(())
}

fn near_first(cluster: &Cluster) -> Result<()> {
    let spec = plain_spec().with("trafficDistribution: PreferClose");
    let two = two(cluster, spec, far())?;
    let near = Server::start(&two.near, PORT, Behaviour::Echo)?;
    let distant = Server::start(&two.far, PORT, Behaviour::Echo)?;
    let servers = [(&two.near, &near), (&two.far, &distant)];
    for to in two.service {
        let got = shares(&two.client, to, &servers, 10)?;
        ensure!(got == [10, 0], "the other zone was used: {got:?}");
    }
    two.near.update(|pod| pod.ready = false)?;
    cluster.settle()?;
    for to in two.service {
        let got = shares(&two.client, to, &servers, 10)?;
        ensure!(got == [0, 10], "a preference is no prison: {got:?}");
    }
    Ok(())
}

fn unmeshed_endpoint(cluster: &Cluster) -> Result<()> {
    namespaces(cluster)?;
    let service = cluster.service(&ServiceSpec::new(OUTSIDE, "plain", PORT))?;
    let plain = cluster.pod(&PodSpec::new(OUTSIDE, "plain").on(2).outside())?;
    let client = cluster.pod(&PodSpec::new(MESHED, "client"))?;
    cluster.settle()?;
    let server = Server::start(&plain, PORT, Behaviour::Echo)?;
    for (family, to) in service_sockets(service, PORT).into_iter().enumerate() {
        must_serve(&client, to)?;
        let peer = server.peers().pop().context("nothing was accepted")?;
        ensure!(
            peer.ip() == client.ips()[family],
            "{to}: the server saw {peer}"
        );
    }
    Ok(())
}
