//! A cgroup below `kubepods`, as the processes of pods have it in a cluster.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::place::Place;
use crate::run::{Run, cgroup_name, cgroup_root};

/// A cgroup of the run; removed when dropped.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
}

impl Group {
    /// Makes `kubepods/cv-RUN` below the cgroup2 mount.
    pub fn in_kubepods(run: &Run) -> Result<Self> {
        let path = cgroup_root()?.join("kubepods").join(cgroup_name(run));
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { path })
    }

    /// Runs a program of a place inside the group: the shell joins, then becomes the program.
    pub fn check(&self, place: &Place, command: &str) -> Result<String> {
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec {command}",
            self.path.display()
        );
        place.check(&["sh", "-c", &script])
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for path in [Some(self.path.as_path()), self.path.parent()]
            .into_iter()
            .flatten()
        {
            // A kubelet's `kubepods` has other children and stays.
            let _ = fs::remove_dir(path);
        }
    }
}
