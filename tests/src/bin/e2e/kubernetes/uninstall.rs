//! Culvert leaves, step by step as README's *Install* says, and nothing of it stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::apiserver::ApiServer;
use tests::command::check;
use tests::control::SYSTEM;
use tests::server::{Behaviour, Server};
use tests::traffic::must_serve;
use tests::{Cluster, ClusterSpec, Node, poll};

use super::{LIMIT, api_server, serves};
use crate::scene::{MESHED, OUTSIDE, PORT, Scene};
use crate::{Case, alone, run_name};

pub(crate) const CASES: &[Case] = &[alone(
    "kubernetes: --release and a full uninstall leave nothing",
    uninstalled,
)];

/// What everything installed carries.
const OURS: (&str, &str) = ("app.kubernetes.io/name", "culvert");

fn uninstalled() -> Result<()> {
    let programs = programs()?;
    let run = format!("{}u", run_name());
    let cluster = Cluster::start(&ClusterSpec::new(&run).kubernetes())?;
    let result = install_and_leave(&cluster);
    result.inspect_err(|_| cluster.keep_logs())?;
    poll::until("eBPF programs gone", Duration::from_secs(30), || {
        let now = self::programs()?;
        ensure!(now <= programs, "{now} programs, {programs} before");
        Ok(())
    })
}

fn install_and_leave(cluster: &Cluster) -> Result<()> {
    let server = api_server(cluster)?;
    let mut before = Vec::new();
    for node in cluster.nodes() {
        before.push(install_plugin(node)?);
    }
    let scene = Scene::strict(cluster)?;
    let echo = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    serves(&scene.client, &scene.server, "while installed")?;
    for node in cluster.nodes() {
        poll::until("the plugin in the chain", LIMIT, || {
            let chain = node.chain().in_folders(&conf_dir(node), &bin_dir(node))?;
            let types = chain.types();
            ensure!(types == ["bridge", "culvert-cni"], "{types:?}");
            Ok(())
        })?;
    }

    // 1. The namespaces leave the mesh.
    cluster.manifests().remove("mode")?;
    cluster.manifests().namespace(MESHED, None)?;
    poll::until("every pod has left", LIMIT, || no_marks(server))?;
    // 2. The agents end and each node is released, once or more often.
    for node in cluster.nodes() {
        let agent = node.agent()?;
        agent.stop()?;
        agent.release_by_variable()?;
        agent.release_by_variable().context("a second time")?;
        // What the DaemonSet's controller and the kubelet do.
        server.remove(&named(
            "Pod",
            SYSTEM,
            &format!("culvert-node-{}", node.name()),
        ))?;
    }
    // 3. What was applied is deleted, then the roots in every namespace.
    let control = cluster.control()?;
    let installed = control.installation()?;
    server.remove(&installed)?;
    control.stop()?;
    for (namespace, name) in server.names("configmaps") {
        let map = server.get("configmaps", &namespace, &name);
        if map.is_some_and(|map| is_ours(&map)) {
            server.remove(&named("ConfigMap", &namespace, &name))?;
        }
    }

    for (node, configuration) in cluster.nodes().iter().zip(before) {
        nothing_left(node, &configuration).with_context(|| node.name())?;
    }
    no_objects(server)?;
    for (family, to) in scene.server.sockets(PORT).into_iter().enumerate() {
        for client in [&scene.client, &scene.outsider] {
            must_serve(client, to).context("connected, and outside the mesh")?;
            let peer = echo.peers().pop().context("nobody came")?;
            ensure!(peer.ip() == client.ips()[family], "the server saw {peer}");
        }
    }
    Ok(())
}

