//! Tables of decisions.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use agent_model::{
    GatewayAddress, GatewayTarget, Health, HealthPolicy, IpFamilies, LoadBalancing,
    LoadBalancingMode, Locality, LocalityScope, NamespacedHostname, NetworkMode, Reason, Service,
    ServicePort, TunnelProtocol, Visibility, Workload,
};
use agent_xds::{Apply, Update};

use super::*;
use crate::Snapshot;
use crate::tests::{pod, service, vip};

/// A small mesh: `client` on node n1, services and pods as a test adds them.
struct Mesh {
    writer: crate::Writer,
    reader: crate::Reader,
    source: Workload,
    tried: Vec<Arc<str>>,
    active: HashMap<&'static str, u32>,
    random: RefCell<u64>,
}

fn mesh() -> Mesh {
    let (writer, reader) = crate::channel();
    let source = Workload {
        locality: locality("r1", "z1"),
        ..meshed("client", "10.1.0.1")
    };
    let mesh = Mesh {
        writer,
        reader,
        source: source.clone(),
        tried: Vec::new(),
        active: HashMap::new(),
        random: RefCell::new(1),
    };
    mesh.with(source)
}

impl Mesh {
    fn with(mut self, workload: Workload) -> Self {
        let update = Update::Workload(Box::new(workload));
        assert!(self.writer.apply(vec![update]).is_empty());
        self
    }

    fn with_service(mut self, service: Service) -> Self {
        let update = Update::Service(Box::new(service));
        assert!(self.writer.apply(vec![update]).is_empty());
        self
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.reader.load()
    }

    fn outbound(&self, destination: &str) -> Outbound {
        let destination: SocketAddr = destination.parse().unwrap();
        // A linear congruential generator: even enough for the distribution tests.
        let mut random = || {
            let mut state = self.random.borrow_mut();
            *state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *state
        };
        let active = |uid: &str| self.active.get(uid).copied().unwrap_or(0);
        let mut chooser = Chooser {
            random: &mut random,
            active: &active,
            tried: &self.tried,
        };
        outbound(&self.snapshot(), &self.source, destination, &mut chooser)
    }

    fn inbound(&self, authority: AuthorityRef<'_>) -> Inbound {
        let tcp_destination = "10.1.0.2".parse().unwrap();
        let snapshot = self.snapshot();
        let local = snapshot.workload("c//Pod/ns/web").unwrap();
        inbound(&snapshot, local, tcp_destination, &authority)
    }

    /// Uids chosen in `times` decisions, with their share.
    fn chosen(&self, destination: &str, times: u32) -> BTreeMap<String, u32> {
        let mut chosen = BTreeMap::new();
        for _ in 0..times {
            let workload = endpoint_of(self.outbound(destination));
            *chosen.entry(workload.name.to_string()).or_default() += 1;
        }
        chosen
    }
}

fn endpoint_of(outbound: Outbound) -> Arc<Workload> {
    match outbound {
        Outbound::Tunnel(hop) => Some(hop.workload),
        Outbound::Direct { workload, .. } => workload,
        _ => None,
    }
    .expect("an endpoint")
}

fn hop_of(outbound: Outbound) -> Hop {
    match outbound {
        Outbound::Tunnel(hop) => hop,
        other => unreachable!("a tunnel was expected: {other:?}"),
    }
}

fn denial(outbound: Outbound) -> (Reason, String) {
    match outbound {
        Outbound::Deny { reason, detail } => (reason, detail),
        other => unreachable!("a denial was expected: {other:?}"),
    }
}

fn rejection(inbound: Inbound) -> (Reason, u16) {
    match inbound {
        Inbound::Reject { reason, status, .. } => (reason, status),
        other => unreachable!("a rejection was expected: {other:?}"),
    }
}

fn locality(region: &str, zone: &str) -> Locality {
    Locality {
        region: region.into(),
        zone: zone.into(),
        subzone: "".into(),
    }
}

fn meshed(name: &str, ip: &str) -> Workload {
    Workload {
        tunnel_protocol: TunnelProtocol::Hbone,
        ..pod(name, ip)
    }
}

/// The workload as an endpoint of `web`, serving port 80 on `target`.
fn serving(workload: Workload, target: u16) -> Workload {
    let ports = vec![ServicePort::new(80, target)];
    Workload {
        services: [(web_key(), ports)].into(),
        ..workload
    }
}

fn web_key() -> NamespacedHostname {
    NamespacedHostname::new("ns", "web.ns.svc.cluster.local")
}

fn web() -> Service {
    service("ns", "web", "10.96.0.1", 80, 8080)
}

fn balanced(mode: LoadBalancingMode, scopes: &[LocalityScope]) -> Service {
    Service {
        load_balancing: LoadBalancing {
            routing_preference: scopes.to_vec(),
            mode,
            health_policy: HealthPolicy::OnlyHealthy,
        },
        ..web()
    }
}

