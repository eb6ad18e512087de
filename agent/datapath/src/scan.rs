//! Finds the network namespace of a pod that runs already: by the processes whose cgroup carries
//! the pod's UID, in the spelling of either cgroup driver.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Namespaces that are looked at for one pod: its own is that of its oldest process, unless that
/// one made another.
const TRIES: usize = 8;
/// Longest `cgroup` or `stat` file that is read, in bytes.
const LIMIT: usize = 16 << 10;

/// The processes of some pods, the oldest of each first.
#[derive(Debug)]
pub(crate) struct Processes {
    proc: PathBuf,
    by_uid: BTreeMap<String, Vec<Process>>,
}

/// When it was started, and its id in that `/proc`.
type Process = (u64, u32);

impl Processes {
    /// Looks through a `/proc` once. Processes that end meanwhile are none.
    pub(crate) fn read(proc: &Path, uids: &BTreeSet<String>) -> io::Result<Self> {
        let mut by_uid: BTreeMap<String, Vec<Process>> = BTreeMap::new();
        for entry in fs::read_dir(proc)?.flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let Some(uid) = read(&entry.path().join("cgroup")).and_then(|text| uid_of(&text))
            else {
                continue;
            };
            let started = read(&entry.path().join("stat")).and_then(|text| started(&text));
            if let (true, Some(started)) = (uids.contains(&uid), started) {
                by_uid.entry(uid).or_default().push((started, pid));
            }
        }
        by_uid.values_mut().for_each(|pids| pids.sort_unstable());
        Ok(Self {
            proc: proc.to_owned(),
            by_uid,
        })
    }

    /// The network namespaces of a pod's processes, each once, that of the oldest one first.
    pub(crate) fn namespaces(&self, uid: &str) -> Vec<PathBuf> {
        let mut seen = BTreeSet::new();
        let pids = self.by_uid.get(uid).into_iter().flatten();
        let paths = pids.map(|(_, pid)| self.proc.join(format!("{pid}/ns/net")));
        paths
            .filter(|path| fs::metadata(path).is_ok_and(|meta| seen.insert(meta.ino())))
            .take(TRIES)
            .collect()
    }
}

fn read(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    (text.len() <= LIMIT).then_some(text)
}

/// The UID in a `/proc/PID/cgroup`, of the outermost cgroup that has one: what lies below is in
/// the hands of the pod.
fn uid_of(cgroups: &str) -> Option<String> {
    // `ID:CONTROLLERS:PATH`; version 2 has one line, version 1 one for each hierarchy.
    let paths = cgroups
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2));
    paths
        .flat_map(|path| path.split('/'))
        .find_map(uid_of_component)
}

/// `podUID` (cgroupfs) or `...-podUID.slice` with underscores for the UID's dashes (systemd).
fn uid_of_component(component: &str) -> Option<String> {
    let uid = match component.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        None => component.strip_prefix("pod")?.to_owned(),
    };
    // A UUID, or the hash that stands for one in a static pod.
    let is_uid = uid.len() >= 32 && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    is_uid.then_some(uid)
}

/// Field 22 of `/proc/PID/stat`. The name in field 2 may hold anything, so count from its end.
fn started(stat: &str) -> Option<u64> {
    let rest = stat.rsplit_once(')')?.1;
    rest.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
    const SLICE: &str = "0f1e2d3c_4b5a_6978_8796_a5b4c3d2e1f0";

    #[test]
    fn both_cgroup_drivers_and_both_versions_are_read() {
        for path in [
            format!("0::/kubepods/burstable/pod{UID}/abc"),
            format!("0::/kubepods/pod{UID}/abc"),
            format!("0::/../../pod{UID}/abc"),
            format!(
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE}.slice/cri-containerd-abc.scope"
            ),
            format!(
                "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SLICE}.slice/crio-abc.scope"
            ),
            format!("12:cpu,cpuacct:/kubepods/besteffort/pod{UID}/abc\n1:name=systemd:/other"),
            // What a pod makes below its own cgroup says nothing.
            format!("0::/kubepods/pod{UID}/abc/pod11111111-1111-1111-1111-111111111111"),
        ] {
            assert_eq!(uid_of(&path).as_deref(), Some(UID), "{path}");
        }
        let hash = "4b5a69788796a5b4c3d2e1f00f1e2d3c";
        let of_static = format!("0::/kubepods/burstable/pod{hash}/abc");
        assert_eq!(uid_of(&of_static).as_deref(), Some(hash));
        for path in [
            "0::/",
            "0::/system.slice/podman.service",
            "0::/user.slice/x-podcast.slice",
            "0::/kubepods/podshort/abc",
            "garbage",
        ] {
            assert_eq!(uid_of(path), None, "{path}");
        }
    }

    #[test]
    fn the_start_is_found_behind_any_name() {
        let fields = "S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 7777 1 1";
        for name in ["sh", "a) S 1", "((", "x y"] {
            assert_eq!(
                started(&format!("42 ({name}) {fields}")),
                Some(7777),
                "{name}"
            );
        }
        assert_eq!(started("42 (sh) S 1"), None);
    }

    #[test]
    fn a_proc_is_searched_and_the_oldest_comes_first() {
        let proc = std::env::temp_dir().join(format!("culvert-proc-{}", std::process::id()));
        let _ = fs::remove_dir_all(&proc);
        let process = |pid: u32, uid: &str, started: u64, namespace: &str| {
            let folder = proc.join(pid.to_string());
            fs::create_dir_all(folder.join("ns")).unwrap();
            fs::write(folder.join("cgroup"), format!("0::/kubepods/pod{uid}/c\n")).unwrap();
            let zeros = "0 ".repeat(18);
            fs::write(
                folder.join("stat"),
                format!("{pid} (p) S {zeros}{started} 0\n"),
            )
            .unwrap();
            let file = proc.join(namespace);
            fs::write(&file, "").unwrap();
            fs::hard_link(&file, folder.join("ns/net")).unwrap();
        };
        process(900, UID, 50, "its-own");
        process(100, UID, 70, "its-own");
        process(200, UID, 60, "another");
        process(300, "11111111-1111-1111-1111-111111111111", 1, "foreign");
        fs::create_dir_all(proc.join("self")).unwrap();
        fs::create_dir_all(proc.join("400")).unwrap();
        let found = Processes::read(&proc, &[UID.to_owned()].into()).unwrap();
        let expected = ["900/ns/net", "200/ns/net"].map(|path| proc.join(path));
        assert_eq!(found.namespaces(UID), expected);
        assert_eq!(found.namespaces("unknown"), Vec::<PathBuf>::new());
        fs::remove_dir_all(proc).unwrap();
    }
}
