//! Both ends of discovery and the state behind them, through changes, lost messages and new
//! streams: at the end the node knows what is on offer and nothing else.

use std::collections::BTreeSet;

use agent_model::{
    Health, HealthPolicy, LoadBalancing, LoadBalancingMode, Locality, LocalityScope,
    NamespacedHostname, NetworkAddress, NetworkMode, PolicyKey, Service, ServicePort,
    TunnelProtocol, Workload, WorkloadType,
};
use agent_state::view::View;
use agent_state::{Reader, Writer, channel};
use agent_xds::{Catalog, Client, ClientSession, NodeFacts, ResourceType, ServerSession};

use super::policy;
use crate::choices::Choices;

/// A node's end: the session, and the state it changes.
pub(super) struct Node {
    pub(super) session: ClientSession,
    pub(super) reader: Reader,
    writer: Writer,
}

impl Node {
    pub(super) fn new() -> Self {
        let (writer, reader) = channel();
        Self {
            session: ClientSession::new(&NodeFacts::new("node-a", "Kubernetes", "")),
            reader,
            writer,
        }
    }

    /// Opens a stream and takes everything that is on offer.
    pub(super) fn connect(&mut self, catalog: &Catalog) -> ServerSession {
        let mut server = ServerSession::new(Client::Node("node-a".into()));
        for request in self.session.connected() {
            let taken = server.request(request, catalog);
            taken.expect("a node's own request is in order");
        }
        self.take(&mut server, catalog, usize::MAX);
        server
    }

    /// Takes at most so many responses and answers them.
    fn take(&mut self, server: &mut ServerSession, catalog: &Catalog, most: usize) {
        for _ in 0..most {
            let response = server.respond(catalog);
            let Some(response) = response.expect("this node is never far behind") else {
                return;
            };
            let answer = self.session.response(response, &mut self.writer);
            assert_eq!(
                answer.error_detail, None,
                "a node refuses what it is offered"
            );
            let taken = server.request(answer, catalog);
            taken.expect("an acknowledgement is in order");
        }
    }

    /// Everything it knows, as text.
    fn knowledge(&self) -> String {
        let view = View::new(&self.reader.load());
        serde_json::to_string(&view).expect("the view has a JSON form")
    }
}

/// Bytes are choices of what happens next.
pub(super) fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut catalog = Catalog::default();
    let mut expected: BTreeSet<(ResourceType, String)> = BTreeSet::new();
    let mut node = Node::new();
    let mut server = node.connect(&catalog);
    while !choices.is_empty() {
        match choices.below(10) {
            0..=2 => {
                let workload = workload(&mut choices);
                catalog.put_workload(&workload);
                expected.insert((ResourceType::Address, workload.uid.to_string()));
            }
            3 => {
                let service = service(&mut choices);
                catalog.put_service(&service);
                expected.insert((ResourceType::Address, service.key().to_string()));
            }
            4 => {
                let policy = policy::policy(&mut choices);
                catalog.put_policy(&policy);
                expected.insert((ResourceType::Authorization, policy.key().to_string()));
            }
            5 => {
                let at = choices.below(expected.len().clamp(1, 256));
                if let Some((kind, name)) = expected.iter().nth(at).cloned() {
                    catalog.remove(kind, &name);
                    expected.remove(&(kind, name));
                }
            }
            6 | 7 => {
                node.take(&mut server, &catalog, usize::MAX);
            }
            8 => {
                // The rest of the responses is lost with the stream.
                node.take(&mut server, &catalog, choices.below(3));
                server = node.connect(&catalog);
            }
            _ => {
                server = node.connect(&catalog);
            }
        }
    }
    node.take(&mut server, &catalog, usize::MAX);
    settled(&node, &catalog, expected.len());
}

/// The node knows what one that comes new would know.
fn settled(node: &Node, catalog: &Catalog, resources: usize) {
    let mut fresh = Node::new();
    fresh.connect(catalog);
    assert_eq!(node.knowledge(), fresh.knowledge());
    assert!(node.session.is_synced());
    let held = |node: &Node| ResourceType::ALL.map(|kind| node.session.held(kind));
    assert_eq!(held(node), held(&fresh));
    assert_eq!(held(node).iter().sum::<usize>(), resources);
    let snapshot = node.reader.load();
    for workload in snapshot.workloads() {
        let owns = workload.network_mode == NetworkMode::Standard;
        for ip in &workload.addresses {
            let owner = snapshot.workload_by_ip(&workload.network, *ip);
            assert!(
                !owns || owner.is_some(),
                "{ip} of {} has no owner",
                workload.uid
            );
        }
        for key in workload.services.keys() {
            let mut endpoints = snapshot.endpoints(key);
            assert!(endpoints.any(|endpoint| endpoint.uid == workload.uid));
        }
    }
}

