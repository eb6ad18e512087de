//! A gateway in front of the lab: where people outside the mesh come in.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::{Lab, MESHED, describe_pod};
use crate::gateway::{CLASSES, Gateway};
use crate::pod::{Pod, PodSpec};

const NAME: &str = "gateway";
/// Port of its listener.
const PORT: u16 = 80;

/// A running gateway, a process in a pod of its own. Fields drop in order.
#[derive(Debug)]
pub struct Door {
    gateway: Gateway,
    pod: Pod,
}

impl Door {
    /// Name of the manifest with its Gateway and its route.
    pub const MANIFEST: &str = "lab-gateway";

    /// Starts it and waits until it serves.
    pub fn open(lab: &Lab) -> Result<Self> {
        let cluster = &lab.cluster;
        // A gateway speaks for itself: its pod is not captured.
        let spec = PodSpec::new(MESHED, NAME).label("culvert.dev/mesh", "disabled");
        let pod = cluster.pod(&spec.outside())?;
        cluster.apply("lab-classes", CLASSES)?;
        cluster.apply(Self::MANIFEST, OBJECTS)?;
        let gateway = Gateway::start(cluster, &pod, &format!("{MESHED}/{NAME}"))?;
        gateway.wait("the lab's gateway in force", |status| {
            status["ports"] == json!([PORT])
        })?;
        Ok(Self { gateway, pod })
    }

    /// Where it is reached, IPv4 first.
    pub fn urls(&self) -> [String; 2] {
        self.pod.sockets(PORT).map(|to| format!("http://{to}/"))
    }

    /// The socket of `culvert status` and `culvert routes`.
    pub fn admin_socket(&self) -> PathBuf {
        self.gateway.admin_socket()
    }

    /// Where its access log goes.
    pub fn log_path(&self) -> &Path {
        self.gateway.process().log_path()
    }

    /// What `--json` writes.
    pub fn describe(&self) -> Value {
        let mut pod = describe_pod(&self.pod);
        pod["meshed"] = json!(false);
        json!({
            "pod": pod,
            "urls": self.urls(),
            "host": "web.example",
            "pid": self.gateway.process().pid(),
            "adminSocket": self.admin_socket(),
            "log": self.log_path(),
            "manifest": Self::MANIFEST,
        })
    }
}

const OBJECTS: &str = "# To try: another path, a weight, a filter. An edit counts at once.
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gateway, namespace: demo}
spec:
  gatewayClassName: culvert
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: demo}
spec:
  parentRefs: [{name: gateway}]
  hostnames: [web.example]
  rules:
  - backendRefs: [{name: web, port: 80}]
";
