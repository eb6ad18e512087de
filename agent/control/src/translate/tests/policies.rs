use agent_model::Workload;
use insta::assert_snapshot;

use super::{collection, show};

/// A policy `p` of a namespace with this spec.
fn policy(namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: p, namespace: {namespace}}}\nspec:\n{spec}"
    )
}

fn shown(spec: &str) -> String {
    show(&collection(&policy("shop", spec)), "shop")
}

const POD: &str = "---\napiVersion: v1\nkind: Pod\n\
                   metadata: {name: web, namespace: shop, labels: {app: web}}\nstatus: {podIP: 10.0.0.1}\n";

fn listed(manifest: &str) -> Vec<String> {
    let collection = collection(manifest);
    let workload: &Workload = &collection.translated("shop").unwrap().workloads[0];
    let keys = workload.authorization_policies.iter();
    keys.map(ToString::to_string).collect()
}

#[test]
fn every_field_a_node_can_decide() {
    assert_snapshot!(shown(
        "  selector: {matchLabels: {app: web}}
  action: ALLOW
  rules:
  - from:
    - source:
        principals: [\"*\", \"*/sa/web\", \"cluster.local/ns/a/*\", \"cluster.local/ns/a/sa/b\"]
        notPrincipals: [x]
    - source: {namespaces: [a, \"b*\"], notNamespaces: [c], ipBlocks: [10.0.0.7/8, 192.0.2.1], notIpBlocks: [\"2001:db8::/32\"]}
    - source: {serviceAccounts: [web, other/cache], notServiceAccounts: [evil]}
    to:
    - operation: {ports: [\"80\", 443]}
    - operation: {notPorts: [\"22\"]}
    when:
    - {key: source.ip, values: [10.0.0.0/8], notValues: [10.1.0.0/16]}
    - {key: source.namespace, values: [a]}
    - {key: source.principal, notValues: [\"*\"]}
    - {key: source.serviceAccount, values: [web]}
    - {key: destination.ip, values: [\"::ffff:10.0.0.1\"]}
    - {key: destination.port, notValues: [\"9090\"]}
"
    ));
}

#[test]
fn empty_is_never_the_same_as_absent() {
    assert_snapshot!("allows_nothing", shown("  {}\n"));
    assert_snapshot!("allows_everything", shown("  rules: [{}]\n"));
    assert_snapshot!("denies_nothing", shown("  action: DENY\n"));
}

#[test]
fn what_needs_a_request_is_strict() {
    let rules = "  rules:
  - to:
    - operation: {ports: [\"80\"], methods: [GET]}
  - to:
    - operation: {methods: [GET]}
    - operation: {ports: [\"81\"]}
    from:
    - source: {namespaces: [a]}
  - from:
    - source: {requestPrincipals: [\"*\"], remoteIpBlocks: [10.0.0.0/8]}
  - when:
    - {key: \"request.headers[x]\", values: [a]}
    - {key: source.namespace, values: [b]}
  - from:
    - source: {namespaces: [c]}
";
    assert_snapshot!("allow", shown(&format!("  action: ALLOW\n{rules}")));
    assert_snapshot!("deny", shown(&format!("  action: DENY\n{rules}")));
}

#[test]
fn what_nodes_do_not_enforce_is_said() {
    assert_snapshot!("audit", shown("  action: AUDIT\n  rules: [{}]\n"));
    assert_snapshot!(
        "custom",
        shown("  action: CUSTOM\n  provider: {name: x}\n  rules: [{}]\n")
    );
    assert_snapshot!(
        "target",
        shown("  targetRefs: [{kind: Service, name: web}]\n  rules: [{}]\n")
    );
    assert_snapshot!(
        "odd_texts",
        shown(
            "  rules: [{from: [{source: {principals: [\"a*b\", \"spiffe://td/ns/a/sa/b\"]}}]}]\n"
        )
    );
}

#[test]
fn scopes() {
    let scope = |namespace: &str, spec: &str| {
        let collection = collection(&policy(namespace, spec));
        let translated = collection.translated(namespace).unwrap();
        format!("{:?}", translated.policies[0].scope)
    };
    assert_eq!(scope("shop", "  {}\n"), "Namespace");
    assert_eq!(scope("culvert-system", "  {}\n"), "Global");
    assert_eq!(
        scope("shop", "  selector: {matchLabels: {a: b}}\n"),
        "WorkloadSelector"
    );
    assert_eq!(
        scope("culvert-system", "  selector: {matchLabels: {a: b}}\n"),
        "WorkloadSelector"
    );
    // Without labels it selects everything.
    assert_eq!(
        scope("shop", "  selector: {matchLabels: {}}\n"),
        "Namespace"
    );
    assert_eq!(scope("culvert-system", "  selector: {}\n"), "Global");
}

#[test]
fn workloads_list_the_policies_that_select_them() {
    let own = |labels: &str| {
        policy(
            "shop",
            &format!("  selector: {{matchLabels: {{{labels}}}}}\n"),
        )
    };
    let root = |labels: &str| {
        policy(
            "culvert-system",
            &format!("  selector: {{matchLabels: {{{labels}}}}}\n"),
        )
    };
    let cases: [(String, &[&str]); 7] = [
        (own("app: web"), &["shop/p"]),
        (own("app: other"), &[]),
        (own("app: web, tier: one"), &[]),
        (root("app: web"), &["culvert-system/p"]),
        (root("app: other"), &[]),
        (policy("shop", "  {}\n"), &[]),
        // Not on offer, so listing it would deny everything.
        (
            policy(
                "culvert-system",
                "  selector: {matchLabels: {app: web}}\n  action: AUDIT\n",
            ),
            &[],
        ),
    ];
    for (policy, expected) in cases {
        assert_eq!(listed(&format!("{policy}{POD}")), expected, "{policy}");
    }
}

#[test]
fn a_dry_run_stays_one() {
    let manifest = policy("shop", "  {}\n").replace(
        "name: p,",
        "name: p, annotations: {istio.io/dry-run: \"true\"},",
    );
    let collection = collection(&manifest);
    assert!(collection.translated("shop").unwrap().policies[0].dry_run);
}

fn peer(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )
}

const STATIC: &str = "culvert-system/istio_converted_static_strict";

#[test]
fn the_mode_in_force() {
    let mesh = |mode: &str| peer("culvert-system", "mesh", &format!("mtls: {{mode: {mode}}}"));
    let namespace = |mode: &str| peer("shop", "ns", &format!("mtls: {{mode: {mode}}}"));
    let workload = |label: &str, mode: &str| {
        peer(
            "shop",
            "wl",
            &format!("selector: {{matchLabels: {{app: {label}}}}}, mtls: {{mode: {mode}}}"),
        )
    };
    let cases = [
        (String::new(), false),
        (mesh("STRICT"), true),
        (mesh("PERMISSIVE"), false),
        (mesh("STRICT") + &namespace("PERMISSIVE"), false),
        (mesh("STRICT") + &namespace("DISABLE"), false),
        (mesh("STRICT") + &namespace("UNSET"), true),
        (namespace("STRICT"), true),
        (peer("other", "ns", "mtls: {mode: STRICT}"), false),
        (namespace("STRICT") + &workload("web", "PERMISSIVE"), false),
        (namespace("STRICT") + &workload("other", "PERMISSIVE"), true),
        (namespace("STRICT") + &workload("web", "UNSET"), true),
        (namespace("PERMISSIVE") + &workload("web", "STRICT"), true),
        (mesh("STRICT") + &workload("web", "UNSET"), true),
        // Selectors of the root namespace do not count.
        (
            peer(
                "culvert-system",
                "x",
                "selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}",
            ),
            false,
        ),
    ];
    for (policies, is_strict) in cases {
        let expected: &[&str] = if is_strict { &[STATIC] } else { &[] };
        assert_eq!(listed(&format!("{policies}{POD}")), expected, "{policies}");
    }
}

#[test]
fn the_oldest_wins() {
    let at = |name: &str, time: &str, mode: &str| {
        peer("shop", name, &format!("mtls: {{mode: {mode}}}")).replace(
            "namespace:",
            &format!("creationTimestamp: {time}, namespace:"),
        )
    };
    let old = "2025-01-01T00:00:00Z";
    let new = "2026-01-01T00:00:00Z";
    let manifest = at("b", old, "STRICT") + &at("a", new, "PERMISSIVE") + POD;
    assert_eq!(listed(&manifest), [STATIC]);
    let manifest = at("b", new, "STRICT") + &at("a", old, "PERMISSIVE") + POD;
    assert_eq!(listed(&manifest), [""; 0]);
    assert_snapshot!(show(&collection(&manifest), "shop"));
}

#[test]
fn modes_of_ports() {
    let with_ports = |mode: &str, ports: &str| {
        let spec = format!(
            "selector: {{matchLabels: {{app: web}}}}, mtls: {{mode: {mode}}}, portLevelMtls: {{{ports}}}"
        );
        peer("shop", "wl", &spec)
    };
    let strict = with_ports(
        "STRICT",
        "8080: {mode: PERMISSIVE}, 8081: {mode: DISABLE}, 8082: {mode: STRICT}",
    ) + POD;
    assert_snapshot!("strict_but_for_ports", show(&collection(&strict), "shop"));
    let permissive = with_ports(
        "PERMISSIVE",
        "8080: {mode: STRICT}, 8081: {mode: STRICT}, 8082: {mode: UNSET}",
    ) + POD;
    assert_snapshot!("strict_for_ports", show(&collection(&permissive), "shop"));
    let inherited = peer("shop", "ns", "mtls: {mode: STRICT}")
        + &with_ports("UNSET", "8080: {mode: DISABLE}")
        + POD;
    assert_eq!(
        listed(&inherited),
        ["shop/converted_peer_authentication_wl"]
    );
    let same = with_ports("STRICT", "8080: {mode: STRICT}") + POD;
    assert_eq!(listed(&same), [STATIC]);
    let ignored = peer("shop", "ns", "portLevelMtls: {8080: {mode: STRICT}}") + POD;
    assert_eq!(listed(&ignored), [""; 0]);
    assert_snapshot!(
        "ports_without_selector",
        show(&collection(&ignored), "shop")
    );
}
