//! The proof that the image holds what its programs need: its layer is unpacked, and every role and
//! verb runs in it, with nothing of this machine but the kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::layout;
use crate::program::{output, program};
use crate::workspace::Workspace;

/// What is tried.
pub(crate) const TRIAL: &str = "image: every role runs in a chroot of its layer";

/// Time the control plane has to serve.
const READY: Duration = Duration::from_secs(20);

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

    /// The node role opens its files; what it does in the kernel is proven by the end-to-end tests.
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

/// chroot(8) without this machine's environment.
fn chroot() -> Command {
    let mut chroot = program("chroot", Path::new("/"));
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    chroot.env_clear().env("PATH", path);
    chroot
}

/// Ends what it holds.
struct Running(Child);

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
