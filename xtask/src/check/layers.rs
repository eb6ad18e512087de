//! Rooms and layers: a crate depends only on crates of lower layers, and some outside crates are
//! kept to the rooms that wrap them.

use super::Member;

/// From the bottom up. Crates of one layer never depend on each other.
const LAYERS: [&[&str]; 6] = [
    &["agent-model", "agent-net", "proto", "ebpf-common"],
    &[
        "agent-identity",
        "agent-policy",
        "agent-xds",
        "agent-datapath",
        "agent-telemetry",
        "agent-cni",
    ],
    &["agent-hbone", "agent-state"],
    &["agent-proxy", "agent-gateway", "agent-control"],
    &["agent-app", "ebpf-programs"],
    &["tests", "tests-fuzz", "xtask", "proto-codegen"],
];

/// Outside crates and the only members that may name them.
const KEPT: [(&str, &[&str]); 8] = [
    ("aya", &["agent-datapath", "ebpf-common"]),
    ("aya-log", &["agent-datapath"]),
    ("aya-ebpf", &["ebpf-programs"]),
    ("aya-log-ebpf", &["ebpf-programs"]),
    ("h2", &["agent-hbone"]),
    ("kube", &["agent-control", "tests"]),
    ("k8s-openapi", &["agent-control", "tests"]),
    ("anyhow", &["agent-app", "xtask", "tests", "proto-codegen"]),
];

/// Members that depend on no member at all, or only on the named ones.
const CLOSED: [(&str, &[&str]); 3] = [
    ("xtask", &[]),
    ("agent-cni", &["agent-model"]),
    ("ebpf-programs", &["ebpf-common"]),
];

/// One sentence for each dependency that the house does not allow.
pub(super) fn faults(members: &[Member]) -> Vec<String> {
    members.iter().flat_map(member_faults).collect()
}

fn member_faults(member: &Member) -> Vec<String> {
    let name = member.name.as_str();
    let Some(layer) = layer(name) else {
        return vec![format!(
            "{name} has no layer: add it to the table in xtask/src/check/layers.rs"
        )];
    };
    let closed = CLOSED
        .iter()
        .find(|(room, _)| *room == name)
        .map(|(_, allowed)| *allowed);
    let mut faults = Vec::new();
    for dependency in &member.dependencies {
        let dependency = dependency.as_str();
        if let Some(below) = self::layer(dependency) {
            if below >= layer {
                faults.push(format!(
                    "{name} (layer {layer}) depends on {dependency} (layer {below}): only downwards"
                ));
            } else if closed.is_some_and(|allowed| !allowed.contains(&dependency)) {
                faults.push(format!("{name} knows {dependency}, which it must not"));
            }
        }
        let keepers = KEPT.iter().find(|(outside, _)| *outside == dependency);
        if let Some((_, rooms)) = keepers
            && !rooms.contains(&name)
        {
            faults.push(format!(
                "{name} depends on {dependency}, kept to {}",
                rooms.join(", ")
            ));
        }
    }
    faults
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, dependencies: &[&str]) -> Member {
        Member {
            name: name.to_owned(),
            folder: "/".into(),
            dependencies: dependencies.iter().map(|&one| one.to_owned()).collect(),
        }
    }

    fn only_fault(name: &str, dependencies: &[&str]) -> String {
        let mut faults = faults(&[member(name, dependencies)]);
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.remove(0)
    }

    #[test]
    fn downward_and_outside_dependencies_are_fine() {
        let proxy = member(
            "agent-proxy",
            &["agent-hbone", "agent-model", "agent-datapath", "tokio"],
        );
        let hbone = member("agent-hbone", &["agent-identity", "h2"]);
        assert_eq!(faults(&[proxy, hbone]), Vec::<String>::new());
    }

    #[test]
    fn upward_and_sideways_dependencies_are_not() {
        assert!(only_fault("agent-model", &["agent-net"]).contains("only downwards"));
        assert!(only_fault("agent-policy", &["agent-identity"]).contains("only downwards"));
        assert!(only_fault("agent-state", &["agent-proxy"]).contains("only downwards"));
    }

    #[test]
    fn wrapped_crates_stay_in_their_rooms() {
        assert!(only_fault("agent-proxy", &["h2"]).contains("kept to agent-hbone"));
        assert!(only_fault("agent-app", &["aya"]).contains("kept to agent-datapath"));
        assert!(only_fault("agent-control", &["anyhow"]).contains("kept to agent-app"));
    }

    #[test]
    fn closed_rooms_know_only_what_is_listed() {
        assert!(only_fault("xtask", &["agent-model"]).contains("must not"));
        assert!(only_fault("agent-cni", &["agent-model", "agent-net"]).contains("agent-net"));
        assert!(only_fault("agent-new", &[]).contains("no layer"));
    }
}
