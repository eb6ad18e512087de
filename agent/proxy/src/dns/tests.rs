//! Questions and answers, in bytes and in names.

use std::net::IpAddr;
use std::sync::Arc;

use agent_model::{
    GatewayAddress, GatewayTarget, Health, HealthPolicy, IpFamilies, LoadBalancing,
    LoadBalancingMode, NamespacedHostname, NetworkAddress, Service, Visibility, Workload,
};
use agent_state::Snapshot;
use agent_xds::{Apply, Update};

use super::*;

const DOMAIN: &str = "cluster.local";
const ID: u16 = 0x1234;

/// A question as a stub resolver writes it.
fn question(name: &str, kind: u16, size: Option<u16>) -> Vec<u8> {
    let mut message = Vec::new();
    let additional = u16::from(size.is_some());
    for word in [ID, 0x0100, 1, 0, 0, additional] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&1u16.to_be_bytes());
    if let Some(size) = size {
        message.extend_from_slice(&[0, 0, 41]);
        message.extend_from_slice(&size.to_be_bytes());
        message.extend_from_slice(&[0, 0, 0x80, 0, 0, 0]);
    }
    message
}

fn word(message: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([message[at], message[at + 1]])
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn known(alias: Option<&str>, addresses: &[&str], ttl: u32) -> Answer {
    Answer::Known {
        alias: alias.map(str::to_owned),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        ttl,
    }
}

#[test]
fn a_question_is_read_in_lower_case() {
    let message = question("WEB.Shop_1.svc", 28, Some(1232));
    let query = Query::read(&message).unwrap();
    assert_eq!(query.name, "web.shop_1.svc");
    assert_eq!(query.family, Family::Ipv6);
}

#[test]
fn what_is_not_one_plain_question_is_not_read() {
    let good = question("web", 1, Some(1232));
    assert!(Query::read(&good).is_some());
    for length in 0..good.len() {
        assert_eq!(Query::read(&good[..length]), None, "cut at {length}");
    }
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut message = good.clone();
        change(&mut message);
        Query::read(&message).map(|query| query.name)
    };
    assert_eq!(changed(&|m| m[2] |= 0x80), None, "a reply");
    assert_eq!(changed(&|m| m[2] |= 0x28), None, "an update");
    assert_eq!(changed(&|m| m[2] |= 0x02), None, "truncated");
    assert_eq!(changed(&|m| m[5] = 2), None, "two questions");
    assert_eq!(changed(&|m| m[7] = 1), None, "with an answer");
    assert_eq!(changed(&|m| m[11] = 2), None, "two additional records");
    assert_eq!(changed(&|m| m.push(0)), None, "more after it");
    assert_eq!(changed(&|m| m[18] = 15), None, "MX");
    assert_eq!(changed(&|m| m[20] = 3), None, "class CHAOS");
    assert_eq!(changed(&|m| m[12] = 0xc0), None, "a pointer");
    assert_eq!(changed(&|m| m[13] = b'.'), None, "a dot in a label");
    assert_eq!(changed(&|m| m[13] = b'*'), None, "a wildcard");
    assert_eq!(changed(&|m| m[27] = 1), None, "EDNS version 1");
    assert_eq!(Query::read(&question("", 1, None)), None, "the root");
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    assert!(Query::read(&question(&longest, 1, None)).is_some());
    let longer = format!("{label}.{label}.{label}.{}", "a".repeat(62));
    assert_eq!(Query::read(&question(&longer, 1, None)), None, "256 bytes");
}

#[test]
fn a_reply_repeats_the_question_and_says_who_it_is_from() {
    let message = question("web", 1, Some(1232));
    let query = Query::read(&message).unwrap();
    let answer = known(None, &["10.0.0.1", "10.0.0.2", "fd00::1"], 30);
    let reply = query.reply(&answer, Transport::Udp).unwrap();
    assert!(is_reply(&message, &reply));
    assert_eq!(word(&reply, 2), 0x8580, "QR AA RD RA, no error");
    let counts = [4, 6, 8, 10].map(|at| word(&reply, at));
    assert_eq!(counts, [1, 2, 0, 1]);
    let first = 12 + 9;
    assert_eq!(reply[12..first], message[12..first]);
    let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 10, 0, 0, 1];
    assert_eq!(reply[first..first + 16], record);
    let options = [0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 0];
    assert_eq!(reply[reply.len() - 11..], options);
    assert_eq!(query.reply(&Answer::Forward, Transport::Udp), None);
}

