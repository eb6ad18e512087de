//! Builds: the eBPF object, the static CNI plugin, culvert and the programs of package `tests`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::program::{cargo, output, succeed};
use crate::steps::Steps;
use crate::toolchain::{TARGET, Toolchain};
use crate::workspace::Workspace;

/// The name under which culvert looks for its eBPF object, beside its own executable.
const OBJECT: &str = "culvert.bpf.o";

/// Everything the tests and the demo start.
pub(crate) fn everything(workspace: &Workspace, steps: &mut Steps) -> Result<()> {
    ebpf(workspace, steps)?;
    cni(workspace, steps)?;
    programs(workspace, steps)
}

/// culvert and the programs of package `tests`, dev profile.
fn programs(workspace: &Workspace, steps: &mut Steps) -> Result<()> {
    steps.step("build: culvert and the test programs", || {
        let mut build = cargo(workspace.root());
        // The whole workspace, as the tests will need it: selecting fewer packages would select
        // fewer features and compile the dependencies twice. Not the plugin: a dynamic one would
        // take the place of the static one.
        build.args([
            "build",
            "--workspace",
            "--exclude",
            "ebpf-programs",
            "--exclude",
            "agent-cni",
        ]);
        succeed(&mut build)
    })
}

/// The eBPF object, placed beside culvert.
pub(crate) fn ebpf(workspace: &Workspace, steps: &mut Steps) -> Result<()> {
    let toolchain = Toolchain::choose()?;
    let title = match &toolchain {
        Toolchain::Nightly(name) => format!("build: eBPF programs ({name})"),
        Toolchain::Debian => "build: eBPF programs (Debian's rustc)".to_owned(),
    };
    steps.step(&title, || {
        let folder = workspace.target().join("bpf");
        let mut build = toolchain.cargo(workspace)?;
        build.args(["--package", "ebpf-programs", "--bin", "culvert-ebpf"]);
        build.env("CARGO_TARGET_DIR", &folder);
        build
            .env("RUSTFLAGS", rustflags())
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        // An arithmetic panic in the kernel has nowhere to go, and the verifier sees its loop.
        build.env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "false");
        build.env("CARGO_PROFILE_RELEASE_LTO", "false");
        succeed(&mut build)?;
        let built = folder.join(TARGET).join("release/culvert-ebpf");
        place(&built, &folder.join(OBJECT))?;
        place(&built, &workspace.program(OBJECT))
    })
}

fn rustflags() -> String {
    // Full debug info becomes BTF, which the kernel shows in bpftool and verifier logs.
    format!(
        "--cfg bpf_target_arch=\"{}\" -Cdebuginfo=2 -Clink-arg=--btf",
        std::env::consts::ARCH
    )
}

/// `culvert-cni`, linked statically: a container runtime starts it from the host's file system,
/// whatever libc that has.
pub(crate) fn cni(workspace: &Workspace, steps: &mut Steps) -> Result<()> {
    let built = cni_of(workspace, steps, Profile::Dev)?;
    place(&built, &workspace.program("culvert-cni"))
}

/// How hard the compiler tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// What tests run.
    Dev,
    /// What images carry; takes minutes.
    Release,
}

