//! What lies outside of the cluster: ServiceEntry and WorkloadEntry.

use agent_model::{Service, TunnelProtocol, Visibility};
use insta::assert_snapshot;

use super::{collection, show};

const MACHINES: &str = "\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm-1, namespace: shop, annotations: {ambient.istio.io/redirection: enabled}}
spec:
  address: 192.0.2.1
  labels: {app: db}
  ports: {pg: 15432}
  serviceAccount: db
  locality: eu/eu-1
  weight: 3
---
apiVersion: networking.istio.io/v1beta1
kind: WorkloadEntry
metadata: {name: vm-2, namespace: shop, labels: {app: old, service.istio.io/workload-name: pgs}}
spec: {address: db.example.com, labels: {app: db}, network: far}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop, labels: {app: db}}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: db}, ports: [{name: pg, port: 5432}, {name: web, port: 80, targetPort: http}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: dbs, namespace: shop}
spec:
  hosts: [dbs.example.com]
  addresses: [203.0.113.1]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 5432, name: pg, protocol: TCP, targetPort: 5433}, {number: 53, name: dns, protocol: UDP}]
  workloadSelector: {labels: {app: db}}
";

#[test]
fn machines_are_workloads_that_services_and_entries_select() {
    assert_snapshot!(show(&collection(MACHINES), "shop"));
}

#[test]
fn endpoints_given_by_address() {
    let manifest = "\
apiVersion: networking.istio.io/v1alpha3
kind: ServiceEntry
metadata: {name: out, namespace: shop, annotations: {networking.istio.io/traffic-distribution: PreferClose}}
spec:
  hosts: [a.example.com, b.example.com]
  addresses: [203.0.113.1, \"2001:db8::1/128\", 203.0.113.0/28]
  resolution: STATIC
  ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: http, targetPort: 8080}]
  subjectAltNames: [spiffe://other/ns/a/sa/b]
  endpoints:
  - {address: 192.0.2.1, ports: {tls: 8443}, locality: eu/eu-1/r1, weight: 2}
  - {address: 192.0.2.2, labels: {app: gate, networking.istio.io/tunnel: http}, serviceAccount: gate}
  - {address: 192.0.2.1}
  - {address: name.example.com}
  - {address: unix:///run/socket}
";
    assert_snapshot!(show(&collection(manifest), "shop"));
}

/// One entry of a host, with parts to fill in; what it becomes.
fn service(metadata: &str, spec: &str, status: &str) -> Service {
    let manifest = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{name: out, namespace: shop, {metadata}}}\n\
         spec: {{hosts: [api.example.com], ports: [{{number: 443, name: tls}}], {spec}}}\n\
         status: {{{status}}}\n"
    );
    let collection = collection(&manifest);
    collection.translated("shop").unwrap().services[0].clone()
}

#[test]
fn resolution_none_passes_through() {
    use agent_model::{HealthPolicy, LoadBalancingMode};
    let service = service("", "addresses: [203.0.113.1]", "");
    assert_eq!(service.load_balancing.mode, LoadBalancingMode::Passthrough);
    assert_eq!(service.load_balancing.health_policy, HealthPolicy::AllowAll);
    assert_eq!(service.vips.len(), 1);
}