#[test]
fn an_alias_comes_before_its_addresses() {
    let message = question("a.b.shop", 28, None);
    let query = Query::read(&message).unwrap();
    let reply = query
        .reply(&known(Some("a.b"), &["fd00::1"], 7), Transport::Udp)
        .unwrap();
    assert_eq!([6, 10].map(|at| word(&reply, at)), [2, 0]);
    let records = &reply[message.len()..];
    let alias = [0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 7, 0, 5, 1, b'a', 1, b'b', 0];
    assert_eq!(records[..17], alias);
    let target = message.len() as u16 + 12;
    assert_eq!(word(records, 17), 0xc000 | target);
    assert_eq!(
        records[17 + 12..],
        "fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets()
    );
}

#[test]
fn f_96_what_does_not_fit_is_left_out_and_asked_for_over_tcp() {
    let addresses: Vec<IpAddr> = (0..400u32)
        .map(|n| IpAddr::V4((0x0a00_0000 + n).into()))
        .collect();
    let answer = Answer::Known {
        alias: None,
        addresses,
        ttl: 5,
    };
    for (size, limit) in [
        (None, 512),
        (Some(100), 512),
        (Some(1232), 1232),
        (Some(65535), 4096),
    ] {
        let message = question("many", 1, size);
        let query = Query::read(&message).unwrap();
        let reply = query.reply(&answer, Transport::Udp).unwrap();
        assert!(
            reply.len() <= limit && reply.len() > limit - 16 - 11,
            "{size:?}: {}",
            reply.len()
        );
        assert_eq!(word(&reply, 2) & 0x0200, 0x0200, "{size:?}: truncated");
        let reply = query.reply(&answer, Transport::Tcp).unwrap();
        assert_eq!((word(&reply, 2) & 0x0200, word(&reply, 6)), (0, 400));
    }
}

#[test]
fn f_96_a_reply_to_another_question_is_none() {
    let asked = question("web.shop", 1, None);
    let mut reply = question("WEB.shop", 1, None);
    assert!(!is_reply(&asked, &reply), "a question");
    reply[2] |= 0x80;
    assert!(is_reply(&asked, &reply), "in other letters");
    let changed = |at: usize, bits: u8| {
        let mut reply = reply.clone();
        reply[at] ^= bits;
        is_reply(&asked, &reply)
    };
    assert!(!changed(0, 1), "another id");
    assert!(!changed(2, 0x08), "another opcode");
    assert!(!changed(13, 1), "another name");
    assert!(!changed(23, 1), "another type");
    assert!(!changed(5, 3), "two questions");
    assert!(changed(3, 2), "whatever the code");
    assert!(!is_reply(&asked, &reply[..20]), "cut");
    assert!(!is_reply(&asked, b"\x12\x34\x81\x80"), "no header");
    // FORMERR of a server that did not understand the question.
    let bare = [0x12, 0x34, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0];
    assert!(is_reply(&asked, &bare));
    let records = [0x12, 0x34, 0x81, 0x80, 0, 0, 0, 1, 0, 0, 0, 0];
    assert!(!is_reply(&asked, &records), "an answer to nothing");
}

fn client() -> Workload {
    pod("shop", "client", &["10.0.0.9"], &[])
}

fn pod(namespace: &str, name: &str, addresses: &[&str], hosts: &[(&str, &str)]) -> Workload {
    Workload {
        uid: format!("c//Pod/{namespace}/{name}").into(),
        name: name.into(),
        namespace: namespace.into(),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        services: hosts
            .iter()
            .map(|(namespace, host)| (NamespacedHostname::new(namespace, host), Vec::new()))
            .collect(),
        ..Workload::default()
    }
}

