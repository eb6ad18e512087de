//! `culvert control` as a supervised process in a namespace of its own.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::apiserver::ApiServer;
use crate::command::Output;
use crate::manifests::{Manifests, PodManifest};
use crate::operator;
use crate::place::Place;
use crate::poll;
use crate::process::Process;
use crate::programs::Programs;
use crate::run::Run;
use crate::supervised::Supervised;
use crate::topology::{CONTROL_HOST, underlay};

const PORT: u16 = 15012;
/// From the port of a replica to that of its metrics.
const METRICS: u16 = 2;
/// Namespace of an installed Culvert.
pub const SYSTEM: &str = "culvert-system";
/// ConfigMap of the root certificates, and the key in it.
pub const BUNDLE: &str = "culvert-ca-root-cert";
const BUNDLE_KEY: &str = "root-cert.pem";
/// Of tokens for the control plane, and their life: as in the DaemonSet.
const AUDIENCE: &str = "culvert";
const TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// The control plane. It may be running or not.
#[derive(Debug)]
pub struct Control {
    run: Run,
    programs: Programs,
    place: Place,
    manifests: Manifests,
    directory: PathBuf,
    port: u16,
    certificate_ttl: Mutex<Duration>,
    extra: Mutex<Vec<String>>,
    tokens: Mutex<Vec<(String, String)>>,
    process: Supervised,
}

impl Control {
    /// Prepares its files; starts nothing.
    pub fn prepare(
        run: &Run,
        programs: &Programs,
        place: Place,
        manifests: &Manifests,
        certificate_ttl: Duration,
    ) -> Result<Self> {
        let directory = run.path("control");
        fs::create_dir_all(&directory).context("creating the control plane's folder")?;
        if let Some(server) = manifests.server() {
            install(server, programs, &place)?;
            let kubeconfig = server.account_kubeconfig(SYSTEM, "culvert-control", TOKEN_LIFE)?;
            write_secret(&directory.join("kubeconfig"), &kubeconfig)?;
        }
        Ok(Self {
            run: run.clone(),
            programs: programs.clone(),
            place,
            manifests: manifests.clone(),
            directory,
            port: PORT,
            certificate_ttl: Mutex::new(certificate_ttl),
            extra: Mutex::default(),
            tokens: Mutex::default(),
            process: Supervised::new("the control plane"),
        })
    }

    /// A second replica in a cluster, with the same account, on another port of the same machine;
    /// starts nothing.
    pub fn replica(&self, port: u16) -> Result<Self> {
        let directory = self.run.path(format!("control-{port}"));
        fs::create_dir_all(&directory).context("creating a replica's folder")?;
        fs::copy(self.kubeconfig(), directory.join("kubeconfig"))
            .context("a replica needs an API server")?;
        Ok(Self {
            run: self.run.clone(),
            programs: self.programs.clone(),
            place: self.place.clone(),
            manifests: self.manifests.clone(),
            directory,
            port,
            certificate_ttl: Mutex::new(*lock(&self.certificate_ttl)),
            extra: Mutex::new(lock(&self.extra).clone()),
            tokens: Mutex::default(),
            process: Supervised::new("a replica of the control plane"),
        })
    }

    /// Spreads new connections to `port` over the ports `to`, as kube-proxy does with a Service's
    /// over its endpoints. Without any the port is what it was before; older connections stay where
    /// they are.
    pub fn forward(&self, port: u16, to: &[u16]) -> Result<()> {
        let table = format!("inet forward{port}");
        // Without any rule the kernel would forget the older connections' ports.
        let to = if to.is_empty() { &[port] } else { to };
        let targets = to.iter().enumerate();
        let targets: Vec<String> = targets.map(|(n, port)| format!("{n} : {port}")).collect();
        let script = format!(
            "table {table} {{ chain new {{ type nat hook prerouting priority dstnat; }}; }}\n\
             flush chain {table} new\n\
             add rule {table} new tcp dport {port} redirect to :numgen inc mod {} map {{ {} }}\n",
            to.len(),
            targets.join(", ")
        );
        let mut command = Command::new("nft");
        command.args(["-f", "-"]);
        let limit = Duration::from_secs(10);
        let output = self.place.run_command(command, &script, limit)?;
        ensure!(output.ok(), "nft: {}\n{script}", output.stderr);
        Ok(())
    }

    /// Admits a node: makes its token, and writes the node's token file. With a folder of
    /// manifests the token stands in a list; in a cluster it is that of the agent's pod.
    pub fn admit(&self, node: &str, token_file: &Path) -> Result<()> {
        if let Some(server) = self.manifests.server() {
            return write_secret(token_file, &agent_pod(server, node)?);
        }
        let token = random_token()?;
        write_secret(token_file, &format!("{token}\n"))?;
        let mut tokens = lock(&self.tokens);
        tokens.push((token, node.to_owned()));
        let mut text = String::new();
        for (token, node) in tokens.iter() {
            let _ = writeln!(text, "{token} {node}");
        }
        write_secret(&self.token_list(), &text)
    }

