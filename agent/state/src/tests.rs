//! The snapshot's look-ups, and writer and reader over it.

use std::collections::BTreeSet;
use std::sync::Arc;

use agent_model::{
    Action, Authorization, Health, IpFamilies, LoadBalancing, NamespacedHostname, NetworkAddress,
    NetworkMode, PolicyKey, Scope, Service, ServicePort, Visibility, Workload,
};
use agent_xds::{Apply, Update};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::view::View;
use crate::{Snapshot, channel};

/// A pod of namespace `ns`, outside the mesh, on node n1.
pub(crate) fn pod(name: &str, ip: &str) -> Workload {
    Workload {
        uid: format!("c//Pod/ns/{name}").into(),
        name: name.into(),
        namespace: "ns".into(),
        service_account: name.into(),
        addresses: vec![ip.parse().unwrap()],
        node: "n1".into(),
        ..Workload::default()
    }
}

/// An address in the default network.
pub(crate) fn vip(ip: &str) -> NetworkAddress {
    NetworkAddress {
        network: "".into(),
        address: ip.parse().unwrap(),
    }
}

/// A canonical, public service with one port.
pub(crate) fn service(
    namespace: &str,
    name: &str,
    ip: &str,
    service_port: u16,
    target_port: u16,
) -> Service {
    Service {
        name: name.into(),
        namespace: namespace.into(),
        hostname: format!("{name}.{namespace}.svc.cluster.local").into(),
        vips: vec![vip(ip)],
        ports: vec![ServicePort::new(service_port, target_port)],
        subject_alt_names: Vec::new(),
        waypoint: None,
        ingress_use_waypoint: false,
        load_balancing: LoadBalancing::default(),
        ip_families: IpFamilies::Automatic,
        canonical: true,
        visibility: Visibility::Public,
    }
}

fn put(workload: Workload) -> Update {
    Update::Workload(Box::new(workload))
}

fn put_service(service: Service) -> Update {
    Update::Service(Box::new(service))
}

fn snapshot(updates: Vec<Update>) -> Arc<Snapshot> {
    let (mut writer, reader) = channel();
    assert!(writer.apply(updates).is_empty());
    reader.load()
}

#[test]
fn a_batch_is_seen_as_a_whole_and_announced_once() {
    let (mut writer, reader) = channel();
    let mut changed = reader.changed();
    let before = reader.load();
    writer.apply(vec![put(pod("a", "10.0.0.1")), put(pod("b", "10.0.0.2"))]);
    assert!(changed.has_changed().unwrap());
    assert_eq!(*changed.borrow_and_update(), 1);
    assert_eq!(
        before.workloads().count(),
        0,
        "a loaded snapshot stays as it is"
    );
    assert_eq!(reader.load().workloads().count(), 2);
    writer.apply(Vec::new());
    assert!(!changed.has_changed().unwrap());
}

#[test]
fn the_owner_of_an_address() {
    let ip = "10.0.0.1".parse().unwrap();
    let slice = Workload {
        uid: "c/discovery.k8s.io/EndpointSlice/ns/s/10.0.0.1".into(),
        name: "slice".into(),
        ..pod("x", "10.0.0.1")
    };
    let ill = Workload {
        health: Health::Unhealthy,
        ..pod("a-ill", "10.0.0.1")
    };
    let elsewhere = Workload {
        network: "other".into(),
        ..pod("elsewhere", "10.0.0.1")
    };
    let on_host = Workload {
        network_mode: NetworkMode::HostNetwork,
        ..pod("a-host", "10.0.0.1")
    };
    let mut updates = vec![put(elsewhere), put(on_host)];
    let owner = |updates: &[Update], network| {
        let snapshot = snapshot(updates.to_vec());
        snapshot
            .workload_by_ip(network, ip)
            .map(|workload| workload.name.to_string())
    };
    assert_eq!(owner(&updates, ""), None);
    assert_eq!(owner(&updates, "other").as_deref(), Some("elsewhere"));
    updates.push(put(slice));
    assert_eq!(owner(&updates, "").as_deref(), Some("slice"));
    updates.push(put(ill));
    assert_eq!(owner(&updates, "").as_deref(), Some("a-ill"), "a pod");
    updates.push(put(pod("b", "10.0.0.1")));
    assert_eq!(owner(&updates, "").as_deref(), Some("b"), "a healthy pod");
}

