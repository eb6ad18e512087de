use proptest::prelude::*;

use super::*;
use crate::snapshot::Snapshot;
use crate::source::Object;
use crate::source::file::read_text;
use crate::translate::tests::mesh;

const NAMESPACES: [&str; 3] = ["shop", "bank", "culvert-system"];

/// One of a small world of objects: same few names, so that changes meet.
fn document() -> impl Strategy<Value = String> {
    let namespace = proptest::sample::select(NAMESPACES.to_vec());
    let name = proptest::sample::select(vec!["a", "b"]);
    let node = proptest::sample::select(vec!["n1", "n2"]);
    let flag = any::<bool>();
    (0..8, namespace, name, node, flag, 1..4u8).prop_map(|(kind, namespace, name, node, flag, number)| {
        let metadata = format!("name: {name}, namespace: {namespace}");
        let word = |yes, no| if flag { yes } else { no };
        match kind {
            0 => format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{culvert.dev/mesh: {}, topology.istio.io/network: net{number}}}}}",
                word("enabled", "disabled")
            ),
            1 => format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{name: {node}, labels: {{topology.kubernetes.io/zone: z{number}}}}}"
            ),
            2 | 3 => format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{{metadata}, labels: {{app: {name}}}}}\n\
                 spec: {{nodeName: {node}, serviceAccountName: sa{number}}}\nstatus: {{podIP: 10.0.0.{number}, phase: {}}}",
                word("Running", "Succeeded")
            ),
            4 => format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{{metadata}}}\n\
                 spec: {{clusterIP: 10.96.0.{number}, selector: {{app: {name}}}, ports: [{{port: 80}}]}}"
            ),
            5 => format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{{metadata}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
                 addressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{{addresses: [192.0.2.{number}]}}]"
            ),
            6 => format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{{metadata}}}\n\
                 spec: {{selector: {{matchLabels: {{app: {name}}}}}, action: {}}}",
                word("DENY", "ALLOW")
            ),
            _ => format!(
                "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{{metadata}}}\nspec: {{mtls: {{mode: {}}}}}",
                word("STRICT", "PERMISSIVE")
            ),
        }
    })
}

fn event(document: &str) -> Event {
    read_text(document).events.remove(0)
}

