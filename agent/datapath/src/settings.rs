//! What the programs must know of the node: which namespace is the host's, and which processes are
//! pods.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use agent_net::NetnsCookie;
use ebpf_common::Settings;

/// The cgroup whose processes are pods, by the two drivers of the kubelet.
const KUBEPODS: [&str; 2] = ["kubepods", "kubepods.slice"];

/// The node as it is now: a kubepods cgroup may come later.
pub(crate) fn settings(host: NetnsCookie, cgroup_root: &Path) -> Settings {
    let mut kubepods = kubepods(cgroup_root).into_iter();
    Settings {
        host_netns: host.0,
        kubepods: [(); 2].map(|()| kubepods.next().unwrap_or(0)),
    }
}

/// Ids of the cgroups whose processes are pods: at the root or, for a kubelet with a `cgroupRoot` of
/// its own (kind's), one step below.
fn kubepods(cgroup_root: &Path) -> Vec<u64> {
    let mut paths = KUBEPODS.map(|name| cgroup_root.join(name)).to_vec();
    let folders = fs::read_dir(cgroup_root).into_iter().flatten().flatten();
    for folder in folders.map(|entry| entry.path()) {
        let name = folder.file_name().and_then(|name| name.to_str());
        paths.push(match name.and_then(|name| name.strip_suffix(".slice")) {
            Some(slice) => folder.join(format!("{slice}-kubepods.slice")),
            None => folder.join("kubepods"),
        });
    }
    let ids = paths.iter().filter_map(|path| fs::metadata(path).ok());
    ids.map(|meta| meta.ino()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_known_by_either_driver_and_below_a_root_of_the_kubelets_own() {
        let root = std::env::temp_dir().join(format!("culvert-cgroup-{}", std::process::id()));
        for path in [
            "kubepods.slice",
            "kubepods",
            "kubelet.slice/kubelet-kubepods.slice",
            "kubelet/kubepods",
        ] {
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(root.join("system.slice/kubepods")).unwrap();
            fs::create_dir_all(root.join(path)).unwrap();
            let id = fs::metadata(root.join(path)).unwrap().ino();
            let found = settings(NetnsCookie(5), &root).kubepods;
            assert_eq!(found, [id, 0], "{path}");
        }
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn absent_kubepods_are_nobody() {
        let settings = settings(NetnsCookie(5), Path::new("/nonexistent"));
        assert_eq!(settings.kubepods, [0, 0]);
        assert_eq!(settings.host_netns, 5);
    }
}
