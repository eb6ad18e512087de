//! A control plane that restarts, one of several replicas that dies, and certificates nobody
//! issues.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::apiserver::ApiServer;
use tests::control::{BUNDLE, Control, SYSTEM};
use tests::manifests::authorization_policy;
use tests::server::{Behaviour, Server};
use tests::traffic::{Outcome, attempt, echo_on, must_refuse, must_serve};
use tests::{Cluster, Place, PodSpec, poll};

use super::{DENY_CLIENT, LIMIT, api_server, serves};
use crate::scene::{MESHED, PORT, Scene};
use crate::{Case, on_kubernetes};

pub(crate) const CASES: &[Case] = &[
    on_kubernetes(
        "kubernetes: F-15 the control plane restarts, the mesh goes on",
        restarted,
    ),
    on_kubernetes(
        "kubernetes: F-15 two replicas, the one that leads is killed",
        leader_killed,
    ),
    on_kubernetes(
        "kubernetes: keys are on no disk: after a crash nothing until the issuer is back",
        no_issuer,
    ),
];

/// Ports of the first replica, which is that of the Service too, and of the second.
const FIRST: u16 = 15012;
const SECOND: u16 = 15112;
/// Where agents look for a certificate service that is away.
const ISSUER: u16 = 15013;
/// A lease of 15 s runs out, and is taken in the round after that.
const SUCCESSION: Duration = Duration::from_secs(45);

fn restarted(cluster: &Cluster) -> Result<()> {
    let server = api_server(cluster)?;
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let bundle = bundle(server)?;
    let control = cluster.control()?;
    control.stop()?;
    serves(&scene.client, &scene.server, "without a control plane")?;
    let deny = authorization_policy(MESHED, "new", "DENY", Some("server"), DENY_CLIENT);
    cluster.manifests().write("new", &deny)?;
    control.start()?;
    cluster.settle()?;
    for to in scene.server.sockets(PORT) {
        must_refuse(&scene.client, to).context("a policy written while it was gone")?;
    }
    cluster.unapply("new")?;
    let late = cluster.pod(&PodSpec::new(MESHED, "late"))?;
    cluster.settle()?;
    serves(&late, &scene.server, "with a certificate of the new one")?;
    ensure!(self::bundle(server)? == bundle, "the roots are others");
    Ok(())
}

fn bundle(server: &ApiServer) -> Result<String> {
    let map = server.get("configmaps", SYSTEM, BUNDLE);
    Ok(map.context("no bundle of roots")?["data"].to_string())
}

fn leader_killed(cluster: &Cluster) -> Result<()> {
    let first = cluster.control()?;
    let second = first.replica(SECOND)?;
    second.start()?;
    first.forward(FIRST, &[FIRST, SECOND])?;
    let result = without_leader(cluster, first, &second);
    // Back to one, whatever came of it.
    first.forward(FIRST, &[])?;
    if !first.running() {
        first.start()?;
    }
    second.stop()?;
    result?;
    cluster.settle().context("the second went")
}

fn without_leader(cluster: &Cluster, first: &Control, second: &Control) -> Result<()> {
    let server = api_server(cluster)?;
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let roots = bundle(server)?;
    let leader = leader(server)?;
    let (stop, served) = (&AtomicBool::new(false), &AtomicU64::new(0));
    thread::scope(|scope| {
        let loads = scene.server.sockets(PORT).map(|to| {
            let client = scene.client.place();
            scope.spawn(move || load(client, to, stop, served))
        });
        let result = first.kill9().and_then(|()| {
            // kube-proxy notices a while later: until then every other connection is refused.
            thread::sleep(Duration::from_secs(1));
            first.forward(FIRST, &[SECOND])?;
            follow_second(cluster, &scene)?;
            poll::until("another leader", SUCCESSION, || {
                let now = self::leader(server)?;
                ensure!(now != leader, "{now} leads");
                Ok(())
            })
        });
        stop.store(true, Ordering::SeqCst);
        for load in loads {
            let load = load
                .join()
                .map_err(|_| anyhow::anyhow!("a load panicked"))?;
            load.context("traffic while a replica dies")?;
        }
        result
    })?;
    ensure!(served.load(Ordering::SeqCst) > 0, "there was no load");
    ensure!(bundle(server)? == roots, "the roots are others");
    let log = second.log();
    ensure!(
        !log.to_lowercase().contains("forbidden"),
        "the second was refused:\n{log}"
    );
    Ok(())
}