#[test]
fn addresses_that_were_given_out() {
    let given = "addresses: [{value: 240.240.0.1}, {value: \"2001:2::1\", host: api.example.com}, \
                 {value: 240.240.0.2, host: other.example.com}, {value: nonsense}]";
    let vips = |metadata: &str, spec: &str| {
        let service = service(metadata, spec, given);
        let vips = service.vips.iter().map(|vip| vip.address.to_string());
        vips.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(vips("", "resolution: DNS"), "240.240.0.1 2001:2::1");
    assert_eq!(vips("", "resolution: NONE"), "");
    let own = "resolution: DNS, addresses: [203.0.113.1]";
    assert_eq!(vips("", own), "203.0.113.1");
    let off = "labels: {networking.istio.io/enable-autoallocate-ip: \"false\"}";
    assert_eq!(vips(off, "resolution: DNS"), "");
}

#[test]
fn hosts_without_an_address_are_given_some() {
    let vips = |metadata: &str, spec: &str| {
        let service = service(metadata, spec, "");
        let vips = service.vips.iter().map(|vip| vip.address.to_string());
        vips.collect::<Vec<_>>().join(" ")
    };
    let given = "240.240.146.7 2001:2::9207";
    let endpoints = "resolution: STATIC, endpoints: [{address: 192.0.2.1}]";
    assert_eq!(vips("", endpoints), given);
    assert_eq!(vips("", "resolution: DNS"), given);
    assert_eq!(vips("", "resolution: NONE"), "");
    let off = "labels: {networking.istio.io/enable-autoallocate-ip: \"false\"}";
    assert_eq!(vips(off, endpoints), "");
    let own = format!("{endpoints}, addresses: [203.0.113.1]");
    assert_eq!(vips("", &own), "203.0.113.1");
}

#[test]
fn names_to_resolve_become_workloads_by_name() {
    let manifest = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out, namespace: shop}
spec:
  hosts: [a.example.com, b.example.com, \"*.example.org\"]
  addresses: [203.0.113.1]
  resolution: DNS
  ports: [{number: 443, name: tls}]
";
    assert_snapshot!(show(&collection(manifest), "shop"));
}

#[test]
fn t_cfg_of_several_with_one_host_the_oldest_counts() {
    let entry = |namespace: &str, name: &str, created: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
             metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: {created}}}\n\
             spec: {{hosts: [api.example.com, db.shop.svc.cluster.local], resolution: STATIC, \
             addresses: [203.0.113.1], ports: [{{number: 443, name: tls}}], \
             endpoints: [{{address: 192.0.2.1}}]}}\n"
        )
    };
    let (old, middle) = ("2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z");
    let manifest = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: db, namespace: shop}}\n\
         spec: {{clusterIP: 10.96.0.1, ports: [{{port: 443}}]}}\n{}{}{}",
        entry("shop", "b", old),
        entry("shop", "a", middle),
        entry("bank", "c", middle),
    );
    let collection = collection(&manifest);
    let shown = |namespace: &str| {
        let translated = collection.translated(namespace).unwrap();
        let services = translated.services.iter();
        services
            .map(|service| {
                (
                    service.name.to_string(),
                    service.hostname.to_string(),
                    service.canonical,
                )
            })
            .collect::<Vec<_>>()
    };
    let db = "db.shop.svc.cluster.local";
    let of = |name: &str, host: &str, canonical| (name.to_owned(), host.to_owned(), canonical);
    // In its own namespace the Service of Kubernetes wins; elsewhere the name is nobody's first.
    assert_eq!(
        shown("shop"),
        [of("db", db, true), of("b", "api.example.com", true)]
    );
    assert_eq!(
        shown("bank"),
        [of("c", "api.example.com", false), of("c", db, false)]
    );
    let notes = &collection.translated("shop").unwrap().notes;
    let refused = notes
        .iter()
        .filter(|note| note.message.contains("no effect"));
    assert_eq!(refused.count(), 3, "{notes:?}");
    let notes = &collection.translated("bank").unwrap().notes;
    let told: Vec<&str> = notes.iter().map(|note| &*note.message).collect();
    assert_eq!(
        told,
        [
            "\"api.example.com\" is in an older entry of namespace \"shop\"; only clients of this \
             namespace go by this entry",
            "\"db.shop.svc.cluster.local\" is a name that Kubernetes gives; only clients of this \
             namespace go by this entry",
        ]
    );

    // The oldest goes: another namespace's becomes the first.
    let mut collection = collection;
    let gone = crate::source::ObjectRef::new(crate::source::Kind::ServiceEntry, "shop", "b");
    collection.apply(crate::source::Event::Delete(gone));
    collection.settle();
    let canonical = |namespace: &str, host: &str| {
        let services = &collection.translated(namespace).unwrap().services;
        services
            .iter()
            .any(|service| &*service.hostname == host && service.canonical)
    };
    assert!(
        !canonical("shop", "api.example.com"),
        "bank's is as old, and first by name"
    );
    assert!(canonical("bank", "api.example.com"));
}

