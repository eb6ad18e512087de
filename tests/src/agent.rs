//! `culvert node` as a supervised process, and what it says of itself.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::http;
use crate::metrics::Metrics;
use crate::operator;
use crate::place::Place;
use crate::poll;
use crate::process::{Process, rss_of};
use crate::programs::Programs;
use crate::run::Run;
use crate::supervised::Supervised;

const METRICS_PORT: u16 = 15020;
const READY_PORT: u16 = 15021;

/// How an agent is started.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// Node name.
    pub node: String,
    /// URL of the control plane.
    pub control: String,
    /// URL of the certificate service; `None`: the control plane's.
    pub ca: Option<String>,
    /// Its root certificate.
    pub root_cert: PathBuf,
    /// The node's token.
    pub token_file: PathBuf,
    /// The node's host network namespace.
    pub host_netns: PathBuf,
    /// Folder of the node's files: state, pins, sockets.
    pub directory: PathBuf,
    /// Where cgroup2 is mounted.
    pub cgroup_root: PathBuf,
    /// Worker threads.
    pub workers: usize,
    /// Flags after all others.
    pub extra: Vec<String>,
    /// Capabilities it may have at most, in lower case without `cap_`; `None`: those of the harness.
    pub capabilities: Option<Vec<String>>,
}

/// The agent of one node. It may be running or not.
#[derive(Debug)]
pub struct Agent {
    run: Run,
    programs: Programs,
    place: Place,
    settings: Mutex<AgentSettings>,
    process: Supervised,
    /// How much of the log is of no interest any more, in bytes.
    forgotten: AtomicUsize,
}

