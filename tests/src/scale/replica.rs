//! One `culvert control` in a process of its own.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Settings;
use super::objects::node_name;
use crate::apiserver::ApiServer;
use crate::process::cpu_of;
use crate::{TRUST_DOMAIN, poll};

/// A running control plane; killed when dropped. Replicas share the issuer that is kept in the
/// cluster, and with it the root that nodes trust.
#[derive(Debug)]
pub(super) struct Replica {
    child: std::sync::Mutex<Child>,
    pid: u32,
    address: SocketAddr,
    log: PathBuf,
    culvert: PathBuf,
    socket: PathBuf,
    started: Instant,
}

/// The bearer token of a node of this run; nothing else is behind it.
pub(super) fn token(node: &str) -> String {
    format!("scale-token-of-{node}")
}

impl Replica {
    pub(super) fn start(settings: &Settings, server: &ApiServer, name: &str) -> Result<Self> {
        let directory = &settings.directory;
        fs::create_dir_all(directory).context("the folder of the run")?;
        let kubeconfig = directory.join("kubeconfig");
        server.write_kubeconfig(&kubeconfig)?;
        let tokens = directory.join("node-tokens");
        write_tokens(&tokens, settings.agents)?;
        let address = free_address()?;
        let log = directory.join(format!("{name}.log"));
        let socket = directory.join(format!("{name}.sock"));
        let output = File::create(&log).context("the log file")?;
        let mut command = Command::new(&settings.culvert);
        command
            .args(["control", "--kubernetes", "--serving-names", "127.0.0.1"])
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .arg("--node-tokens")
            .arg(&tokens)
            .arg("--state-dir")
            .arg(directory.join(name))
            .arg("--admin-socket")
            .arg(&socket)
            .args(["--listen", &address.to_string()])
            .args(["--metrics-listen", &free_address()?.to_string()])
            .args(["--trust-domain", TRUST_DOMAIN])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = command
            .spawn()
            .with_context(|| format!("starting {}", settings.culvert.display()))?;
        Ok(Self {
            pid: child.id(),
            child: std::sync::Mutex::new(child),
            address,
            log,
            culvert: settings.culvert.clone(),
            socket,
            started: Instant::now(),
        })
    }

    /// Waits until nodes are served; the time since the start.
    pub(super) fn wait_serving(&self, patience: Duration) -> Result<Duration> {
        poll::until("control plane serving", patience, || {
            let mut child = self
                .child
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let ended = child.try_wait()?;
            ensure!(ended.is_none(), "it ended: {}", self.log_tail());
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            ensure!(
                log.contains("control plane serves"),
                "it has not read the cluster yet"
            );
            TcpStream::connect(self.address)?;
            Ok(())
        })?;
        Ok(self.started.elapsed())
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes of memory, by a word of `/proc/PID/status`.
    pub(super) fn memory(&self, word: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find(|line| line.starts_with(word));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
        let kilobytes: u64 = kilobytes.context("a process's memory")?.parse()?;
        Ok(kilobytes * 1024)
    }

    /// Processor time used so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        cpu_of(self.pid)
    }

    /// What its status says of the conditions of objects, once all are written.
    pub(super) fn conditions(&self, limit: Duration) -> Result<Value> {
        poll::until("conditions are written", limit, || {
            let mut command = Command::new(&self.culvert);
            command.args(["status", "--json", "--admin-socket"]);
            let output = command.arg(&self.socket).output()?;
            let status: Value = serde_json::from_slice(&output.stdout)
                .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
            let conditions = &status["conditions"];
            ensure!(conditions["unwritten"] == 0, "{conditions}");
            Ok(conditions.clone())
        })
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(10).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        let child = child.unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn write_tokens(file: &Path, nodes: usize) -> Result<()> {
    let lines = (0..nodes).map(node_name);
    let lines = lines.map(|node| format!("{} {node}\n", token(&node)));
    let text: String = lines.collect();
    let mut options = File::options();
    let options = options.create(true).truncate(true).write(true).mode(0o600);
    let mut file = options.open(file).context("the node tokens")?;
    std::io::Write::write_all(&mut file, text.as_bytes()).context("the node tokens")
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("a free port")?;
    Ok(listener.local_addr()?)
}
