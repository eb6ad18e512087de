//! The proof that a clone works on a fresh Debian 12: both commands in a debootstrap chroot.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::program::{output, program, succeed};
use crate::workspace::Workspace;

/// What the fresh machine has; the toolchain comes in by bind mount.
const INSTALLED: &str = "build-essential,ca-certificates,git,iproute2";

/// The two commands.
pub(crate) const BOTH: [&str; 2] = ["cargo xtask test", "cargo xtask demo"];

/// Clones this repository's last commit into a new chroot below `target/`, runs the commands there
/// one after the other, and removes the chroot.
pub(crate) fn run_fresh(workspace: &Workspace, commands: &[&str]) -> Result<()> {
    let chroot = Chroot::make(workspace, workspace.target().join("chroot"))?;
    commands.iter().try_for_each(|command| chroot.run(command))
}

/// A Debian 12 tree with this machine's Rust toolchain; unmounted and removed when dropped.
struct Chroot {
    root: PathBuf,
}

impl Chroot {
    fn make(workspace: &Workspace, root: PathBuf) -> Result<Self> {
        if root.exists() {
            // A killed run: its mounts must go first, or removing the tree would reach through.
            drop(Self { root: root.clone() });
        }
        std::fs::create_dir_all(&root).context("cannot make target/chroot")?;
        let chroot = Self { root };
        let mut bootstrap = program("debootstrap", workspace.root());
        bootstrap.args(["--variant=minbase", "--include", INSTALLED, "bookworm"]);
        bootstrap.arg(&chroot.root).args(mirror());
        succeed(&mut bootstrap)?;
        chroot.copy_machine_files()?;
        chroot.mount_machine()?;
        let clone = chroot.root.join("work");
        let mut git = program("git", workspace.root());
        succeed(
            git.args(["clone", "--quiet"])
                .arg(workspace.root())
                .arg(&clone),
        )?;
        Ok(chroot)
    }

    /// The package sources and the certificates this machine trusts.
    fn copy_machine_files(&self) -> Result<()> {
        let script = "set -e; rm -f \"$1/etc/apt/sources.list\"; \
             cp -a /etc/apt/. \"$1/etc/apt/\"; \
             cp -aL /usr/share/keyrings/. \"$1/usr/share/keyrings/\"; \
             mkdir -p \"$1/etc/ssl/certs\"; cp -aL --remove-destination /etc/ssl/certs/. \"$1/etc/ssl/certs/\"; \
             cp -L /etc/resolv.conf /etc/hosts \"$1/etc/\"";
        let mut shell = program("sh", Path::new("/"));
        succeed(shell.args(["-c", script, "sh"]).arg(&self.root))
    }

    fn mount_machine(&self) -> Result<()> {
        let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
        let named = |key: &str, folder: &str| {
            std::env::var_os(key).map_or_else(|| home.join(folder), PathBuf::from)
        };
        let cargo_home = named("CARGO_HOME", ".cargo");
        let rustup_home = named("RUSTUP_HOME", ".rustup");
        // Bound to itself, so that `/` inside is a mount point: `ip netns` needs one.
        succeed(
            program("mount", Path::new("/"))
                .arg("--bind")
                .arg(&self.root)
                .arg(&self.root),
        )?;
        for (from, to) in [
            (Path::new("/proc"), "proc"),
            (Path::new("/sys"), "sys"),
            (Path::new("/dev"), "dev"),
            (cargo_home.as_path(), "root/.cargo"),
            (rustup_home.as_path(), "root/.rustup"),
        ] {
            let point = self.root.join(to);
            std::fs::create_dir_all(&point).context("cannot make a mount point")?;
            let mut mount = program("mount", Path::new("/"));
            // Slave: what is mounted or unmounted inside stays inside.
            succeed(
                mount
                    .args(["--rbind", "--make-rslave"])
                    .arg(from)
                    .arg(&point),
            )?;
        }
        Ok(())
    }

    fn run(&self, command: &str) -> Result<()> {
        let mut chroot = program("chroot", Path::new("/"));
        chroot
            .arg(&self.root)
            .args(["sh", "-c", &format!("cd /work && {command}")]);
        chroot
            .env("HOME", "/root")
            .env_remove("CARGO")
            .env_remove("CARGO_TARGET_DIR");
        chroot.env_remove("CARGO_HOME").env_remove("RUSTUP_HOME");
        let path = "/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        chroot.env("PATH", path);
        succeed(&mut chroot).with_context(|| format!("in a fresh Debian 12, `{command}` fails"))
    }
}

impl Drop for Chroot {
    fn drop(&mut self) {
        // The machine's toolchain is mounted inside: nothing is removed before all of it is gone.
        for point in mounts_below(&self.root).unwrap_or_default().iter().rev() {
            let _ = output(program("umount", Path::new("/")).arg("--lazy").arg(point));
        }
        match mounts_below(&self.root) {
            Ok(left) if left.is_empty() => {
                let _ = std::fs::remove_dir_all(&self.root);
            }
            _ => eprintln!(
                "{} still has mounts; it is left as it is",
                self.root.display()
            ),
        }
    }
}

/// The machine's own Debian mirror, from either form of apt's sources; debootstrap has a default.
fn mirror() -> Option<String> {
    let folder = std::fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten();
    let files = folder
        .map(|entry| entry.path())
        .chain([PathBuf::from("/etc/apt/sources.list")]);
    files
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .find_map(|text| mirror_in(&text))
}

fn mirror_in(sources: &str) -> Option<String> {
    let words = sources
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let mut urls = words
        .flat_map(str::split_whitespace)
        .filter(|word| word.starts_with("http"));
    urls.find(|url| url.trim_end_matches('/').ends_with("/debian"))
        .map(str::to_owned)
}

fn mounts_below(root: &Path) -> Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    let points = table
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from);
    Ok(points.filter(|point| point.starts_with(root)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_forms_of_sources() {
        let old = "# deb http://old.example/debian bookworm main\n\
                   deb http://mirror.example/debian-security bookworm-security main\n\
                   deb http://mirror.example/debian bookworm main\n";
        assert_eq!(
            mirror_in(old).as_deref(),
            Some("http://mirror.example/debian")
        );
        let new = "Types: deb\nURIs: https://mirror.example/debian/\nSuites: bookworm\n";
        assert_eq!(
            mirror_in(new).as_deref(),
            Some("https://mirror.example/debian/")
        );
        assert_eq!(mirror_in("deb http://x.example/other y z\n"), None);
    }
}
