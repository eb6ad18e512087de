//! `culvert gateway` as a process of a pod.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::pod::Pod;
use crate::poll;
use crate::process::Process;
use crate::programs::Programs;

/// A running gateway; killed when dropped.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    programs: Programs,
    directory: PathBuf,
}

impl Gateway {
    /// Starts the gateway `namespace/name` in `pod`. Returns before it serves.
    pub fn start(cluster: &Cluster, pod: &Pod, key: &str) -> Result<Self> {
        Self::start_with(cluster, pod, key, &[])
    }

    /// The same with more flags.
    pub fn start_with(cluster: &Cluster, pod: &Pod, key: &str, flags: &[&str]) -> Result<Self> {
        let programs = Programs::find()?;
        let control = cluster.control()?;
        let name = format!("gateway-{}", key.replace('/', "-"));
        let directory = cluster.run().path(&name);
        fs::create_dir_all(&directory).context("creating the gateway's folder")?;
        let token = directory.join("token");
        if !token.exists() {
            control.admit(key, &token)?;
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
            process: pod.spawn_command(&name, command)?,
            programs,
            directory,
        })
    }

    /// Its status.
    pub fn status(&self) -> Result<Value> {
        let mut command = Command::new(self.programs.culvert());
        command
            .args(["status", "--json", "--admin-socket"])
            .arg(self.directory.join("admin.sock"));
        let output = command.output().context("culvert status")?;
        ensure!(
            output.status.success(),
            "culvert status: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).context("culvert status --json")
    }

    /// Waits until the status is as told.
    pub fn wait(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<()> {
        poll::until(what, Duration::from_secs(20), || {
            self.process.must_run()?;
            let status = self.status()?;
            ensure!(is_so(&status), "not yet: {status}");
            Ok(())
        })
        .with_context(|| format!("log of the gateway:\n{}", self.process.log_tail(15)))
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