fn service(namespace: &str, host: &str, vips: &[&str]) -> Service {
    Service {
        name: "s".into(),
        namespace: namespace.into(),
        hostname: host.into(),
        vips: vips
            .iter()
            .map(|vip| NetworkAddress {
                network: "".into(),
                address: ip(vip),
            })
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

fn snapshot(services: Vec<Service>, workloads: Vec<Workload>) -> Arc<Snapshot> {
    let (mut writer, reader) = agent_state::channel();
    let services = services
        .into_iter()
        .map(|service| Update::Service(Box::new(service)));
    let workloads = workloads
        .into_iter()
        .map(|workload| Update::Workload(Box::new(workload)));
    assert!(writer.apply(services.chain(workloads).collect()).is_empty());
    reader.load()
}

fn ask(snapshot: &Snapshot, name: &str, kind: u16) -> Answer {
    let message = question(name, kind, None);
    let query = Query::read(&message).unwrap();
    resolve(snapshot, &client(), &query, DOMAIN, 0)
}

#[test]
fn t_dns_a_service_is_known_by_every_form_of_its_name() {
    let web = service("shop", "web.shop.svc.cluster.local", &["10.96.0.1"]);
    let db = service(
        "bank",
        "db.bank.svc.cluster.local",
        &["10.96.0.2", "fd00::2"],
    );
    let mesh = snapshot(vec![web, db], vec![]);
    let plain = |address| known(None, &[address], 30);
    for name in [
        "web",
        "web.shop",
        "web.shop.svc",
        "web.shop.svc.cluster.local",
    ] {
        assert_eq!(ask(&mesh, name, 1), plain("10.96.0.1"), "{name}");
        assert_eq!(
            ask(&mesh, name, 28),
            known(None, &[], 30),
            "{name}: no IPv6"
        );
    }
    for name in ["db.bank", "db.bank.svc", "db.bank.svc.cluster.local"] {
        assert_eq!(ask(&mesh, name, 1), plain("10.96.0.2"), "{name}");
        assert_eq!(ask(&mesh, name, 28), plain("fd00::2"), "{name}");
    }
    // As a resolver with search domains asks, which then need not ask again.
    for name in [
        "db.bank.shop.svc.cluster.local",
        "db.bank.svc.svc.cluster.local",
    ] {
        let alias = Some("db.bank.svc.cluster.local");
        assert_eq!(
            ask(&mesh, name, 1),
            known(alias, &["10.96.0.2"], 30),
            "{name}"
        );
    }
    for name in [
        "db",
        "bank.svc",
        "web.bank",
        "example.com",
        "cluster.local",
        "svc.cluster.local",
    ] {
        assert_eq!(ask(&mesh, name, 1), Answer::Forward, "{name}");
    }
}

#[test]
fn t_dns_a_headless_service_is_its_ready_pods_each_by_name_too() {
    let host = "db.bank.svc.cluster.local";
    let member = |name: &str, addresses: &[&str]| pod("bank", name, addresses, &[("bank", host)]);
    let ill = Workload {
        health: Health::Unhealthy,
        ..member("db-2", &["10.0.1.3"])
    };
    let pods = vec![
        member("db-0", &["10.0.1.1", "fd00::1"]),
        member("db-1", &["10.0.1.2"]),
        ill,
    ];
    let mesh = snapshot(vec![service("bank", host, &[])], pods.clone());
    assert_eq!(
        ask(&mesh, "db.bank", 1),
        known(None, &["10.0.1.1", "10.0.1.2"], 5)
    );
    assert_eq!(ask(&mesh, "db.bank", 28), known(None, &["fd00::1"], 5));
    assert_eq!(ask(&mesh, "db-1.db.bank", 1), known(None, &["10.0.1.2"], 5));
    assert_eq!(ask(&mesh, "db-1.db.bank", 28), known(None, &[], 5));
    let full = "db-0.db.bank.svc.cluster.local";
    assert_eq!(ask(&mesh, full, 28), known(None, &["fd00::1"], 5));
    for name in ["db-2.db.bank", "db-3.db.bank", "x.db-0.db.bank"] {
        assert_eq!(ask(&mesh, name, 1), Answer::Forward, "{name}");
    }

    let all = Service {
        load_balancing: LoadBalancing {
            health_policy: HealthPolicy::AllowAll,
            ..LoadBalancing::default()
        },
        ..service("bank", host, &[])
    };
    let mesh = snapshot(vec![all], pods);
    assert_eq!(ask(&mesh, "db-2.db.bank", 1), known(None, &["10.0.1.3"], 5));

    // Nothing is made up about one of which nothing is known.
    let mesh = snapshot(vec![service("bank", host, &[])], vec![]);
    assert_eq!(ask(&mesh, "db.bank", 1), Answer::Forward);
    // A service with an address of its own has no names for its pods.
    let pods = vec![member("db-0", &["10.0.1.1"])];
    let mesh = snapshot(vec![service("bank", host, &["10.96.0.1"])], pods);
    assert_eq!(ask(&mesh, "db-0.db.bank", 1), Answer::Forward);
}

#[test]
fn t_dns_a_foreign_host_is_answered_where_its_address_leads_somewhere() {
    let host = "api.example.com";
    let entry = || service("bank", host, &["240.240.0.1"]);
    let endpoint = pod("bank", "e", &["192.0.2.1"], &[("bank", host)]);
    let by_name = Workload {
        hostname: host.into(),
        ..pod("bank", "e", &[], &[("bank", host)])
    };
    let answer = known(None, &["240.240.0.1"], 30);
    let asked =
        |entry: Service, endpoints: Vec<Workload>| ask(&snapshot(vec![entry], endpoints), host, 1);
    assert_eq!(asked(entry(), vec![endpoint.clone()]), answer);
    assert_eq!(
        asked(entry(), vec![by_name]),
        answer,
        "the node resolves it"
    );
    let nowhere = pod("bank", "e", &[], &[("bank", host)]);
    assert_eq!(asked(entry(), vec![nowhere]), Answer::Forward);
    assert_eq!(asked(entry(), vec![]), Answer::Forward);
    let through = Service {
        waypoint: Some(GatewayAddress {
            target: GatewayTarget::Hostname(NamespacedHostname::new("bank", "egress")),
            hbone_mtls_port: 15008,
        }),
        ..entry()
    };
    assert_eq!(asked(through, vec![]), answer);
    let passed_on = Service {
        load_balancing: LoadBalancing {
            mode: LoadBalancingMode::Passthrough,
            ..LoadBalancing::default()
        },
        ..entry()
    };
    assert_eq!(asked(passed_on, vec![]), answer);

    // Addresses of a family that the client does not have are none.
    let both = service("bank", host, &["240.240.0.1", "2001:2::1"]);
    let mesh = snapshot(vec![both], vec![endpoint.clone()]);
    assert_eq!(ask(&mesh, host, 1), answer);
    assert_eq!(ask(&mesh, host, 28), known(None, &[], 30));
    // With a search domain, as resolvers ask first for names with few dots.
    let mesh = snapshot(vec![entry()], vec![endpoint]);
    let searched = format!("{host}.shop.svc.cluster.local");
    assert_eq!(
        ask(&mesh, &searched, 1),
        known(Some(host), &["240.240.0.1"], 30)
    );
    // Without an address it is no name of the mesh's.
    let mesh = snapshot(vec![service("bank", host, &[])], vec![]);
    assert_eq!(ask(&mesh, host, 1), Answer::Forward);
}

#[test]
fn t_dns_the_narrowest_wildcard_counts_and_a_name_before_any() {
    let hosts = [
        ("*.example.com", "240.240.0.1"),
        ("*.a.example.com", "240.240.0.2"),
        ("b.example.com", "240.240.0.3"),
    ];
    let services: Vec<_> = hosts
        .iter()
        .map(|(host, vip)| service("bank", host, &[vip]))
        .collect();
    let all = hosts.map(|(host, _)| ("bank", host));
    let mesh = snapshot(services, vec![pod("bank", "e", &["192.0.2.1"], &all)]);
    let one = |address| known(None, &[address], 30);
    assert_eq!(ask(&mesh, "x.example.com", 1), one("240.240.0.1"));
    assert_eq!(ask(&mesh, "y.x.example.com", 1), one("240.240.0.1"));
    assert_eq!(ask(&mesh, "x.a.example.com", 1), one("240.240.0.2"));
    assert_eq!(ask(&mesh, "b.example.com", 1), one("240.240.0.3"));
    assert_eq!(
        ask(&mesh, "x.example.com.shop.svc.cluster.local", 1),
        one("240.240.0.1")
    );
    assert_eq!(ask(&mesh, "example.com", 1), Answer::Forward);
}

/// Anybody may write an entry for a name of somebody else's.
#[test]
fn t_dns_only_its_own_namespace_goes_by_an_entry_that_is_not_the_first() {
    let host = "web.bank.svc.cluster.local";
    let forged = |namespace: &str| Service {
        canonical: false,
        ..service(namespace, host, &["203.0.113.66"])
    };
    assert_eq!(
        ask(&snapshot(vec![forged("evil")], vec![]), host, 1),
        Answer::Forward
    );
    let own = snapshot(vec![forged("shop")], vec![]);
    assert_eq!(ask(&own, host, 1), known(None, &["203.0.113.66"], 30));
    let hidden = Service {
        visibility: Visibility::Namespace,
        ..service("bank", host, &["10.96.0.1"])
    };
    assert_eq!(
        ask(&snapshot(vec![hidden], vec![]), host, 1),
        Answer::Forward
    );
}

#[test]
fn addresses_of_another_network_are_none() {
    let host = "web.shop.svc.cluster.local";
    let mut web = service("shop", host, &["10.96.0.1"]);
    web.vips[0].network = "other".into();
    assert_eq!(ask(&snapshot(vec![web], vec![]), host, 1), Answer::Forward);
}

#[test]
fn the_order_of_addresses_turns() {
    let host = "web.shop.svc.cluster.local";
    let mesh = snapshot(
        vec![service("shop", host, &["10.96.0.1", "10.96.0.2"])],
        vec![],
    );
    let message = question(host, 1, None);
    let query = Query::read(&message).unwrap();
    let turned = |turn| resolve(&mesh, &client(), &query, DOMAIN, turn);
    assert_eq!(turned(2), known(None, &["10.96.0.1", "10.96.0.2"], 30));
    assert_eq!(
        turned(usize::MAX),
        known(None, &["10.96.0.2", "10.96.0.1"], 30)
    );
}
