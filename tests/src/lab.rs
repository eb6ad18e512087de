//! The topology that demo, lab and bench share: two nodes and a handful of real pods.
//!
//! ```text
//!  node n1: client, intruder, cache (redis)      outsider (not meshed)
//!  node n2: web (nginx), echo place              outside-web (nginx, not meshed)
//! ```

mod door;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::apps::{Nginx, Redis};
use crate::cluster::{Cluster, ClusterSpec};
use crate::manifests::ServiceSpec;
use crate::pod::{Pod, PodSpec};
use crate::topology::Addresses;

pub use door::Door;

/// Namespace of the meshed pods.
pub const MESHED: &str = "demo";
/// Namespace of the others.
pub const OUTSIDE: &str = "outside";
/// Port of web.
pub const WEB_PORT: u16 = 80;
/// Port of cache.
pub const CACHE_PORT: u16 = 6379;

/// The running topology. Fields drop in order: applications, pods, cluster.
#[derive(Debug)]
pub struct Lab {
    /// nginx in `web`.
    pub web_app: Nginx,
    /// nginx in `outside-web`.
    pub outside_app: Nginx,
    /// redis in `cache`.
    pub cache_app: Redis,
    /// The client, on node 1.
    pub client: Pod,
    /// A meshed pod with a service account that nobody allows, on node 1.
    pub intruder: Pod,
    /// nginx, on node 2.
    pub web: Pod,
    /// redis, on node 1.
    pub cache: Pod,
    /// A pod outside the mesh, on node 1.
    pub outsider: Pod,
    /// nginx outside the mesh, on node 2.
    pub outside_web: Pod,
    /// Cluster IPs of service `web`.
    pub web_service: Addresses,
    /// Cluster IPs of service `cache`.
    pub cache_service: Addresses,
    /// Everything below.
    pub cluster: Cluster,
}

impl Lab {
    /// Starts it all.
    pub fn start(spec: &ClusterSpec) -> Result<Self> {
        let cluster = Cluster::start(spec)?;
        Self::fill(cluster, spec).context("filling the lab")
    }

    fn fill(cluster: Cluster, spec: &ClusterSpec) -> Result<Self> {
        cluster.manifests().namespace(MESHED, Some(true))?;
        cluster.manifests().namespace(OUTSIDE, None)?;
        let web_service = cluster.service(&ServiceSpec::new(MESHED, "web", WEB_PORT))?;
        let cache_service = cluster.service(&ServiceSpec::new(MESHED, "cache", CACHE_PORT))?;
        let pod = |namespace: &str, name: &str, node: u8| {
            let mut spec = PodSpec::new(namespace, name).on(node);
            spec.meshed = namespace == MESHED;
            cluster.pod(&spec)
        };
        let client = pod(MESHED, "client", 1)?;
        let intruder = pod(MESHED, "intruder", 1)?;
        let cache = pod(MESHED, "cache", 1)?;
        let web = pod(MESHED, "web", 2)?;
        let outsider = pod(OUTSIDE, "outsider", 1)?;
        let outside_web = pod(OUTSIDE, "outside-web", 2)?;
        let run = cluster.run();
        let lab = Self {
            web_app: Nginx::start(run, &web, "web", WEB_PORT)?,
            outside_app: Nginx::start(run, &outside_web, "outside-web", WEB_PORT)?,
            cache_app: Redis::start(run, &cache, "cache", CACHE_PORT)?,
            client,
            intruder,
            web,
            cache,
            outsider,
            outside_web,
            web_service,
            cache_service,
            cluster,
        };
        if spec.culvert {
            lab.cluster.settle()?;
        }
        Ok(lab)
    }

    /// The pods.
    pub fn pods(&self) -> [&Pod; 6] {
        [
            &self.client,
            &self.intruder,
            &self.cache,
            &self.web,
            &self.outsider,
            &self.outside_web,
        ]
    }

    /// What `--json` writes: everything a script needs to use the running lab.
    pub fn describe(&self) -> Value {
        json!({
            "schema": 1,
            "run": self.cluster.run().name(),
            "directory": self.cluster.run().directory(),
            "manifests": self.cluster.manifests().directory(),
            "logs": self.cluster.run().path("logs"),
            "hosts": self.cluster.run().path("hosts"),
            "resolvConf": self.cluster.run().path(format!("resolv-{MESHED}.conf")),
            "control": self.describe_control(),
            "nodes": self.cluster.nodes().iter().map(|node| describe_node(node)).collect::<Vec<_>>(),
            "pods": self.pods().map(describe_pod),
            "services": [
                { "name": "web", "namespace": MESHED, "port": WEB_PORT,
                  "addresses": [self.web_service.v4.to_string(), self.web_service.v6.to_string()] },
                { "name": "cache", "namespace": MESHED, "port": CACHE_PORT,
                  "addresses": [self.cache_service.v4.to_string(), self.cache_service.v6.to_string()] },
            ],
        })
    }

    fn describe_control(&self) -> Value {
        let Ok(control) = self.cluster.control() else {
            return Value::Null;
        };
        json!({
            "namespace": control.place().name(),
            "kubeconfig": self.cluster.manifests().server().map(|_| control.kubeconfig()),
            "url": control.url(),
            "rootCert": control.root_cert(),
            "pid": control.pid().ok(),
        })
    }
}

fn describe_node(node: &crate::node::Node) -> Value {
    let addresses = node.addresses();
    let agent = node.agent_if_any().map(|agent| {
        json!({
            "namespace": agent.place().name(),
            "pid": agent.pid().ok(),
            "adminSocket": agent.admin_socket(),
            "cniSocket": agent.cni_socket(),
            "bpffs": agent.bpffs(),
            "stateDir": agent.settings().directory.join("state"),
            "tokenFile": agent.settings().token_file,
            "log": agent.log_path(),
            "metricsPort": 15020,
            "readyPort": 15021,
        })
    });
    json!({
        "name": node.name(),
        "namespace": node.host().name(),
        "addresses": [addresses.v4.to_string(), addresses.v6.to_string()],
        "agent": agent,
    })
}

fn describe_pod(pod: &Pod) -> Value {
    let manifest = pod.manifest();
    json!({
        "name": manifest.name,
        "namespace": manifest.namespace,
        "serviceAccount": manifest.account,
        "node": manifest.node,
        "meshed": manifest.namespace == MESHED,
        "netns": pod.name(),
        "netnsPath": pod.path(),
        "containerId": pod.sandbox().id,
        "addresses": pod.ips().map(|ip| ip.to_string()),
    })
}

/// Writes a JSON document to a file.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
}
