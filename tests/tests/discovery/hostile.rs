//! T-XDS-1: what the control plane says is believed within limits only.

use agent_model::Action;
use agent_xds::{Apply, ClientSession, NodeFacts, Rejection, ResourceType, Update};
use prost::Message;
use prost_types::Any;
use proto::discovery::{DeltaDiscoveryResponse, Resource};
use proto::{security, workload as wire};

use crate::ends::{ADDRESS, AUTHORIZATION, Ends, change, named, policy, workload};

fn of_address(name: &str, value: Vec<u8>) -> Resource {
    Resource {
        name: name.to_owned(),
        version: "1".to_owned(),
        resource: Some(Any {
            type_url: ADDRESS.to_owned(),
            value,
        }),
        ..Resource::default()
    }
}

fn response(type_url: &str, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        nonce: "1".to_owned(),
        resources,
        ..DeltaDiscoveryResponse::default()
    }
}

fn address(workload: wire::Workload) -> Vec<u8> {
    let r#type = Some(wire::address::Type::Workload(workload));
    wire::Address { r#type }.encode_to_vec()
}

#[test]
fn t_xds_1_a_bad_resource_is_refused_alone_and_its_last_good_form_stays() {
    let mut ends = Ends::new();
    for (name, last) in [("a", 1), ("b", 2), ("c", 3)] {
        ends.catalog.put_workload(&workload(name, last));
    }
    assert!(ends.connect().is_empty());
    for (name, last) in [("a", 11), ("b", 12), ("c", 13)] {
        ends.catalog.put_workload(&workload(name, last));
    }
    ends.meddle = Box::new(|response| {
        if let Some(resource) = named(response, "c1//Pod/shop/b") {
            resource.resource.as_mut().unwrap().value = vec![0xff; 64];
        }
    });
    let refusals = ends.pump();
    assert_eq!(refusals.len(), 1);
    assert!(refusals[0].starts_with("c1//Pod/shop/b: "), "{refusals:?}");
    for name in ["shop/a", "shop/c"] {
        assert!(!refusals[0].contains(name), "{refusals:?}");
    }
    let known = [workload("a", 11), workload("b", 2), workload("c", 13)];
    assert_eq!(ends.workloads(), known);
    assert_eq!(ends.server.last_refusal(), Some(&*refusals[0]));
    let rejected = ends.node.rejected();
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].name, "c1//Pod/shop/b");

    // Nobody insists, and the next version counts.
    assert!(ends.pump().is_empty());
    ends.meddle = Box::new(|_| {});
    ends.catalog.put_workload(&workload("b", 22));
    assert!(ends.pump().is_empty());
    assert_eq!(ends.workloads()[1], workload("b", 22));
    assert!(ends.node.rejected().is_empty());
}

#[test]
fn t_xds_1_size_count_and_depth_have_limits() {
    const NAME: &str = "c1//Pod/shop/x";
    let plain = || wire::Workload {
        uid: NAME.to_owned(),
        name: "x".to_owned(),
        namespace: "shop".to_owned(),
        ..wire::Workload::default()
    };
    let long = "x".repeat(1 << 20);
    let cases = [
        (
            "a name of a megabyte",
            address(wire::Workload {
                name: long.clone(),
                ..plain()
            }),
        ),
        (
            "a host name of a megabyte",
            address(wire::Workload {
                hostname: long.clone(),
                ..plain()
            }),
        ),
        (
            "too many addresses",
            address(wire::Workload {
                addresses: (0..10_001u32).map(|n| n.to_be_bytes().to_vec()).collect(),
                ..plain()
            }),
        ),
        (
            "too many policies",
            address(wire::Workload {
                authorization_policies: (0..10_001).map(|n| format!("shop/{n}")).collect(),
                ..plain()
            }),
        ),
        // Groups of a field that nobody has, each in the one before.
        ("too deep", [address(plain()), vec![0x7b; 100_000]].concat()),
        ("cut off", {
            let mut value = address(plain());
            value.truncate(value.len() - 1);
            value
        }),
        // A length of almost 4 GiB, and nothing after it.
        (
            "a length that lies",
            vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        ),
    ];
    for (what, value) in cases {
        let mut ends = Ends::new();
        ends.catalog.put_workload(&workload("good", 1));
        assert!(ends.connect().is_empty());
        let refusal = ends.say(&response(ADDRESS, vec![of_address(NAME, value)]));
        let refusal = refusal.unwrap_or_else(|| panic!("{what} was taken"));
        assert!(refusal.starts_with(NAME), "{what}: {refusal}");
        assert!(refusal.len() < 1024, "{what}: {refusal}");
        assert_eq!(ends.names(), ["good"], "{what}");
        assert_eq!(ends.node.held(ResourceType::Address), 1, "{what}");
    }
    // A name that is a bomb itself is not remembered, and told in part.
    let mut ends = Ends::new();
    let refusal = ends.say(&response(ADDRESS, vec![of_address(&long, Vec::new())]));
    assert!(refusal.is_some_and(|text| text.len() <= 64 << 10));
    let mut policies = response(AUTHORIZATION, vec![of_address(&long, Vec::new())]);
    policies.removed_resources.push(long);
    let refusal = ends.say(&policies);
    assert!(refusal.is_some_and(|text| text.len() <= 64 << 10));
    assert_eq!(ends.node.held(ResourceType::Authorization), 0);
}

