//! In a cluster labels say who is in the mesh: pods that run already come in and go out alive, each
//! is told what became of it, and who did not ask never waits.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::apiserver::ApiServer;
use tests::cni::CniError;
use tests::manifests::peer_authentication;
use tests::peer::{Peer, spiffe};
use tests::server::{Behaviour, Server};
use tests::traffic::{echo_on, must_refuse, must_serve};
use tests::{Cluster, ClusterSpec, Pod, PodSpec, poll};

use crate::kubernetes::api_server;
use crate::scene::{MESHED, OUTSIDE, PORT, Scene};
use crate::{Case, alone, on_kubernetes, run_name};

pub(crate) const CASES: &[Case] = &[
    on_kubernetes(
        "kubernetes: a label brings running pods in and takes them out, under open connections",
        come_and_go,
    ),
    on_kubernetes(
        "kubernetes: F-12 a pod's label flips a hundred times, and capture follows",
        flips,
    ),
    on_kubernetes(
        "kubernetes: F-11 F-54 after a reboot running pods are captured again, whatever one of them is",
        reboot,
    ),
    on_kubernetes(
        "kubernetes: an agent that follows another knows what is wanted, and the first says nothing more",
        handed_over,
    ),
    on_kubernetes(
        "kubernetes: host-network, completed and Culvert's own pods are left alone and told why",
        left_alone,
    ),
    on_kubernetes(
        "kubernetes: without an agent, or one that knows nothing, only pods of the mesh wait",
        who_waits,
    ),
    alone(
        "kubernetes: T-NODE-1 T-NODE-2 a token is good for one agent and its own pods",
        tokens,
    ),
];

const STATUS: &str = "culvert.dev/status";
const REDIRECTION: &str = "ambient.istio.io/redirection";
const MESH: &str = "culvert.dev/mesh";
const SYSTEM: &str = "culvert-system";
const LIMIT: Duration = Duration::from_secs(20);

fn come_and_go(cluster: &Cluster) -> Result<()> {
    let server = api_server(cluster)?;
    let label = |meshed| cluster.manifests().namespace(MESHED, meshed);
    label(None)?;
    let scene = unlabelled(cluster)?;
    let pods = [&scene.client, &scene.server];
    let _echo = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let mut old = open(&scene)?;

    label(Some(true))?;
    pods.iter().try_for_each(|pod| is_captured(server, pod))?;
    cluster.settle()?;
    all_echo(&mut old).context("opened before the label")?;
    cluster.apply("mode", &peer_authentication(MESHED, "STRICT"))?;
    in_force(&scene).context("labelled")?;
    let mut tunnelled = open(&scene)?;

    label(None)?;
    pods.iter().try_for_each(|pod| is_free(server, pod))?;
    cluster.settle()?;
    all_echo(&mut tunnelled).context("opened through the mesh, before it was left")?;
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.client, to).context("plain again")?;
        must_serve(&scene.outsider, to).context("STRICT is the mesh's")?;
    }

    label(Some(true))?;
    pods.iter().try_for_each(|pod| is_captured(server, pod))?;
    cluster.settle()?;
    all_echo(&mut tunnelled).context("opened through the mesh, which was left and joined")?;
    in_force(&scene).context("labelled again")?;

    // What the agent still holds of them must not outlive the pods.
    label(None)?;
    pods.iter().try_for_each(|pod| is_free(server, pod))?;
    all_echo(&mut tunnelled).context("before the pods end")?;
    drop((old, tunnelled));
    scene.client.delete()?;
    let agent = cluster.node(1)?.agent()?;
    poll::until("its tunnels end with it", LIMIT / 8, || {
        let tunnels = agent.status()?["tunnels"].clone();
        ensure!(tunnels["open"] == 0, "tunnels {tunnels}");
        Ok(())
    })
}

