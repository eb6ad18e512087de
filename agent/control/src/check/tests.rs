//! Where everything is known: a cluster, seen as a whole.

use std::collections::BTreeSet;

use super::everything;
use crate::code::Code;
use crate::collection::Collection;
use crate::source::file::read_text;
use crate::translate::tests::mesh;
use crate::translate::{Endpoints, Mesh};

fn found(manifest: &str, endpoints: Endpoints) -> Vec<(String, Code, String)> {
    let batch = read_text(manifest);
    assert_eq!(batch.problems, []);
    let mut collection = Collection::new(Mesh {
        endpoints,
        ..mesh()
    });
    let events = batch.events.into_iter();
    events.for_each(|event| collection.apply(event));
    collection.settle();
    let found = everything(&collection.inventory()).into_iter();
    found
        .map(|found| (found.object.to_string(), found.code, found.message))
        .collect()
}

fn codes(manifest: &str, endpoints: Endpoints) -> BTreeSet<Code> {
    let found = found(manifest, endpoints).into_iter();
    found.map(|(_, code, _)| code).collect()
}

const POLICY: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  rules:
  - from: [{source: {namespaces: [monitoring]}}, {source: {serviceAccounts: [shop/web, other/x]}}]
";

#[test]
fn what_manifests_do_not_hold_may_be_elsewhere_and_what_a_cluster_lacks_is_nowhere() {
    assert_eq!(codes(POLICY, Endpoints::Derived), BTreeSet::new());
    let expected = [
        Code::NamespaceUnknown,
        Code::AccountUnknown,
        Code::MatchesNoPod,
    ];
    assert_eq!(codes(POLICY, Endpoints::Given), BTreeSet::from(expected));
}

const ENROLLED: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {culvert.dev/mesh: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
status: {phase: Running, podIP: 10.0.0.1, conditions: [{type: Ready, status: \"True\"}]}
";

#[test]
fn a_pod_that_its_node_has_not_enrolled_is_missed_in_a_cluster_only() {
    assert_eq!(codes(ENROLLED, Endpoints::Derived), BTreeSet::new());
    let found = found(ENROLLED, Endpoints::Given);
    let message = "1 of 1 pods are not in the mesh: web (not enrolled by its node)";
    let expected = (
        "Namespace shop".to_owned(),
        Code::NamespaceHalfEnrolled,
        message.to_owned(),
    );
    assert_eq!(found, [expected]);
    let marked = ENROLLED.replace(
        "namespace: shop}",
        "namespace: shop, annotations: {ambient.istio.io/redirection: enabled}}",
    );
    assert_eq!(codes(&marked, Endpoints::Given), BTreeSet::new());
}

#[test]
fn rules_of_the_root_namespace_shadow_those_of_others_and_not_the_other_way() {
    let policy = |namespace: &str, port: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: p, namespace: {namespace}}}\n\
             spec: {{rules: [{{to: [{{operation: {{ports: [{port}]}}}}]}}]}}\n"
        )
    };
    let wide_root = policy("culvert-system", "80, 81") + &policy("shop", "80");
    let found_there = found(&wide_root, Endpoints::Derived);
    let message = "spec.rules[0] of AuthorizationPolicy culvert-system/p matches everything that this rule matches";
    let expected = (
        "AuthorizationPolicy shop/p".to_owned(),
        Code::RuleShadowed,
        message.to_owned(),
    );
    assert_eq!(found_there, [expected]);
    let wide_shop = policy("culvert-system", "80") + &policy("shop", "80, 81");
    assert_eq!(found(&wide_shop, Endpoints::Derived), []);
}

#[test]
fn a_dry_run_shadows_nothing() {
    let policy = |name: &str, annotations: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: {name}, namespace: shop, annotations: {{{annotations}}}}}\n\
             spec: {{rules: [{{}}]}}\n"
        )
    };
    let dry = policy("a", "istio.io/dry-run: \"true\"") + &policy("b", "");
    assert_eq!(codes(&dry, Endpoints::Derived), BTreeSet::new());
    let both = policy("a", "") + &policy("b", "");
    let found = found(&both, Endpoints::Derived);
    assert_eq!(found.len(), 1, "the later one only: {found:?}");
    assert_eq!(found[0].0, "AuthorizationPolicy shop/b");
}

#[test]
fn rules_beyond_the_bound_are_left_alone_and_that_is_said() {
    let rules = |count: usize| {
        let rules = vec!["{}"; count].join(", ");
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: p, namespace: shop}}\nspec: {{rules: [{rules}]}}\n"
        )
    };
    let bounded = BTreeSet::from([Code::CheckBounded]);
    assert_eq!(codes(&rules(1_001), Endpoints::Derived), bounded);
    let shadowed = BTreeSet::from([Code::RuleShadowed]);
    assert_eq!(codes(&rules(1_000), Endpoints::Derived), shadowed);
}
