//! The proof that the image holds what its programs need: its layer is unpacked, and every role and
//! verb runs in it, with nothing of this machine but the kernel.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{layout, tree};
use crate::program::{output, program};
use crate::workspace::Workspace;

/// What is tried.
pub(crate) const TRIAL: &str = "image: every role runs in a chroot of its layer";

/// Time the control plane has to serve, and the node agent to say what it waits for.
const READY: Duration = Duration::from_secs(20);
/// Mounts a /proc of the machine in the image and enters the image.
const WITH_PROC: &str = r#"mount --bind /proc "$1/proc" && exec chroot "$@""#;

/// Unpacks the layer of `layout` and runs everything in it.
pub(crate) fn run(workspace: &Workspace, layout: &Path) -> Result<()> {
    let root = workspace.target().join("image/trial");
    if root.exists() {
        fs::remove_dir_all(&root).context("cannot remove the last trial")?;
    }
    fs::create_dir_all(&root).context("cannot make the trial's folder")?;
    let layer = layout::layer(layout)?;
    output(program("tar", &root).args(["-xpzf"]).arg(layer))?;
    let image = Unpacked { root };
    image.version()?;
    image.every_verb_helps()?;
    image.manifests_render()?;
    image.plugin_answers()?;
    image.release_finds_nothing_to_do()?;
    image.node_waits()?;
    image.gateway_knows_whom_the_world_trusts()?;
    image.control_serves()?;
    fs::remove_dir_all(&image.root).context("cannot remove the trial")
}

struct Unpacked {
    root: PathBuf,
}

impl Unpacked {
    fn command(&self, path: &str, words: &[&str]) -> Command {
        let mut chroot = chroot();
        chroot.arg(&self.root).arg(path).args(words);
        chroot
    }

    fn culvert(&self, words: &[&str]) -> Result<String> {
        output(&mut self.command("/usr/bin/culvert", words))
    }

    fn version(&self) -> Result<()> {
        let said = self.culvert(&["--version"])?;
        expect(said.contains(env!("CARGO_PKG_VERSION")), "--version", &said)
    }

    fn every_verb_helps(&self) -> Result<()> {
        let said = self.culvert(&["--help"])?;
        let verbs = verbs(&said);
        expect(
            verbs.contains(&"node") && verbs.contains(&"control"),
            "--help",
            &said,
        )?;
        for verb in verbs {
            let said = self.culvert(&[verb, "--help"])?;
            expect(said.contains("Usage: culvert"), verb, &said)?;
        }
        Ok(())
    }

    fn manifests_render(&self) -> Result<()> {
        let said = self.culvert(&["install", "--render", "--overlay", "hardened"])?;
        expect(
            said.contains("kind: DaemonSet"),
            "install --render",
            "no DaemonSet",
        )
    }

    /// The CNI specification's VERSION, as a container runtime asks it.
    fn plugin_answers(&self) -> Result<()> {
        let mut plugin = self.command("/usr/bin/culvert-cni", &[]);
        plugin.env("CNI_COMMAND", "VERSION");
        let said = output(&mut plugin)?;
        expect(said.contains("\"supportedVersions\""), "culvert-cni", &said)
    }

    /// `node` up to the point where it would touch the kernel of this machine, and its end: it reads
    /// its eBPF object, looks its control plane up, and says on its port what is missing. What comes
    /// after that is proven by the end-to-end tests.
    fn node_waits(&self) -> Result<()> {
        let ready = free_address()?;
        let mut node = program("unshare", Path::new("/"));
        node.env_clear().env("PATH", PATH);
        node.args(["--mount", "sh", "-c", WITH_PROC, "sh"])
            .arg(&self.root);
        node.args(["/usr/bin/culvert", "node", "--node-name=a-node"]);
        node.args(["--xds-address=https://localhost:1", "--root-cert=/absent"]);
        node.args(["--token-file=/absent", "--bpffs=/var/lib/culvert/absent"]);
        node.args(["--host-netns=/absent", "--cgroup-root=/absent"]);
        node.args(["--metrics-listen=127.0.0.1:0"])
            .arg(format!("--ready-listen={ready}"));
        let log = fs::File::create(self.root.join("node.log"))?;
        node.stdout(log.try_clone()?).stderr(log);
        let mut running = Running(node.spawn().context("cannot start unshare")?);
        let waits = running.until_it_waits(ready);
        waits.and_then(|()| running.end()).with_context(|| {
            let log = fs::read_to_string(self.root.join("node.log")).unwrap_or_default();
            format!("culvert node does not wait for what it lacks:\n{log}")
        })
    }

    /// `gateway` until it runs: it found the authorities that `System` roots and the addresses of
    /// keys need.
    fn gateway_knows_whom_the_world_trusts(&self) -> Result<()> {
        let bundle = fs::read_to_string(self.root.join(tree::BUNDLE)).context(tree::BUNDLE)?;
        expect(bundle.contains("BEGIN CERTIFICATE"), tree::BUNDLE, &bundle)?;
        let mut gateway = self.command("/usr/bin/culvert", &["gateway", "--gateway=a/b"]);
        gateway.args(["--xds-address=https://localhost:1", "--root-cert=/absent"]);
        gateway.args(["--token-file=/absent", "--metrics-listen=127.0.0.1:0"]);
        gateway.arg("--ready-listen=127.0.0.1:0");
        let file = self.root.join("gateway.log");
        let log = fs::File::create(&file)?;
        gateway.stdout(log.try_clone()?).stderr(log);
        let mut running = Running(gateway.spawn().context("cannot start chroot")?);
        let started = running.until_it_says(&file, "started");
        let ended = started.and_then(|()| running.end());
        let said = fs::read_to_string(&file).unwrap_or_default();
        ended.with_context(|| format!("culvert gateway does not run:\n{said}"))?;
        expect(!said.contains("has no roots"), "culvert gateway", &said)
    }

