//! Round trips of everything the model can say, and refusals of what it cannot.

use std::net::IpAddr;
use std::sync::Arc;

use agent_model::{
    Action, AppProtocol, Authorization, Clause, GatewayAddress, GatewayTarget, Health,
    HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, Locality, LocalityScope, Match,
    NamespacedHostname, NetworkAddress, NetworkMode, PolicyKey, Rule, Scope, Service,
    ServiceAccountMatch, ServicePort, StringMatch, TunnelProtocol, Visibility, Workload,
    WorkloadType,
};
use ipnet::IpNet;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message;
use proto::{security, workload as wire};

use super::{
    Address, decode_address, decode_authorization, encode_authorization, encode_service,
    encode_workload,
};

fn word() -> impl Strategy<Value = Arc<str>> {
    "[a-z0-9.-]{1,12}".prop_map(Arc::from)
}

fn maybe_word() -> impl Strategy<Value = Arc<str>> {
    "[a-z0-9.-]{0,12}".prop_map(Arc::from)
}

fn ip() -> impl Strategy<Value = IpAddr> {
    any::<IpAddr>().prop_map(|ip| ip.to_canonical())
}

fn key() -> impl Strategy<Value = NamespacedHostname> {
    (word(), word()).prop_map(|(namespace, hostname)| NamespacedHostname {
        namespace,
        hostname,
    })
}

fn network_address() -> impl Strategy<Value = NetworkAddress> {
    (maybe_word(), ip()).prop_map(|(network, address)| NetworkAddress { network, address })
}

fn gateway() -> impl Strategy<Value = GatewayAddress> {
    let target = prop_oneof![
        key().prop_map(GatewayTarget::Hostname),
        network_address().prop_map(GatewayTarget::Address),
    ];
    (target, 1..=u16::MAX).prop_map(|(target, hbone_mtls_port)| GatewayAddress {
        target,
        hbone_mtls_port,
    })
}

fn ports() -> impl Strategy<Value = Vec<ServicePort>> {
    let protocol = prop_oneof![
        Just(AppProtocol::Unknown),
        Just(AppProtocol::Http1),
        Just(AppProtocol::Http2),
        Just(AppProtocol::Grpc),
        Just(AppProtocol::Tcp),
        Just(AppProtocol::Tls),
    ];
    let port = (1..=u16::MAX, any::<u16>(), protocol).prop_map(
        |(service_port, target_port, app_protocol)| ServicePort {
            service_port,
            target_port,
            app_protocol,
        },
    );
    vec(port, 0..4)
}

prop_compose! {
    fn workloads()(
        words in (word(), maybe_word(), maybe_word(), word(), word()),
        more in (maybe_word(), maybe_word(), maybe_word(), maybe_word(), word(), maybe_word()),
        addresses in vec(ip(), 0..3),
        tunnel_protocol in prop_oneof![Just(TunnelProtocol::None), Just(TunnelProtocol::Hbone)],
        native_tunnel in any::<bool>(),
        gateways in (option::of(gateway()), option::of(gateway())),
        workload_type in prop_oneof![
            Just(WorkloadType::Deployment),
            Just(WorkloadType::CronJob),
            Just(WorkloadType::Pod),
            Just(WorkloadType::Job),
        ],
        policies in vec(word(), 0..3),
        health in prop_oneof![Just(Health::Healthy), Just(Health::Unhealthy)],
        services in btree_map(key(), ports(), 0..3),
        locality in (maybe_word(), maybe_word(), maybe_word()),
        network_mode in prop_oneof![Just(NetworkMode::Standard), Just(NetworkMode::HostNetwork)],
        capacity in any::<u32>(),
    ) -> Workload {
        let (uid, name, namespace, trust_domain, service_account) = words;
        let (network, node, canonical_name, canonical_revision, cluster_id, hostname) = more;
        let (region, zone, subzone) = locality;
        Workload {
            uid, name, namespace, trust_domain, service_account, addresses, network,
            tunnel_protocol, native_tunnel, waypoint: gateways.0, network_gateway: gateways.1,
            node, canonical_name, canonical_revision, workload_type,
            workload_name: "owner".into(),
            authorization_policies: policies.into_iter().map(PolicyKey).collect(),
            health, cluster_id, hostname, services,
            locality: Locality { region, zone, subzone },
            network_mode, capacity,
        }
    }
}