impl Profile {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Dev => &[],
            Self::Release => &["--release"],
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// The programs of an image: where culvert, culvert-cni and the eBPF object were built.
pub(crate) fn shipped(
    workspace: &Workspace,
    steps: &mut Steps,
    profile: Profile,
) -> Result<[PathBuf; 3]> {
    ebpf(workspace, steps)?;
    let cni = cni_of(workspace, steps, profile)?;
    match profile {
        Profile::Dev => programs(workspace, steps)?,
        Profile::Release => steps.step("build: culvert (release)", || {
            let mut build = cargo(workspace.root());
            succeed(build.args(["build", "--release", "--package", "agent-app"]))
        })?,
    }
    let culvert = workspace.target().join(profile.folder()).join("culvert");
    Ok([culvert, cni, workspace.target().join("bpf").join(OBJECT)])
}

fn cni_of(workspace: &Workspace, steps: &mut Steps, profile: Profile) -> Result<PathBuf> {
    steps.step("build: culvert-cni (static)", || {
        let host = host_target(workspace)?;
        let folder = workspace.target().join("cni");
        let mut build = cargo(workspace.root());
        build.args(["build", "--package", "agent-cni", "--bin", "culvert-cni"]);
        build.args(profile.arguments());
        // Naming the target keeps the flags away from build scripts and procedural macros.
        build.args(["--target", &host]);
        build.env("CARGO_TARGET_DIR", &folder);
        build.env("RUSTFLAGS", "-C target-feature=+crt-static");
        build.env_remove("CARGO_ENCODED_RUSTFLAGS");
        succeed(&mut build)?;
        let built = folder
            .join(&host)
            .join(profile.folder())
            .join("culvert-cni");
        let program = std::fs::read(&built).context("cannot read the culvert-cni just built")?;
        if !is_static(&program)? {
            bail!(
                "{} asks for a dynamic loader; it must be static",
                built.display()
            );
        }
        Ok(built)
    })
}

/// Regenerates what is checked in: the protobuf code and the resource definitions.
pub(crate) fn codegen(workspace: &Workspace, steps: &mut Steps) -> Result<()> {
    steps.step("codegen: proto/src/gen", || {
        succeed(cargo(workspace.root()).args(["run", "--quiet", "--package", "proto-codegen"]))
    })?;
    steps.step("codegen: resource definitions in deploy/kubernetes", || {
        let mut write = cargo(workspace.root());
        // The types that read the resources are the room's own, so its test writes the files.
        write.args([
            "test",
            "--quiet",
            "--package",
            "agent-control",
            "definitions::checked_in",
        ]);
        succeed(write.env("CULVERT_WRITE_DEFINITIONS", "1"))
    })
}

fn host_target(workspace: &Workspace) -> Result<String> {
    let mut rustc = crate::program::program("rustc", workspace.root());
    let said = output(rustc.arg("-vV"))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// Copies `from` to `to` when they differ; the new file replaces the old one in one step, so that
/// a program that has the old one open keeps it whole.
fn place(from: &Path, to: &Path) -> Result<()> {
    let new = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if std::fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let folder = to.parent().context("a build output needs a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("no {}", folder.display()))?;
    let partial = to.with_extension("partial");
    std::fs::copy(from, &partial)
        .and_then(|_| std::fs::rename(&partial, to))
        .with_context(|| format!("cannot write {}", to.display()))
}

/// Whether a 64-bit little-endian ELF program runs without a dynamic loader (has no PT_INTERP).
fn is_static(program: &[u8]) -> Result<bool> {
    const PT_INTERP: u32 = 3;
    if program.get(..6) != Some(b"\x7fELF\x02\x01") {
        bail!("not a 64-bit little-endian ELF program");
    }
    let table = usize::try_from(u64::from_le_bytes(field(program, 32)?))?;
    let size = usize::from(u16::from_le_bytes(field(program, 54)?));
    let count = usize::from(u16::from_le_bytes(field(program, 56)?));
    for entry in 0..count {
        if u32::from_le_bytes(field(program, table + entry * size)?) == PT_INTERP {
            return Ok(false);
        }
    }
    Ok(true)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let slice = bytes
        .get(at..at + N)
        .context("the ELF program is cut short")?;
    Ok(slice.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(segments: &[u32]) -> Vec<u8> {
        let mut file = vec![0_u8; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
        file[56..58].copy_from_slice(&u16::try_from(segments.len()).unwrap().to_le_bytes());
        for kind in segments {
            file.extend(kind.to_le_bytes());
            file.extend([0; 52]);
        }
        file
    }

    #[test]
    fn a_program_with_a_loader_is_not_static() {
        assert!(is_static(&elf(&[1, 2, 1])).unwrap());
        assert!(!is_static(&elf(&[6, 3, 1])).unwrap());
        assert!(is_static(b"#!/bin/sh").is_err());
        assert!(is_static(&elf(&[1])[..66]).is_err());
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!is_static(&own).unwrap(), "tests are linked dynamically");
    }

    #[test]
    fn an_output_is_replaced_only_when_it_changed() {
        let folder = std::env::temp_dir().join(format!("culvert-place-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (from, to) = (folder.join("from"), folder.join("below/to"));
        std::fs::write(&from, "one").unwrap();
        place(&from, &to).unwrap();
        let first = std::fs::metadata(&to).unwrap().modified().unwrap();
        place(&from, &to).unwrap();
        assert_eq!(std::fs::metadata(&to).unwrap().modified().unwrap(), first);
        std::fs::write(&from, "two").unwrap();
        place(&from, &to).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"two");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
