use agent_model::Identity;
use insta::assert_snapshot;

use super::{collection, show};

/// One pod of namespace `shop` on node `n1` at 10.0.0.1, with parts to fill in.
fn pod(namespace_labels: &str, metadata: &str, spec: &str, status: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{namespace_labels}}}}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: web-0, namespace: shop, {metadata}}}\n\
         spec: {{nodeName: n1, {spec}}}\nstatus: {{podIP: 10.0.0.1, {status}}}\n"
    )
}

fn workload(manifest: &str) -> Option<agent_model::Workload> {
    let collection = collection(manifest);
    collection.translated("shop")?.workloads.first().cloned()
}

fn speaks_hbone(manifest: &str) -> bool {
    workload(manifest)
        .is_some_and(|workload| workload.tunnel_protocol == agent_model::TunnelProtocol::Hbone)
}

#[test]
fn a_full_pod() {
    let manifest = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {culvert.dev/mesh: enabled}}
---
apiVersion: v1
kind: Node
metadata:
  name: n1
  labels:
    topology.kubernetes.io/region: eu
    topology.kubernetes.io/zone: eu-1
    topology.istio.io/subzone: rack7
---
apiVersion: v1
kind: Pod
metadata:
  name: web-7d9f-x1
  namespace: shop
  labels: {app.kubernetes.io/name: storefront, app: web, version: v2, pod-template-hash: 7d9f}
  creationTimestamp: 2026-01-01T00:00:00Z
  managedFields: [{manager: kubelet, fieldsV1: {f:status: {}}}]
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-7d9f, controller: true, uid: u}]
spec:
  nodeName: n1
  serviceAccountName: web
  serviceAccount: web
  containers: [{name: c, image: nginx, resources: {limits: {cpu: 1}}}]