/// An agent with the runtime's folders, in which there is a network already; what it is made of.
fn install_plugin(node: &Node) -> Result<Value> {
    let agent = node.agent()?;
    let (bin, conf) = (bin_dir(node), conf_dir(node));
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&conf)?;
    let mut network = node.chain().network();
    let version = network["cniVersion"].take();
    let network_name = network["name"].take();
    if let Some(plugin) = network.as_object_mut() {
        plugin.retain(|key, _| !["cniVersion", "name"].contains(&key.as_str()));
    }
    let list = json!({ "cniVersion": version, "name": network_name, "plugins": [network] });
    fs::write(conf.join("10-pods.conflist"), list.to_string())?;
    agent.stop()?;
    agent.change(|settings| {
        for (flag, folder) in [("--cni-bin-dir", &bin), ("--cni-conf-dir", &conf)] {
            settings.extra.push(format!("{flag}={}", folder.display()));
        }
    });
    agent.start_ready()?;
    Ok(list)
}

fn bin_dir(node: &Node) -> PathBuf {
    node.directory().join("cni-bin")
}

fn conf_dir(node: &Node) -> PathBuf {
    node.directory().join("cni-conf")
}

/// No pod says that it is in the mesh.
fn no_marks(server: &ApiServer) -> Result<()> {
    for (namespace, name) in server.names("pods") {
        let pod = server.get("pods", &namespace, &name);
        let annotations = pod.map_or(Value::Null, |pod| pod["metadata"]["annotations"].clone());
        let redirected = &annotations["ambient.istio.io/redirection"];
        ensure!(redirected.is_null(), "{namespace}/{name}: {annotations}");
        let status = annotations["culvert.dev/status"].as_str();
        ensure!(
            status.is_none_or(|status| !status.contains("verified")),
            "{namespace}/{name}: {annotations}"
        );
    }
    Ok(())
}

/// The node's folders are as they were before Culvert came.
fn nothing_left(node: &Node, configuration: &Value) -> Result<()> {
    let files = names_in(&conf_dir(node))?;
    ensure!(files == ["10-pods.conflist"], "configurations: {files:?}");
    let text = fs::read(conf_dir(node).join("10-pods.conflist"))?;
    let now: Value = serde_json::from_slice(&text)?;
    ensure!(now == *configuration, "the configuration is {now}");
    for folder in [bin_dir(node), node.directory().join("state")] {
        let left = names_in(&folder)?;
        ensure!(left.is_empty(), "{}: {left:?}", folder.display());
    }
    let agent = node.agent()?;
    ensure!(agent.pins() == 0, "{} pins", agent.pins());
    for socket in [agent.cni_socket(), agent.admin_socket()] {
        ensure!(!socket.exists(), "{} is left", socket.display());
    }
    Ok(())
}

fn names_in(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// No object of any kind is ours; the namespaces of others are there.
fn no_objects(server: &ApiServer) -> Result<()> {
    for resource in RESOURCES {
        for (namespace, name) in server.names(resource) {
            let object = server.get(resource, &namespace, &name);
            let object = object.context("an object that was listed")?;
            let what = format!("{resource} {namespace}/{name} is left");
            ensure!(!is_ours(&object), "{what}");
            ensure!(namespace != SYSTEM && name != SYSTEM, "{what}");
        }
    }
    for namespace in [MESHED, OUTSIDE] {
        let there = server.get("namespaces", "", namespace);
        ensure!(there.is_some(), "{namespace} is gone too");
    }
    Ok(())
}

const RESOURCES: &[&str] = &[
    "namespaces",
    "pods",
    "services",
    "secrets",
    "configmaps",
    "serviceaccounts",
    "daemonsets.apps",
    "deployments.apps",
    "poddisruptionbudgets.policy",
    "leases.coordination.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "customresourcedefinitions.apiextensions.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
];

fn is_ours(object: &Value) -> bool {
    object["metadata"]["labels"][OURS.0] == OURS.1
}

fn named(kind: &str, namespace: &str, name: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": kind,
        "metadata": { "namespace": namespace, "name": name },
    })
    .to_string()
}

fn programs() -> Result<usize> {
    let list: Value = serde_json::from_str(&check("bpftool", &["-j", "prog", "show"])?)?;
    Ok(list.as_array().map_or(0, Vec::len))
}