/// What is on offer, with versions.
fn offers(published: &agent_xds::Published) -> Vec<(String, String)> {
    let catalog = published.read();
    let kinds = agent_xds::ResourceType::ALL.into_iter();
    let offers = kinds.flat_map(|kind| {
        catalog
            .names(kind)
            .map(move |name| (kind, name.to_string()))
            .collect::<Vec<_>>()
    });
    offers
        .map(|(kind, name)| {
            let version = catalog.version(kind, &name).unwrap();
            (name, version)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Redoing only what a change touches gives what redoing everything gives.
    #[test]
    fn incremental_is_complete(
        steps in proptest::collection::vec(
            proptest::collection::vec((document(), proptest::bool::weighted(0.3)), 1..4),
            1..12,
        ),
    ) {
        let mut collection = Collection::new(mesh());
        let (mut snapshot, published) = Snapshot::new();
        let mut objects: BTreeMap<ObjectRef, Object> = BTreeMap::new();
        for step in steps {
            for (document, is_delete) in step {
                let Event::Apply(object) = event(&document) else { unreachable!() };
                let reference = object.reference();
                if is_delete {
                    objects.remove(&reference);
                    collection.apply(Event::Delete(reference));
                } else {
                    objects.insert(reference, object.clone());
                    collection.apply(Event::Apply(object));
                }
            }
            let changed = collection.settle();
            snapshot.update(&collection, &changed);

            let mut fresh = Collection::new(mesh());
            objects.values().cloned().for_each(|object| fresh.apply(Event::Apply(object)));
            let all = fresh.settle();
            prop_assert_eq!(&collection.translated, &fresh.translated);
            prop_assert_eq!(&collection.node_identities, &fresh.node_identities);
            let (mut fresh_snapshot, fresh_published) = Snapshot::new();
            fresh_snapshot.update(&fresh, &all);
            prop_assert_eq!(offers(&published), offers(&fresh_published));
        }
    }
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\n\
                   spec: {nodeName: n1}\nstatus: {podIP: 10.0.0.1}";

#[test]
fn what_changes_nothing_is_not_published() {
    let mut collection = Collection::new(mesh());
    let (mut snapshot, published) = Snapshot::new();
    let mut watched = published.changes();
    let mut take = |document: &str| {
        collection.apply(event(document));
        let changed = collection.settle();
        snapshot.update(&collection, &changed)
    };
    assert!(take(POD));
    assert!(watched.has_changed().unwrap());
    watched.mark_unchanged();
    // A label nobody looks at, a node without pods, an account.
    assert!(!take(&POD.replace("name: a,", "name: a, labels: {x: z},")));
    assert!(!take(
        "apiVersion: v1\nkind: Node\nmetadata: {name: n9, labels: {a: b}}"
    ));
    assert!(!take(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a, namespace: shop}"
    ));
    assert!(!watched.has_changed().unwrap());
    assert!(take(&POD.replace("10.0.0.1", "10.0.0.2")));
    assert!(watched.has_changed().unwrap());
}

/// In a large cluster nodes and agents come and go all day.
#[test]
fn what_no_other_namespace_reads_is_no_work_for_it() {
    let elsewhere = POD.replace("shop", "bank").replace("n1", "n2");
    let agent = POD.replace("shop", "culvert-system").replace("n1", "n3");
    let node = |labels: &str| {
        format!("apiVersion: v1\nkind: Node\nmetadata: {{name: n1, labels: {{{labels}}}}}")
    };
    let policy = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                  metadata: {name: default, namespace: culvert-system}\nspec: {mtls: {mode: STRICT}}";
    let network = "apiVersion: v1\nkind: Namespace\n\
                   metadata: {name: culvert-system, labels: {topology.istio.io/network: net}}";
    let mut collection = Collection::new(mesh());
    for document in [POD, &elsewhere, &agent, &node("")] {
        collection.apply(event(document));
    }
    collection.settle();
    for (document, touched, all) in [
        (agent.replace("n3", "n4"), &["culvert-system"][..], false),
        (node("beta.kubernetes.io/arch: amd64"), &[], false),
        (node("topology.kubernetes.io/zone: z"), &["shop"], false),
        (
            network.replace("topology.istio.io/network: net", "a: b"),
            &["culvert-system"],
            false,
        ),
        (network.to_owned(), &["culvert-system"], true),
        (policy.to_owned(), &["culvert-system"], true),
    ] {
        collection.apply(event(&document));
        let dirty: Vec<&str> = collection.dirty.iter().map(|name| &**name).collect();
        assert_eq!(
            (&dirty[..], collection.all_dirty),
            (touched, all),
            "{document}"
        );
        collection.settle();
    }
}

#[test]
fn the_strict_policy_is_always_on_offer() {
    let collection = Collection::new(mesh());
    let (mut snapshot, published) = Snapshot::new();
    snapshot.update(&collection, &[]);
    let names: Vec<String> = offers(&published)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["culvert-system/istio_converted_static_strict"]);
}

#[test]
fn another_trust_domain_is_said_to_have_no_effect() {
    let config = |domain: &str| {
        format!(
            "apiVersion: culvert.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{trustDomain: {domain}}}"
        )
    };
    let mut collection = Collection::new(mesh());
    collection.apply(event(&config("cluster.local")));
    collection.settle();
    assert_eq!(collection.notes(), []);
    collection.apply(event(&config("other.domain")));
    collection.settle();
    assert_eq!(collection.notes()[0].severity, crate::code::Severity::Error);
}