status:
  phase: Running
  podIP: 10.0.0.1
  podIPs: [{ip: 10.0.0.1}, {ip: \"fd00::1\"}]
  conditions: [{type: Ready, status: \"True\"}]
";
    assert_snapshot!(show(&collection(manifest), "shop"));
}

#[test]
fn who_is_in_the_mesh() {
    let enabled = "culvert.dev/mesh: enabled";
    let disabled = "culvert.dev/mesh: disabled";
    let (ambient, none) = (
        "istio.io/dataplane-mode: ambient",
        "istio.io/dataplane-mode: none",
    );
    let both = "culvert.dev/mesh: disabled, istio.io/dataplane-mode: ambient";
    let cases = [
        ("", "", false),
        (enabled, "", true),
        (ambient, "", true),
        ("", enabled, true),
        ("", ambient, true),
        (enabled, disabled, false),
        (enabled, none, false),
        (ambient, disabled, false),
        (disabled, enabled, true),
        (none, ambient, true),
        (disabled, "", false),
        (both, "", false),
        (enabled, both, false),
        ("culvert.dev/mesh: \"true\"", "", false),
        ("", "networking.istio.io/tunnel: http", true),
    ];
    for (namespace, pod_labels, expected) in cases {
        let manifest = pod(namespace, &format!("labels: {{{pod_labels}}}"), "", "");
        assert_eq!(
            speaks_hbone(&manifest),
            expected,
            "{namespace} / {pod_labels}"
        );
    }
    assert!(!speaks_hbone(&pod(enabled, "", "hostNetwork: true", "")));
}

#[test]
fn an_unknown_opt_in_is_said() {
    let manifest = pod(
        "culvert.dev/mesh: \"true\"",
        "labels: {istio.io/dataplane-mode: kmesh}",
        "",
        "",
    );
    assert_snapshot!(show(&collection(&manifest), "shop"));
}

#[test]
fn host_network_says_nothing_of_identity() {
    let manifest = pod(
        "",
        "labels: {culvert.dev/mesh: enabled}",
        "hostNetwork: true",
        "",
    );
    assert_snapshot!(show(&collection(&manifest), "shop"));
}

#[test]
fn health() {
    use agent_model::Health::{Healthy, Unhealthy};
    let ready = "phase: Running, conditions: [{type: Ready, status: \"True\"}]";
    let unready = "phase: Running, conditions: [{type: Ready, status: \"False\"}]";
    let unknown = "phase: Running, conditions: [{type: Ready, status: Unknown}]";
    let cases = [
        ("", ready, Some(Healthy)),
        ("", unready, Some(Unhealthy)),
        ("", unknown, Some(Unhealthy)),
        ("", "", Some(Healthy)),
        ("", "phase: Running", Some(Healthy)),
        ("", "phase: Pending", Some(Unhealthy)),
        ("", "phase: Succeeded", None),
        ("", "phase: Failed", None),
        (
            "deletionTimestamp: 2026-01-01T00:00:00Z",
            ready,
            Some(Unhealthy),
        ),
    ];
    for (metadata, status, expected) in cases {
        let found = workload(&pod("", metadata, "", status)).map(|workload| workload.health);
        assert_eq!(found, expected, "{metadata} {status}");
    }
    let without_ip = pod("", "", "", "").replace("podIP: 10.0.0.1", "podIP: \"\"");
    assert_eq!(workload(&without_ip), None);
}

#[test]
fn names_of_owners() {
    let owner = |kind: &str, name: &str, labels: &str| {
        let metadata = format!(
            "labels: {{{labels}}}, ownerReferences: [{{kind: Other, name: none}}, {{kind: {kind}, name: {name}, controller: true}}]"
        );
        let workload = workload(&pod("", &metadata, "", "")).unwrap();
        workload.workload_name.to_string()
    };
    assert_eq!(
        owner("ReplicaSet", "web-5f", "pod-template-hash: 5f"),
        "web"
    );
    assert_eq!(owner("ReplicaSet", "web-5f", ""), "web-5f");
    assert_eq!(owner("StatefulSet", "db", ""), "db");
    assert_eq!(owner("Job", "backup-28123456", ""), "backup");
    assert_eq!(owner("Job", "backup-2", ""), "backup-2");
    let alone = workload(&pod("", "", "", "")).unwrap();
    assert_eq!(&*alone.workload_name, "web-0");
    assert_eq!(&*alone.canonical_name, "web-0");
}

const SERVICES: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: shop, labels: {app: web}}
spec:
  containers: [{name: c, ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 53, protocol: UDP}]}]
  initContainers: [{name: s, restartPolicy: Always, ports: [{name: admin, containerPort: 9000}]}]
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: shop, labels: {app: web}}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: shop, labels: {app: other}}
status: {podIP: 10.0.0.3}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, \"fd00:96::1\"]
  ipFamilies: [IPv4, IPv6]
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http}
  - {name: admin, port: 90, targetPort: admin}
  - {name: plain, port: 81}
  - {name: number, port: 82, targetPort: 8082}
  - {name: dns, port: 53, protocol: UDP, targetPort: dns}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: shop}
spec: {clusterIP: None, selector: {app: other}, ports: [{port: 6379}], publishNotReadyAddresses: true}
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: shop}
spec: {type: ExternalName, externalName: example.com, selector: {app: web}}
---
apiVersion: v1
kind: Service
metadata: {name: bare, namespace: shop}
spec: {clusterIP: 10.96.0.9, ports: [{port: 1}]}
";

#[test]
fn services_by_selector() {
    assert_snapshot!(show(&collection(SERVICES), "shop"));
}

#[test]
fn services_by_slices() {
    let manifest = format!(
        "{SERVICES}---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}, {{name: plain, port: 8181}}, {{name: number, port: 1, protocol: UDP}}]
endpoints:
- {{addresses: [10.0.0.1], targetRef: {{kind: Pod, name: a, namespace: shop}}}}
- {{addresses: [10.0.0.2], conditions: {{ready: false}}, targetRef: {{kind: Pod, name: b, namespace: shop}}}}
- {{addresses: [10.0.0.77], targetRef: {{kind: Pod, name: gone, namespace: shop}}}}
- {{addresses: [10.0.0.3]}}
- {{addresses: [192.0.2.10], nodeName: n9}}
- {{addresses: [127.0.0.1]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: names, namespace: shop, labels: {{kubernetes.io/service-name: bare}}}}
addressType: FQDN
endpoints: [{{addresses: [example.com]}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: stray, namespace: shop}}
addressType: IPv4
endpoints: []
"
    );
    assert_snapshot!(show(&collection(&manifest), "shop"));
}