impl Agent {
    /// Prepares the agent's files; starts nothing.
    pub fn prepare(
        run: &Run,
        programs: &Programs,
        place: Place,
        settings: AgentSettings,
    ) -> Result<Self> {
        for folder in ["state", "bpf"] {
            let path = settings.directory.join(folder);
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        Ok(Self {
            run: run.clone(),
            programs: programs.clone(),
            place,
            settings: Mutex::new(settings),
            process: Supervised::new("the agent"),
            forgotten: AtomicUsize::new(0),
        })
    }

    /// Starts it and returns at once.
    pub fn start(&self) -> Result<()> {
        let name = format!("agent-{}", self.settings().node);
        self.process
            .start(|| Process::spawn(&self.run, &self.place, &name, self.command(&[])))
    }

    /// Starts it and waits until it is ready.
    pub fn start_ready(&self) -> Result<()> {
        self.start()?;
        self.wait_ready(Duration::from_secs(40))
    }

    /// Waits for the readiness port to answer 200.
    pub fn wait_ready(&self, limit: Duration) -> Result<()> {
        poll::until("agent ready", limit, || {
            self.must_run()?;
            let (status, body) = self.readiness()?;
            ensure!(status == 200, "not ready: {}", body.trim());
            Ok(())
        })
        .with_context(|| format!("log of {}:\n{}", self.settings().node, self.log_tail(15)))
    }

    /// Starts a second agent with the same flags and waits until it has taken the node over. The
    /// first is given back; it drains and ends.
    pub fn hand_over(&self) -> Result<Process> {
        let before = self.generation()?;
        let first = self.replace()?;
        poll::until("the second agent serves", Duration::from_secs(60), || {
            self.must_run()?;
            let now = self.generation()?;
            ensure!(now > before, "still generation {now}");
            Ok(())
        })
        .with_context(|| format!("log:\n{}", self.log_tail(20)))?;
        self.wait_ready(Duration::from_secs(40))?;
        Ok(first)
    }

    /// Starts a second agent with the same flags and returns at once, with the first.
    pub fn replace(&self) -> Result<Process> {
        self.replace_with(|_| Ok(()))
    }

    fn replace_with(&self, before: impl FnOnce(&Process) -> Result<()>) -> Result<Process> {
        let name = format!("agent-{}", self.settings().node);
        let spawn = || Process::spawn(&self.run, &self.place, &name, self.command(&[]));
        self.process.replace(before, spawn)
    }

    /// Stops the agent as a hang would, and starts a second one. The first is given back.
    pub fn replace_hung(&self) -> Result<Process> {
        self.replace_with(|first| first.signal(Signal::SIGSTOP))
    }

    /// Runs a second agent with more flags to its end; its exit code. The first stays what it is.
    pub fn run_beside(&self, more: &[String], limit: Duration) -> Result<Option<i32>> {
        let name = format!("agent-{}-beside", self.settings().node);
        let second = Process::spawn(&self.run, &self.place, &name, self.command(more))?;
        Ok(second.wait_end(limit)?.code())
    }

    /// A second agent of the node in a namespace of its own, as the pods of an update are. Not
    /// started.
    pub fn beside(&self, place: Place) -> Result<Self> {
        Self::prepare(&self.run, &self.programs, place, self.settings())
    }

    /// Waits for a clean end of its own.
    pub fn wait_end(&self, limit: Duration) -> Result<()> {
        self.process.wait_end(limit)
    }

    /// What the readiness port answers.
    pub fn readiness(&self) -> Result<(u16, String)> {
        let answer = http::get(&self.place, local(READY_PORT), "/healthz/ready")?;
        Ok((answer.status, answer.body))
    }

    /// How many agents have owned the node's kernel side.
    pub fn generation(&self) -> Result<u64> {
        let status = self.status()?;
        status["generation"].as_u64().context("no generation")
    }

    /// SIGKILL; nothing of it runs any more when this returns.
    pub fn kill9(&self) -> Result<()> {
        self.process.kill9()
    }

    /// SIGTERM and the wait for a clean end.
    pub fn stop(&self) -> Result<()> {
        self.process.stop(Duration::from_secs(30))
    }

    /// Runs `culvert node --release` with the agent's own flags.
    pub fn release(&self) -> Result<()> {
        self.run_release(self.command(&["--release".to_owned()]))
    }

    /// The same by the variable, as `kubectl set env` says it to the agents of a cluster.
    pub fn release_by_variable(&self) -> Result<()> {
        let mut command = self.command(&[]);
        command.env("CULVERT_RELEASE", "true");
        self.run_release(command)
    }

    fn run_release(&self, command: Command) -> Result<()> {
        let output = self
            .place
            .run_command(command, "", Duration::from_secs(30))?;
        ensure!(
            output.ok(),
            "--release: {:?} {}{}",
            output.code,
            output.stdout,
            output.stderr
        );
        Ok(())
    }

    /// Changes how it is started the next time.
    pub fn change(&self, edit: impl FnOnce(&mut AgentSettings)) {
        edit(&mut lock(&self.settings));
    }

    /// The settings of the next start.
    pub fn settings(&self) -> AgentSettings {
        lock(&self.settings).clone()
    }

    /// Whether it runs.
    pub fn running(&self) -> bool {
        self.must_run().is_ok()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Its pid.
    pub fn pid(&self) -> Result<u32> {
        self.process.pid()
    }

    /// Everything it has logged, over restarts, since [`Agent::forget_log`].
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        let from = self.forgotten.load(Ordering::Relaxed).min(bytes.len());
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }

    /// Lets [`Agent::log`] begin here, so that a case does not find the lines of another.
    pub fn forget_log(&self) {
        let length = fs::metadata(self.log_path()).map_or(0, |file| file.len());
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.forgotten.store(length, Ordering::Relaxed);
    }

    /// Where it logs.
    pub fn log_path(&self) -> PathBuf {
        self.run.log(&format!("agent-{}", self.settings().node))
    }

    /// The end of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Access-log lines (as text) that contain each of `parts`.
    pub fn log_lines(&self, parts: &[&str]) -> Vec<String> {
        self.log()
            .lines()
            .filter(|line| parts.iter().all(|part| line.contains(part)))
            .map(str::to_owned)
            .collect()
    }

    /// Waits for a log line that contains each of `parts`.
    pub fn wait_log(&self, parts: &[&str], limit: Duration) -> Result<String> {
        poll::until("log line", limit, || {
            let mut lines = self.log_lines(parts);
            lines
                .pop()
                .with_context(|| format!("no line with {parts:?}"))
        })
    }

    /// The namespace it runs in.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.settings().directory.join("admin.sock")
    }

    /// The socket the CNI plugin calls.
    pub fn cni_socket(&self) -> PathBuf {
        self.settings().directory.join("cni.sock")
    }

    /// The name servers it asks itself; none until a test writes the file.
    pub fn resolv_conf(&self) -> PathBuf {
        self.settings().directory.join("resolv.conf")
    }