#[test]
fn a_changed_workload_leaves_no_trace_of_its_old_self() {
    let key = NamespacedHostname::new("ns", "web.ns.svc.cluster.local");
    let old = Workload {
        services: [(key.clone(), Vec::new())].into(),
        ..pod("a", "10.0.0.1")
    };
    let snapshot = snapshot(vec![put(old), put(pod("a", "10.0.0.2"))]);
    assert_eq!(snapshot.workloads().count(), 1);
    assert!(
        snapshot
            .workload_by_ip("", "10.0.0.1".parse().unwrap())
            .is_none()
    );
    assert!(
        snapshot
            .workload_by_ip("", "10.0.0.2".parse().unwrap())
            .is_some()
    );
    assert!(
        snapshot
            .workload_by_ip("", "::ffff:10.0.0.2".parse().unwrap())
            .is_some()
    );
    assert_eq!(snapshot.endpoints(&key).count(), 0);
}

#[test]
fn endpoints_wait_for_their_service_and_outlive_it() {
    let key = NamespacedHostname::new("ns", "web.ns.svc.cluster.local");
    let endpoint = Workload {
        services: [(key.clone(), Vec::new())].into(),
        ..pod("a", "10.0.0.1")
    };
    let (mut writer, reader) = channel();
    writer.apply(vec![put(endpoint)]);
    assert_eq!(reader.load().staged().count(), 1);
    assert_eq!(View::new(&reader.load()).staged_services.len(), 1);
    writer.apply(vec![put_service(service("ns", "web", "10.96.0.1", 80, 80))]);
    assert_eq!(reader.load().staged().count(), 0);
    assert_eq!(reader.load().endpoints(&key).count(), 1);
    writer.apply(vec![Update::RemoveAddress(key.to_string())]);
    assert!(reader.load().service(&key).is_none());
    assert!(
        reader
            .load()
            .service_by_vip("", vip("10.96.0.1").address, "ns")
            .is_none()
    );
    assert_eq!(reader.load().staged().count(), 1);
}

#[test]
fn of_services_with_one_address_or_name_the_clients_own_comes_first() {
    let shared = |namespace: &str, canonical| Service {
        hostname: "shared.example".into(),
        canonical,
        ..service(namespace, "shared", "10.96.0.1", 80, 80)
    };
    let hidden = Service {
        visibility: Visibility::Namespace,
        ..shared("a-hidden", true)
    };
    let snapshot = snapshot(vec![
        put_service(shared("b", false)),
        put_service(shared("c", true)),
        put_service(shared("own", false)),
        put_service(hidden),
    ]);
    let ip = "10.96.0.1".parse().unwrap();
    for (client, expected) in [("own", "own"), ("other", "c"), ("a-hidden", "a-hidden")] {
        let by_vip = snapshot.service_by_vip("", ip, client).unwrap();
        assert_eq!(&*by_vip.namespace, expected);
        let by_name = snapshot.service_by_hostname("shared.example", client);
        assert_eq!(&*by_name.unwrap().namespace, expected);
    }
    assert!(snapshot.service_by_vip("elsewhere", ip, "own").is_none());
}

/// Whoever may write an entry may write any address into it, under a host that nobody else has.
#[test]
fn t_cfg_the_address_of_a_service_of_kubernetes_is_no_entrys() {
    let entry = Service {
        hostname: "own.example".into(),
        ..service("a-tenant", "entry", "10.96.0.1", 80, 80)
    };
    let snapshot = snapshot(vec![
        put_service(entry),
        put_service(service("shop", "web", "10.96.0.1", 80, 80)),
    ]);
    let ip = "10.96.0.1".parse().unwrap();
    let of = |client| {
        let service = snapshot.service_by_vip("", ip, client).unwrap();
        service.namespace.to_string()
    };
    assert_eq!((of("visit"), of("shop")), ("shop".into(), "shop".into()));
    assert_eq!(of("a-tenant"), "a-tenant", "who wrote it goes by it");
}

#[test]
fn policies_are_kept_and_unreadable_ones_deny() {
    let policy = Authorization {
        name: "p".into(),
        namespace: "ns".into(),
        scope: Scope::Namespace,
        action: Action::Allow,
        rules: Vec::new(),
        dry_run: false,
    };
    let (mut writer, reader) = channel();
    let key = policy.key();
    writer.apply(vec![
        Update::Policy(policy),
        Update::RejectedPolicy(key.clone()),
    ]);
    assert!(
        reader.load().policies().get(&key).is_some(),
        "last good kept"
    );
    writer.apply(vec![Update::RemovePolicy(key)]);
    assert!(reader.load().policies().is_empty());

    writer.apply(vec![Update::RejectedPolicy(PolicyKey::new("ns", "odd"))]);
    let target = agent_policy::Target {
        namespace: "ns",
        policies: &[],
    };
    let connection = agent_policy::Connection {
        source: None,
        peer: None,
        source_ip: "10.0.0.9".parse().unwrap(),
        source_ip_vouched: true,
        destination: "10.0.0.1:80".parse().unwrap(),
    };
    let snapshot = reader.load();
    assert!(!agent_policy::decide(snapshot.policies(), &target, &connection).is_allowed());
}

