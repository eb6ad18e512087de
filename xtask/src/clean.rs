//! `cargo xtask clean`: removes what a killed run left behind.
//!
//! A run of the harness keeps its records in `/run/culvert-test/NAME/`: `owner`, the process of the
//! harness, and `pids`, every process it started; each line is `PID STARTTIME`, the second number
//! being field 22 of `/proc/PID/stat`, so that a number that was given to another process since
//! is never killed. Its namespaces and cgroups are named `cv-NAME-...`. A run whose owner still
//! lives was not killed and is left alone.
//!
//! The kernel tests of `agent-datapath` name what they make `cvdpPIDxN`, after their own process;
//! their directory is `/run/cvdpPIDxN`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::program::{is_root, output, program};
use crate::steps::Steps;

const RUNS: &str = "/run/culvert-test";
const KERNEL_RUNS: &str = "/run";
const NAMESPACES: &str = "/run/netns";
/// Files that `ip netns exec` binds into a namespace, a folder for each.
const NAMESPACE_FILES: &str = "/etc/netns";
/// Every namespace, link and cgroup the harness makes begins with this.
const PREFIX: &str = "cv-";
/// The same for the kernel tests, followed by the number of their process.
const KERNEL_PREFIX: &str = "cvdp";

/// Removes the remains of killed runs; with `all`, of running ones too.
pub(crate) fn run(steps: &mut Steps, all: bool) -> Result<()> {
    if !is_root() {
        // Without root no run can have made anything.
        return Ok(());
    }
    steps.step("clean: remains of earlier runs", || {
        let live = if all {
            BTreeSet::new()
        } else {
            live_runs(Path::new(RUNS))
        };
        for name in &live {
            println!("    left alone, still running: {name} (cargo xtask clean --all ends it)");
        }
        let mut runs = entries(Path::new(RUNS));
        runs.retain(|run| !live.contains(&file_name(run)));
        let tests = entries(Path::new(KERNEL_RUNS)).into_iter();
        runs.extend(tests.filter(|run| kernel_test(&file_name(run)).is_some_and(has_ended)));
        for run in &runs {
            kill_recorded(run);
        }
        remove_namespaces(&live)?;
        remove_links(&live)?;
        for run in &runs {
            unmount_below(run)?;
            std::fs::remove_dir_all(run)
                .with_context(|| format!("cannot remove {}", run.display()))?;
        }
        remove_cgroups(&live);
        Ok(())
    })
}

/// Names of the runs whose owner still lives.
fn live_runs(runs: &Path) -> BTreeSet<String> {
    let lives = |run: &PathBuf| {
        let owner = std::fs::read_to_string(run.join("owner")).unwrap_or_default();
        owner
            .lines()
            .filter_map(record)
            .any(|(pid, start)| start_time(pid) == Some(start))
    };
    entries(runs)
        .iter()
        .filter(|run| lives(run))
        .map(|run| file_name(run))
        .collect()
}

fn kill_recorded(run: &Path) {
    let mut records = std::fs::read_to_string(run.join("owner")).unwrap_or_default();
    records.push('\n');
    records.push_str(&std::fs::read_to_string(run.join("pids")).unwrap_or_default());
    for (pid, start) in records.lines().filter_map(record) {
        if start_time(pid) == Some(start) {
            println!("    ending process {pid} of {}", file_name(run));
            // The shell's own kill: std has none, and a minimal system may lack the program.
            let script = format!("kill -KILL {pid}");
            let _ = output(program("sh", Path::new("/")).args(["-c", &script]));
        }
    }
}

/// One line of `owner` or `pids`.
fn record(line: &str) -> Option<(u32, u64)> {
    let (pid, start) = line.trim().split_once(' ')?;
    let pid = pid.parse().ok().filter(|pid| *pid > 1)?;
    Some((pid, start.trim().parse().ok()?))
}