const ADDRESSES: [&str; 5] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.96.0.1",
    "fd00::1",
    "::ffff:10.0.0.1",
];
const NAMES: [&str; 3] = ["web", "cache", "db"];
const NAMESPACES: [&str; 2] = ["shop", "bank"];

fn address(choices: &mut Choices<'_>) -> std::net::IpAddr {
    choices.of(&ADDRESSES).parse().expect("a valid address")
}

fn hostname(choices: &mut Choices<'_>) -> NamespacedHostname {
    let (name, namespace) = (choices.of(&NAMES), choices.of(&NAMESPACES));
    NamespacedHostname::new(namespace, &format!("{name}.{namespace}.svc.cluster.local"))
}

fn ports(choices: &mut Choices<'_>) -> Vec<ServicePort> {
    choices.list(3, |choices| {
        ServicePort::new(choices.of(&[80, 443, 15008]), choices.of(&[0, 8080, 15001]))
    })
}

/// Uids and keys come from one small set, so that things replace each other, also across kinds.
fn workload(choices: &mut Choices<'_>) -> Workload {
    let (name, namespace) = (choices.of(&NAMES), choices.of(&NAMESPACES));
    let network = choices.of(&["", "n1"]);
    Workload {
        uid: format!("Kubernetes//Pod/{namespace}/{name}").into(),
        name: name.into(),
        namespace: namespace.into(),
        trust_domain: "cluster.local".into(),
        service_account: choices.of(&NAMES).into(),
        addresses: choices.list(3, address),
        network: network.into(),
        tunnel_protocol: choices.of(&[TunnelProtocol::None, TunnelProtocol::Hbone]),
        native_tunnel: choices.flag(),
        waypoint: None,
        network_gateway: None,
        node: choices.of(&["node-a", "node-b"]).into(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        workload_type: choices.of(&[
            WorkloadType::Deployment,
            WorkloadType::CronJob,
            WorkloadType::Pod,
            WorkloadType::Job,
        ]),
        workload_name: name.into(),
        authorization_policies: choices.list(3, |choices| {
            PolicyKey::new(choices.of(&NAMESPACES), choices.of(&["p0", "p1"]))
        }),
        health: choices.of(&[Health::Healthy, Health::Unhealthy]),
        cluster_id: "Kubernetes".into(),
        hostname: "".into(),
        services: choices
            .list(3, |choices| (hostname(choices), ports(choices)))
            .into_iter()
            .collect(),
        locality: Locality {
            region: choices.of(&["", "r1"]).into(),
            zone: "".into(),
            subzone: "".into(),
        },
        network_mode: choices.of(&[NetworkMode::Standard, NetworkMode::HostNetwork]),
        capacity: choices.of(&[1, 0, 7, u32::MAX]),
    }
}

fn service(choices: &mut Choices<'_>) -> Service {
    let key = hostname(choices);
    Service {
        name: "a-service".into(),
        namespace: key.namespace.clone(),
        hostname: key.hostname,
        vips: choices.list(3, |choices| NetworkAddress {
            network: choices.of(&["", "n1"]).into(),
            address: address(choices),
        }),
        ports: ports(choices),
        subject_alt_names: Vec::new(),
        waypoint: None,
        ingress_use_waypoint: false,
        load_balancing: LoadBalancing {
            routing_preference: choices.list(3, |choices| {
                choices.of(&[LocalityScope::Zone, LocalityScope::Node])
            }),
            mode: choices.of(&[
                LoadBalancingMode::Standard,
                LoadBalancingMode::Strict,
                LoadBalancingMode::Failover,
            ]),
            health_policy: choices.of(&[HealthPolicy::OnlyHealthy, HealthPolicy::AllowAll]),
        },
        ip_families: Default::default(),
        canonical: choices.flag(),
        visibility: Default::default(),
    }
}