/// A scene as before Culvert: nobody asked for the mesh.
fn unlabelled(cluster: &Cluster) -> Result<Scene> {
    cluster.manifests().namespace(OUTSIDE, None)?;
    let scene = Scene {
        client: cluster.pod(&PodSpec::new(MESHED, "client"))?,
        server: cluster.pod(&PodSpec::new(MESHED, "server").on(2))?,
        outsider: cluster.pod(&PodSpec::new(OUTSIDE, "outsider"))?,
    };
    cluster.settle()?;
    for pod in [&scene.client, &scene.server, &scene.outsider] {
        ensure!(!is_listed(pod)?, "{} is captured", pod.manifest().name);
        ensure!(listeners(pod)? == 0, "somebody listens in a pod");
    }
    Ok(scene)
}

/// Only the mesh reaches the server.
fn in_force(scene: &Scene) -> Result<()> {
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.client, to)?;
        must_refuse(&scene.outsider, to)?;
    }
    Ok(())
}

fn open(scene: &Scene) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::new();
    for to in scene.server.sockets(PORT) {
        let stream = scene.client.connect(to, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        streams.push(stream);
    }
    all_echo(&mut streams)?;
    Ok(streams)
}

fn all_echo(streams: &mut [TcpStream]) -> Result<()> {
    streams
        .iter_mut()
        .try_for_each(|stream| echo_on(stream, b"still there?").context("an open connection"))
}

/// Waits until a pod is captured and its annotations say so.
fn is_captured(server: &ApiServer, pod: &Pod) -> Result<()> {
    says(server, pod, "verified")?;
    let marks = marks(server, pod)?;
    ensure!(marks[REDIRECTION] == "enabled", "annotations {marks}");
    ensure!(is_listed(pod)?, "annotated, and not in the agent's list");
    Ok(())
}

/// Waits until nothing of the mesh is in a pod, nor in its annotations.
fn is_free(server: &ApiServer, pod: &Pod) -> Result<()> {
    poll::until("a pod out of the mesh", LIMIT, || {
        let marks = marks(server, pod)?;
        ensure!(
            marks[STATUS].is_null() && marks[REDIRECTION].is_null(),
            "annotations {marks}"
        );
        ensure!(!is_listed(pod)?, "the agent still lists it");
        let left = listeners(pod)?;
        ensure!(
            left == 0,
            "{left} listeners of the mesh are left in the pod"
        );
        Ok(())
    })
}

fn says(server: &ApiServer, pod: &Pod, status: &str) -> Result<()> {
    let manifest = pod.manifest();
    told(server, &manifest.namespace, &manifest.name, status)
}

/// Waits until the annotation of a pod begins like this.
fn told(server: &ApiServer, namespace: &str, name: &str, status: &str) -> Result<()> {
    let what = format!("{name} told `{status}`");
    poll::until(&what, LIMIT, || {
        let marks = marks_of(server, namespace, name)?;
        let found = marks[STATUS].as_str().unwrap_or_default();
        ensure!(found.starts_with(status), "annotations {marks}");
        Ok(())
    })
}

fn marks(server: &ApiServer, pod: &Pod) -> Result<Value> {
    let manifest = pod.manifest();
    marks_of(server, &manifest.namespace, &manifest.name)
}

fn marks_of(server: &ApiServer, namespace: &str, name: &str) -> Result<Value> {
    let object = server.get("pods", namespace, name);
    let object = object.with_context(|| format!("no pod {namespace}/{name}"))?;
    Ok(object["metadata"]["annotations"].clone())
}

/// Whether the agent of a pod's node lists it.
fn is_listed(pod: &Pod) -> Result<bool> {
    let status = pod.node().agent()?.status()?;
    let mut listed = status["pods"].as_array().into_iter().flatten();
    Ok(listed.any(|entry| entry["name"] == pod.manifest().name.as_str()))
}

/// Listening sockets in a pod but those of its application.
fn listeners(pod: &Pod) -> Result<usize> {
    let sockets = pod.check(&["ss", "-Hltn"])?;
    let own = format!(":{PORT} ");
    Ok(sockets.lines().filter(|line| !line.contains(&own)).count())
}