fn waypoint_by_name() -> GatewayAddress {
    GatewayAddress {
        target: GatewayTarget::Hostname(NamespacedHostname::new(
            "ns",
            "waypoint.ns.svc.cluster.local",
        )),
        hbone_mtls_port: 15008,
    }
}

#[test]
fn what_nobody_knows_passes_through() {
    let destination = "192.0.2.7:443".parse().unwrap();
    assert_eq!(
        mesh().outbound("192.0.2.7:443"),
        Outbound::Passthrough { destination }
    );
    assert_eq!(
        mesh().outbound("[::ffff:192.0.2.7]:443"),
        Outbound::Passthrough { destination },
        "IPv4 in IPv6 form is IPv4"
    );
}

#[test]
fn a_meshed_pod_is_tunnelled_to_and_must_be_itself() {
    for (ip, authority, peer) in [
        ("10.1.0.2", "10.1.0.2:8080", "10.1.0.2:15008"),
        ("fd00::2", "[fd00::2]:8080", "[fd00::2]:15008"),
    ] {
        let hop = hop_of(mesh().with(meshed("web", ip)).outbound(authority));
        assert_eq!(hop.peer, peer.parse().unwrap());
        assert_eq!(hop.authority.to_string(), authority);
        assert_eq!(
            hop.expected,
            ["spiffe://cluster.local/ns/ns/sa/web".parse().unwrap()]
        );
        assert_eq!((hop.service, hop.via_waypoint), (None, false));
    }
}

#[test]
fn a_pod_outside_the_mesh_is_dialled_directly() {
    let plain = pod("web", "10.1.0.2");
    let mesh = mesh().with(plain.clone());
    assert_eq!(
        mesh.outbound("10.1.0.2:8080"),
        Outbound::Direct {
            destination: "10.1.0.2:8080".parse().unwrap(),
            workload: Some(Arc::new(plain)),
            service: None,
        }
    );
}

#[test]
fn an_address_of_the_node_is_nobodys() {
    let on_host = Workload {
        network_mode: NetworkMode::HostNetwork,
        ..meshed("daemon", "10.0.0.1")
    };
    let mesh = mesh().with(on_host);
    let destination = "10.0.0.1:9100".parse().unwrap();
    assert_eq!(
        mesh.outbound("10.0.0.1:9100"),
        Outbound::Passthrough { destination }
    );
}

#[test]
fn a_workload_without_a_valid_identity_is_not_dialled() {
    let nameless = Workload {
        service_account: "a/b".into(),
        ..meshed("web", "10.1.0.2")
    };
    let (reason, _) = denial(mesh().with(nameless).outbound("10.1.0.2:80"));
    assert_eq!(reason, Reason::PeerIdentityMismatch);
}

#[test]
fn agent_ports_are_never_dialled() {
    let mesh = mesh()
        .with(meshed("web", "10.1.0.2"))
        .with(pod("plain", "10.1.0.3"))
        .with_service(service("ns", "trick", "10.96.0.9", 80, 15008))
        .with(Workload {
            services: [(
                NamespacedHostname::new("ns", "trick.ns.svc.cluster.local"),
                Vec::new(),
            )]
            .into(),
            ..meshed("trick", "10.1.0.4")
        });
    for port in [15001, 15006, 15008] {
        for ip in [
            "127.0.0.1",
            "[::1]",
            "0.0.0.0",
            "10.1.0.2",
            "[::ffff:10.1.0.2]",
        ] {
            let (reason, _) = denial(mesh.outbound(&format!("{ip}:{port}")));
            assert_eq!(reason, Reason::AgentPort, "{ip}:{port}");
        }
        // A pod outside the mesh may use any port for itself.
        let plain = mesh.outbound(&format!("10.1.0.3:{port}"));
        assert!(matches!(plain, Outbound::Direct { .. }));
    }
    assert_eq!(denial(mesh.outbound("10.96.0.9:80")).0, Reason::AgentPort);
}

#[test]
fn a_service_leads_to_an_endpoint_and_its_port() {
    let mesh = mesh()
        .with_service(web())
        .with(serving(meshed("web", "10.1.0.2"), 9000));
    let hop = hop_of(mesh.outbound("10.96.0.1:80"));
    assert_eq!(hop.peer, "10.1.0.2:15008".parse().unwrap());
    assert_eq!(hop.authority, "10.1.0.2:9000".parse().unwrap());
    assert_eq!(&*hop.service.unwrap().name, "web");

    let (reason, detail) = denial(mesh.outbound("10.96.0.1:81"));
    assert_eq!(reason, Reason::ServicePortUnknown);
    assert!(detail.contains("has no port 81"), "{detail}");
}

