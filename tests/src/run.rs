//! One run on disk and in the kernel: its directory, the processes it started, and how all of it
//! is removed, also by another process that knows only the run's name.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::check;
use crate::place::NameFiles;
use crate::stop;

/// Where the directories of runs are.
pub const RUNS: &str = "/run/culvert-test";
const NAMESPACES: &str = "/run/netns";
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n";
/// What pods take for the cluster's name server.
const NAME_SERVERS: [&str; 2] = ["10.96.255.53", "fd00:96::ff35"];

/// The directory of a run and the prefix of everything it names.
#[derive(Debug, Clone)]
pub struct Run {
    name: String,
    directory: PathBuf,
}

impl Run {
    /// Makes the directory of a new run, after removing what an earlier run of that name left.
    /// Names are short and alphanumeric, so that no run's prefix is another's.
    pub fn create(name: &str) -> Result<Self> {
        ensure!(
            !name.is_empty() && name.len() <= 12 && name.bytes().all(|b| b.is_ascii_alphanumeric()),
            "run name {name:?} is not 1 to 12 letters and digits"
        );
        ensure!(
            nix::unistd::geteuid().is_root(),
            "network namespaces and eBPF need root: run as root"
        );
        let run = Self::of(name);
        if let Some(owner) = run.living_owner() {
            bail!("run {name} is in progress (process {owner})");
        }
        remove(name, false)?;
        fs::create_dir_all(run.path("logs"))
            .with_context(|| format!("creating {}", run.directory.display()))?;
        run.own(std::process::id())?;
        stop::watch(name, remove);
        Ok(run)
    }

    /// Names the process that this run belongs to: while it lives, `cargo xtask clean` leaves the
    /// run alone.
    pub fn own(&self, pid: u32) -> Result<()> {
        let start = start_time(pid).context("the owner of a run has ended")?;
        fs::write(self.path("owner"), format!("{pid} {start}\n")).context("recording the owner")
    }

    fn of(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            directory: Path::new(RUNS).join(name),
        }
    }

    /// The process that this run belongs to, if it still lives and is another one.
    fn living_owner(&self) -> Option<u32> {
        let text = fs::read_to_string(self.path("owner")).ok()?;
        let (pid, start) = parse_record(text.trim())?;
        (pid != std::process::id() && start_time(pid) == Some(start)).then_some(pid)
    }

    /// The run's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The run's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A path below the run's directory.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.directory.join(below)
    }

    /// How the pods of a namespace look names up: as in a cluster, by search domains, at a server in
    /// the range of services. Nobody is there: the node answers for pods of the mesh.
    pub fn name_files(&self, namespace: &str) -> Result<NameFiles> {
        let files = NameFiles {
            hosts: self.path("hosts"),
            resolv_conf: self.path(format!("resolv-{namespace}.conf")),
        };
        let [v4, v6] = NAME_SERVERS;
        let servers = format!(
            "nameserver {v4}\nnameserver {v6}\nsearch {namespace}.svc.cluster.local \
             svc.cluster.local cluster.local\noptions ndots:5\n"
        );
        for (file, text) in [(&files.hosts, HOSTS), (&files.resolv_conf, &servers)] {
            if file.exists() {
                // Somebody may be reading it.
                continue;
            }
            fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
        }
        Ok(files)
    }

    /// Where the log of a process goes.
    pub fn log(&self, process: &str) -> PathBuf {
        self.directory.join("logs").join(format!("{process}.log"))
    }

    /// The full name of one of the run's network namespaces.
    pub fn namespace(&self, short: &str) -> String {
        format!("cv-{}-{short}", self.name)
    }

    /// Writes a process down, so that any clean-up finds it and no other.
    pub(crate) fn record(&self, pid: u32) -> Result<()> {
        let Some(start) = start_time(pid) else {
            return Ok(()); // It has already gone.
        };
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("pids"))
            .context("opening the record of processes")?;
        writeln!(file, "{pid} {start}").context("recording a process")
    }

    /// Removes everything of this run; keeps the logs when asked.
    pub fn remove(&self, keep_logs: bool) -> Result<()> {
        let result = remove(&self.name, keep_logs);
        stop::unwatch(&self.name);
        result
    }
}

/// Whether a run of this name has namespaces now.
pub fn is_running(name: &str) -> bool {
    !namespaces_of(&Run::of(name)).is_empty()
}