/// What a policy compares with is text: there is no pattern to make expensive.
#[test]
fn t_xds_1_a_policy_beyond_the_limits_denies() {
    type Edit = fn(&mut security::Authorization);
    fn one(value: String) -> security::Group {
        let exact = security::string_match::MatchType::Exact(value);
        let principals = vec![security::StringMatch {
            match_type: Some(exact),
        }];
        group(security::Match {
            principals,
            ..security::Match::default()
        })
    }
    fn group(one: security::Match) -> security::Group {
        let matches = vec![one];
        security::Group {
            rules: vec![security::Rules { matches }],
        }
    }
    let edits: [(&str, Edit); 4] = [
        ("a text of a megabyte", |policy| {
            policy.groups = vec![one("x".repeat(1 << 20))];
        }),
        ("too many rules", |policy| {
            policy.groups = vec![one("x".to_owned()); 10_001];
        }),
        ("a comparison that nobody knows", |policy| {
            let principals = vec![security::StringMatch::default()];
            policy.groups = vec![group(security::Match {
                principals,
                ..security::Match::default()
            })];
        }),
        ("a port that is none", |policy| {
            policy.groups = vec![group(security::Match {
                destination_ports: vec![70_000],
                ..security::Match::default()
            })];
        }),
    ];
    for (what, edit) in edits {
        let mut ends = Ends::new();
        ends.catalog.put_workload(&workload("a", 1));
        ends.catalog.put_policy(&policy("shop", "p", Action::Deny));
        ends.catalog.put_policy(&policy("bank", "p", Action::Deny));
        ends.meddle = Box::new(move |response| {
            if let Some(resource) = named(response, "shop/p") {
                change(resource, edit);
            }
        });
        let refusals = ends.connect();
        assert_eq!(refusals.len(), 1, "{what}");
        assert!(refusals[0].starts_with("shop/p: "), "{what}: {refusals:?}");
        assert!(!ends.allows("shop"), "{what}");
        assert!(ends.allows("bank"), "{what}");
        assert_eq!(ends.names(), ["a"], "{what}");
    }
}

#[test]
fn t_xds_1_names_that_come_twice_go_and_come_back_are_one() {
    let mut ends = Ends::new();
    ends.catalog.put_workload(&workload("a", 1));
    assert!(ends.connect().is_empty());
    let encoded = |last: u8| {
        of_address(
            "c1//Pod/shop/a",
            address(wire::Workload {
                uid: "c1//Pod/shop/a".to_owned(),
                name: "a".to_owned(),
                namespace: "shop".to_owned(),
                addresses: vec![vec![10, 0, 0, last]],
                ..wire::Workload::default()
            }),
        )
    };
    let ip = |ends: &Ends| {
        let known = ends.workloads();
        known.iter().map(|one| one.addresses[0]).collect::<Vec<_>>()
    };
    // Twice in one message: the later one.
    let twice = response(ADDRESS, vec![encoded(2), encoded(3)]);
    assert_eq!(ends.say(&twice), None);
    assert_eq!(ip(&ends), [std::net::IpAddr::from([10, 0, 0, 3])]);
    let snapshot = ends.reader.load();
    assert!(snapshot.workload_by_ip("", [10, 0, 0, 2].into()).is_none());
    assert!(snapshot.workload_by_ip("", [10, 0, 0, 3].into()).is_some());
    // Removed, and added by the next message.
    let mut gone = response(ADDRESS, Vec::new());
    gone.removed_resources = vec!["c1//Pod/shop/a".to_owned(); 3];
    gone.removed_resources.push("c1//Pod/shop/never".to_owned());
    assert_eq!(ends.say(&gone), None);
    assert!(ends.names().is_empty());
    assert_eq!(ends.node.held(ResourceType::Address), 0);
    assert_eq!(ends.say(&response(ADDRESS, vec![encoded(4)])), None);
    assert_eq!(ip(&ends), [std::net::IpAddr::from([10, 0, 0, 4])]);
    // The content is of another name: it could never be removed again.
    let mut liar = encoded(5);
    liar.name = "c1//Pod/shop/b".to_owned();
    let refusal = ends.say(&response(ADDRESS, vec![liar])).unwrap();
    assert!(refusal.starts_with("c1//Pod/shop/b: "), "{refusal}");
    assert_eq!(ip(&ends), [std::net::IpAddr::from([10, 0, 0, 4])]);
}