fn flips(cluster: &Cluster) -> Result<()> {
    let server = api_server(cluster)?;
    cluster.manifests().namespace(MESHED, None)?;
    let scene = unlabelled(cluster)?;
    let agent = scene.server.node().agent()?;
    let (pins, _echo) = (
        agent.pins(),
        Server::start(&scene.server, PORT, Behaviour::Echo)?,
    );
    let label = |value: &str| {
        scene.server.update(|manifest| {
            manifest.labels.retain(|(key, _)| key != MESH);
            manifest.labels.push((MESH.to_owned(), value.to_owned()));
        })
    };
    // Slowly enough for each to be carried out, and faster than any can be.
    for _ in 0..3 {
        label("enabled")?;
        is_captured(server, &scene.server)?;
        label("disabled")?;
        is_free(server, &scene.server)?;
    }
    for turn in 0..94 {
        label(if turn % 2 == 0 { "enabled" } else { "disabled" })?;
        thread::sleep(Duration::from_millis(turn % 7 * 5));
    }
    is_free(server, &scene.server)?;
    ensure!(
        agent.pins() == pins,
        "{} pins, before there were {pins}",
        agent.pins()
    );
    label("enabled")?;
    is_captured(server, &scene.server)?;
    cluster.apply("mode", &peer_authentication(MESHED, "STRICT"))?;
    for to in scene.server.sockets(PORT) {
        must_refuse(&scene.outsider, to).context("after the last turn")?;
    }
    Ok(())
}

/// What an agent has in the kernel and in its folder is gone, the pods still run, and no runtime
/// says anything of them.
fn reboot(cluster: &Cluster) -> Result<()> {
    let server = api_server(cluster)?;
    let scene = Scene::strict(cluster)?;
    let _echo = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    // As one whose sandbox died with the machine, and is not there again.
    let ghost = bare_pod(MESHED, "ghost", "10.67.1.240", &json!({}));
    cluster.manifests().write("ghost", &ghost.to_string())?;
    for node in cluster.nodes() {
        let agent = node.agent()?;
        agent.kill9()?;
        agent.release()?;
        let state = agent.settings().directory.join("state");
        fs::remove_dir_all(&state).context("the agent's state")?;
        fs::create_dir(&state).context("the agent's folder")?;
    }
    for to in scene.server.sockets(PORT) {
        must_serve(&scene.outsider, to).context("no agent, no hooks")?;
    }
    for node in cluster.nodes() {
        node.agent()?.start_ready()?;
    }
    // Ready means that every pod has been tried: no waiting here.
    for pod in [&scene.client, &scene.server] {
        ensure!(is_listed(pod)?, "ready without {}", pod.manifest().name);
    }
    cluster.settle()?;
    in_force(&scene)?;
    says(server, &scene.client, "verified")?;
    told(server, MESHED, "ghost", "failed: ")?;
    let problems = cluster.node(1)?.agent()?.status()?["problems"].to_string();
    ensure!(problems.contains("ghost"), "problems: {problems}");
    // The runtime ends a pod that it never named to this agent.
    scene.client.delete()?;
    let status = cluster.node(1)?.agent()?.status()?;
    ensure!(status["pods"] == json!([]), "still listed: {status}");
    Ok(())
}

fn handed_over(cluster: &Cluster) -> Result<()> {
    let server = api_server(cluster)?;
    cluster.manifests().namespace(MESHED, None)?;
    let scene = unlabelled(cluster)?;
    let _echo = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    cluster.manifests().namespace(MESHED, Some(true))?;
    let pods = [&scene.client, &scene.server];
    pods.iter().try_for_each(|pod| is_captured(server, pod))?;
    cluster.settle()?;
    let mut tunnelled = open(&scene)?;
    let mut firsts = Vec::new();
    for node in cluster.nodes() {
        firsts.push(node.agent()?.hand_over()?);
    }
    // They were found, not named by a runtime, and are taken over as what they are.
    pods.iter().try_for_each(|pod| is_captured(server, pod))?;
    all_echo(&mut tunnelled).context("carried by the first agents")?;
    poll::until("one agent a node is attached", LIMIT, || {
        let status = cluster.control()?.status()?;
        let nodes = status["nodes"].as_array().context("no nodes")?;
        for node in nodes {
            let agents = node["agents"].as_array().map_or(0, Vec::len);
            ensure!(agents == 1, "{agents} agents of {}", node["name"]);
        }
        Ok(())
    })?;
    // What is wanted next is the second agents' to do, with the flows of the first still open.
    cluster.manifests().namespace(MESHED, None)?;
    pods.iter().try_for_each(|pod| is_free(server, pod))?;
    drop(tunnelled);
    for first in firsts {
        let status = first.wait_end(Duration::from_secs(12))?;
        ensure!(status.success(), "a first agent ended with {status}");
    }
    cluster.manifests().namespace(MESHED, Some(true))?;
    pods.iter().try_for_each(|pod| is_captured(server, pod))?;
    let late = cluster.pod(&PodSpec::new(MESHED, "late").on(2))?;
    is_captured(server, &late)
}

