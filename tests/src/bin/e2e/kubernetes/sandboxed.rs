//! A pod made step by step, as a runtime does it, so that steps can be left out.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use tests::cni::Sandbox;
use tests::manifests::{Manifests, PodManifest};
use tests::traffic::must_serve;
use tests::{Cluster, Node, Place};

use crate::scene::{MESHED, PORT, Scene};

/// A pod and what there is of it.
pub(crate) struct Sandboxed {
    /// Where it runs.
    pub(crate) node: Arc<Node>,
    /// Its network namespace.
    pub(crate) place: Place,
    /// What the runtime knows of it.
    pub(crate) sandbox: Sandbox,
    manifests: Manifests,
    manifest: Mutex<PodManifest>,
}

impl Sandboxed {
    /// Bound to a node, with a namespace of its own and nothing in it.
    pub(crate) fn prepare(
        cluster: &Cluster,
        node: u8,
        name: &str,
        uid: Option<&str>,
    ) -> Result<Self> {
        let node = Arc::clone(cluster.node(node)?);
        let attempt = uid.map_or("", |_| "-again");
        let short = format!("p-{MESHED}-{name}{attempt}");
        let names = cluster.run().name_files(MESHED)?;
        let place = Place::create(&cluster.run().namespace(&short), Some(names))?;
        let manifests = cluster.manifests().clone();
        manifests.account(MESHED, name)?;
        let fresh = uuid()?;
        let sandbox = Sandbox {
            id: format!("{}{}", uuid()?, uuid()?).replace('-', ""),
            netns: place.path(),
            namespace: MESHED.to_owned(),
            name: name.to_owned(),
            uid: uid.unwrap_or(&fresh).to_owned(),
            arguments: Vec::new(),
        };
        let manifest = PodManifest {
            namespace: MESHED.to_owned(),
            name: name.to_owned(),
            uid: sandbox.uid.clone(),
            account: name.to_owned(),
            node: node.name(),
            labels: Vec::new(),
            ports: Vec::new(),
            ips: Vec::new(),
            ready: true,
            host_network: false,
        };
        if uid.is_none() {
            manifests.write(&format!("pod-{MESHED}-{name}"), &manifest.yaml())?;
        }
        Ok(Self {
            node,
            place,
            sandbox,
            manifests,
            manifest: manifest.into(),
        })
    }

    /// The same, joined to the network and known with its addresses.
    pub(crate) fn start(
        cluster: &Cluster,
        node: u8,
        name: &str,
        uid: Option<&str>,
    ) -> Result<Self> {
        let pod = Self::prepare(cluster, node, name, uid)?;
        pod.add()?;
        Ok(pod)
    }

    /// ADD of a prepared pod; then its addresses are known.
    pub(crate) fn add(&self) -> Result<()> {
        let ips = self.node.chain().add(&self.sandbox, |_| Ok(()))?;
        self.told(ips)
    }

    /// The control plane is told its addresses.
    pub(crate) fn told(&self, ips: Vec<IpAddr>) -> Result<()> {
        let mut manifest = self.manifest();
        manifest.ips = ips;
        self.manifests.write(&self.file(), &manifest.yaml())
    }

    /// Its addresses, once it was added.
    pub(crate) fn ips(&self) -> Vec<IpAddr> {
        self.manifest().ips.clone()
    }

    /// Another pod in the same namespace, bound and not added, by an account that is there.
    pub(crate) fn other(&self, name: &str, account: &str) -> Result<Self> {
        let mut manifest = self.manifest().clone();
        manifest.name = name.to_owned();
        manifest.uid = uuid()?;
        manifest.account = account.to_owned();
        manifest.ips = Vec::new();
        let pod = Self {
            node: Arc::clone(&self.node),
            place: self.place.clone(),
            sandbox: Sandbox {
                id: format!("{}{}", uuid()?, uuid()?).replace('-', ""),
                name: name.to_owned(),
                uid: manifest.uid.clone(),
                ..self.sandbox.clone()
            },
            manifests: self.manifests.clone(),
            manifest: manifest.into(),
        };
        pod.manifests.write(&pod.file(), &pod.manifest().yaml())?;
        Ok(pod)
    }

    /// A port of it, in both families.
    pub(crate) fn sockets(&self, port: u16) -> Vec<SocketAddr> {
        let mut ips: Vec<IpAddr> = self.manifest().ips.clone();
        ips.sort();
        ips.into_iter()
            .map(|ip| SocketAddr::new(ip, port))
            .collect()
    }

    /// It reaches the scene's server.
    pub(crate) fn serves(&self, scene: &Scene) -> Result<()> {
        for to in scene.server.sockets(PORT) {
            must_serve(&self.place, to)?;
        }
        Ok(())
    }

    /// The object goes, whatever else is left.
    pub(crate) fn forget(&self) -> Result<()> {
        self.manifests.remove(&self.file())
    }

    /// DEL, and the namespace.
    pub(crate) fn stop(&self) -> Result<()> {
        self.node.chain().delete(&self.sandbox)?;
        self.place.delete()
    }

    /// DEL of a sandbox whose namespace is gone already, and the object.
    pub(crate) fn stop_gone(&self) -> Result<()> {
        self.node.chain().delete(&self.sandbox)?;
        self.forget()
    }

    fn file(&self) -> String {
        format!("pod-{MESHED}-{}", self.sandbox.name)
    }

    fn manifest(&self) -> MutexGuard<'_, PodManifest> {
        self.manifest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn uuid() -> Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(text.trim().to_owned())
}