    /// Admits the gateway `namespace/name` and writes its token file. In a cluster the token is that
    /// of its pod, whose account says which gateway it is.
    pub fn admit_gateway(&self, key: &str, pod: &PodManifest, token_file: &Path) -> Result<()> {
        let Some(server) = self.manifests.server() else {
            return self.admit(key, token_file);
        };
        let account = format!("{}/{}", pod.namespace, pod.account);
        ensure!(key == account, "{key} cannot run as {account}");
        let token = server.pod_token(&pod.namespace, &pod.name, AUDIENCE, TOKEN_LIFE)?;
        write_secret(token_file, &token)
    }

    /// Starts it and waits until it listens and agents can have its root certificate.
    pub fn start(&self) -> Result<()> {
        self.process.start(|| {
            let process = Process::spawn(&self.run, &self.place, &self.name(), self.command())?;
            poll::until("control plane up", Duration::from_secs(40), || {
                process.must_run()?;
                self.mount_bundle()?;
                ensure!(self.root_cert().exists(), "no root certificate yet");
                let to = (underlay(CONTROL_HOST).v4, self.port).into();
                self.place.connect(to, Duration::from_millis(500))?;
                Ok(())
            })
            .with_context(|| format!("log of control:\n{}", process.log_tail(15)))?;
            Ok(process)
        })
    }

    /// SIGKILL.
    pub fn kill9(&self) -> Result<()> {
        self.process.kill9()
    }

    /// SIGTERM and the wait for a clean end.
    pub fn stop(&self) -> Result<()> {
        self.process.stop(Duration::from_secs(40))
    }

    /// Lifetime of certificates from the next start on.
    pub fn set_certificate_ttl(&self, ttl: Duration) {
        *lock(&self.certificate_ttl) = ttl;
    }

    /// Flags after all others, from the next start on.
    pub fn set_extra(&self, flags: &[&str]) {
        *lock(&self.extra) = flags.iter().map(ToString::to_string).collect();
    }

    /// Whether it reads from an API server.
    pub fn in_cluster(&self) -> bool {
        self.manifests.server().is_some()
    }

    /// Whether it runs.
    pub fn running(&self) -> bool {
        self.process.must_run().is_ok()
    }

    /// URL that agents dial, by IPv4; of every replica the same.
    pub fn url(&self) -> String {
        format!("https://{}:{PORT}", underlay(CONTROL_HOST).v4)
    }

    /// The root certificates as agents get them: of a folder of manifests the file that it writes,
    /// in a cluster the ConfigMap that the kubelet mounts.
    pub fn root_cert(&self) -> PathBuf {
        match self.manifests.server() {
            Some(_) => self.directory.join("mounted").join(BUNDLE_KEY),
            None => self.directory.join("state").join(BUNDLE_KEY),
        }
    }

    /// In a cluster: what the kubelet does from time to time, the ConfigMap of now as a file.
    pub fn mount_bundle(&self) -> Result<()> {
        let Some(server) = self.manifests.server() else {
            return Ok(());
        };
        let map = server.get("configmaps", SYSTEM, BUNDLE);
        let bundle = map
            .as_ref()
            .and_then(|map| map["data"][BUNDLE_KEY].as_str());
        let bundle = bundle.context("no ConfigMap with the root certificates yet")?;
        fs::create_dir_all(self.directory.join("mounted"))?;
        replace(&self.root_cert(), bundle, 0o644)
    }

    /// Runs `culvert check --kubernetes` with these flags too, as an administrator on the control
    /// plane's machine.
    pub fn check(&self, flags: &[&str]) -> Result<Output> {
        let server = self.manifests.server().context("no API server")?;
        let kubeconfig = self.directory.join("admin.kubeconfig");
        write_secret(&kubeconfig, server.kubeconfig())?;
        let mut command = Command::new(self.programs.culvert());
        command
            .args(["check", "--kubernetes", "--kubeconfig"])
            .arg(kubeconfig)
            .args(flags);
        self.place.run_command(command, "", Duration::from_secs(20))
    }

    /// What `culvert install --render` prints, which is what was installed in a cluster.
    pub fn installation(&self) -> Result<String> {
        rendered(&self.programs, &self.place)
    }

    /// The namespace it runs in.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its pid.
    pub fn pid(&self) -> Result<u32> {
        self.process.pid()
    }

