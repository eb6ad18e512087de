//! Cgroups below `kubepods`, as the processes of pods have them in a cluster.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::place::Place;
use crate::poll;
use crate::process::Process;
use crate::run::{Run, cgroup_name, cgroup_root};

/// Below the cgroup2 mount; a kubelet's own has other children.
const KUBEPODS: &str = "kubepods";
/// Time for a cgroup to come or to go.
const LIMIT: Duration = Duration::from_secs(5);

/// A cgroup of the run; removed when dropped.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
}

/// The process that keeps a pod's namespaces, in the pod's cgroup; killed when dropped.
#[derive(Debug)]
pub struct Pause {
    // Ends before the group is removed.
    process: Process,
    _group: Group,
}

impl Group {
    /// Makes `kubepods/cv-RUN` below the cgroup2 mount.
    pub fn in_kubepods(run: &Run) -> Result<Self> {
        let path = cgroup_root()?.join(KUBEPODS).join(cgroup_name(run));
        Self::make(path)
    }

    /// Makes the cgroup of a pod, `kubepods/cv-RUN/podUID`.
    pub fn of_pod(run: &Run, uid: &str) -> Result<Self> {
        let of_run = cgroup_root()?.join(KUBEPODS).join(cgroup_name(run));
        Self::make(of_run.join(format!("pod{uid}")))
    }

    fn make(path: PathBuf) -> Result<Self> {
        // Another run may remove a parent that it finds empty in between.
        poll::until("a cgroup", LIMIT, || {
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))
        })?;
        Ok(Self { path })
    }

    /// Runs a program of a place inside the group: the shell joins, then becomes the program.
    pub fn check(&self, place: &Place, command: &str) -> Result<String> {
        place.check(&["sh", "-c", &self.script(command)])
    }

    /// Starts a process of a place in the group that does nothing.
    pub fn hold(self, run: &Run, place: &Place, name: &str) -> Result<Pause> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(self.script("sleep infinity"));
        let process = Process::spawn(run, place, name, command)?;
        let members = self.path.join("cgroup.procs");
        poll::until("a process in its cgroup", LIMIT, || {
            process.must_run()?;
            let pids = fs::read_to_string(&members).context("the members of a cgroup")?;
            let joined = pids.lines().any(|pid| pid == process.pid().to_string());
            ensure!(joined, "not there yet");
            Ok(())
        })?;
        Ok(Pause {
            process,
            _group: self,
        })
    }

    fn script(&self, command: &str) -> String {
        let group = self.path.display();
        format!("echo $$ > {group}/cgroup.procs && exec {command}")
    }
}

impl Pause {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that has just been killed may be in it for a moment.
        let removing = || match fs::remove_dir(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.path.display()))
            }
            _ => Ok(()),
        };
        if let Err(error) = poll::until("an empty cgroup", LIMIT, removing) {
            eprintln!("{error:#}");
        }
        let parents = self.path.ancestors().skip(1);
        let ours = parents.take_while(|path| path.iter().any(|part| part == KUBEPODS));
        for path in ours {
            // Those of other pods and of a kubelet have other children and stay.
            let _ = fs::remove_dir(path);
        }
    }
}
