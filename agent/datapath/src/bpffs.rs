//! The BPF file system and our directory in it.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ebpf_common::Table;
use nix::mount::{MsFlags, mount, umount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::error::DatapathError;

/// Source name of a mount we made: what tells it from one that others made.
const MOUNT_SOURCE: &str = "culvert";

/// What to do about a volume that shows no BPF file system.
const NOT_BPF: &str = "no BPF file system is mounted there on the node: `mount -t bpf bpf \
                       /sys/fs/bpf` on the node, and at its every boot, mends that";

/// Our pins. Everything the kernel must keep while no agent runs is pinned here. Links and the claim
/// are the same to every build; a map's version is part of its pin's name.
#[derive(Debug, Clone)]
pub(crate) struct Pins {
    bpffs: PathBuf,
    root: PathBuf,
}

impl Pins {
    pub(crate) fn new(bpffs: &Path) -> Self {
        Self {
            bpffs: bpffs.to_owned(),
            root: bpffs.join("culvert"),
        }
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    pub(crate) fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    pub(crate) fn map(&self, table: &Table) -> PathBuf {
        self.maps()
            .join(format!("{}-v{}", table.name, table.version))
    }

    /// Where a map is pinned until it is known to be what it should be. bpffs takes no dots.
    pub(crate) fn coming(&self, table: &Table) -> PathBuf {
        self.maps()
            .join(format!("{}-v{}-new", table.name, table.version))
    }

    /// Where the claim to all of this is.
    pub(crate) fn claim(&self) -> PathBuf {
        self.maps().join("GENERATION")
    }

    /// Removes the pins of maps that only another build works with. Who has one open keeps it.
    pub(crate) fn remove_others(&self, tables: &[Table]) -> Result<(), DatapathError> {
        for path in list(&self.maps())? {
            if path != self.claim() && !tables.iter().any(|table| self.map(table) == path) {
                unpin(&path)?;
            }
        }
        Ok(())
    }

    pub(crate) fn link(&self, name: &str) -> PathBuf {
        self.links().join(name)
    }

    pub(crate) fn pod(&self, cookie: u64) -> PathBuf {
        self.pods().join(cookie.to_string())
    }

    /// Mounts the file system when nobody did, and makes our directories. Where somebody mounted
    /// something else there (a container's volume) that is an error: a mount of ours would be seen in
    /// this container only, and end with it, and every pin with the mount.
    pub(crate) fn prepare(&self) -> Result<(), DatapathError> {
        make_directory(&self.bpffs)?;
        let kind = statfs(&self.bpffs)
            .map_err(|error| DatapathError::file(&self.bpffs)(error.into()))?
            .filesystem_type();
        if kind != BPF_FS_MAGIC {
            if is_mount_point(&self.bpffs) {
                return Err(DatapathError::file(&self.bpffs)(io::Error::other(NOT_BPF)));
            }
            mount(
                Some(MOUNT_SOURCE),
                &self.bpffs,
                Some("bpf"),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                Some("mode=0700"),
            )
            .map_err(|error| DatapathError::file(&self.bpffs)(error.into()))?;
        }
        for directory in [self.maps(), self.links(), self.pods()] {
            make_directory(&directory)?;
        }
        Ok(())
    }

    /// Removes our directories where they are empty.
    pub(crate) fn tidy(&self) {
        for directory in [self.maps(), self.links(), self.pods(), self.root.clone()] {
            let _ = fs::remove_dir(directory);
        }
    }

    /// Removes our directories, and the mount when we made it and nothing is left in it.
    pub(crate) fn tidy_and_unmount(&self) {
        self.tidy();
        // Names with a dot are the kernel's own (`maps.debug`); pins cannot have them.
        let empty = list(&self.bpffs).is_ok_and(|entries| {
            let mut names = entries.iter().filter_map(|path| path.file_name());
            names.all(|name| name.as_encoded_bytes().contains(&b'.'))
        });
        if empty && mounted_by_us(&self.bpffs) {
            let _ = umount(&self.bpffs);
        }
    }
}

/// Names in a directory of pins; none when there is no such directory.
pub(crate) fn list(directory: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()
            .map_err(DatapathError::file(directory)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(DatapathError::file(directory)(error)),
    }
}

/// Removes a pin; one that is not there is no error.
pub(crate) fn unpin(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DatapathError::file(path)(error))
        }
        _ => Ok(()),
    }
}

fn make_directory(path: &Path) -> Result<(), DatapathError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(DatapathError::file(path))
}

fn mounted_by_us(path: &Path) -> bool {
    in_mounts(path, is_our_mount)
}

fn is_mount_point(path: &Path) -> bool {
    in_mounts(path, is_mounted)
}

fn in_mounts(path: &Path, holds: impl Fn(&str, &str) -> bool) -> bool {
    let Ok(path) = path.canonicalize() else {
        return false;
    };
    fs::read_to_string("/proc/self/mountinfo")
        .is_ok_and(|mounts| holds(&mounts, &path.to_string_lossy()))
}

/// Looks for any mount of `path` in the text of `/proc/self/mountinfo` (proc(5)).
fn is_mounted(mounts: &str, path: &str) -> bool {
    let mut points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points.any(|point| point == path)
}

/// Looks for our mount of `path` in the text of `/proc/self/mountinfo` (proc(5)).
fn is_our_mount(mounts: &str, path: &str) -> bool {
    mounts.lines().any(|line| {
        let Some((before, after)) = line.split_once(" - ") else {
            return false;
        };
        let mut after = after.split(' ');
        before.split(' ').nth(4) == Some(path)
            && after.next() == Some("bpf")
            && after.next() == Some(MOUNT_SOURCE)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_mount_is_taken_away() {
        let mounts = "36 25 0:33 / /run/a rw,nosuid - bpf culvert rw,mode=700\n\
                      37 25 0:34 / /run/b rw shared:3 - bpf bpf rw\n\
                      38 25 0:35 / /run/c rw - tmpfs culvert rw\n";
        assert!(is_our_mount(mounts, "/run/a"));
        assert!(!is_our_mount(mounts, "/run/b"));
        assert!(!is_our_mount(mounts, "/run/c"));
        assert!(!is_our_mount(mounts, "/run"));
    }

    #[test]
    fn a_maps_version_is_in_the_path() {
        let pins = Pins::new(Path::new("/sys/fs/bpf"));
        let mut table = ebpf_common::TABLES[0];
        table.version = 7;
        let path = Path::new("/sys/fs/bpf/culvert/maps/SOCKET-v7");
        assert_eq!(pins.map(&table), path);
    }
}
