use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::*;

/// A node's folders.
struct Host {
    root: PathBuf,
    installation: Installation,
}

impl Host {
    fn new() -> Self {
        static HOSTS: AtomicU32 = AtomicU32::new(0);
        let number = HOSTS.fetch_add(1, Ordering::Relaxed);
        let name = format!("culvert-install-{}-{number}", std::process::id());
        let root = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&root);
        for folder in ["bin", "net.d", "state"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("culvert-cni"), "program 1").unwrap();
        let installation = Installation {
            program: root.join("culvert-cni"),
            bin_dir: root.join("bin"),
            conf_dir: root.join("net.d"),
            agent_socket: "/run/culvert/cni.sock".into(),
            meshed_namespaces: root.join("state/meshed-namespaces.json"),
            exclude_namespaces: vec!["culvert-system".into()],
        };
        write_meshed(&installation.meshed_namespaces, &BTreeSet::new()).unwrap();
        Self { root, installation }
    }

    fn put(&self, name: &str, content: &Value) -> PathBuf {
        let path = self.root.join("net.d").join(name);
        fs::write(&path, content.to_string()).unwrap();
        path
    }

    fn value(&self, name: &str) -> Value {
        let text = fs::read_to_string(self.root.join("net.d").join(name)).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn types(&self, name: &str) -> Vec<String> {
        let list = self.value(name);
        let plugins = list["plugins"].as_array().unwrap().iter();
        plugins
            .map(|one| one["type"].as_str().unwrap().to_owned())
            .collect()
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(folder)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Chained in the file of that name; whether something had to be written.
    fn chained_in(&self, name: &str) -> bool {
        match self.installation.ensure().unwrap() {
            Standing::Chained { file, wrote } => {
                assert_eq!(file, self.root.join("net.d").join(name));
                wrote
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn list(plugin: &str) -> Value {
    json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": plugin}]})
}

#[test]
fn the_first_configuration_is_chained_and_nothing_is_written_twice() {
    let host = Host::new();
    let first = host.put("10-calico.conflist", &list("calico"));
    host.put("20-other.conflist", &list("other"));
    host.put("05-notes.txt", &json!({}));
    fs::set_permissions(&first, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(host.chained_in("10-calico.conflist"));
    assert_eq!(host.types("10-calico.conflist"), ["calico", "culvert-cni"]);
    assert_eq!(host.types("20-other.conflist"), ["other"]);
    let written = fs::metadata(&first).unwrap();
    assert_eq!(written.permissions().mode() & 0o777, 0o640);
    let program = fs::metadata(host.root.join("bin/culvert-cni")).unwrap();
    assert_eq!(program.permissions().mode() & 0o777, 0o755);

    assert!(!host.chained_in("10-calico.conflist"));
    assert_eq!(fs::metadata(&first).unwrap().ino(), written.ino());
    let again = fs::metadata(host.root.join("bin/culvert-cni")).unwrap();
    assert_eq!(again.ino(), program.ino());
    assert_eq!(host.names("bin"), ["culvert-cni"], "no leftovers");
    assert_eq!(host.names("net.d").len(), 3, "no leftovers");
}

#[test]
fn a_new_program_replaces_the_old_one() {
    let host = Host::new();
    host.put("10-calico.conflist", &list("calico"));
    host.chained_in("10-calico.conflist");
    fs::write(&host.installation.program, "program 2").unwrap();
    assert!(host.chained_in("10-calico.conflist"));
    let installed = fs::read_to_string(host.root.join("bin/culvert-cni")).unwrap();
    assert_eq!(installed, "program 2");
}

#[test]
fn a_lone_plugin_is_replaced_by_a_list_under_a_name_of_its_own() {
    for name in ["10-bridge.conf", "10-bridge.json"] {
        let host = Host::new();
        let single = host.put(
            name,
            &json!({"cniVersion": "0.4.0", "name": "n", "type": "bridge"}),
        );
        host.put("20-other.conflist", &list("other"));
        fs::set_permissions(&single, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(host.chained_in("10-bridge.conflist"));
        assert_eq!(
            host.names("net.d"),
            ["10-bridge.conflist", "20-other.conflist"]
        );
        assert_eq!(host.types("10-bridge.conflist"), ["bridge", "culvert-cni"]);
        assert_eq!(host.value("10-bridge.conflist")["cniVersion"], "0.4.0");
        let mode = fs::metadata(host.root.join("net.d/10-bridge.conflist"));
        assert_eq!(mode.unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!host.chained_in("10-bridge.conflist"));
    }
}

#[test]
fn whoever_writes_the_configuration_again_gets_our_entry_again() {
    let host = Host::new();
    host.put("10-calico.conflist", &list("calico"));
    host.chained_in("10-calico.conflist");
    host.put("10-calico.conflist", &list("calico-2"));
    assert!(host.chained_in("10-calico.conflist"));
    assert_eq!(
        host.types("10-calico.conflist"),
        ["calico-2", "culvert-cni"]
    );
    // One that comes before it is the one the runtime uses from now on.
    host.put(
        "00-multus.conf",
        &json!({"cniVersion": "1.0.0", "name": "m", "type": "multus"}),
    );
    assert!(host.chained_in("00-multus.conflist"));
    assert_eq!(host.types("00-multus.conflist"), ["multus", "culvert-cni"]);
    // Its owner writes it anew beside the list we made of it.
    host.put(
        "00-multus.conf",
        &json!({"cniVersion": "1.0.0", "name": "m", "type": "multus-2"}),
    );
    assert!(host.chained_in("00-multus.conflist"));
    assert_eq!(
        host.types("00-multus.conflist"),
        ["multus-2", "culvert-cni"]
    );
    assert!(!host.names("net.d").contains(&"00-multus.conf".to_owned()));
}

#[test]
fn what_is_broken_is_left_alone_and_waited_for() {
    let host = Host::new();
    let none = host.installation.ensure().unwrap();
    assert_eq!(none, Standing::NoNetwork(Vec::new()));
    let broken = host.root.join("net.d/10-half.conflist");
    fs::write(&broken, "{\"cniVersion\": \"1.0.0\", \"plu").unwrap();
    host.put("11-old.conflist", &{
        let mut old = list("old");
        old["cniVersion"] = "0.1.0".into();
        old
    });
    let before = fs::metadata(&broken).unwrap();
    let Standing::NoNetwork(why) = host.installation.ensure().unwrap() else {
        panic!("chained into nothing");
    };
    assert!(matches!(&why[0], (path, Unusable::Invalid(_)) if *path == broken));
    assert!(matches!(&why[1].1, Unusable::Version(version) if version == "0.1.0"));
    assert_eq!(fs::metadata(&broken).unwrap().ino(), before.ino());
    assert_eq!(host.types("11-old.conflist"), ["old"]);
    // Runtimes take the old one, and nothing behind it.
    host.put("12-good.conflist", &list("good"));
    let standing = host.installation.ensure().unwrap();
    assert!(matches!(standing, Standing::NoNetwork(why) if why.len() == 2));
    assert_eq!(host.types("12-good.conflist"), ["good"]);
    // The next one that is in order is what a runtime that passes over the broken ones uses.
    fs::remove_file(host.root.join("net.d/11-old.conflist")).unwrap();
    assert!(host.chained_in("12-good.conflist"));
    fs::write(&broken, list("whole").to_string()).unwrap();
    assert!(host.chained_in("10-half.conflist"));
    fs::remove_dir_all(host.root.join("net.d")).unwrap();
    assert_eq!(host.installation.ensure().unwrap(), none);
}

#[test]
fn without_a_list_of_meshed_namespaces_nothing_is_chained() {
    let host = Host::new();
    host.put("10-calico.conflist", &list("calico"));
    fs::remove_file(&host.installation.meshed_namespaces).unwrap();
    assert_eq!(host.installation.ensure().unwrap(), Standing::NoList);
    assert_eq!(host.types("10-calico.conflist"), ["calico"]);
    assert_eq!(host.names("bin"), ["culvert-cni"]);
}

#[test]
fn uninstalling_takes_out_every_entry_and_then_the_program() {
    let host = Host::new();
    host.put(
        "10-bridge.conf",
        &json!({"cniVersion": "1.0.0", "name": "n", "type": "bridge"}),
    );
    host.chained_in("10-bridge.conflist");
    host.put("05-first.conflist", &list("first"));
    host.chained_in("05-first.conflist");
    fs::write(host.root.join("net.d/99-broken.conflist"), "{").unwrap();
    let changed = host.installation.remove_entry().unwrap();
    assert_eq!(changed.len(), 2);
    assert_eq!(host.types("05-first.conflist"), ["first"]);
    assert_eq!(host.types("10-bridge.conflist"), ["bridge"]);
    assert_eq!(
        host.installation.remove_entry().unwrap(),
        [""; 0].map(PathBuf::from)
    );
    assert_eq!(host.names("bin"), ["culvert-cni"]);
    host.installation.remove_program().unwrap();
    host.installation.remove_program().unwrap();
    assert_eq!(host.names("bin"), [""; 0]);
}

#[test]
fn what_somebody_else_writes_meanwhile_is_not_lost() {
    let host = Host::new();
    let path = host.put("10-calico.conflist", &list("calico"));
    let before = list("an earlier one").to_string();
    let result = files::replace(&path, &path, &before, "ours");
    assert!(
        matches!(result, Err(InstallError::Contended(_))),
        "{result:?}"
    );
    assert_eq!(host.types("10-calico.conflist"), ["calico"]);
    assert_eq!(host.names("net.d"), ["10-calico.conflist"], "no leftovers");
}

#[test]
fn a_link_is_kept_and_its_target_replaced() {
    let host = Host::new();
    let target = host.root.join("state/real.conflist");
    fs::write(&target, list("linked").to_string()).unwrap();
    let link = host.root.join("net.d/10-link.conflist");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    assert!(host.chained_in("10-link.conflist"));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(host.types("10-link.conflist"), ["linked", "culvert-cni"]);
}