fn start_time(pid: u32) -> Option<u64> {
    start_time_of(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of `/proc/PID/stat`; the second field, the name, may hold spaces and parentheses.
fn start_time_of(stat: &str) -> Option<u64> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_whitespace().nth(19)?.parse().ok()
}

/// Whether a thing named `name` is the harness's or a kernel test's and belongs to no live run.
fn is_remains(name: &str, live: &BTreeSet<String>) -> bool {
    if let Some(pid) = kernel_test(name) {
        return has_ended(pid);
    }
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let belongs = |run: &String| {
        rest.strip_prefix(run.as_str())
            .is_some_and(|tail| tail.starts_with('-'))
    };
    !live.iter().any(belongs)
}

/// The process in a kernel test's name.
fn kernel_test(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(KERNEL_PREFIX)?.split('x').next()?;
    digits.parse().ok()
}

fn has_ended(pid: u32) -> bool {
    start_time(pid).is_none()
}

fn remove_namespaces(live: &BTreeSet<String>) -> Result<()> {
    for path in entries(Path::new(NAMESPACES)) {
        let name = file_name(&path);
        if is_remains(&name, live) {
            println!("    removing namespace {name}");
            output(program("ip", Path::new("/")).args(["netns", "delete", &name]))?;
        }
    }
    for path in entries(Path::new(NAMESPACE_FILES)) {
        if is_remains(&file_name(&path), live) {
            std::fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Links in this namespace; those inside the removed namespaces went with them.
fn remove_links(live: &BTreeSet<String>) -> Result<()> {
    for path in entries(Path::new("/sys/class/net")) {
        let name = file_name(&path);
        // Removing one end of a veth pair removes the other: look again.
        if is_remains(&name, live) && path.exists() {
            println!("    removing link {name}");
            output(program("ip", Path::new("/")).args(["link", "delete", &name]))?;
        }
    }
    Ok(())
}

/// Unmounts whatever is mounted below a run's folder (its bpffs), so that pinned programs go.
fn unmount_below(run: &Path) -> Result<()> {
    let table = std::fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    for point in mounts_below(&table, run) {
        output(program("umount", Path::new("/")).args(["--lazy", &point]))?;
    }
    Ok(())
}

/// Mount points below `folder`, the innermost first.
fn mounts_below(table: &str, folder: &Path) -> Vec<String> {
    let points = table.lines().filter_map(|line| line.split(' ').nth(1));
    let mut below: Vec<String> = points
        .filter(|point| Path::new(point).starts_with(folder))
        .map(str::to_owned)
        .collect();
    below.reverse();
    below
}

fn remove_cgroups(live: &BTreeSet<String>) {
    let table = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounted = table.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let point = words.next()?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(point))
    });
    let Some(root) = mounted else { return };
    for group in entries(&root)
        .into_iter()
        .chain(entries(&root.join("kubepods")))
    {
        if is_remains(&file_name(&group), live) {
            remove_cgroup(&group);
        }
    }
}

/// A cgroup's folder is removed by rmdir once its children are gone; its files do not count.
fn remove_cgroup(group: &Path) {
    for child in entries(group).into_iter().filter(|child| child.is_dir()) {
        remove_cgroup(&child);
    }
    if let Err(error) = std::fs::remove_dir(group) {
        println!("    cgroup {} stays: {error}", group.display());
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(listing) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_needs_a_pid_and_a_start_time() {
        assert_eq!(record("712 99120\n"), Some((712, 99120)));
        for bad in ["", "712", "712 x", "x 1", "-3 1", "0 5", "1 5"] {
            assert_eq!(record(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        assert_eq!(start_time_of(stat), Some(4242));
        assert_eq!(start_time_of("7 (a"), None);
        assert!(start_time(std::process::id()).is_some());
    }

    #[test]
    fn things_of_live_runs_and_of_others_stay() {
        let live = BTreeSet::from(["demo".to_owned()]);
        assert!(is_remains("cv-e2e-n1", &live));
        assert!(is_remains("cv-demo2-n1", &live));
        assert!(!is_remains("cv-demo-n1", &live));
        assert!(!is_remains("cni0", &live));
        let own = std::process::id();
        assert!(!is_remains(&format!("cvdp{own}x0p1"), &live));
        // No process has a number beyond the kernel's limit.
        assert!(is_remains("cvdp99999999x0h", &live));
        assert!(!is_remains("cvdpx0h", &live));
    }

    #[test]
    fn a_run_is_live_while_its_owner_is() {
        let runs = std::env::temp_dir().join(format!("culvert-runs-{}", std::process::id()));
        let (here, gone) = (runs.join("here"), runs.join("gone"));
        std::fs::create_dir_all(&here).unwrap();
        std::fs::create_dir_all(&gone).unwrap();
        let pid = std::process::id();
        let start = start_time(pid).unwrap();
        std::fs::write(here.join("owner"), format!("{pid} {start}\n")).unwrap();
        std::fs::write(gone.join("owner"), format!("{pid} {}\n", start + 1)).unwrap();
        assert_eq!(live_runs(&runs), BTreeSet::from(["here".to_owned()]));
        std::fs::remove_dir_all(&runs).unwrap();
    }

    #[test]
    fn inner_mounts_are_unmounted_first() {
        let table = "bpf /run/culvert-test/a bpf rw 0 0\nbpf /run/culvert-test/a/n1 bpf rw 0 0\n\
                     bpf /run/culvert-test/ab bpf rw 0 0\n";
        let below = mounts_below(table, Path::new("/run/culvert-test/a"));
        assert_eq!(below, ["/run/culvert-test/a/n1", "/run/culvert-test/a"]);
    }
}
