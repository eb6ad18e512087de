//! Manifests: what is read of them is what every node accepts, and nothing but the last good
//! version survives from an earlier text.

use agent_control::Manifests;
use agent_state::view::View;
use agent_xds::Catalog;
use agent_xds::ResourceType;

use super::sync::Node;

pub(super) const WORDS: &[&str] = &[
    "---\n",
    "...\n",
    "apiVersion: v1\n",
    "apiVersion: security.istio.io/v1\n",
    "kind: Pod\n",
    "kind: Service\n",
    "kind: Namespace\n",
    "kind: AuthorizationPolicy\n",
    "kind: PeerAuthentication\n",
    "kind: EndpointSlice\n",
    "kind: Node\n",
    "kind: MeshConfig\n",
    "metadata:\n  name: ",
    "  namespace: shop\n",
    "spec:\n",
    "  ",
    "- ",
    "{}",
    "[]",
    "null",
    "~",
    "&a",
    "*a",
    "<<: *a",
    "!!str ",
    "|\n",
    ">\n",
    "'",
    "\"",
    "# ",
    "podIP: 10.0.0.9",
    "hostNetwork: true",
    "action: DENY",
    "ports: [\"80\"]",
    "principals: [\"*\"]",
    "ipBlocks: [\"10.0.0.0/33\"]",
    "mtls: {mode: STRICT}",
    "selector: {matchLabels: {app: web}}",
    "clusterIP: None",
    "targetPort: http",
    "0x50",
    "1e3",
    ".nan",
    "yes",
    "\u{feff}",
    "\0",
    "\t",
];

/// Further files begin after a line `%%%`.
pub(super) fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let files: Vec<&str> = text.split("%%%\n").take(4).collect();
    let mut manifests = Manifests::new("cluster.local");
    for (index, file) in files.iter().enumerate() {
        manifests.update(&format!("{index}.yaml"), file.as_bytes());
    }
    let catalog = manifests.catalog();
    accepted_by_a_node(&catalog);
    no_trace_of_the_past(&files, &catalog, manifests.problems());
    for index in 0..files.len() {
        manifests.remove(&format!("{index}.yaml"));
    }
    // The built-in policy stays.
    assert_eq!(manifests.catalog().len(ResourceType::Address), 0);
    assert!(manifests.catalog().len(ResourceType::Authorization) <= 1);
    assert!(
        manifests.problems().is_empty(),
        "{:?}",
        manifests.problems()
    );
}

fn accepted_by_a_node(catalog: &Catalog) {
    let mut node = Node::new();
    node.connect(catalog);
    assert_eq!(
        node.session.rejected(),
        [],
        "a node refuses what it is offered"
    );
    for kind in ResourceType::ALL {
        assert_eq!(node.session.held(kind), catalog.len(kind));
    }
    let view = View::new(&node.reader.load());
    let offered = catalog.len(ResourceType::Address);
    assert_eq!(view.workloads.len() + view.services.len(), offered);
}

/// A control plane that knew other files before ends up with the same.
fn no_trace_of_the_past(files: &[&str], catalog: &Catalog, problems: Vec<String>) {
    let mut other = Manifests::new("cluster.local");
    for (index, file) in files.iter().enumerate().rev() {
        other.update("before.yaml", file.as_bytes());
        other.update(&format!("{index}.yaml"), file.as_bytes());
    }
    other.remove("before.yaml");
    for kind in ResourceType::ALL {
        let versions = |catalog: &Catalog| -> Vec<(String, String)> {
            let names = catalog.names(kind).map(ToString::to_string);
            let version = |name: String| {
                let version = catalog.version(kind, &name).unwrap_or_default();
                (name, version)
            };
            names.map(version).collect()
        };
        assert_eq!(versions(&other.catalog()), versions(catalog));
    }
    assert_eq!(other.problems(), problems);
}