/// A pod on node 1 that nothing of runs.
fn bare_pod(namespace: &str, name: &str, ip: &str, more: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "nodeName": "n1",
            "serviceAccountName": "default",
            "containers": [{"name": "app", "image": "none"}],
        },
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    });
    for part in ["metadata", "spec", "status"] {
        for (key, value) in more[part].as_object().into_iter().flatten() {
            pod[part][key] = value.clone();
        }
    }
    pod
}

fn left_alone(cluster: &Cluster) -> Result<()> {
    let server = api_server(cluster)?;
    let scene = Scene::permissive(cluster)?;
    let host = cluster.node(1)?.addresses().v4.to_string();
    let on_host = json!({"spec": {"hostNetwork": true}});
    // Its address has been given to another since.
    let client = scene.client.addresses().v4.to_string();
    let over = json!({"status": {"phase": "Succeeded"}});
    let labelled = json!({"metadata": {"labels": {MESH: "enabled"}}});
    for pod in [
        bare_pod(MESHED, "daemon", &host, &on_host),
        bare_pod(MESHED, "job", &client, &over),
        bare_pod(SYSTEM, "part", "10.67.1.241", &labelled),
    ] {
        let name = format!(
            "bare-{}",
            pod["metadata"]["name"].as_str().unwrap_or_default()
        );
        cluster.manifests().write(&name, &pod.to_string())?;
    }
    for (namespace, name, why) in [
        (MESHED, "daemon", "host-network"),
        (MESHED, "job", "completed"),
        (SYSTEM, "part", "control-plane"),
    ] {
        told(server, namespace, name, &format!("not-enrolled: {why}"))?;
        let marks = marks_of(server, namespace, name)?;
        ensure!(marks[REDIRECTION].is_null(), "{name}: {marks}");
    }
    is_captured(server, &scene.client)?;
    let none = marks(server, &scene.outsider)?;
    ensure!(none[STATUS].is_null(), "who never asked is told {none}");
    let status = cluster.node(1)?.agent()?.status()?;
    let listed = status["pods"].as_array().map_or(0, Vec::len);
    ensure!(listed == 1, "captured: {status}");

    // One that was in the mesh completes.
    let name = scene.client.manifest().name;
    let object = server.get("pods", MESHED, &name).context("no client")?;
    let mut object = Value::clone(&object);
    object["apiVersion"] = json!("v1");
    object["kind"] = json!("Pod");
    object["status"]["phase"] = json!("Succeeded");
    server.put_value(object)?;
    says(server, &scene.client, "not-enrolled: completed")?;
    ensure!(!is_listed(&scene.client)?, "completed, and still captured");
    Ok(())
}

fn who_waits(cluster: &Cluster) -> Result<()> {
    let scene = Scene::permissive(cluster)?;
    let node = cluster.node(1)?;
    let agent = node.agent()?;
    let list = agent
        .settings()
        .directory
        .join("state/meshed-namespaces.json");
    let chain = node.chain().clone().with_culvert(json!({
        "type": "culvert-cni",
        "agentSocket": agent.cni_socket(),
        "meshedNamespaces": list,
    }));
    let add = |pod: &Pod| chain.call_last("ADD", pod.sandbox(), &pod.ips()).map(drop);
    agent.stop()?;
    add(&scene.outsider).context("outside the mesh, without an agent")?;
    let error = add(&scene.client).err().context("not refused")?;
    let error = error.downcast_ref::<CniError>().context("no CNI error")?;
    ensure!(
        error.message.contains("agent"),
        "refused because of {error}"
    );

    // An agent that has heard nothing yet.
    cluster.control()?.stop()?;
    agent.start()?;
    poll::until("the agent answers", LIMIT, || agent.status())?;
    add(&scene.outsider).context("outside the mesh, the agent knows nothing")?;
    thread::scope(|scope| {
        let waiting = scope.spawn(|| add(&scene.client));
        cluster.control()?.start()?;
        let waited = waiting.join();
        let waited = waited.map_err(|_| anyhow::anyhow!("the call panicked"))?;
        waited.context("in the mesh, until the control plane was back")
    })?;
    agent.wait_ready(LIMIT)
}