prop_compose! {
    fn services()(
        words in (maybe_word(), word(), word()),
        vips in vec(network_address(), 0..3),
        ports in ports(),
        subject_alt_names in vec("spiffe://[a-z]{1,9}/ns/a/sa/b", 0..2),
        waypoint in option::of(gateway()),
        routing_preference in vec(
            prop_oneof![
                Just(LocalityScope::Region),
                Just(LocalityScope::Zone),
                Just(LocalityScope::Subzone),
                Just(LocalityScope::Node),
                Just(LocalityScope::Cluster),
                Just(LocalityScope::Network),
            ],
            0..4,
        ),
        mode in prop_oneof![
            Just(LoadBalancingMode::Standard),
            Just(LoadBalancingMode::Strict),
            Just(LoadBalancingMode::Failover),
            Just(LoadBalancingMode::Passthrough),
        ],
        health_policy in prop_oneof![
            Just(HealthPolicy::OnlyHealthy),
            Just(HealthPolicy::AllowAll),
        ],
        ip_families in prop_oneof![
            Just(IpFamilies::Automatic),
            Just(IpFamilies::Ipv4Only),
            Just(IpFamilies::Ipv6Only),
            Just(IpFamilies::Dual),
        ],
        (canonical, ingress_use_waypoint) in any::<(bool, bool)>(),
        visibility in prop_oneof![Just(Visibility::Public), Just(Visibility::Namespace)],
    ) -> Service {
        let (name, namespace, hostname) = words;
        Service {
            name, namespace, hostname, vips, ports, subject_alt_names, waypoint,
            load_balancing: LoadBalancing { routing_preference, mode, health_policy },
            ip_families, canonical, visibility, ingress_use_waypoint,
        }
    }
}

fn string_matches() -> impl Strategy<Value = Vec<StringMatch>> {
    let text = "[a-z/]{0,6}";
    let one = prop_oneof![
        text.prop_map(StringMatch::Exact),
        text.prop_map(StringMatch::Prefix),
        text.prop_map(StringMatch::Suffix),
        Just(StringMatch::Presence),
    ];
    vec(one, 0..2)
}

fn networks() -> impl Strategy<Value = Vec<IpNet>> {
    let network = (any::<IpAddr>(), 0..=128_u8).prop_map(|(ip, length)| {
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        IpNet::new(ip, length.min(longest)).unwrap()
    });
    vec(network, 0..2)
}

fn accounts() -> impl Strategy<Value = Vec<ServiceAccountMatch>> {
    let account =
        ("[a-z]{0,4}", "[a-z]{0,4}").prop_map(|(namespace, service_account)| ServiceAccountMatch {
            namespace,
            service_account,
        });
    vec(account, 0..2)
}

prop_compose! {
    fn matches()(
        namespaces in (string_matches(), string_matches()),
        principals in (string_matches(), string_matches()),
        accounts in (accounts(), accounts()),
        sources in (networks(), networks()),
        destinations in (networks(), networks()),
        ports in (vec(any::<u16>(), 0..2), vec(any::<u16>(), 0..2)),
    ) -> Match {
        Match {
            namespaces: namespaces.0, not_namespaces: namespaces.1,
            principals: principals.0, not_principals: principals.1,
            service_accounts: accounts.0, not_service_accounts: accounts.1,
            source_ips: sources.0, not_source_ips: sources.1,
            destination_ips: destinations.0, not_destination_ips: destinations.1,
            destination_ports: ports.0, not_destination_ports: ports.1,
        }
    }
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let clause = vec(matches(), 0..3).prop_map(|matches| Clause { matches });
    let rule = vec(clause, 0..3).prop_map(|clauses| Rule { clauses });
    vec(rule, 0..3)
}

prop_compose! {
    fn policies()(
        name in word(),
        namespace in word(),
        scope in prop_oneof![
            Just(Scope::Global),
            Just(Scope::Namespace),
            Just(Scope::WorkloadSelector),
        ],
        action in prop_oneof![Just(Action::Allow), Just(Action::Deny)],
        rules in rules(),
        dry_run in any::<bool>(),
    ) -> Authorization {
        Authorization { name, namespace, scope, action, rules, dry_run }
    }
}

