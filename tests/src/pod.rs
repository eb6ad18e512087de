//! A pod: a network namespace made and joined to the network as a container runtime does it.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::process::Command;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};

use crate::cgroup::{Group, Pause};
use crate::cni::Sandbox;
use crate::manifests::{Manifests, PodManifest};
use crate::node::Node;
use crate::place::{Place, command_of};
use crate::process::Process;
use crate::run::Run;
use crate::topology::Addresses;

/// What a pod shall be.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// Namespace.
    pub namespace: String,
    /// Name; also the value of its label `app` unless changed.
    pub name: String,
    /// Service account; the pod's name unless changed.
    pub account: String,
    /// Number of its node, from 1.
    pub node: u8,
    /// Whether the runtime's call reaches the agent, where there is no API server: there it always
    /// does, and labels decide.
    pub meshed: bool,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// Named container ports.
    pub ports: Vec<(String, u16)>,
    /// Whether it is reported Ready.
    pub ready: bool,
}

impl PodSpec {
    /// A meshed, ready pod on node 1.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            account: name.to_owned(),
            node: 1,
            meshed: true,
            labels: vec![("app".to_owned(), name.to_owned())],
            ports: Vec::new(),
            ready: true,
        }
    }

    /// On another node.
    pub fn on(mut self, node: u8) -> Self {
        self.node = node;
        self
    }

    /// With another service account.
    pub fn account(mut self, account: &str) -> Self {
        self.account = account.to_owned();
        self
    }

    /// With another value of label `app`.
    pub fn app(mut self, app: &str) -> Self {
        self.labels.retain(|(key, _)| key != "app");
        self.labels.push(("app".to_owned(), app.to_owned()));
        self
    }

    /// With one more label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With a named container port.
    pub fn port(mut self, name: &str, port: u16) -> Self {
        self.ports.push((name.to_owned(), port));
        self
    }

    /// Not meshed: the runtime does not ask the agent.
    pub fn outside(mut self) -> Self {
        self.meshed = false;
        self
    }

    /// Not yet Ready.
    pub fn unready(mut self) -> Self {
        self.ready = false;
        self
    }
}

/// A running pod; removed when dropped. It derefs to its [`Place`].
#[derive(Debug)]
pub struct Pod {
    run: Run,
    place: Place,
    node: Arc<Node>,
    manifests: Manifests,
    manifest: Mutex<PodManifest>,
    sandbox: Sandbox,
    addresses: Addresses,
    /// With an API server: what runs in it, by which it is found.
    pause: Mutex<Option<Pause>>,
    deleted: Mutex<bool>,
}

impl Pod {
    /// Namespace, CNI ADD of the whole chain, manifest: in a runtime's and a kubelet's order.
    pub(crate) fn create(
        run: &Run,
        node: Arc<Node>,
        manifests: &Manifests,
        spec: &PodSpec,
    ) -> Result<Self> {
        let short = format!("p-{}-{}", spec.namespace, spec.name);
        let place = Place::create(
            &run.namespace(&short),
            Some(run.name_files(&spec.namespace)?),
        )?;
        manifests.account(&spec.namespace, &spec.account)?;
        let cluster = manifests.server().is_some();
        let sandbox = sandbox_of(&place, spec, cluster)?;
        let mut manifest = manifest_of(spec, &node, &sandbox);
        if cluster {
            // A pod is bound to its node before there is a sandbox.
            manifests.write(&file_of(&manifest), &manifest.yaml())?;
        }
        let added = node.chain().add(&sandbox, |ips| {
            manifest.ips = ips.to_vec();
            if cluster {
                return Ok(());
            }
            manifests.write(&file_of(&manifest), &manifest.yaml())
        });
        let ips = match added {
            Ok(ips) => ips,
            Err(error) => {
                let _ = manifests.remove(&file_of(&manifest));
                let _ = place.delete();
                return Err(error).with_context(|| format!("adding pod {}", spec.name));
            }
        };
        let pod = Self {
            run: run.clone(),
            place,
            node,
            manifests: manifests.clone(),
            manifest: Mutex::new(manifest),
            sandbox,
            addresses: both_families(&ips)?,
            pause: Mutex::default(),
            deleted: Mutex::new(false),
        };
        if cluster {
            // Containers start, and addresses are told, when the sandbox is complete.
            let name = format!("{}-{}-pause", spec.namespace, spec.name);
            let pause = Group::of_pod(run, &pod.sandbox.uid)?.hold(run, &pod.place, &name)?;
            *lock(&pod.pause) = Some(pause);
            pod.update(|_| {})?;
        }
        Ok(pod)
    }

