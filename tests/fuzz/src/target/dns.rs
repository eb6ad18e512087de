//! A pod's questions and a resolver's replies.

use std::net::IpAddr;

use agent_model::{
    IpFamilies, LoadBalancing, NamespacedHostname, NetworkAddress, Service, Visibility, Workload,
};
use agent_proxy::dns::{Answer, Query, Transport, is_reply, resolve};
use agent_state::Snapshot;
use agent_xds::{Apply, Update};

pub(super) const WORDS: &[&str] = &[
    "\x03web",
    "\x04shop",
    "\x03svc",
    "\x07cluster",
    "\x05local",
    "\x02db",
    "\x04db-0",
    "\x03api",
    "\x07example",
    "\x03com",
    "\x03org",
    "\x00\x00\x01\x00\x01",
    "\x00\x00\x1c\x00\x01",
];

/// What is read is read in full and answered in kind: the reply is one to the question, small
/// enough, with addresses of the family asked for; what names the mesh knows is known by the full
/// name too.
pub(super) fn run(input: &[u8]) {
    let middle = input.len() / 2;
    // Any two messages may be compared.
    let _ = is_reply(&input[..middle], &input[middle..]);
    let _ = agent_net::lookup::read_addresses(&input[..middle], &input[middle..]);
    let Some(query) = Query::read(input) else {
        return;
    };
    assert!(query.name.len() < 255 && !query.name.is_empty());
    assert!(!query.name.bytes().any(|byte| byte.is_ascii_uppercase()));
    let mesh = mesh();
    let client = pod("client", "10.0.0.9");
    let answer = resolve(&mesh, &client, &query, "cluster.local", input.len());
    for (transport, limit) in [(Transport::Udp, 4096), (Transport::Tcp, 65_535)] {
        let Some(reply) = query.reply(&answer, transport) else {
            assert_eq!(answer, Answer::Forward);
            return;
        };
        assert!(reply.len() <= limit, "{} bytes", reply.len());
        assert!(is_reply(input, &reply), "{query:?} {reply:?}");
        assert!(
            Query::read(&reply).is_none(),
            "a reply was read as a question"
        );
    }
    if let Answer::Known {
        addresses, alias, ..
    } = answer
    {
        assert!(addresses.iter().all(|address| query.family.has(*address)));
        assert!(
            alias.is_none_or(|alias| query.name.len() > alias.len() || alias.contains(".svc."))
        );
    }
}

fn mesh() -> std::sync::Arc<Snapshot> {
    let (mut writer, reader) = agent_state::channel();
    let ip: IpAddr = [240, 240, 0, 1].into();
    let hosts = [
        "web.shop.svc.cluster.local",
        "api.example.com",
        "*.example.org",
    ];
    let services = hosts.map(|host| service(host, Some(ip)));
    let headless = service("db.shop.svc.cluster.local", None);
    let mut endpoint = pod("db-0", "10.0.0.1");
    endpoint.services = services
        .iter()
        .chain([&headless])
        .map(|service| (service.key(), Vec::new()))
        .collect();
    let services = services.into_iter().chain([headless]);
    let updates = services.map(|service| Update::Service(Box::new(service)));
    let pods = [Update::Workload(Box::new(endpoint))];
    writer.apply(updates.chain(pods).collect());
    reader.load()
}

fn service(host: &str, vip: Option<IpAddr>) -> Service {
    let NamespacedHostname {
        namespace,
        hostname,
    } = NamespacedHostname::new("shop", host);
    Service {
        name: "s".into(),
        namespace,
        hostname,
        vips: vip
            .map(|address| NetworkAddress {
                network: "".into(),
                address,
            })
            .into_iter()
            .collect(),
        ports: Vec::new(),
        subject_alt_names: Vec::new(),
        waypoint: None,
        ingress_use_waypoint: false,
        load_balancing: LoadBalancing::default(),
        ip_families: IpFamilies::Automatic,
        canonical: true,
        visibility: Visibility::Public,
    }
}

fn pod(name: &str, address: &str) -> Workload {
    Workload {
        uid: format!("c//Pod/shop/{name}").into(),
        name: name.into(),
        namespace: "shop".into(),
        addresses: address.parse().into_iter().collect(),
        ..Workload::default()
    }
}