#[test]
fn which_endpoints_are_preferred() {
    let load_balancing = |spec: &str, annotations: &str, of_namespace: &str| {
        let manifest = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, annotations: {{{of_namespace}}}}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop, annotations: {{{annotations}}}}}\n\
             spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}], {spec}}}\n"
        );
        let collection = collection(&manifest);
        let service = &collection.translated("shop").unwrap().services[0];
        let lb = &service.load_balancing;
        format!(
            "{:?} {:?} {:?}",
            lb.mode, lb.routing_preference, lb.health_policy
        )
    };
    let annotation = "networking.istio.io/traffic-distribution: PreferClose";
    let cases = [
        ("", "", "", "Standard [] OnlyHealthy"),
        (
            "internalTrafficPolicy: Local",
            "",
            "",
            "Strict [Node] OnlyHealthy",
        ),
        (
            "internalTrafficPolicy: Local, trafficDistribution: PreferClose",
            "",
            "",
            "Strict [Node] OnlyHealthy",
        ),
        (
            "trafficDistribution: PreferClose",
            "",
            "",
            "Failover [Network, Region, Zone] OnlyHealthy",
        ),
        (
            "trafficDistribution: PreferSameZone",
            "",
            "",
            "Failover [Network, Region, Zone] OnlyHealthy",
        ),
        (
            "trafficDistribution: PreferSameNode",
            annotation,
            "",
            "Failover [Network, Region, Zone, Subzone, Node] OnlyHealthy",
        ),
        (
            "trafficDistribution: Somewhere",
            "",
            "",
            "Standard [] OnlyHealthy",
        ),
        (
            "",
            annotation,
            "",
            "Failover [Network, Region, Zone] OnlyHealthy",
        ),
        (
            "",
            "",
            annotation,
            "Failover [Network, Region, Zone] OnlyHealthy",
        ),
        (
            "publishNotReadyAddresses: true",
            "",
            "",
            "Standard [] AllowAll",
        ),
    ];
    for (spec, annotations, of_namespace, expected) in cases {
        assert_eq!(
            load_balancing(spec, annotations, of_namespace),
            expected,
            "{spec}"
        );
    }
}

#[test]
fn a_node_may_speak_for_its_pods_only() {
    let manifest = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {culvert.dev/mesh: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: shop}
spec: {nodeName: n1, serviceAccountName: web}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: shop}
spec: {nodeName: n2, serviceAccountName: cache}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: shop}
spec: {nodeName: n1, serviceAccountName: host, hostNetwork: true}
---
apiVersion: v1
kind: Pod
metadata: {name: out, namespace: shop, labels: {culvert.dev/mesh: disabled}}
spec: {nodeName: n1, serviceAccountName: out}
---
apiVersion: v1
kind: Pod
metadata: {name: over, namespace: shop}
spec: {nodeName: n1, serviceAccountName: over}
status: {phase: Succeeded}
---
apiVersion: v1
kind: Pod
metadata: {name: unscheduled, namespace: shop}
spec: {serviceAccountName: unscheduled}
";
    let collection = collection(manifest);
    let on = |node: &str, identity: &str| {
        let identity: Identity = identity.parse().unwrap();
        collection.is_on_node(node, &identity)
    };
    assert!(on("n1", "spiffe://cluster.local/ns/shop/sa/web"));
    assert!(on("n2", "spiffe://cluster.local/ns/shop/sa/cache"));
    for (node, identity) in [
        ("n2", "spiffe://cluster.local/ns/shop/sa/web"),
        ("n1", "spiffe://cluster.local/ns/shop/sa/cache"),
        ("n1", "spiffe://other.domain/ns/shop/sa/web"),
        ("n1", "spiffe://cluster.local/ns/other/sa/web"),
        ("n1", "spiffe://cluster.local/ns/shop/sa/host"),
        ("n1", "spiffe://cluster.local/ns/shop/sa/out"),
        ("n1", "spiffe://cluster.local/ns/shop/sa/over"),
        ("", "spiffe://cluster.local/ns/shop/sa/unscheduled"),
        ("n1", "spiffe://cluster.local/ns/shop/sa/unscheduled"),
    ] {
        assert!(!on(node, identity), "{node} {identity}");
    }
}
