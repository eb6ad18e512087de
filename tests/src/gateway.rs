//! `culvert gateway` as a process of a pod.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use agent_model::HBONE_PORT;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::http;
use crate::metrics::Metrics;
use crate::pod::Pod;
use crate::poll;
use crate::process::Process;
use crate::programs::Programs;

/// Port of its metrics.
const METRICS: u16 = 15020;

/// The classes that Gateways of Culvert are of, as they are installed.
pub const CLASSES: &str =
    include_str!("../../deploy/kubernetes/gateway-classes/gateway-classes.yaml");

/// The Gateway `app/edge` with one listener for HTTP on port 8000.
pub const EDGE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: app}
spec:
  gatewayClassName: culvert
  listeners: [{name: http, port: 8000, protocol: HTTP}]
";

/// Manifests of Gateways, and the [`CLASSES`] they are of before them.
pub fn with_classes(gateways: &str) -> String {
    format!("{CLASSES}---\n{gateways}")
}

/// The waypoint `namespace/name`.
pub fn waypoint(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  gatewayClassName: culvert-waypoint
  listeners: [{{name: mesh, port: {HBONE_PORT}, protocol: HBONE}}]
"
    )
}

/// A running gateway; killed when dropped.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    programs: Programs,
    directory: PathBuf,
}

impl Gateway {
    /// Starts the gateway `namespace/name` in `pod`, which runs as the account of that name. Returns
    /// before it serves.
    pub fn start(cluster: &Cluster, pod: &Pod, key: &str) -> Result<Self> {
        Self::start_with(cluster, pod, key, &[])
    }

    /// The same with more flags.
    pub fn start_with(cluster: &Cluster, pod: &Pod, key: &str, flags: &[&str]) -> Result<Self> {
        let name = format!("gateway-{}", key.replace('/', "-"));
        Self::start_as(cluster, pod, (key, &name), flags)
    }

    /// One of several processes of the same gateway, by a number of its own.
    pub fn start_replica(cluster: &Cluster, pod: &Pod, key: &str, number: usize) -> Result<Self> {
        let name = format!("gateway-{}-{number}", key.replace('/', "-"));
        Self::start_as(cluster, pod, (key, &name), &[])
    }

    fn start_as(
        cluster: &Cluster,
        pod: &Pod,
        (key, name): (&str, &str),
        flags: &[&str],
    ) -> Result<Self> {
        let programs = Programs::find()?;
        let control = cluster.control()?;
        let directory = cluster.run().path(name);
        fs::create_dir_all(&directory).context("creating the gateway's folder")?;
        let token = directory.join("token");
        if !token.exists() {
            control.admit_gateway(key, &pod.manifest(), &token)?;
        }
        let mut command = Command::new(programs.culvert());
        command
            .args(["gateway", "--gateway", key, "--xds-address", &control.url()])
            .arg("--root-cert")
            .arg(control.root_cert())
            .arg("--token-file")
            .arg(&token)
            .arg("--admin-socket")
            .arg(directory.join("admin.sock"))
            .args(["--workers", "1"])
            .args(flags);
        Ok(Self {
            process: pod.spawn_command(name, command)?,
            programs,
            directory,
        })
    }

    /// Its status.
    pub fn status(&self) -> Result<Value> {
        let status = self.say(&["status", "--json"])?;
        serde_json::from_str(&status).context("culvert status --json")
    }

    /// What `culvert` says of it, such as `routes`.
    pub fn say(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(self.programs.culvert());
        command.args(words).arg("--admin-socket");
        command.arg(self.admin_socket());
        let output = command.output().context("starting culvert")?;
        ensure!(
            output.status.success(),
            "culvert {words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).context("what culvert says is no text")
    }

    /// Its metrics; `pod` is the one that it runs in.
    pub fn metrics(&self, pod: &Pod) -> Result<Metrics> {
        let answer = http::get(
            pod.place(),
            (Ipv4Addr::LOCALHOST, METRICS).into(),
            "/metrics",
        )?;
        ensure!(answer.status == 200, "/metrics answers {}", answer.status);
        Ok(Metrics::new(answer.body))
    }

    /// Waits until the status is as told.
    pub fn wait(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<()> {
        poll::until(what, Duration::from_secs(30), || {
            self.process.must_run()?;
            let status = self.status()?;
            ensure!(is_so(&status), "not yet: {status}");
            Ok(())
        })
        .with_context(|| format!("log of the gateway:\n{}", self.process.log_tail(15)))
    }

    /// The socket of `culvert status` and `culvert routes`.
    pub fn admin_socket(&self) -> PathBuf {
        self.directory.join("admin.sock")
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