/// The clock of the API server goes ahead here: it is one of its own.
fn tokens() -> Result<()> {
    let run = format!("{}t", run_name());
    let cluster = Cluster::start(&ClusterSpec::new(&run).kubernetes())?;
    let server = api_server(&cluster)?;
    holds_for_one(&cluster, server).inspect_err(|_| cluster.keep_logs())
}

fn holds_for_one(cluster: &Cluster, server: &ApiServer) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let (control, first) = (cluster.control()?, cluster.node(1)?.agent()?);
    let peer = Peer::start(cluster.run(), scene.outsider.place(), "t-node-peer")?;
    let short = Duration::from_secs(600);
    let bound = |pod: &str, audience: &str| server.pod_token(SYSTEM, pod, audience, short);
    let issue = |token: &str, account: &str| {
        json!({
            "op": "issue", "name": "taken", "url": control.url(),
            "root": control.root_cert(), "token": token,
            "identity": spiffe(MESHED, account),
        })
    };
    let own = bound("culvert-node-n1", "culvert")?;
    peer.must(&issue(&own, "client"))
        .context("a pod of its own")?;
    let mut agent_pod = bare_pod(SYSTEM, "culvert-node-gone", "10.67.1.242", &json!({}));
    agent_pod["spec"]["serviceAccountName"] = json!("culvert-node");
    server.put_value(agent_pod.clone())?;
    let orphan = bound("culvert-node-gone", "culvert")?;
    server.remove(&agent_pod.to_string())?;
    let application = server.pod_token(MESHED, "client", "culvert", short)?;
    let old = bound("culvert-node-n1", "culvert")?;
    // gRPC status 7: PERMISSION_DENIED, 16: UNAUTHENTICATED.
    for (what, token, account, expected) in [
        ("a pod of the other node", &own, "server", "7"),
        ("no pod at all", &own, "nobody", "7"),
        (
            "the other node's agent",
            &bound("culvert-node-n2", "culvert")?,
            "client",
            "7",
        ),
        (
            "another audience",
            &bound("culvert-node-n1", "istio-ca")?,
            "client",
            "16",
        ),
        ("a pod that is gone", &orphan, "client", "16"),
        ("an application's token", &application, "client", "16"),
    ] {
        let error = peer.must_fail(&issue(token, account)).context(what)?;
        ensure!(error.contains(expected), "{what}: {error}");
        ensure!(
            !error.contains(token.as_str()),
            "{what}: the token came back"
        );
    }
    server.advance(short + Duration::from_secs(60));
    let error = peer.must_fail(&issue(&old, "client")).context("expired")?;
    ensure!(error.contains("16"), "expired: {error}");

    let agents = fs::read_to_string(&first.settings().token_file)?;
    let secrets = [agents.trim(), &own, &orphan, &application, &old];
    let logs = cluster.run().path("logs");
    for folder in [logs, first.settings().directory.join("state")] {
        nowhere_in(&folder, &secrets)?;
    }
    Ok(())
}

/// None of these texts is in a file of the folder.
fn nowhere_in(folder: &Path, secrets: &[&str]) -> Result<()> {
    let mut files = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            let text = fs::read(&path)?;
            let text = String::from_utf8_lossy(&text);
            let leaked = secrets.iter().any(|secret| text.contains(secret));
            ensure!(!leaked, "a token is in {}", path.display());
            files += 1;
        }
    }
    ensure!(files > 0, "nothing in {}", folder.display());
    Ok(())
}