/// A server that says nothing of what the node has takes nothing away.
#[test]
fn t_xds_1_an_empty_state_after_a_reconnect_empties_nothing() {
    let mut ends = Ends::new();
    for last in 1..=20 {
        ends.catalog
            .put_workload(&workload(&format!("w{last:02}"), last));
    }
    ends.catalog.put_policy(&policy("shop", "p", Action::Allow));
    assert!(ends.connect().is_empty());
    let known = ends.workloads();
    for kind in [ADDRESS, AUTHORIZATION] {
        assert_eq!(ends.say(&response(kind, Vec::new())), None);
    }
    assert_eq!(ends.workloads(), known);
    assert!(!ends.allows("shop"));

    // Another server, which sends everything under versions of its own, in parts.
    ends.meddle = Box::new(|response| {
        for resource in &mut response.resources {
            resource.version += "-other";
        }
    });
    let before = ends.node.connected();
    assert_eq!(before[0].initial_resource_versions.len(), 20);
    assert!(ends.connect().is_empty());
    assert_eq!(ends.workloads(), known);
    assert_eq!(ends.fewest(), 20, "routing was never without a workload");
}

/// Takes everything and keeps nothing.
#[derive(Default)]
struct Counter {
    put: usize,
    removed: usize,
}

impl Apply for Counter {
    fn apply(&mut self, updates: Vec<Update>) -> Vec<Rejection> {
        for update in updates {
            match update {
                Update::Workload(_) => self.put += 1,
                Update::RemoveAddress(_) => self.removed += 1,
                other => panic!("{other:?}"),
            }
        }
        Vec::new()
    }
}

#[test]
fn t_xds_1_of_more_than_a_million_resources_the_rest_is_refused() {
    const PART: usize = 50_000;
    let mut node = ClientSession::new(&NodeFacts::new("n1", "c1", ""));
    let mut counter = Counter::default();
    let mut say = |numbers: std::ops::Range<usize>, removed: Vec<String>| {
        let resources = numbers.map(|number| {
            let uid = format!("u{number}");
            let workload = wire::Workload {
                uid: uid.clone(),
                ..wire::Workload::default()
            };
            of_address(&uid, address(workload))
        });
        let mut response = response(ADDRESS, resources.collect());
        response.removed_resources = removed;
        let answer = node.response(response, &mut counter);
        let refusal = answer.error_detail.map(|error| error.message);
        (refusal, node.held(ResourceType::Address))
    };
    for part in 0..20 {
        let (refusal, held) = say(part * PART..(part + 1) * PART, Vec::new());
        assert_eq!((refusal, held), (None, (part + 1) * PART));
    }
    let (refusal, held) = say(1_000_000..1_000_002, Vec::new());
    let refusal = refusal.unwrap();
    for name in ["u1000000: ", "u1000001: "] {
        assert!(refusal.contains(name), "{refusal}");
    }
    assert_eq!(held, 1_000_000);
    // Those that are known may change, and what goes makes room.
    assert_eq!(say(5..6, Vec::new()), (None, 1_000_000));
    assert_eq!(say(0..0, vec!["u7".to_owned()]), (None, 999_999));
    assert_eq!(say(1_000_000..1_000_001, Vec::new()), (None, 1_000_000));
    assert_eq!((counter.put, counter.removed), (1_000_002, 1));
}