/// What changes now comes by the second, and so do certificates.
fn follow_second(cluster: &Cluster, scene: &Scene) -> Result<()> {
    let deny = authorization_policy(MESHED, "deny", "DENY", Some("server"), DENY_LATE);
    cluster.manifests().write("deny", &deny)?;
    let late = poll::until("a pod that starts now", LIMIT, || {
        cluster.pod(&PodSpec::new(MESHED, "late"))
    })?;
    poll::until("a policy written after the crash", LIMIT, || {
        cluster.settle()?;
        scene
            .server
            .sockets(PORT)
            .into_iter()
            .try_for_each(|to| must_refuse(&late, to))
    })?;
    cluster.unapply("deny")?;
    serves(&late, &scene.server, "with a certificate of the second")
}

const DENY_LATE: &str = "[{from: [{source: {principals: [cluster.local/ns/app/sa/late]}}]}]";

/// Who holds the lease.
fn leader(server: &ApiServer) -> Result<String> {
    let lease = server.get("leases.coordination.k8s.io", SYSTEM, "culvert-control");
    let holder = lease.context("no lease")?["spec"]["holderIdentity"].clone();
    Ok(holder.as_str().context("nobody leads")?.to_owned())
}

/// New connections, and one that is kept.
fn load(from: &Place, to: SocketAddr, stop: &AtomicBool, served: &AtomicU64) -> Result<()> {
    let mut kept = from.connect(to, Duration::from_secs(5))?;
    kept.set_read_timeout(Some(Duration::from_secs(5)))?;
    while !stop.load(Ordering::SeqCst) {
        echo_on(&mut kept, b"still there?").context("on a kept connection")?;
        must_serve(from, to)?;
        served.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Both agents crash and lose their keys while the certificate service is away. Everything else
/// they need is there.
fn no_issuer(cluster: &Cluster) -> Result<()> {
    let scene = Scene::permissive(cluster)?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    serves(&scene.client, &scene.server, "before")?;
    let result = crash_without_issuer(cluster, &scene, &server);
    cluster.control()?.forward(ISSUER, &[])?;
    for node in cluster.nodes() {
        let agent = node.agent()?;
        agent.change(|settings| settings.ca = None);
        agent.stop()?;
        agent.start_ready()?;
    }
    result
}

fn crash_without_issuer(cluster: &Cluster, scene: &Scene, server: &Server) -> Result<()> {
    let control = cluster.control()?;
    let away = control.url().replace("15012", &ISSUER.to_string());
    for node in cluster.nodes() {
        let agent = node.agent()?;
        agent.kill9()?;
        agent.change(|settings| settings.ca = Some(away.clone()));
        no_keys_below(node.directory())?;
        agent.start()?;
    }
    for node in cluster.nodes() {
        poll::until("captured again", LIMIT, || {
            let status = node.agent()?.status()?;
            let pods = status["pods"].as_array().into_iter().flatten();
            let mut verified = pods.map(|pod| pod["verified"] == true);
            ensure!(verified.all(|verified| verified), "not yet: {status}");
            ensure!(status["controlPlane"]["synced"] == true, "not in sync");
            Ok(())
        })?;
    }
    let accepted = server.accepted();
    let start = Instant::now();
    for to in scene.server.sockets(PORT) {
        let outcome = attempt(&scene.client, to, Duration::from_secs(15))?;
        ensure!(outcome.refused(), "{to} without keys: {outcome:?}");
        if let Outcome::Refused(kind, _) = outcome {
            ensure!(kind != ErrorKind::ConnectionRefused, "nobody answered");
        }
    }
    println!("  refused within {:?}", start.elapsed() / 2);
    let parts = ["direction=\"outbound\"", "reason=\"no-certificate\""];
    let agent = cluster.node(1)?.agent()?;
    agent.wait_log(&parts, LIMIT).context("the log says why")?;
    ensure!(
        server.accepted() == accepted,
        "the application was reached without a certificate"
    );
    control.forward(ISSUER, &[FIRST])?;
    poll::until("certificates, without another restart", LIMIT, || {
        serves(&scene.client, &scene.server, "the issuer is back")
    })
}

/// No file of the node's folder holds a private key.
fn no_keys_below(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            no_keys_below(&path)?;
        } else if kind.is_file() {
            // Pins cannot be read and hold no bytes of their own.
            let content = fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&content);
            ensure!(!text.contains("PRIVATE KEY"), "{}", path.display());
        }
    }
    Ok(())
}
