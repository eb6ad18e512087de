//! The CNI plugin and what it promises: captured and verified, or not at all.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::cni::CniError;
use tests::server::{Behaviour, Server};
use tests::traffic::must_serve;
use tests::{Cluster, ClusterSpec, PodSpec, poll};

use crate::scene::{MESHED, OUTSIDE, PORT, Scene, namespaces};
use crate::{Case, alone, shared};

pub(crate) const CASES: &[Case] = &[
    shared(
        "cni: ADD shows the pod as enrolled and verified, CHECK agrees",
        add_and_check,
    ),
    shared(
        "cni: a namespace that is not what the call says is refused",
        lies,
    ),
    shared(
        "cni: without an agent ADD says try again later, DEL succeeds",
        no_agent,
    ),
    shared("cni: DEL is idempotent and leaves nothing", delete),
    shared("cni: VERSION and prevResult", versions),
    shared("cni: 20 pods come and go", churn),
    alone(
        "cni: installed, put back, passed by, and taken out again",
        installed,
    ),
];

const TRY_AGAIN_LATER: u64 = 11;
const LIMIT: Duration = Duration::from_secs(20);

fn add_and_check(cluster: &Cluster) -> Result<()> {
    namespaces(cluster)?;
    let pod = cluster.pod(&PodSpec::new(MESHED, "one"))?;
    let status = cluster.node(1)?.agent()?.status()?;
    let mut listed = status["pods"].as_array().into_iter().flatten();
    let entry = listed
        .find(|entry| entry["name"] == "one")
        .with_context(|| format!("status does not list the pod: {status}"))?;
    ensure!(entry["verified"] == true, "not verified: {entry}");
    pod.check_cni().context("CHECK of an enrolled pod")
}

fn lies(cluster: &Cluster) -> Result<()> {
    namespaces(cluster)?;
    let node = cluster.node(1)?;
    let honest = cluster.pod(&PodSpec::new(MESHED, "honest"))?;
    cluster.settle()?;
    let before = cluster.node(1)?.agent()?.status()?["pods"].to_string();
    let mut sandbox = honest.sandbox().clone();
    sandbox.id = "f".repeat(64);
    // An address the namespace does not hold.
    let stolen: [IpAddr; 1] = ["10.67.1.249".parse()?];
    refused(node.chain().call_last("ADD", &sandbox, &stolen))
        .context("an address that the namespace does not hold")?;
    // The node's own namespace.
    sandbox.netns = node.host().path();
    let host: [IpAddr; 1] = [tests::topology::pod_range(1, 1).v4.into()];
    refused(node.chain().call_last("ADD", &sandbox, &host)).context("the host's namespace")?;
    // No namespace at all.
    sandbox.netns = Path::new("/run/culvert-test/e2e/pids").to_owned();
    refused(node.chain().call_last("ADD", &sandbox, &stolen)).context("not a namespace")?;
    let after = cluster.node(1)?.agent()?.status()?["pods"].to_string();
    ensure!(
        before == after,
        "a refused ADD changed the list:\n{before}\n{after}"
    );
    Ok(())
}

fn refused(result: Result<Value>) -> Result<CniError> {
    match result {
        Ok(value) => anyhow::bail!("ADD succeeded with {value}"),
        Err(error) => error
            .downcast::<CniError>()
            .context("not a CNI error object"),
    }
}

fn no_agent(cluster: &Cluster) -> Result<()> {
    let scene = Scene::permissive(cluster)?;
    let node = cluster.node(1)?;
    let agent = node.agent()?;
    let gone = cluster.pod(&PodSpec::new(MESHED, "gone"))?;
    agent.stop()?;
    let error = cluster.pod(&PodSpec::new(MESHED, "late")).err();
    let error = error.context("ADD succeeded without an agent")?;
    let object = error
        .downcast_ref::<CniError>()
        .context("not a CNI error object")?;
    ensure!(object.code == TRY_AGAIN_LATER, "{object}");
    ensure!(
        scene.client.check_cni().is_err(),
        "CHECK passes without an agent"
    );
    gone.delete().context("DEL without an agent")?;
    agent.start_ready()?;
    // The agent notices that the pod is no more.
    poll::until("the deleted pod forgotten", LIMIT, || {
        let pods = agent.status()?["pods"].to_string();
        ensure!(!pods.contains("\"gone\""), "still listed: {pods}");
        Ok(())
    })?;
    let _late = cluster.pod(&PodSpec::new(MESHED, "late"))?;
    Ok(())
}