#[test]
fn a_dump_has_the_keys_that_tools_read() {
    let key = NamespacedHostname::new("ns", "web.ns.svc.cluster.local");
    let port = ServicePort::new(80, 8080);
    let endpoint = Workload {
        services: [(key, vec![port])].into(),
        ..pod("a", "10.0.0.1")
    };
    let policy = Authorization {
        name: "p".into(),
        namespace: "ns".into(),
        scope: Scope::Namespace,
        action: Action::Deny,
        rules: vec![agent_model::Rule::default()],
        dry_run: false,
    };
    let snapshot = snapshot(vec![
        put(endpoint),
        put_service(service("ns", "web", "10.96.0.1", 80, 0)),
        Update::Policy(policy),
    ]);
    let dump = serde_json::to_value(View::new(&snapshot)).unwrap();
    let at = |pointer: &str| dump.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(at("/workloads/0/workloadIps/0"), "10.0.0.1");
    assert_eq!(at("/workloads/0/protocol"), "TCP");
    assert_eq!(at("/workloads/0/serviceAccount"), "a");
    assert_eq!(at("/workloads/0/workloadType"), "pod");
    assert_eq!(at("/workloads/0/clusterId"), "Kubernetes");
    assert_eq!(at("/workloads/0/status"), "Healthy");
    assert_eq!(at("/services/0/vips/0"), "/10.96.0.1");
    assert_eq!(at("/services/0/endpoints/c~1~1Pod~1ns~1a/port/80"), 8080);
    assert_eq!(at("/policies/0/scope"), "Namespace");
    assert_eq!(at("/policies/0/action"), "Deny");
    assert_eq!(at("/policies/0/rules/0"), serde_json::json!([]));
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, Vec<u8>, bool),
    Remove(u8),
    PutService(u8, u8),
    RemoveService(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..4_u8, vec(0..4_u8, 0..3), any::<bool>())
            .prop_map(|(name, ips, member)| Step::Put(name, ips, member)),
        (0..4_u8).prop_map(Step::Remove),
        (0..3_u8, 0..3_u8).prop_map(|(name, ip)| Step::PutService(name, ip)),
        (0..3_u8).prop_map(Step::RemoveService),
    ];
    vec(step, 0..60)
}

fn update(step: &Step) -> Update {
    let name = |number: &u8| format!("s{number}");
    match step {
        Step::Put(number, ips, member) => {
            let key = NamespacedHostname::new("ns", "s0.ns.svc.cluster.local");
            put(Workload {
                addresses: ips.iter().map(|ip| [10, 0, 0, *ip].into()).collect(),
                services: member.then(|| (key, Vec::new())).into_iter().collect(),
                ..pod(&number.to_string(), "10.0.0.1")
            })
        }
        Step::Remove(number) => Update::RemoveAddress(format!("c//Pod/ns/{number}")),
        Step::PutService(number, ip) => put_service(service(
            "ns",
            &name(number),
            &format!("10.96.0.{ip}"),
            80,
            80,
        )),
        Step::RemoveService(number) => {
            let name = name(number);
            Update::RemoveAddress(format!("ns/{name}.ns.svc.cluster.local"))
        }
    }
}

proptest! {
    /// However it came about, a snapshot's indexes say what its workloads and services say.
    #[test]
    fn indexes_agree_with_what_they_index(steps in steps()) {
        let snapshot = snapshot(steps.iter().map(update).collect());
        for ip in 0..4 {
            let ip = [10, 0, 0, ip].into();
            let mut all = snapshot.workloads();
            let owned = all.any(|workload| workload.addresses.contains(&ip));
            prop_assert_eq!(snapshot.workload_by_ip("", ip).is_some(), owned);
        }
        for ip in 0..3 {
            let ip = [10, 96, 0, ip].into();
            let mut all = snapshot.services();
            let owned = all.any(|service| service.vips.iter().any(|vip| vip.address == ip));
            prop_assert_eq!(snapshot.service_by_vip("", ip, "ns").is_some(), owned);
        }
        for service in snapshot.services() {
            let found = snapshot.service_by_hostname(&service.hostname, "ns").unwrap();
            prop_assert_eq!(found, service);
        }
        let key = NamespacedHostname::new("ns", "s0.ns.svc.cluster.local");
        let members = snapshot.workloads().filter(|w| w.services.contains_key(&key));
        let members: BTreeSet<_> = members.map(|w| Arc::clone(&w.uid)).collect();
        let endpoints: BTreeSet<_> = snapshot.endpoints(&key).map(|w| Arc::clone(&w.uid)).collect();
        prop_assert_eq!(members, endpoints);
    }
}