    /// The socket of `culvert status`.
    pub fn admin_socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// What `culvert status --json` prints of it.
    pub fn status(&self) -> Result<Value> {
        self.json(&["status", "--json"])
    }

    /// An operator's verb against its admin socket; gives back what it printed.
    pub fn verb(&self, words: &[&str]) -> Result<String> {
        operator::verb(&self.programs, &self.place, &self.admin_socket(), words)
    }

    fn json(&self, words: &[&str]) -> Result<Value> {
        operator::json(words, &self.verb(words)?)
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        let path = self.run.log(&self.name());
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }

    /// Waits for a log line that contains each of `parts`, after the first `skip` bytes.
    pub fn wait_log(&self, skip: usize, parts: &[&str], limit: Duration) -> Result<String> {
        poll::until("log line of the control plane", limit, || {
            let log = self.log();
            let new = log.get(skip..).unwrap_or_default();
            new.lines()
                .find(|line| parts.iter().all(|part| line.contains(part)))
                .map(str::to_owned)
                .with_context(|| format!("no line with {parts:?}"))
        })
    }

    /// The kubeconfig it was given, when it reads from an API server.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// Of its process and its log.
    fn name(&self) -> String {
        match self.port {
            PORT => "control".to_owned(),
            port => format!("control-{port}"),
        }
    }

    fn token_list(&self) -> PathBuf {
        self.directory.join("node-tokens")
    }

    fn command(&self) -> Command {
        let ttl = lock(&self.certificate_ttl).as_secs();
        let address = underlay(CONTROL_HOST);
        let mut command = Command::new(self.programs.culvert());
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("RUST_BACKTRACE", "1")
            .env(
                "RUST_LOG",
                std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into()),
            )
            .arg("control");
        match self.manifests.directory() {
            Some(folder) => command
                .arg("--manifests")
                .arg(folder)
                .arg("--node-tokens")
                .arg(self.token_list()),
            None => command
                .arg("--kubernetes")
                .arg("--kubeconfig")
                .arg(self.kubeconfig()),
        };
        command
            .args(["--listen", &format!("[::]:{}", self.port)])
            .args(["--metrics-listen", &format!("[::]:{}", self.port + METRICS)])
            .arg("--state-dir")
            .arg(self.directory.join("state"))
            .args(["--trust-domain", crate::TRUST_DOMAIN])
            .args(["--cert-ttl", &format!("{ttl}s")])
            .args(["--root-overlap", "1s"])
            .arg("--admin-socket")
            .arg(self.admin_socket())
            .args(["--serving-names", &format!("{},{}", address.v4, address.v6)])
            .args(lock(&self.extra).iter());
        command
    }
}

/// What `culvert install --render` prints.
fn rendered(programs: &Programs, place: &Place) -> Result<String> {
    let mut command = Command::new(programs.culvert());
    command.args(["install", "--render"]);
    let output = place.run_command(command, "", Duration::from_secs(10))?;
    ensure!(output.ok(), "install --render: {}", output.stderr);
    Ok(output.stdout)
}

/// Above all the rules by which the control plane may do what it does, and nothing more.
fn install(server: &ApiServer, programs: &Programs, place: &Place) -> Result<()> {
    let manifests = rendered(programs, place)?;
    server
        .put(&manifests)
        .context("the manifests of an installation")
}

/// The agent's pod as the DaemonSet makes it, and the token that its kubelet projects into it.
fn agent_pod(server: &ApiServer, node: &str) -> Result<String> {
    let pod = format!("culvert-node-{node}");
    server.put_value(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": SYSTEM,
            "name": pod,
            "labels": {
                "app.kubernetes.io/name": "culvert",
                "app.kubernetes.io/component": "node",
            },
        },
        "spec": {
            "nodeName": node,
            "serviceAccountName": "culvert-node",
            "hostNetwork": true,
            "containers": [{"name": "agent", "image": "culvert"}],
        },
        "status": {"phase": "Running"},
    }))?;
    server.pod_token(SYSTEM, &pod, AUDIENCE, TOKEN_LIFE)
}

fn random_token() -> Result<String> {
    let mut token = String::new();
    for _ in 0..2 {
        token += fs::read_to_string("/proc/sys/kernel/random/uuid")
            .context("reading randomness")?
            .trim();
    }
    Ok(token.replace('-', ""))
}

/// Tokens are readable by their owner only.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    replace(path, text, 0o600)
}

/// Replaces a file in one step.
fn replace(path: &Path, text: &str, mode: u32) -> Result<()> {
    use std::io::Write;
    let draft = path.with_extension("draft");
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(mode)
        .open(&draft)
        .with_context(|| format!("writing {}", draft.display()))?;
    file.write_all(text.as_bytes())?;
    fs::rename(&draft, path).with_context(|| format!("renaming to {}", path.display()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