/// Removes everything the run of this name made: processes, namespaces, mounts, cgroups, files.
pub fn remove(name: &str, keep_logs: bool) -> Result<()> {
    let run = Run::of(name);
    let namespaces = namespaces_of(&run);
    kill_recorded(&run);
    kill_inside(&namespaces);
    unmount_below(&run.directory);
    remove_cgroups(&run);
    for namespace in &namespaces {
        delete_namespace(namespace)?;
    }
    remove_files(&run, keep_logs)
}

/// The run's network namespaces that exist now.
pub fn namespaces_of(run: &Run) -> Vec<String> {
    let prefix = run.namespace("");
    let mut names = names_in(Path::new(NAMESPACES));
    names.retain(|name| name.starts_with(&prefix));
    names.sort();
    names
}

fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Start time of a process in clock ticks since boot: with the pid it names one process for ever.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold spaces.
    let after = stat.rsplit_once(')')?.1;
    after.split_whitespace().nth(19)?.parse().ok()
}

fn kill_recorded(run: &Run) {
    let Ok(text) = fs::read_to_string(run.path("pids")) else {
        return;
    };
    let recorded: Vec<(u32, u64)> = text.lines().filter_map(parse_record).collect();
    for (pid, start) in &recorded {
        if start_time(*pid) == Some(*start) {
            kill_hard(*pid);
        }
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    for (pid, start) in recorded {
        while start_time(pid) == Some(start) && !is_zombie(pid) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn parse_record(line: &str) -> Option<(u32, u64)> {
    let (pid, start) = line.split_once(' ')?;
    Some((pid.parse().ok()?, start.trim().parse().ok()?))
}

/// Whatever else runs in the run's own namespaces was started by one of its processes.
fn kill_inside(namespaces: &[String]) {
    let own = std::process::id();
    for _ in 0..50 {
        let mut found = false;
        for namespace in namespaces {
            let Ok(pids) = check("ip", &["netns", "pids", namespace]) else {
                continue;
            };
            for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                if pid != own && !is_zombie(pid) {
                    found = true;
                    kill_hard(pid);
                }
            }
        }
        if !found {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn kill_hard(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn is_zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(')')?.1.trim_start().starts_with('Z')))
        .unwrap_or(true)
}

/// A bpffs that is only unmounted keeps its pins while another mount namespace shows it: unlink
/// them first.
fn unmount_below(directory: &Path) {
    let Ok(mounts) = fs::read_to_string("/proc/self/mounts") else {
        return;
    };
    let prefix = format!("{}/", directory.display());
    let points: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|point| point.starts_with(&prefix))
        .map(PathBuf::from)
        .collect();
    for point in points.iter().rev() {
        if let Ok(entries) = fs::read_dir(point) {
            for entry in entries.flatten() {
                let _ = fs::remove_dir_all(entry.path());
                let _ = fs::remove_file(entry.path());
            }
        }
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
}

/// A cgroup of the run, below the cgroup2 mount.
pub(crate) fn cgroup_name(run: &Run) -> String {
    format!("cv-{}", run.name)
}

fn remove_cgroups(run: &Run) {
    let Ok(root) = cgroup_root() else { return };
    for parent in [root.clone(), root.join("kubepods")] {
        let of_run = parent.join(cgroup_name(run));
        // Its pods'.
        for entry in fs::read_dir(&of_run).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(entry.path());
        }
        let _ = fs::remove_dir(of_run);
    }
    // Ours only when it is empty; a kubelet's has children and stays.
    let _ = fs::remove_dir(root.join("kubepods"));
}

/// Where cgroup2 is mounted.
pub fn cgroup_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading mounts")?;
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    match line.and_then(|line| line.split(' ').nth(1)) {
        Some(point) => Ok(PathBuf::from(point)),
        None => bail!("no cgroup2 mount: mount one with `mount -t cgroup2 none /sys/fs/cgroup`"),
    }
}

fn delete_namespace(name: &str) -> Result<()> {
    if Path::new(NAMESPACES).join(name).exists() {
        check("ip", &["netns", "del", name])?;
    }
    Ok(())
}

fn remove_files(run: &Run, keep_logs: bool) -> Result<()> {
    let Ok(entries) = fs::read_dir(&run.directory) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if keep_logs && entry.file_name() == "logs" {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        } else {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    if !keep_logs {
        let _ = fs::remove_dir(&run.directory);
        let _ = fs::remove_dir(RUNS);
    }
    Ok(())
}