#[test]
fn target_ports_come_from_the_endpoint_then_the_service() {
    let key = web_key();
    let named = service("ns", "web", "10.96.0.1", 80, 0);
    let numbered = web();
    let cases = [
        // (service, what the endpoint says, expected)
        (&numbered, Some(9000), Some(9000)),
        (&numbered, Some(0), Some(8080)),
        (&numbered, None, Some(8080)),
        (&named, Some(9000), Some(9000)),
        (&named, Some(0), None),
        (&named, None, None),
    ];
    for (service, says, expected) in cases {
        let mut workload = serving(pod("web", "10.1.0.2"), says.unwrap_or(0));
        if says.is_none() {
            workload.services.insert(key.clone(), Vec::new());
        }
        let mesh = mesh().with_service(service.clone()).with(workload);
        match (mesh.outbound("10.96.0.1:80"), expected) {
            (Outbound::Direct { destination, .. }, Some(port)) => {
                assert_eq!(destination.port(), port);
            }
            (Outbound::Deny { reason, .. }, None) => {
                assert_eq!(reason, Reason::ServicePortUnknown);
            }
            (other, expected) => unreachable!("{says:?} {expected:?}: {other:?}"),
        }
    }
}

#[test]
fn a_service_vouches_for_more_identities() {
    let service = Service {
        subject_alt_names: vec![
            "spiffe://other.example/ns/a/sa/b".to_owned(),
            "nonsense".to_owned(),
        ],
        ..web()
    };
    let mesh = mesh()
        .with_service(service)
        .with(serving(meshed("web", "10.1.0.2"), 8080));
    let expected: Vec<String> = hop_of(mesh.outbound("10.96.0.1:80"))
        .expected
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        expected,
        [
            "spiffe://cluster.local/ns/ns/sa/web",
            "spiffe://other.example/ns/a/sa/b",
        ]
    );
}

#[test]
fn unusable_endpoints_are_passed_over_and_named() {
    let mut mesh = mesh()
        .with_service(web())
        .with(Workload {
            health: Health::Unhealthy,
            ..serving(pod("ill", "10.1.0.2"), 80)
        })
        .with(Workload {
            addresses: Vec::new(),
            ..serving(pod("nowhere", "10.1.0.3"), 80)
        })
        .with(Workload {
            network: "other".into(),
            ..serving(pod("far", "10.1.0.4"), 80)
        })
        .with(Workload {
            capacity: 0,
            ..serving(pod("full", "10.1.0.5"), 80)
        })
        .with(serving(pod("broken", "10.1.0.6"), 80));
    assert_eq!(mesh.chosen("10.96.0.1:80", 20).len(), 1);
    mesh.tried = vec!["c//Pod/ns/broken".into()];
    let (reason, detail) = denial(mesh.outbound("10.96.0.1:80"));
    assert_eq!(reason, Reason::NoEndpoint);
    assert_eq!(
        detail,
        "ns/web.ns.svc.cluster.local: none of 5 endpoints is usable, 1 unhealthy, 3 without a \
         reachable address, 1 failed already"
    );
}

#[test]
fn an_endpoint_with_a_name_goes_where_the_name_leads() {
    let by_name = |uid: &str, host: &str| Workload {
        addresses: Vec::new(),
        hostname: host.into(),
        ..serving(pod(uid, "192.0.2.1"), 8080)
    };
    let mut mesh = mesh()
        .with_service(web())
        .with(by_name("out", "api.example.com"))
        .with(meshed("db", "10.1.0.7"));
    let named = match mesh.outbound("10.96.0.1:80") {
        Outbound::Named(named) => named,
        other => unreachable!("a name was expected: {other:?}"),
    };
    assert_eq!((&*named.host, named.port), ("api.example.com", 8080));
    let goes = |mesh: &Mesh, ip: &str| {
        let mut chooser = Chooser {
            random: &mut || 0,
            active: &|_| 0,
            tried: &[],
        };
        let address = ip.parse().unwrap();
        super::named(
            &mesh.snapshot(),
            &mesh.source,
            &named,
            address,
            &mut chooser,
        )
    };
    let direct = |to: &str| Outbound::Direct {
        destination: to.parse().unwrap(),
        workload: Some(Arc::clone(&named.workload)),
        service: Some(Arc::clone(&named.service)),
    };
    assert_eq!(goes(&mesh, "192.0.2.9"), direct("192.0.2.9:8080"));
    assert_eq!(goes(&mesh, "::ffff:192.0.2.9"), direct("192.0.2.9:8080"));
    // An entry with the very address that its host has.
    assert_eq!(goes(&mesh, "10.96.0.1"), direct("10.96.0.1:8080"));
    // A pod of the mesh is one under every name.
    let hop = hop_of(goes(&mesh, "10.1.0.7"));
    assert_eq!(hop.authority, "10.1.0.7:8080".parse().unwrap());
    mesh.tried = vec!["c//Pod/ns/out".into()];
    assert_eq!(denial(mesh.outbound("10.96.0.1:80")).0, Reason::NoEndpoint);
    // Names that lead to each other end somewhere.
    let other = service("ns", "other", "10.96.0.9", 8080, 8080);
    let mut second = by_name("second", "second.example.com");
    second.services = [(other.key(), Vec::new())].into();
    let mesh = mesh.with_service(other).with(second);
    assert_eq!(denial(goes(&mesh, "10.96.0.9")).0, Reason::DnsFailed);
}

