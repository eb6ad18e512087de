//! The node agent with what its manifest grants, and with less.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tests::agent::Agent;
use tests::process::Process;
use tests::server::{Behaviour, Server};
use tests::traffic::{echo_on, must_refuse, must_serve, wait_closed};
use tests::{Cluster, Node, Pod, PodSpec, poll};

use crate::scene::{MESHED, PORT, Scene};
use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[shared(
    "privilege: the manifest's capabilities are enough, and each is needed",
    capabilities,
)];

const MANIFEST: &str = include_str!("../../../../deploy/kubernetes/base/node.yaml");
const LIMIT: Duration = Duration::from_secs(4);
/// Whose the runtime's folders are: `nobody` stands for the user of whatever unpacked them.
const OWNER: u32 = 65534;

fn capabilities(cluster: &Cluster) -> Result<()> {
    let granted = granted(MANIFEST)?;
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let node = cluster.node(1)?;
    let agent = node.agent()?;
    // On a real node the host's namespace is that of a process with every capability there is.
    let mut sleep = std::process::Command::new("sleep");
    sleep.arg("infinity");
    let host = Process::spawn(cluster.run(), node.host(), "host-process", sleep)?;
    let before = agent.settings();
    let folders = Folders::of(node)?;
    let host_netns = PathBuf::from(format!("/proc/{}/ns/net", host.pid()));
    agent.change(|settings| settings.extra.extend(folders.flags()));
    let tried = |capabilities: &BTreeSet<String>| {
        folders.reset(node)?;
        restarted(agent, capabilities, &host_netns)?;
        folders.has_plugin()?;
        works(cluster, &scene)
    };
    let mut outcome = tried(&granted).context("with all that the manifest grants");
    for one in &granted {
        if outcome.is_err() {
            break;
        }
        let fewer: BTreeSet<String> = granted
            .iter()
            .filter(|name| *name != one)
            .cloned()
            .collect();
        match tried(&fewer) {
            Ok(()) => outcome = Err(anyhow::anyhow!("{one} is granted and not needed")),
            Err(error) => {
                let why = error.root_cause().to_string();
                println!(
                    "  without {one}: {}",
                    why.lines().next().unwrap_or_default()
                );
            }
        }
    }
    let _ = agent.kill9();
    agent.change(|settings| *settings = before);
    agent.start_ready()?;
    host.kill9()?;
    outcome
}

/// The runtime's folders, which belong to somebody else than root.
struct Folders {
    bin: PathBuf,
    conf: PathBuf,
}

impl Folders {
    fn of(node: &Node) -> Result<Self> {
        let [bin, conf] = ["foreign-bin", "foreign-conf"].map(|name| node.directory().join(name));
        for folder in [&bin, &conf] {
            fs::create_dir_all(folder)?;
            chown(folder, Some(OWNER), Some(OWNER))?;
        }
        Ok(Self { bin, conf })
    }

    fn flags(&self) -> [String; 2] {
        let flag = |name: &str, folder: &Path| format!("--{name}={}", folder.display());
        [
            flag("cni-bin-dir", &self.bin),
            flag("cni-conf-dir", &self.conf),
        ]
    }

    /// As they are before anything is installed.
    fn reset(&self, node: &Node) -> Result<()> {
        for folder in [&self.bin, &self.conf] {
            for entry in fs::read_dir(folder)? {
                fs::remove_file(entry?.path())?;
            }
        }
        let mut plugin = node.chain().network();
        let version = plugin["cniVersion"].take();
        let list = json!({ "cniVersion": version, "name": "pods", "plugins": [plugin] });
        let file = self.configuration();
        fs::write(&file, list.to_string())?;
        chown(&file, Some(OWNER), Some(OWNER))?;
        Ok(())
    }

    fn has_plugin(&self) -> Result<()> {
        poll::until("the plugin installed", LIMIT, || {
            let text = fs::read_to_string(self.configuration())?;
            ensure!(
                text.contains("culvert-cni") && self.bin.join("culvert-cni").exists(),
                "the runtime's folders of another user"
            );
            Ok(())
        })
    }

    fn configuration(&self) -> PathBuf {
        self.conf.join("10-pods.conflist")
    }
}

/// Starts the agent anew with these capabilities.
fn restarted(agent: &Agent, capabilities: &BTreeSet<String>, host_netns: &PathBuf) -> Result<()> {
    // It may have ended by itself.
    let _ = agent.kill9();
    agent.change(|settings| {
        settings.capabilities = Some(capabilities.iter().cloned().collect());
        settings.host_netns.clone_from(host_netns);
    });
    agent.start()?;
    agent.wait_ready(LIMIT)
}

/// What was enrolled is served, a new pod is enrolled and let go of, STRICT is enforced, on
/// connections that are older too.
fn works(cluster: &Cluster, scene: &Scene) -> Result<()> {
    let late = cluster.pod(&PodSpec::new(MESHED, "late").outside())?;
    let closed = closes_older(&late, scene);
    late.delete()?;
    closed?;
    let fresh = cluster.pod(&PodSpec::new(MESHED, "fresh"))?;
    let tried = cluster.settle().and_then(|()| {
        for to in scene.server.sockets(PORT) {
            must_serve(&scene.client, to)?;
            must_serve(&fresh, to)?;
        }
        let _server = Server::start(&fresh, PORT, Behaviour::Echo)?;
        for to in fresh.sockets(PORT) {
            must_serve(&scene.server, to)?;
            must_refuse(&scene.outsider, to)?;
        }
        Ok(())
    });
    let deleted = fresh.delete();
    tried.and(deleted)
}

/// A pod that is enrolled when a plain connection into it is open already.
fn closes_older(late: &Pod, scene: &Scene) -> Result<()> {
    let _server = Server::start(late, PORT, Behaviour::Echo)?;
    let mut old = Vec::new();
    for to in late.sockets(PORT) {
        let mut stream = scene.outsider.connect(to, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        echo_on(&mut stream, b"before enrolment")?;
        old.push(stream);
    }
    let mut sandbox = late.sandbox().clone();
    sandbox.arguments.clear();
    let chain = late.node().chain();
    chain.call_last("ADD", &sandbox, &late.ips())?;
    for stream in &mut old {
        wait_closed(stream, Duration::from_secs(2)).context("STRICT refuses it")?;
    }
    Ok(())
}

/// The list below `add:` of the container's capabilities.
fn granted(manifest: &str) -> Result<BTreeSet<String>> {
    let (_, list) = manifest
        .split_once("              add:\n")
        .context("no capabilities in the manifest")?;
    let mut found = BTreeSet::new();
    for line in list.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("- ") {
            found.insert(name.to_lowercase());
        } else if !line.starts_with('#') {
            break;
        }
    }
    ensure!(!found.is_empty(), "the list is empty");
    if !found.iter().all(|name| {
        name.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    }) {
        bail!("not capabilities: {found:?}");
    }
    Ok(found)
}
