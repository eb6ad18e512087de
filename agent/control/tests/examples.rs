//! The examples in `deploy/examples`: the control plane reads each as it is, and finds nothing to
//! complain about.

use std::collections::BTreeSet;
use std::path::Path;

use agent_control::Manifests;
use agent_xds::ResourceType;

/// Each with the policies that nodes are given of it.
const EXAMPLES: [(&str, &[&str]); 8] = [
    (
        "deny-by-default.yaml",
        &[
            "culvert-demo/client-to-server",
            "culvert-demo/monitoring-to-all",
            "culvert-demo/no-administration-from-outside",
            "culvert-demo/nothing",
        ],
    ),
    ("egress.yaml", &[]),
    ("ingress.yaml", &[]),
    ("migration-from-istio-ambient.yaml", &["shop/web-to-orders"]),
    ("quickstart.yaml", &[]),
    ("strict-mtls.yaml", &[]),
    ("traffic-policy.yaml", &[]),
    ("waypoint.yaml", &[]),
];

/// A pod of the quickstart as a cluster would have it, for policies to be about.
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: server-1, namespace: culvert-demo, uid: 1-2-3, labels: {app: server}}
spec: {nodeName: n1, serviceAccountName: server, containers: [{name: c, ports: [{containerPort: 8080}]}]}
status: {phase: Running, podIP: 10.0.0.5, podIPs: [{ip: 10.0.0.5}]}
";

fn example(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
    std::fs::read_to_string(folder.join(name)).expect("an example")
}

#[test]
fn each_is_read_without_a_problem() {
    for (name, policies) in EXAMPLES {
        let mut manifests = Manifests::new("cluster.local");
        manifests.update(name, example(name).as_bytes());
        assert_eq!(manifests.problems(), Vec::<String>::new(), "{name}");
        let catalog = manifests.catalog();
        let known: BTreeSet<String> = catalog
            .names(ResourceType::Authorization)
            .map(|name| name.to_string())
            .collect();
        for policy in policies {
            assert!(known.contains(*policy), "{name}: {policy} in {known:?}");
        }
    }
}

#[test]
fn every_file_is_one_of_them_and_says_what_it_is() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
    let found: BTreeSet<String> = std::fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    let known: BTreeSet<String> = EXAMPLES
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(found, known);
    for name in known {
        let text = example(&name);
        let head: Vec<&str> = text
            .lines()
            .take_while(|line| line.starts_with('#'))
            .collect();
        let head = head.join("\n");
        for part in ["# What it shows: ", "# How to "] {
            assert!(head.contains(part), "{name} lacks {part:?}");
        }
    }
}

/// Together they are about the quickstart's pods: its server gets the policies that select it.
#[test]
fn they_fit_together() {
    let mut manifests = Manifests::new("cluster.local");
    manifests.update("pod.yaml", POD.as_bytes());
    let alone = manifests.catalog();
    for (name, _) in EXAMPLES {
        manifests.update(name, example(name).as_bytes());
    }
    assert_eq!(manifests.problems(), Vec::<String>::new());
    let catalog = manifests.catalog();
    let policies = catalog.len(ResourceType::Authorization);
    assert!(
        policies > alone.len(ResourceType::Authorization) + 5,
        "{policies}"
    );
    let version = |catalog: &agent_xds::Catalog| {
        let mut names = catalog.names(ResourceType::Address);
        let name = names
            .find(|name| name.contains("server-1"))
            .expect("the pod")
            .clone();
        catalog.version(ResourceType::Address, &name)
    };
    assert_ne!(
        version(&alone),
        version(&catalog),
        "label and policies change the workload"
    );
}