proptest! {
    #[test]
    fn workloads_survive_the_wire(workload in workloads()) {
        let any = encode_workload(&workload);
        prop_assert_eq!(decode_address(&any.value).unwrap(), Address::Workload(Box::new(workload)));
    }

    #[test]
    fn services_survive_the_wire(service in services()) {
        let any = encode_service(&service);
        prop_assert_eq!(decode_address(&any.value).unwrap(), Address::Service(Box::new(service)));
    }

    #[test]
    fn policies_survive_the_wire(policy in policies()) {
        let any = encode_authorization(&policy);
        prop_assert_eq!(decode_authorization(&any.value).unwrap(), policy);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode_address(&bytes);
        let _ = decode_authorization(&bytes);
    }
}

fn refusal_of_workload(change: impl FnOnce(&mut wire::Workload)) -> String {
    let mut message = wire::Workload {
        uid: "c//Pod/ns/a".to_owned(),
        ..wire::Workload::default()
    };
    change(&mut message);
    let message = wire::Address {
        r#type: Some(wire::address::Type::Workload(message)),
    };
    decode_address(&message.encode_to_vec())
        .unwrap_err()
        .to_string()
}

fn refusal_of_service(change: impl FnOnce(&mut wire::Service)) -> String {
    let mut message = wire::Service {
        namespace: "ns".to_owned(),
        hostname: "a.ns".to_owned(),
        ..wire::Service::default()
    };
    change(&mut message);
    let message = wire::Address {
        r#type: Some(wire::address::Type::Service(message)),
    };
    decode_address(&message.encode_to_vec())
        .unwrap_err()
        .to_string()
}

fn refusal_of_policy(change: impl FnOnce(&mut security::Authorization)) -> String {
    let mut message = security::Authorization {
        name: "a".to_owned(),
        namespace: "ns".to_owned(),
        ..security::Authorization::default()
    };
    change(&mut message);
    decode_authorization(&message.encode_to_vec())
        .unwrap_err()
        .to_string()
}

fn port(service_port: u32, target_port: u32) -> wire::Port {
    wire::Port {
        service_port,
        target_port,
        app_protocol: 0,
    }
}

#[test]
fn empty_fields_of_a_workload_mean_their_defaults() {
    let message = wire::Workload {
        uid: "u".to_owned(),
        workload_type: wire::WorkloadType::Pod.into(),
        ..wire::Workload::default()
    };
    let message = wire::Address {
        r#type: Some(wire::address::Type::Workload(message)),
    };
    let expected = Workload {
        uid: "u".into(),
        ..Workload::default()
    };
    assert_eq!(
        decode_address(&message.encode_to_vec()).unwrap(),
        Address::Workload(Box::new(expected))
    );
}

#[test]
fn workloads_that_cannot_be_read_are_refused_with_the_field() {
    use self::refusal_of_workload as refused;
    let legacy = refused(|w| w.tunnel_protocol = 2);
    assert_eq!(
        legacy,
        "unknown enum: unsupported tunnel protocol: legacy istio mtls"
    );
    assert_eq!(
        refused(|w| w.tunnel_protocol = 3),
        "unknown enum: tunnel_protocol 3"
    );
    assert_eq!(
        refused(|w| w.workload_type = 4),
        "unknown enum: workload_type 4"
    );
    assert_eq!(refused(|w| w.status = -1), "unknown enum: status -1");
    assert_eq!(
        refused(|w| w.network_mode = 2),
        "unknown enum: network_mode 2"
    );
    assert_eq!(refused(|w| w.uid.clear()), "uid is missing");
    assert_eq!(
        refused(|w| w.addresses.push(vec![10, 0, 0])),
        "addresses is invalid: an address has 4 or 16 bytes, not 3"
    );
    assert_eq!(
        refused(|w| w.name = "a".repeat(254)),
        "name is too large: 254, at most 253"
    );
    assert_eq!(
        refused(|w| w.name = "a\nb".to_owned()),
        "name is invalid: control character"
    );
    assert_eq!(
        refused(|w| w.addresses = vec![vec![10, 0, 0, 1]; 10_001]),
        "addresses is too large: 10001, at most 10000"
    );
    let services = |key: &str, ports| [(key.to_owned(), wire::PortList { ports })].into();
    assert_eq!(
        refused(|w| w.services = services("ns/h", vec![port(70_000, 1)])),
        "service_port is invalid: 70000 is not a port"
    );
    assert_eq!(
        refused(|w| w.services = services("ns/h", vec![port(80, 65_536)])),
        "target_port is invalid: 65536 is not a port"
    );
    assert!(refused(|w| w.services = services("nonsense", vec![])).contains("namespace/hostname"));
    let gateway = wire::GatewayAddress {
        destination: None,
        hbone_mtls_port: 15008,
    };
    assert_eq!(
        refused(|w| w.waypoint = Some(gateway)),
        "gateway destination is missing"
    );
}