    /// Its addresses.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Its addresses as a list, IPv4 first: what "every case in both families" loops over.
    pub fn ips(&self) -> [IpAddr; 2] {
        [self.addresses.v4.into(), self.addresses.v6.into()]
    }

    /// A port of it, in both families.
    pub fn sockets(&self, port: u16) -> [SocketAddr; 2] {
        self.ips().map(|ip| SocketAddr::new(ip, port))
    }

    /// Its node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Its network namespace.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What the runtime knows of it.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// What the control plane is told of it.
    pub fn manifest(&self) -> PodManifest {
        lock(&self.manifest).clone()
    }

    /// Changes what the control plane is told of it.
    pub fn update(&self, edit: impl FnOnce(&mut PodManifest)) -> Result<()> {
        let mut manifest = lock(&self.manifest);
        edit(&mut manifest);
        self.manifests.write(&file_of(&manifest), &manifest.yaml())
    }

    /// Starts a program in the pod; its log is `logs/POD-NAME.log`.
    pub fn spawn(&self, name: &str, command: &[&str]) -> Result<Process> {
        self.spawn_command(name, command_of(command)?)
    }

    /// As [`Pod::spawn`], for a prepared command.
    pub fn spawn_command(&self, name: &str, command: Command) -> Result<Process> {
        let name = format!("{}-{name}", self.sandbox.name);
        Process::spawn(&self.run, &self.place, &name, command)
    }

    /// The process that holds its namespace, where there is one: with an API server.
    pub fn process(&self) -> Option<u32> {
        lock(&self.pause).as_ref().map(Pause::pid)
    }

    /// CNI CHECK.
    pub fn check_cni(&self) -> Result<()> {
        self.node.chain().check(&self.sandbox, &self.ips())
    }

    /// Removes it as a runtime does: CNI DEL in reverse, the namespace, the manifest.
    pub fn delete(&self) -> Result<()> {
        let mut deleted = lock(&self.deleted);
        if *deleted {
            return Ok(());
        }
        *deleted = true;
        // Containers end first.
        drop(lock(&self.pause).take());
        let plugins = self.node.chain().delete(&self.sandbox);
        let namespace = self.place.delete();
        let manifest = self.manifests.remove(&file_of(&lock(&self.manifest)));
        plugins.and(namespace).and(manifest)
    }
}

impl Deref for Pod {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Err(error) = self.delete() {
            eprintln!("removing pod {}: {error:#}", self.sandbox.name);
        }
    }
}

fn sandbox_of(place: &Place, spec: &PodSpec, cluster: bool) -> Result<Sandbox> {
    let uid = uuid()?;
    let mut arguments = Vec::new();
    if !spec.meshed && !cluster {
        arguments.push("CULVERT_MESH=disabled".to_owned());
    }
    Ok(Sandbox {
        // Container ids are 64 hexadecimal digits.
        id: format!("{}{}", uuid()?, uuid()?).replace('-', ""),
        netns: place.path(),
        namespace: spec.namespace.clone(),
        name: spec.name.clone(),
        uid,
        arguments,
    })
}

fn manifest_of(spec: &PodSpec, node: &Node, sandbox: &Sandbox) -> PodManifest {
    PodManifest {
        namespace: spec.namespace.clone(),
        name: spec.name.clone(),
        uid: sandbox.uid.clone(),
        account: spec.account.clone(),
        node: node.name(),
        labels: spec.labels.clone(),
        ports: spec.ports.clone(),
        ips: Vec::new(),
        ready: spec.ready,
        host_network: false,
    }
}

fn file_of(manifest: &PodManifest) -> String {
    format!("pod-{}-{}", manifest.namespace, manifest.name)
}

fn both_families(ips: &[IpAddr]) -> Result<Addresses> {
    let v4 = ips.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });
    let v6 = ips.iter().find_map(|ip| match ip {
        IpAddr::V6(ip) => Some(*ip),
        IpAddr::V4(_) => None,
    });
    Ok(Addresses {
        v4: v4.context("the pod got no IPv4 address")?,
        v6: v6.context("the pod got no IPv6 address")?,
    })
}

fn uuid() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")
        .context("reading randomness")?
        .trim()
        .to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