/// Who keeps a host to its own namespace does not stand for it anywhere else.
#[test]
fn an_entry_for_its_own_namespace_stands_for_no_host_of_others() {
    let entry = |namespace: &str, created: &str, to: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
             metadata: {{name: e, namespace: {namespace}, creationTimestamp: {created}}}\n\
             spec: {{hosts: [api.example.com], resolution: STATIC, exportTo: {to}, \
             addresses: [203.0.113.1], ports: [{{number: 443, name: tls}}], \
             endpoints: [{{address: 192.0.2.1}}]}}\n"
        )
    };
    let (old, new) = ("2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z");
    for (to, first, visibility) in [
        ("[.]", "bank", Visibility::Namespace),
        ("[shop]", "bank", Visibility::Namespace),
        ("[\"~\"]", "bank", Visibility::Namespace),
        ("[\"*\"]", "shop", Visibility::Public),
        ("[., \"*\"]", "shop", Visibility::Public),
        ("null", "shop", Visibility::Public),
        // Discovery has no word for it.
        ("[., till]", "shop", Visibility::Public),
    ] {
        let manifest = format!("{}{}", entry("shop", old, to), entry("bank", new, "[]"));
        let collection = collection(&manifest);
        for namespace in ["shop", "bank"] {
            let translated = collection.translated(namespace).unwrap();
            let [service] = &translated.services[..] else {
                panic!("{to}: {:?}", translated.services);
            };
            assert_eq!(service.canonical, namespace == first, "{to}: {namespace}");
            if namespace == "shop" {
                assert_eq!(service.visibility, visibility, "{to}");
            }
        }
        let notes = &collection.translated("shop").unwrap().notes;
        let is_list = notes.iter().any(|note| note.message.contains("exportTo"));
        assert_eq!(is_list, to.contains("till"), "{to}: {notes:?}");
    }
}

/// Anybody may write an entry with any address: it must not take that address from its owner.
#[test]
fn a_plain_endpoint_owns_no_address() {
    let collection = collection(MACHINES);
    let workloads = &collection.translated("shop").unwrap().workloads;
    for workload in workloads
        .iter()
        .filter(|workload| workload.uid.contains("Entry"))
    {
        let owns = workload.network_mode == agent_model::NetworkMode::Standard;
        assert_eq!(
            owns,
            workload.tunnel_protocol == TunnelProtocol::Hbone,
            "{}",
            workload.uid
        );
    }
}

#[test]
fn what_makes_no_sense_is_refused_at_its_field() {
    let cases = [
        ("ServiceEntry", "{ports: []}", "spec.hosts"),
        ("ServiceEntry", "{hosts: [\"*\"]}", "spec.hosts[0]"),
        ("ServiceEntry", "{hosts: [a/b]}", "spec.hosts[0]"),
        (
            "ServiceEntry",
            "{hosts: [a], addresses: [127.0.0.1]}",
            "spec.addresses[0]",
        ),
        (
            "ServiceEntry",
            "{hosts: [a], addresses: [x]}",
            "spec.addresses[0]",
        ),
        (
            "ServiceEntry",
            "{hosts: [a], resolution: SOME}",
            "spec.resolution",
        ),
        (
            "ServiceEntry",
            "{hosts: [a], ports: [{number: 0}]}",
            "spec.ports[0].number",
        ),
        (
            "ServiceEntry",
            "{hosts: [a], endpoints: [{address: 1.2.3.4}], workloadSelector: {labels: {a: b}}}",
            "spec.endpoints",
        ),
        ("WorkloadEntry", "{}", "spec.address"),
        ("WorkloadEntry", "{address: a b}", "spec.address"),
        (
            "WorkloadEntry",
            "{address: 1.2.3.4, ports: {a: 0}}",
            "spec.ports",
        ),
    ];
    for (kind, spec, field) in cases {
        let manifest = format!(
            "apiVersion: networking.istio.io/v1\nkind: {kind}\n\
             metadata: {{name: x, namespace: shop}}\nspec: {spec}\n"
        );
        let batch = super::read_text(&manifest);
        let fields: Vec<&str> = batch
            .problems
            .iter()
            .map(|problem| &*problem.field)
            .collect();
        assert_eq!(fields, [field], "{kind} {spec}: {:?}", batch.problems);
    }
}