    /// The node role takes back what is not there.
    fn release_finds_nothing_to_do(&self) -> Result<()> {
        let said = self.culvert(&["node", "--release", "--bpffs", "/sys"])?;
        expect(said.contains("released"), "node --release", &said)?;
        let object = self.root.join("usr/lib/culvert/culvert.bpf.o");
        let head = fs::read(&object).context("the eBPF object")?;
        expect(head.starts_with(b"\x7fELF"), "the eBPF object", "not ELF")
    }

    /// `control` from a folder of manifests until it serves, as the user the manifests give it.
    fn control_serves(&self) -> Result<()> {
        for folder in ["manifests", "run/culvert", "var/lib/culvert-control"] {
            fs::create_dir_all(self.root.join(folder))?;
        }
        fs::write(
            self.root.join("manifests/ns.yaml"),
            "{apiVersion: v1, kind: Namespace, metadata: {name: a}}",
        )?;
        fs::write(
            self.root.join("tokens"),
            "a-token-of-sixteen-bytes a-node\n",
        )?;
        output(
            program("chown", Path::new("/"))
                .arg("-R")
                .arg("65532:65532")
                .args(
                    [
                        "tokens",
                        "manifests",
                        "run/culvert",
                        "var/lib/culvert-control",
                    ]
                    .map(|path| self.root.join(path)),
                ),
        )?;
        let mut control = chroot();
        control.arg("--userspec=65532:65532").arg(&self.root);
        control.args(["/usr/bin/culvert", "control", "--manifests=/manifests"]);
        control.args(["--node-tokens=/tokens", "--serving-names=localhost"]);
        control.args(["--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0"]);
        let log = fs::File::create(self.root.join("control.log"))?;
        control.stdout(log.try_clone()?).stderr(log);
        let running = Running(control.spawn().context("cannot start chroot")?);
        let status = self.until_served(running);
        status.with_context(|| {
            let log = fs::read_to_string(self.root.join("control.log")).unwrap_or_default();
            format!("culvert control does not serve:\n{log}")
        })
    }

    fn until_served(&self, mut running: Running) -> Result<()> {
        let began = Instant::now();
        loop {
            if let Some(status) = running.0.try_wait()? {
                bail!("it ended with {status}");
            }
            let said = self.culvert(&[
                "status",
                "--json",
                "--admin-socket=/run/culvert/control.sock",
            ]);
            match said {
                Ok(said) if said.contains("\"serving\": true") => return Ok(()),
                other if began.elapsed() > READY => {
                    bail!("after {READY:?}: {other:?}")
                }
                _ => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}

/// Where this machine's programs are.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// chroot(8) without this machine's environment.
fn chroot() -> Command {
    let mut chroot = program("chroot", Path::new("/"));
    chroot.env_clear().env("PATH", PATH);
    chroot
}

/// An address of this machine that nobody listens on.
fn free_address() -> Result<SocketAddr> {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(probe.local_addr()?)
}

/// What a readiness port answers.
fn readiness(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(READY))?;
    stream.write_all(b"GET /healthz/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Ends what it holds.
struct Running(Child);

impl Running {
    /// The kernel side waits for a folder, the rest for the control plane.
    fn until_it_waits(&mut self, ready: SocketAddr) -> Result<()> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                bail!("it ended with {status}");
            }
            match readiness(ready) {
                Ok(said) if said.contains("kernel side (") && said.contains("/absent") => {
                    return expect(said.contains("state manager"), "node", &said);
                }
                other if began.elapsed() > READY => bail!("after {READY:?}: {other:?}"),
                _ => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn until_it_says(&mut self, log: &Path, words: &str) -> Result<()> {
        let began = Instant::now();
        while !fs::read_to_string(log)?.contains(words) {
            if let Some(status) = self.0.try_wait()? {
                bail!("it ended with {status}");
            }
            if began.elapsed() > READY {
                bail!("after {READY:?} it has not said {words:?}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Asks it to end; it ends well.
    fn end(&mut self) -> Result<()> {
        let pid = self.0.id().to_string();
        output(program("kill", Path::new("/")).args(["-TERM", &pid]))?;
        let began = Instant::now();
        loop {
            match self.0.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("told to end, it ended with {status}"),
                None if began.elapsed() > READY => bail!("told to end, it goes on"),
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The first words of the lines below `Commands:`.
fn verbs(help: &str) -> Vec<&str> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with(' ') || line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .collect()
}

fn expect(holds: bool, what: &str, said: &str) -> Result<()> {
    if !holds {
        bail!("{what} in the image: {said}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_found_in_the_help() {
        let help = "Usage: culvert <COMMAND>\n\nCommands:\n  node     Runs\n           more words\n  \
                    status   Shows\n  help     Print\n\nOptions:\n  -h, --help\n";
        assert_eq!(verbs(help), ["node", "status"]);
    }
}