#[test]
fn services_that_cannot_be_read_are_refused_with_the_field() {
    use self::refusal_of_service as refused;
    assert_eq!(refused(|s| s.hostname.clear()), "hostname is missing");
    assert_eq!(refused(|s| s.namespace.clear()), "namespace is missing");
    assert_eq!(
        refused(|s| s.ip_families = 9),
        "unknown enum: ip_families 9"
    );
    assert_eq!(
        refused(|s| s.ports.push(port(0, 80))),
        "service_port is invalid: 0 is not a port"
    );
    for scope in [0, 7] {
        let balancing = wire::LoadBalancing {
            routing_preference: vec![scope],
            ..wire::LoadBalancing::default()
        };
        assert_eq!(
            refused(|s| s.load_balancing = Some(balancing)),
            format!("unknown enum: routing_preference {scope}")
        );
    }
    let range = wire::NetworkAddress {
        network: String::new(),
        address: vec![10, 0, 0, 0],
        length: Some(8),
    };
    assert_eq!(
        refused(|s| s.addresses.push(range)),
        "length is invalid: address ranges are not supported"
    );
}

#[test]
fn unknown_visibility_is_public_and_the_heaviest_waypoint_counts() {
    let waypoint = |name: &str| wire::GatewayAddress {
        destination: Some(wire::gateway_address::Destination::Hostname(
            wire::NamespacedHostname {
                namespace: "ns".to_owned(),
                hostname: name.to_owned(),
            },
        )),
        hbone_mtls_port: 15008,
    };
    let weighted = |name, weight| wire::WeightedWaypoint {
        destination: Some(waypoint(name)),
        weight,
    };
    let message = wire::Service {
        namespace: "ns".to_owned(),
        hostname: "h".to_owned(),
        visibility: 5,
        weighted_waypoints: vec![weighted("light", 1), weighted("heavy", 9)],
        ..wire::Service::default()
    };
    let message = wire::Address {
        r#type: Some(wire::address::Type::Service(message)),
    };
    let Address::Service(service) = decode_address(&message.encode_to_vec()).unwrap() else {
        unreachable!("a service was encoded");
    };
    assert_eq!(service.visibility, Visibility::Public);
    let expected = GatewayTarget::Hostname(NamespacedHostname::new("ns", "heavy"));
    assert_eq!(service.waypoint.unwrap().target, expected);
}

#[test]
fn policies_that_cannot_be_read_in_full_are_refused() {
    use self::refusal_of_policy as refused;
    assert_eq!(refused(|p| p.action = 2), "unknown enum: action 2");
    assert_eq!(refused(|p| p.scope = 3), "unknown enum: scope 3");
    assert_eq!(refused(|p| p.name.clear()), "name is missing");
    let with = |m: security::Match| {
        move |policy: &mut security::Authorization| {
            policy.groups = vec![security::Group {
                rules: vec![security::Rules { matches: vec![m] }],
            }];
        }
    };
    let network = |address: &[u8], length| security::Match {
        source_ips: vec![security::Address {
            address: address.to_vec(),
            length,
        }],
        ..security::Match::default()
    };
    for bad in [
        network(&[10, 0, 0, 0], 33),
        network(&[0; 16], 129),
        network(&[0; 16], 256),
        network(&[0; 5], 8),
    ] {
        assert!(refused(with(bad)).starts_with("match address is invalid"));
    }
    let ports = security::Match {
        destination_ports: vec![65_536],
        ..security::Match::default()
    };
    assert_eq!(
        refused(with(ports)),
        "destination_ports is invalid: 65536 is not a port"
    );
    let typeless = security::Match {
        principals: vec![security::StringMatch { match_type: None }],
        ..security::Match::default()
    };
    assert_eq!(refused(with(typeless)), "match_type is missing");
    let extended = security::Match {
        extensions: vec![security::Extension::default()],
        ..security::Match::default()
    };
    assert!(refused(with(extended)).contains("cannot check"));
    let matches = vec![security::Match::default(); 5_001];
    let groups = vec![
        security::Group {
            rules: vec![security::Rules { matches }]
        };
        2
    ];
    assert_eq!(
        refused(|p| p.groups = groups),
        "matches is too large: 10002, at most 10000"
    );
}
