//! Finding a compiler and a linker that can produce eBPF.
//!
//! Two are known, in this order: a rustup nightly with `rust-src` and a `bpf-linker` on PATH; and
//! Debian's rustc-web, which ships a prebuilt `core` for the bpf targets, with a `bpf-linker` built
//! below `target/` against the LLVM that compiler was built with. `CULVERT_BPF_TOOLCHAIN=nightly`
//! or `=debian` names one of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::program::{cargo, output, program, succeed};
use crate::workspace::Workspace;

/// The release of bpf-linker that is built for Debian's compiler.
const LINKER_VERSION: &str = "0.13.0";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
/// The target of the eBPF object; every machine the product runs on is little-endian.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// A way to build the eBPF programs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// A rustup nightly of this name builds `core` from its own sources.
    Nightly(String),
    /// Debian's compiler, with the linker below `target/`.
    Debian,
}

impl Toolchain {
    /// Which of the two this machine is to use; says nothing about whether it is complete.
    pub(crate) fn choose() -> Result<Self> {
        match std::env::var("CULVERT_BPF_TOOLCHAIN").ok().as_deref() {
            None => Ok(nightly().unwrap_or(Self::Debian)),
            Some("debian") => Ok(Self::Debian),
            Some("nightly") => nightly().context(
                "CULVERT_BPF_TOOLCHAIN=nightly: no rustup nightly with rust-src and a bpf-linker \
                 on PATH; run `rustup toolchain install nightly --component rust-src` and \
                 `cargo install bpf-linker`",
            ),
            Some(other) => bail!("CULVERT_BPF_TOOLCHAIN is `{other}`; use nightly or debian"),
        }
    }

    /// The command that builds for [`TARGET`], without the arguments that select what.
    pub(crate) fn cargo(&self, workspace: &Workspace) -> Result<Command> {
        let mut command = match self {
            Self::Nightly(name) => {
                let mut command = program("rustup", workspace.root());
                command
                    .env_remove("RUSTUP_TOOLCHAIN")
                    .env_remove("CARGO")
                    .env_remove("RUSTC");
                command.args(["run", name, "cargo", "build", "-Z", "build-std=core"]);
                command
            }
            Self::Debian => {
                let llvm = debian_llvm_major()?;
                linker_is_current(workspace, llvm).then_some(()).context(
                    "bpf-linker is missing or made for another LLVM; run `cargo xtask setup`",
                )?;
                let mut command = program(DEBIAN_CARGO, workspace.root());
                command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
                command
                    .env("RUSTC", DEBIAN_RUSTC)
                    .env("RUSTC_BOOTSTRAP", "1");
                command.env("PATH", path_with(&linker_root(workspace).join("bin"))?);
                command.arg("build");
                command
            }
        };
        command.args(["--release", "--target", TARGET]);
        Ok(command)
    }
}

fn nightly() -> Option<Toolchain> {
    if !on_path("bpf-linker") {
        return None;
    }
    let root = Path::new("/");
    let list = output(program("rustup", root).args(["toolchain", "list"])).ok()?;
    let names = list
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| name.starts_with("nightly"))
        .find_map(|name| {
            let mut rustc = program("rustup", root);
            rustc
                .env_remove("RUSTUP_TOOLCHAIN")
                .args(["run", name, "rustc", "--print", "sysroot"]);
            let sysroot = output(&mut rustc).ok()?;
            let core =
                Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
            core.exists().then(|| Toolchain::Nightly(name.to_owned()))
        })
}

/// Whether a program of this name can be started.
pub(crate) fn on_path(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()))
}

fn path_with(first: &Path) -> Result<std::ffi::OsString> {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(first.to_path_buf()).chain(std::env::split_paths(&rest));
    std::env::join_paths(folders).context("PATH cannot be extended")
}

/// The LLVM major version Debian's compiler was built with; an error while it is not installed.
pub(crate) fn debian_llvm_major() -> Result<u32> {
    let mut rustc = program(DEBIAN_RUSTC, Path::new("/"));
    let said = output(rustc.env_remove("RUSTUP_TOOLCHAIN").arg("-vV"))
        .context("Debian's rustc-web is not installed; run `cargo xtask setup`")?;
    llvm_major(&said).with_context(|| format!("no LLVM version in what {DEBIAN_RUSTC} -vV says"))
}

fn llvm_major(version: &str) -> Option<u32> {
    let number = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    number.split('.').next()?.trim().parse().ok()
}

fn linker_root(workspace: &Workspace) -> PathBuf {
    workspace.target().join("bpf-linker")
}

fn stamp(workspace: &Workspace) -> PathBuf {
    linker_root(workspace).join("built-for")
}

fn stamp_text(llvm: u32) -> String {
    format!("bpf-linker {LINKER_VERSION} llvm {llvm}\n")
}

/// Whether the linker below `target/` is the wanted release, for this LLVM, and runs.
pub(crate) fn linker_is_current(workspace: &Workspace, llvm: u32) -> bool {
    let stamped = std::fs::read_to_string(stamp(workspace)).unwrap_or_default();
    let linker = linker_root(workspace).join("bin/bpf-linker");
    stamped == stamp_text(llvm)
        && output(program(linker, workspace.root()).arg("--version")).is_ok()
}

/// Builds the linker for Debian's compiler below `target/bpf-linker`.
pub(crate) fn build_linker(workspace: &Workspace, llvm: u32) -> Result<()> {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    let mut install = cargo(workspace.root());
    install.args([
        "install",
        "bpf-linker",
        "--version",
        LINKER_VERSION,
        "--locked",
        "--force",
    ]);
    install.args([
        "--no-default-features",
        "--features",
        &format!("llvm-{llvm}"),
    ]);
    install.arg("--root").arg(linker_root(workspace));
    install.env(
        "CARGO_TARGET_DIR",
        workspace.target().join("bpf-linker/build"),
    );
    install
        .env("LLVM_PREFIX", &prefix)
        .env("PATH", path_with(&prefix.join("bin"))?);
    succeed(&mut install).with_context(|| {
        format!(
            "bpf-linker {LINKER_VERSION} does not build with LLVM {llvm} of {}",
            prefix.display()
        )
    })?;
    std::fs::write(stamp(workspace), stamp_text(llvm))
        .context("cannot write bpf-linker's stamp")?;
    // The linker's own object files are of no further use and take a gigabyte.
    let _ = std::fs::remove_dir_all(workspace.target().join("bpf-linker/build"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_version_is_read_not_assumed() {
        assert_eq!(
            llvm_major("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"),
            Some(22)
        );
        assert_eq!(llvm_major("LLVM version: 19.1\n"), Some(19));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
        assert_eq!(llvm_major("LLVM version: next\n"), None);
    }
}