    /// The folder of the node's pins.
    pub fn bpffs(&self) -> PathBuf {
        self.settings().directory.join("bpf")
    }

    /// `culvert status --json`.
    pub fn status(&self) -> Result<Value> {
        self.json(&["status", "--json"])
    }

    /// `culvert config-dump`.
    pub fn config_dump(&self) -> Result<Value> {
        self.json(&["config-dump"])
    }

    /// An operator's verb against this agent's admin socket; gives back what it printed.
    pub fn verb(&self, words: &[&str]) -> Result<String> {
        operator::verb(&self.programs, &self.place, &self.admin_socket(), words)
    }

    fn json(&self, words: &[&str]) -> Result<Value> {
        operator::json(words, &self.verb(words)?)
    }

    /// A scrape of the metrics port.
    pub fn metrics(&self) -> Result<Metrics> {
        let answer = http::get(&self.place, local(METRICS_PORT), "/metrics")?;
        ensure!(answer.status == 200, "metrics answered {}", answer.status);
        Ok(Metrics::new(answer.body))
    }

    /// Open file descriptors of the process, but for those by which each of its threads finds
    /// back to the agent's own namespace: threads of the runtime come and go as they like.
    pub fn fds(&self) -> Result<usize> {
        let process = PathBuf::from(format!("/proc/{}", self.pid()?));
        let home = fs::read_link(process.join("ns/net")).context("the agent's namespace")?;
        let descriptors = fs::read_dir(process.join("fd")).context("the agent's descriptors")?;
        Ok(descriptors
            .flatten()
            .filter(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|to| to != home))
            .count())
    }

    /// Everything pinned in the node's bpffs. What an agent has in the kernel is held by a
    /// descriptor or by a pin, so both counts together miss nothing.
    pub fn pins(&self) -> usize {
        files_below(&self.bpffs())
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> Result<u64> {
        rss_of(self.pid()?)
    }

    fn must_run(&self) -> Result<()> {
        self.process.must_run()
    }

    /// culvert, with fewer capabilities than the harness where some are named; setpriv(1) becomes
    /// it, so that the process stays one.
    fn program(&self, capabilities: Option<&[String]>) -> Command {
        let Some(capabilities) = capabilities else {
            return Command::new(self.programs.culvert());
        };
        let kept = capabilities.iter().map(|name| format!(",+{name}"));
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--bounding-set=-all{}", kept.collect::<String>()))
            .args(["--inh-caps=-all", "--no-new-privs", "--"])
            .arg(self.programs.culvert());
        command
    }

    fn command(&self, more: &[String]) -> Command {
        let settings = self.settings();
        let mut command = self.program(settings.capabilities.as_deref());
        let any = Ipv6Addr::UNSPECIFIED;
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("RUST_BACKTRACE", "1")
            .env(
                "RUST_LOG",
                std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into()),
            )
            .arg("node")
            .args(["--node-name", &settings.node])
            .args(["--xds-address", &settings.control])
            .arg("--ca-address")
            .arg(settings.ca.as_ref().unwrap_or(&settings.control))
            .arg("--root-cert")
            .arg(&settings.root_cert)
            .arg("--token-file")
            .arg(&settings.token_file)
            .arg("--state-dir")
            .arg(settings.directory.join("state"))
            .arg("--bpffs")
            .arg(settings.directory.join("bpf"))
            .arg("--cgroup-root")
            .arg(&settings.cgroup_root)
            .arg("--host-netns")
            .arg(&settings.host_netns)
            .arg("--cni-socket")
            .arg(settings.directory.join("cni.sock"))
            .arg("--admin-socket")
            .arg(settings.directory.join("admin.sock"))
            .args(["--metrics-listen", &format!("[{any}]:{METRICS_PORT}")])
            .args(["--ready-listen", &format!("[{any}]:{READY_PORT}")])
            .args(["--trust-domain", crate::TRUST_DOMAIN])
            .args(["--cluster-id", crate::CLUSTER_ID])
            .arg("--resolv-conf")
            .arg(settings.directory.join("resolv.conf"))
            .args(["--workers", &settings.workers.to_string()])
            .args(&settings.extra)
            .args(more);
        command
    }
}

fn files_below(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path()),
            _ => 1,
        })
        .sum()
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::LOCALHOST, port))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