fn delete(cluster: &Cluster) -> Result<()> {
    namespaces(cluster)?;
    let pod = cluster.pod(&PodSpec::new(MESHED, "brief"))?;
    let chain = pod.node().chain();
    let cookie = pod.cookie();
    chain.call_last("DEL", pod.sandbox(), &pod.ips())?;
    chain
        .call_last("DEL", pod.sandbox(), &pod.ips())
        .context("a second DEL")?;
    let sockets = pod.check(&["ss", "-Hltn"])?;
    ensure!(
        sockets.trim().is_empty(),
        "listeners are left in the pod:\n{sockets}"
    );
    let pins = pod.node().agent()?.bpffs();
    let left = fs::read_dir(&pins)
        .context("the pins")?
        .flatten()
        .any(|schema| schema.path().join("pods").join(cookie.to_string()).exists());
    ensure!(!left, "the pod's link is still pinned");
    pod.delete()
}

fn versions(cluster: &Cluster) -> Result<()> {
    namespaces(cluster)?;
    let pod = cluster.pod(&PodSpec::new(MESHED, "versions"))?;
    let chain = pod.node().chain();
    let answer = chain.call_last("VERSION", pod.sandbox(), &[])?;
    let supported = answer["supportedVersions"].to_string();
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        ensure!(
            supported.contains(version),
            "{version} is not in {supported}"
        );
    }
    // ADD again with the same container id is the same pod, and prevResult comes back.
    let answer = chain.call_last("ADD", pod.sandbox(), &pod.ips())?;
    let ips = answer["ips"].as_array().map_or(0, Vec::len);
    ensure!(ips == 2, "prevResult came back as {answer}");
    let socket = json!("/nonexistent/agent.sock");
    let elsewhere = chain
        .clone()
        .with_culvert(json!({"type": "culvert-cni", "agentSocket": socket}));
    let error = refused(elsewhere.call_last("ADD", pod.sandbox(), &pod.ips()))?;
    ensure!(error.code == TRY_AGAIN_LATER, "{error}");
    Ok(())
}

/// An agent with the runtime's folders looks after its plugin there.
fn installed() -> Result<()> {
    let cluster = Cluster::start(&ClusterSpec::new("installed"))?;
    namespaces(&cluster)?;
    let node = cluster.node(1)?;
    let agent = node.agent()?;
    let pod = cluster.pod(&PodSpec::new(MESHED, "one"))?;
    let [bin, conf] = ["cni-bin", "cni-conf"].map(|name| node.directory().join(name));
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&conf)?;
    let lone = conf.join("10-pods.conf");
    fs::write(&lone, node.chain().network().to_string())?;
    let list = agent
        .settings()
        .directory
        .join("state/meshed-namespaces.json");
    let is_listed = || -> Result<()> {
        let told: Value = serde_json::from_slice(&fs::read(&list)?)?;
        ensure!(told["namespaces"] == json!([MESHED]), "{told}");
        Ok(())
    };
    poll::until("the namespace listed", LIMIT, is_listed)?;
    agent.stop()?;
    agent.change(|settings| {
        let flags = [("--cni-bin-dir", &bin), ("--cni-conf-dir", &conf)];
        for (flag, folder) in flags {
            settings.extra.push(format!("{flag}={}", folder.display()));
        }
    });
    agent.start_ready()?;
    let chain = || node.chain().in_folders(&conf, &bin);
    let is_chained = || -> Result<()> {
        let chain = chain()?;
        ensure!(
            chain.types() == ["bridge", "culvert-cni"],
            "{:?}",
            chain.types()
        );
        Ok(())
    };
    poll::until("the plugin installed", LIMIT, is_chained)?;
    ensure!(!lone.exists(), "the lone plugin still comes first");
    chain()?.call_last("ADD", pod.sandbox(), &pod.ips())?;
    // The network's maker writes its configuration again.
    fs::write(&lone, node.chain().network().to_string())?;
    poll::until("the plugin put back", LIMIT, || {
        ensure!(!lone.exists(), "the lone plugin comes first again");
        is_chained()
    })?;
    poll::until("the namespace still listed", LIMIT, is_listed)?;
    agent.stop()?;
    let error = refused(chain()?.call_last("ADD", pod.sandbox(), &pod.ips()))?;
    ensure!(error.code == TRY_AGAIN_LATER, "{error}");
    let mut stranger = pod.sandbox().clone();
    OUTSIDE.clone_into(&mut stranger.namespace);
    chain()?
        .call_last("ADD", &stranger, &pod.ips())
        .context("a pod outside the mesh waits for the agent")?;
    agent.start_ready()?;
    // An agent that still runs does not put it back.
    agent.release()?;
    ensure!(chain()?.types() == ["bridge"], "{:?}", chain()?.types());
    ensure!(fs::read_dir(&bin)?.next().is_none(), "the program is left");
    std::thread::sleep(Duration::from_millis(2500));
    ensure!(chain()?.types() == ["bridge"], "{:?}", chain()?.types());
    agent.stop()
}

fn churn(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    for round in 0..20 {
        let pod = cluster.pod(&PodSpec::new(MESHED, &format!("churn-{round}")))?;
        must_serve(&pod, scene.server.sockets(PORT)[round % 2])
            .with_context(|| format!("pod {round}"))?;
        pod.delete()?;
    }
    Ok(())
}