#[test]
fn a_service_may_ask_for_unready_endpoints() {
    let mut service = web();
    service.load_balancing.health_policy = HealthPolicy::AllowAll;
    let mesh = mesh().with_service(service).with(Workload {
        health: Health::Unhealthy,
        ..serving(pod("ill", "10.1.0.2"), 80)
    });
    assert_eq!(&*endpoint_of(mesh.outbound("10.96.0.1:80")).name, "ill");
}

#[test]
fn no_endpoint_is_no_reason_to_go_elsewhere() {
    let mesh = mesh().with_service(web());
    let (reason, detail) = denial(mesh.outbound("10.96.0.1:80"));
    assert_eq!(reason, Reason::NoEndpoint);
    assert!(detail.contains("none of 0 endpoints"), "{detail}");
}

#[test]
fn a_passthrough_service_keeps_the_destination() {
    let service = balanced(LoadBalancingMode::Passthrough, &[]);
    let mesh = mesh().with_service(service.clone());
    assert_eq!(
        mesh.outbound("10.96.0.1:80"),
        Outbound::Direct {
            destination: "10.96.0.1:80".parse().unwrap(),
            workload: None,
            service: Some(Arc::new(service)),
        }
    );
}

/// Endpoints in four places, seen from node n1 in r1/z1.
fn spread(service: Service) -> Mesh {
    let at = |name: &str, ip: &str, node: &str, region: &str, zone: &str| Workload {
        node: node.into(),
        locality: locality(region, zone),
        ..serving(pod(name, ip), 80)
    };
    mesh()
        .with_service(service)
        .with(at("same-node", "10.1.0.2", "n1", "r1", "z1"))
        .with(at("same-zone", "10.1.0.3", "n2", "r1", "z1"))
        .with(at("same-region", "10.1.0.4", "n3", "r1", "z2"))
        .with(at("far", "10.1.0.5", "n4", "r2", "z1"))
}

#[test]
fn preferences_choose_the_nearest_and_fall_back() {
    use LoadBalancingMode::{Failover, Standard, Strict};
    use LocalityScope::{Network, Node, Region, Subzone, Zone};
    let all = ["far", "same-node", "same-region", "same-zone"];
    let zone = ["same-node", "same-zone"];
    let cases: [(_, &[LocalityScope], &[&str], &[&str]); 7] = [
        // (mode, scopes, failed already, chosen)
        (Standard, &[Node], &[], &all),
        (Strict, &[Node], &[], &["same-node"]),
        (Failover, &[Network, Region, Zone], &[], &zone),
        (Failover, &[Network, Region, Zone], &zone, &["same-region"]),
        (
            Failover,
            &[Network, Region, Zone],
            &["same-node", "same-zone", "same-region"],
            &["far"],
        ),
        (
            Failover,
            &[Network, Region, Zone, Subzone, Node],
            &[],
            &["same-node"],
        ),
        // The first mismatch ends the comparison: "far" shares the zone's name only.
        (Failover, &[Region, Zone], &zone, &["same-region"]),
    ];
    for (mode, scopes, failed, expected) in cases {
        let mut mesh = spread(balanced(mode, scopes));
        let failed = failed.iter().map(|name| format!("c//Pod/ns/{name}").into());
        mesh.tried = failed.collect();
        let chosen: Vec<_> = mesh.chosen("10.96.0.1:80", 100).into_keys().collect();
        assert_eq!(chosen, expected, "{mode:?} {scopes:?} {:?}", mesh.tried);
    }
}

#[test]
fn a_preferred_network_outweighs_all_nearness() {
    let scopes = [
        LocalityScope::Network,
        LocalityScope::Region,
        LocalityScope::Zone,
    ];
    let at = |network: &str, region, zone| Workload {
        network: network.into(),
        locality: locality(region, zone),
        ..pod("x", "10.1.0.2")
    };
    let source = at("", "r1", "z1");
    let nearness = |workload| choose::nearness(&scopes, &source, &workload);
    assert!(nearness(at("", "r2", "z2")) > nearness(at("other", "r1", "z1")));
    assert!(nearness(at("other", "r1", "z1")) > nearness(at("other", "r2", "z1")));
    assert_eq!(nearness(at("other", "r2", "z1")), 0);
}

#[test]
fn a_strict_preference_never_falls_back() {
    let mut mesh = spread(balanced(LoadBalancingMode::Strict, &[LocalityScope::Node]));
    mesh.tried = vec!["c//Pod/ns/same-node".into()];
    let (reason, detail) = denial(mesh.outbound("10.96.0.1:80"));
    assert_eq!(reason, Reason::NoEndpoint);
    assert!(
        detail.contains("3 outside the required topology"),
        "{detail}"
    );
}

#[test]
fn the_least_loaded_endpoint_takes_the_connection() {
    let mut mesh = spread(web());
    mesh.active = HashMap::from([
        ("c//Pod/ns/same-node", 3),
        ("c//Pod/ns/same-zone", 1),
        ("c//Pod/ns/same-region", 2),
        ("c//Pod/ns/far", 1),
    ]);
    let chosen = mesh.chosen("10.96.0.1:80", 400);
    assert_eq!(chosen.keys().collect::<Vec<_>>(), ["far", "same-zone"]);
    assert!(chosen.values().all(|share| *share > 130), "{chosen:?}");
}

#[test]
fn capacity_weighs_the_choice_among_idle_endpoints_and_busy_ones() {
    let sized = |name: &str, ip: &str, capacity| Workload {
        capacity,
        ..serving(pod(name, ip), 80)
    };
    let mut mesh = mesh()
        .with_service(web())
        .with(sized("small", "10.1.0.2", 1))
        .with(sized("large", "10.1.0.3", 3));
    let chosen = mesh.chosen("10.96.0.1:80", 4000);
    assert!((2850..3150).contains(&chosen["large"]), "{chosen:?}");
    mesh.active = HashMap::from([("c//Pod/ns/small", 1), ("c//Pod/ns/large", 2)]);
    assert_eq!(mesh.chosen("10.96.0.1:80", 50)["large"], 50);
}

#[test]
fn of_many_endpoints_a_sample_is_compared() {
    let mut mesh = mesh().with_service(web());
    for n in 0..200 {
        let name = format!("e{n}");
        mesh = mesh.with(serving(pod(&name, &format!("10.2.0.{n}")), 80));
    }
    let chosen = mesh.chosen("10.96.0.1:80", 2000);
    assert!(chosen.len() > 190, "{} of 200 were used", chosen.len());
}

#[test]
fn the_address_family_follows_client_and_service() {
    let dual = |families| {
        let workload = Workload {
            addresses: vec!["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            ..serving(pod("web", "10.1.0.2"), 80)
        };
        let service = Service {
            vips: vec![vip("10.96.0.1"), vip("fd00:96::1")],
            ip_families: families,
            ..web()
        };
        mesh().with_service(service).with(workload)
    };
    let cases = [
        (IpFamilies::Automatic, "10.96.0.1:80", "10.1.0.2:80"),
        (IpFamilies::Automatic, "[fd00:96::1]:80", "[fd00::2]:80"),
        (IpFamilies::Dual, "[fd00:96::1]:80", "[fd00::2]:80"),
        (IpFamilies::Ipv4Only, "[fd00:96::1]:80", "10.1.0.2:80"),
        (IpFamilies::Ipv6Only, "10.96.0.1:80", "[fd00::2]:80"),
    ];
    for (families, dialled, expected) in cases {
        let Outbound::Direct { destination, .. } = dual(families).outbound(dialled) else {
            unreachable!("not direct: {families:?} {dialled}");
        };
        assert_eq!(destination.to_string(), expected, "{families:?} {dialled}");
    }
}

fn behind_waypoint(gateway: GatewayAddress) -> Mesh {
    let web = Service {
        waypoint: Some(gateway),
        ..web()
    };
    mesh()
        .with_service(web)
        .with(serving(meshed("web", "10.1.0.2"), 8080))
}

fn waypoint_pod() -> Workload {
    let key = NamespacedHostname::new("ns", "waypoint.ns.svc.cluster.local");
    Workload {
        services: [(key, Vec::new())].into(),
        ..meshed("waypoint", "10.1.0.9")
    }
}

#[test]
fn a_pod_that_is_not_opted_in_talks_as_without_a_mesh() {
    let outside = |mut mesh: Mesh| {
        mesh.source.tunnel_protocol = TunnelProtocol::None;
        mesh
    };
    let mesh = outside(mesh().with(meshed("web", "10.1.0.2")));
    let plain = |outbound| match outbound {
        Outbound::Direct { destination, .. } => destination.to_string(),
        other => unreachable!("plain TCP was expected: {other:?}"),
    };
    assert_eq!(plain(mesh.outbound("10.1.0.2:8080")), "10.1.0.2:8080");
    // The port of the tunnel listener is a port like any other: the peer's TLS decides.
    assert_eq!(plain(mesh.outbound("10.1.0.2:15008")), "10.1.0.2:15008");
    let mesh = outside(behind_waypoint(waypoint_by_name()));
    assert_eq!(plain(mesh.outbound("10.1.0.2:8080")), "10.1.0.2:8080");
}

#[test]
fn a_waypoint_is_never_gone_around() {
    let by_address = GatewayAddress {
        target: GatewayTarget::Address(vip("10.96.0.9")),
        hbone_mtls_port: 15008,
    };
    for gateway in [waypoint_by_name(), by_address] {
        let mesh = behind_waypoint(gateway);
        let (reason, detail) = denial(mesh.outbound("10.96.0.1:80"));
        assert_eq!(reason, Reason::WaypointUnavailable);
        assert!(detail.contains("is not known"), "{detail}");

        let mesh = mesh.with_service(service("ns", "waypoint", "10.96.0.9", 15008, 15008));
        let (reason, detail) = denial(mesh.outbound("10.96.0.1:80"));
        assert_eq!(reason, Reason::WaypointUnavailable, "no pod yet");
        assert!(detail.contains("none of 0 endpoints"), "{detail}");

        let hop = hop_of(mesh.with(waypoint_pod()).outbound("10.96.0.1:80"));
        assert_eq!(hop.peer, "10.1.0.9:15008".parse().unwrap());
        assert_eq!(hop.authority, "10.96.0.1:80".parse().unwrap());
        assert!(hop.via_waypoint);
        assert_eq!(
            hop.expected,
            ["spiffe://cluster.local/ns/ns/sa/waypoint".parse().unwrap()]
        );
        assert_eq!(&*hop.service.unwrap().name, "web");
    }
}

#[test]
fn a_waypoint_may_be_a_workloads_address() {
    let by_pod = GatewayAddress {
        target: GatewayTarget::Address(vip("10.1.0.9")),
        hbone_mtls_port: 16008,
    };
    let mut mesh = behind_waypoint(by_pod).with(meshed("waypoint", "10.1.0.9"));
    let hop = hop_of(mesh.outbound("10.96.0.1:80"));
    assert_eq!(hop.peer, "10.1.0.9:16008".parse().unwrap());
    mesh.tried = vec!["c//Pod/ns/waypoint".into()];
    let (reason, _) = denial(mesh.outbound("10.96.0.1:80"));
    assert_eq!(reason, Reason::WaypointUnavailable);
}

#[test]
fn the_waypoint_itself_reaches_what_is_behind_it() {
    let mut mesh = behind_waypoint(waypoint_by_name())
        .with_service(service("ns", "waypoint", "10.96.0.9", 15008, 15008))
        .with(waypoint_pod());
    mesh.source = waypoint_pod();
    let hop = hop_of(mesh.outbound("10.96.0.1:80"));
    assert_eq!(hop.authority, "10.1.0.2:8080".parse().unwrap());
    assert!(!hop.via_waypoint);
}

#[test]
fn a_pods_own_waypoint_takes_what_is_addressed_to_the_pod() {
    let mesh = mesh()
        .with_service(service("ns", "waypoint", "10.96.0.9", 15008, 15008))
        .with(waypoint_pod())
        .with(Workload {
            waypoint: Some(waypoint_by_name()),
            ..meshed("web", "10.1.0.2")
        });
    let hop = hop_of(mesh.outbound("10.1.0.2:8080"));
    assert_eq!(hop.peer, "10.1.0.9:15008".parse().unwrap());
    assert_eq!(hop.authority, "10.1.0.2:8080".parse().unwrap());
}

#[test]
fn an_endpoint_behind_a_waypoint_is_reached_through_it() {
    let web_pod = |waypoint| Workload {
        waypoint,
        ..serving(meshed("web", "10.1.0.2"), 8080)
    };
    let mesh = |service_waypoint| {
        mesh()
            .with_service(Service {
                waypoint: service_waypoint,
                ..web()
            })
            .with_service(service("ns", "waypoint", "10.96.0.9", 15008, 15008))
            .with(waypoint_pod())
            .with(web_pod(Some(waypoint_by_name())))
    };
    let hop = hop_of(mesh(None).outbound("10.96.0.1:80"));
    assert!(hop.via_waypoint);
    assert_eq!(hop.authority, "10.1.0.2:8080".parse().unwrap());
    assert_eq!(&*hop.service.unwrap().name, "web");
    // The waypoint itself goes on to the pod, and so does another that is in front of the service.
    let mut own = mesh(None);
    own.source = waypoint_pod();
    assert!(!hop_of(own.outbound("10.96.0.1:80")).via_waypoint);
    let key = NamespacedHostname::new("ns", "other.ns.svc.cluster.local");
    let mut other = mesh(Some(GatewayAddress {
        target: GatewayTarget::Hostname(key.clone()),
        hbone_mtls_port: 15008,
    }));
    other.source = Workload {
        services: [(key, Vec::new())].into(),
        ..meshed("other", "10.1.0.8")
    };
    assert!(!hop_of(other.outbound("10.96.0.1:80")).via_waypoint);
}

#[test]
fn a_gateway_goes_through_waypoints_but_not_through_itself() {
    let other = NamespacedHostname::new("ns", "other.ns.svc.cluster.local");
    let by_name = |key: &NamespacedHostname| GatewayAddress {
        target: GatewayTarget::Hostname(key.clone()),
        hbone_mtls_port: 15008,
    };
    let to = |service: Option<GatewayAddress>, is_told, pod: Option<GatewayAddress>, own: &str| {
        let mesh = mesh()
            .with_service(Service {
                waypoint: service,
                ingress_use_waypoint: is_told,
                ..web()
            })
            .with_service(crate::tests::service(
                "ns",
                "waypoint",
                "10.96.0.9",
                15008,
                15008,
            ))
            .with(waypoint_pod())
            .with(Workload {
                waypoint: pod,
                ..serving(meshed("web", "10.1.0.2"), 8080)
            });
        let snapshot = mesh.snapshot();
        let workload = snapshot.workload("c//Pod/ns/web").unwrap();
        let source = meshed(own, "10.1.0.77");
        let mut chooser = Chooser {
            random: &mut || 0,
            active: &|_| 0,
            tried: &[],
        };
        let address = "10.1.0.2:8080".parse().unwrap();
        let key = web().key();
        onward(
            &snapshot,
            &source,
            (&key, 80),
            (workload, address),
            &mut chooser,
        )
    };
    let through = |outbound: Option<Outbound>| hop_of(outbound.unwrap()).authority.to_string();
    let wp = || Some(waypoint_by_name());
    assert_eq!(through(to(wp(), true, None, "edge")), "10.96.0.1:80");
    assert_eq!(to(wp(), false, None, "edge"), None, "nobody asks for it");
    assert_eq!(through(to(None, false, wp(), "edge")), "10.1.0.2:8080");
    assert_eq!(to(wp(), true, wp(), "waypoint"), None, "it is it");
    assert_eq!(to(None, false, wp(), "waypoint"), None, "it is it");
    let lost = to(Some(by_name(&other)), true, None, "edge");
    assert_eq!(denial(lost.unwrap()).0, Reason::WaypointUnavailable);
}

#[test]
fn a_waypoint_alone_speaks_for_clients() {
    let mesh = behind_waypoint(waypoint_by_name())
        .with_service(service("ns", "waypoint", "10.96.0.9", 15008, 15008))
        .with(waypoint_pod())
        .with(Workload {
            service_account: "waypoint".into(),
            ..meshed("alike", "10.1.0.7")
        })
        .with(Workload {
            waypoint: Some(waypoint_by_name()),
            ..meshed("own", "10.1.0.3")
        })
        .with(meshed("free", "10.1.0.4"));
    let waypoint = waypoint_pod().identity().unwrap();
    let client = mesh.source.identity().unwrap();
    let snapshot = mesh.snapshot();
    let speaks = |local: &str, peer, address: &str| {
        let local = snapshot.workload(&format!("c//Pod/ns/{local}")).unwrap();
        speaks_for_clients(&snapshot, "", local, peer, address.parse().unwrap())
    };
    assert!(speaks("web", &waypoint, "10.1.0.9"), "of its service");
    assert!(speaks("own", &waypoint, "10.1.0.9"));
    assert!(!speaks("free", &waypoint, "10.1.0.9"), "another's waypoint");
    assert!(!speaks("web", &client, "10.1.0.9"), "another identity");
    assert!(
        !speaks("web", &waypoint, "10.1.0.7"),
        "of that account, and no waypoint"
    );
    assert!(!speaks("web", &waypoint, "10.1.0.77"), "nobody knows it");
}

#[test]
fn a_pod_has_no_alternative() {
    let mut mesh = mesh().with(meshed("web", "10.1.0.2"));
    mesh.tried = vec!["c//Pod/ns/web".into()];
    assert_eq!(denial(mesh.outbound("10.1.0.2:80")).0, Reason::NoEndpoint);
}

#[test]
fn hidden_services_of_other_namespaces_do_not_exist() {
    let hidden = Service {
        visibility: Visibility::Namespace,
        ..service("other", "web", "10.96.0.7", 80, 80)
    };
    let mesh = mesh().with_service(hidden);
    let destination = "10.96.0.7:80".parse().unwrap();
    assert_eq!(
        mesh.outbound("10.96.0.7:80"),
        Outbound::Passthrough { destination }
    );
}

#[test]
fn a_request_for_this_pod_is_forwarded() {
    let mesh = mesh().with(meshed("web", "10.1.0.2"));
    for authority in ["10.1.0.2:8080", "[::ffff:10.1.0.2]:8080"] {
        assert_eq!(
            mesh.inbound(AuthorityRef::Ip(authority.parse().unwrap())),
            Inbound::Forward {
                destination: "10.1.0.2:8080".parse().unwrap(),
                service: None,
            }
        );
    }
}

#[test]
fn a_request_by_name_is_forwarded_to_the_target_port() {
    let hostname = "web.ns.svc.cluster.local";
    let mesh = mesh()
        .with(serving(meshed("web", "10.1.0.2"), 9000))
        .with_service(web());
    assert_eq!(
        mesh.inbound(AuthorityRef::Host(hostname, 80)),
        Inbound::Forward {
            destination: "10.1.0.2:9000".parse().unwrap(),
            service: Some(Arc::new(web())),
        }
    );
    for (host, port) in [(hostname, 81), ("other.ns.svc.cluster.local", 80)] {
        let rejected = rejection(mesh.inbound(AuthorityRef::Host(host, port)));
        assert_eq!(rejected, (Reason::AuthorityUnknown, 503), "{host}:{port}");
    }
    // A service that exists, but has other pods as endpoints.
    let mesh = mesh.with_service(service("ns", "other", "10.96.0.4", 80, 8080));
    let other = AuthorityRef::Host("other.ns.svc.cluster.local", 80);
    assert_eq!(
        rejection(mesh.inbound(other)),
        (Reason::AuthorityUnknown, 503)
    );
    let unresolved = mesh.with_service(service("ns", "named", "10.96.0.3", 80, 0));
    let named = AuthorityRef::Host("named.ns.svc.cluster.local", 80);
    assert_eq!(
        rejection(unresolved.inbound(named)),
        (Reason::AuthorityUnknown, 503)
    );
}

#[test]
fn requests_for_anything_else_are_rejected() {
    let mesh = mesh()
        .with(serving(meshed("web", "10.1.0.2"), 15008))
        .with_service(web());
    let mismatch = (Reason::AuthorityMismatch, 400);
    let agent_port = (Reason::AgentPort, 503);
    let table = [
        ("10.1.0.1:80", mismatch),
        ("10.96.0.1:80", mismatch), // its own service's VIP
        ("127.0.0.1:80", mismatch),
        ("0.0.0.0:80", mismatch),
        ("169.254.169.254:80", mismatch),
        ("[::1]:80", mismatch),
        ("[::]:80", mismatch),
        ("127.0.0.1:15008", mismatch), // the address is checked before the port
        ("10.1.0.2:15001", agent_port),
        ("10.1.0.2:15006", agent_port),
        ("10.1.0.2:15008", agent_port),
        ("10.1.0.2:0", (Reason::RequestInvalid, 400)),
    ];
    for (authority, expected) in table {
        let address = AuthorityRef::Ip(authority.parse().unwrap());
        assert_eq!(rejection(mesh.inbound(address)), expected, "{authority}");
    }
    let resolved = AuthorityRef::Host("web.ns.svc.cluster.local", 80);
    assert_eq!(rejection(mesh.inbound(resolved)), agent_port);
}

#[test]
fn special_addresses_are_never_forwarded_to_even_when_they_match() {
    let mesh = mesh();
    let (snapshot, local) = (mesh.snapshot(), &mesh.source);
    for ip in [
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "::",
        "169.254.169.254",
        "fe80::1",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
    ] {
        let ip = ip.parse().unwrap();
        let authority = AuthorityRef::Ip(SocketAddr::new(ip, 80));
        assert_eq!(
            rejection(inbound(&snapshot, local, ip, &authority)),
            (Reason::AuthorityMismatch, 400),
            "{ip}"
        );
    }
}

#[test]
fn what_a_decision_looks_up_has_names() {
    let gateway = |target| GatewayAddress {
        target,
        hbone_mtls_port: 15008,
    };
    let waypoint = NamespacedHostname {
        namespace: "ns".into(),
        hostname: "wp.ns".into(),
    };
    let behind = Service {
        waypoint: Some(gateway(GatewayTarget::Hostname(waypoint))),
        ..service("ns", "behind", "10.96.0.1", 80, 8080)
    };
    let beside = Workload {
        waypoint: Some(gateway(GatewayTarget::Address(vip("10.96.0.9")))),
        ..meshed("beside", "10.1.0.2")
    };
    let mesh = mesh().with_service(behind).with(beside);
    let names = |destination: &str| {
        let destination: SocketAddr = destination.parse().unwrap();
        let Names { known, unknown } = outbound_names(&mesh.snapshot(), &mesh.source, destination);
        (known.join(" "), unknown.join(" "))
    };
    let pair = |known: &str, unknown: &str| (known.to_owned(), unknown.to_owned());
    assert_eq!(names("10.9.9.9:80"), pair("", "/10.9.9.9"));
    assert_eq!(names("[::ffff:10.9.9.9]:80"), pair("", "/10.9.9.9"));
    assert_eq!(names("10.96.0.1:80"), pair("/10.96.0.1", "ns/wp.ns"));
    assert_eq!(names("10.1.0.2:80"), pair("/10.1.0.2", "/10.96.0.9"));
    assert_eq!(names("127.0.0.1:80"), pair("", ""));
    let web = service("ns", "web", "10.96.0.5", 80, 8080);
    let dialled = SocketAddr::new(web.vips[0].address, 80);
    let mesh = mesh.with_service(web).with(Workload {
        waypoint: Some(gateway(GatewayTarget::Address(vip("10.96.0.8")))),
        ..serving(meshed("web", "10.1.0.5"), 8080)
    });
    let of_endpoints = outbound_names(&mesh.snapshot(), &mesh.source, dialled);
    assert_eq!(of_endpoints.unknown, ["/10.96.0.8"]);
    let peer = peer_names(&mesh.snapshot(), "", "10.1.0.5".parse().unwrap());
    assert_eq!(peer.known, ["/10.1.0.5"]);
    let local = Workload {
        services: BTreeMap::from([(service("ns", "mine", "10.96.0.3", 80, 80).key(), Vec::new())]),
        ..mesh.source.clone()
    };
    let asked = |hostname| {
        let authority = AuthorityRef::Host(hostname, 80);
        inbound_names(&mesh.snapshot(), &local, &authority).unknown
    };
    assert_eq!(
        asked("mine.ns.svc.cluster.local"),
        ["ns/mine.ns.svc.cluster.local"]
    );
    assert!(
        asked("behind.ns.svc.cluster.local").is_empty(),
        "not its own"
    );
}
