//! F-17: the two ends are not of one release.

use agent_model::Action;
use agent_xds::{Client, ResourceType, ServerSession};
use prost::Message;
use prost::encoding::{bytes, fixed32, fixed64, string, uint64};
use prost_types::Any;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use proto::{security, workload as wire};

use crate::ends::{ADDRESS, AUTHORIZATION, Ends, change, named, policy, workload};

/// Fields of every form, with numbers that nobody has.
fn unknown_fields() -> Vec<u8> {
    let mut fields = Vec::new();
    uint64::encode(4000, &u64::MAX, &mut fields);
    string::encode(4001, &"of another release".to_owned(), &mut fields);
    fixed64::encode(4002, &1, &mut fields);
    fixed32::encode(4003, &1, &mut fields);
    fields
}

/// In the message of a resource, and in the workload that it holds.
fn add_unknown_fields(resource: &mut Resource) {
    let body = resource.resource.as_mut().unwrap();
    if body.type_url == ADDRESS {
        let address = wire::Address::decode(body.value.as_slice()).unwrap();
        if let Some(wire::address::Type::Workload(workload)) = address.r#type {
            let inner = [workload.encode_to_vec(), unknown_fields()].concat();
            body.value.clear();
            bytes::encode(1, &inner, &mut body.value);
        }
    }
    body.value.extend(unknown_fields());
}

#[test]
fn f_17_fields_of_another_release_are_ignored() {
    let served = |ends: &mut Ends| {
        ends.catalog.put_workload(&workload("a", 1));
        ends.catalog.put_workload(&workload("b", 2));
        ends.catalog.put_policy(&policy("shop", "p", Action::Allow));
    };
    let mut plain = Ends::new();
    served(&mut plain);
    assert!(plain.connect().is_empty());

    let mut newer = Ends::new();
    served(&mut newer);
    newer.more = unknown_fields();
    newer.meddle = Box::new(|response| {
        response.resources.iter_mut().for_each(add_unknown_fields);
    });
    assert!(newer.connect().is_empty(), "{:?}", newer.node.rejected());
    assert_eq!(newer.workloads(), plain.workloads());
    assert_eq!(newer.workloads().len(), 2);
    for namespace in ["shop", "bank"] {
        assert_eq!(newer.allows(namespace), plain.allows(namespace));
    }
    assert!(!newer.allows("shop"), "the policy is in force");
    // Acknowledged, and nothing of it is sent again on the next stream.
    assert!(newer.connect().is_empty());
    assert_eq!((newer.server.sent(), newer.server.acknowledged()), (2, 2));
}

/// A policy that cannot be read denies, and nothing else is touched.
#[test]
fn f_17_an_unknown_enum_of_a_policy_denies_by_that_policy_alone() {
    type Edit = fn(&mut security::Authorization);
    let edits: [(&str, Edit); 2] = [
        ("action 9", |policy| policy.action = 9),
        ("scope 9", |policy| policy.scope = 9),
    ];
    for (what, edit) in edits {
        let mut ends = Ends::new();
        ends.catalog.put_workload(&workload("a", 1));
        ends.catalog
            .put_policy(&policy("shop", "odd", Action::Deny));
        ends.catalog
            .put_policy(&policy("bank", "good", Action::Deny));
        ends.meddle = Box::new(move |response| {
            if let Some(odd) = named(response, "shop/odd") {
                change(odd, edit);
            }
        });
        let refusals = ends.connect();
        assert_eq!(refusals, [format!("shop/odd: unknown enum: {what}")]);
        assert_eq!(ends.server.last_refusal(), Some(&*refusals[0]));
        // DENY without a rule denies nobody, so the one that was read lets everybody in.
        assert!(!ends.allows("shop"), "{what}");
        assert!(ends.allows("bank"), "{what}");
        assert_eq!(ends.names(), ["a"], "{what}");
        assert!(ends.node.is_synced(), "{what}");

        // Its author makes it one that this release knows.
        ends.meddle = Box::new(|_| {});
        let mut known = policy("shop", "odd", Action::Deny);
        known.dry_run = true;
        ends.catalog.put_policy(&known);
        assert!(ends.pump().is_empty());
        assert!(ends.allows("shop"), "{what}");
    }
}

#[test]
fn f_17_an_unknown_enum_of_a_workload_leaves_its_last_good_form() {
    let mut ends = Ends::new();
    ends.catalog.put_workload(&workload("a", 1));
    assert!(ends.connect().is_empty());
    ends.catalog.put_workload(&workload("a", 7));
    ends.catalog.put_workload(&workload("b", 2));
    ends.meddle = Box::new(|response| {
        if let Some(resource) = named(response, "c1//Pod/shop/a") {
            change(resource, |address: &mut wire::Address| {
                if let Some(wire::address::Type::Workload(workload)) = &mut address.r#type {
                    workload.tunnel_protocol = 9;
                }
            });
        }
    });
    let refusals = ends.pump();
    assert_eq!(refusals.len(), 1);
    assert!(
        refusals[0].starts_with("c1//Pod/shop/a: unknown enum: tunnel_protocol 9"),
        "{refusals:?}"
    );
    assert_eq!(ends.workloads(), [workload("a", 1), workload("b", 2)]);

    // The stream is lost: what was refused is sent again, and the rest is not.
    ends.meddle = Box::new(|response| assert!(response.resources.len() < 2));
    assert!(ends.connect().is_empty());
    assert_eq!(ends.workloads(), [workload("a", 7), workload("b", 2)]);
    assert_eq!(ends.fewest(), 2);
}

#[test]
fn f_17_types_of_another_release_are_answered_at_both_ends() {
    let mut ends = Ends::new();
    ends.catalog.put_workload(&workload("a", 1));
    assert!(ends.connect().is_empty());
    let strange = DeltaDiscoveryResponse {
        type_url: "type.googleapis.com/istio.workload.Future".to_owned(),
        nonce: "future".to_owned(),
        resources: vec![Resource {
            name: "c1//Pod/shop/a".to_owned(),
            version: "1".to_owned(),
            resource: Some(Any {
                type_url: "type.googleapis.com/istio.workload.Future".to_owned(),
                value: vec![1, 2, 3],
            }),
            ..Resource::default()
        }],
        removed_resources: vec!["c1//Pod/shop/a".to_owned()],
        ..DeltaDiscoveryResponse::default()
    };
    // Acknowledged like any other, and its names mean nothing here.
    assert_eq!(ends.say(&strange), None);
    assert_eq!(ends.names(), ["a"]);
    ends.catalog.put_workload(&workload("b", 2));
    assert!(ends.pump().is_empty());
    assert_eq!(ends.names(), ["a", "b"]);

    // A newer node asks for what this control plane does not have, and for what it has.
    let mut server = ServerSession::new(Client::Node("n1".into()));
    for type_url in [
        "type.googleapis.com/istio.workload.Future",
        AUTHORIZATION,
        ADDRESS,
    ] {
        let request = DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        server.request(request, &ends.catalog).unwrap();
    }
    let said = std::iter::from_fn(|| server.respond(&ends.catalog).unwrap());
    let mut said: Vec<_> = said
        .map(|response| (response.type_url, response.resources.len()))
        .collect();
    said.sort();
    assert_eq!(
        said,
        [
            (AUTHORIZATION.to_owned(), 0),
            (ADDRESS.to_owned(), 2),
            ("type.googleapis.com/istio.workload.Future".to_owned(), 0)
        ]
    );
}

/// A control plane of before, with the objects of before, follows one of now.
#[test]
fn f_17_after_a_rollback_the_node_knows_what_the_older_one_says() {
    let mut ends = Ends::new();
    ends.catalog.put_workload(&workload("kept", 1));
    ends.catalog.put_workload(&workload("moved", 2));
    ends.catalog.put_policy(&policy("shop", "p", Action::Allow));
    assert!(ends.connect().is_empty());
    ends.catalog.put_workload(&workload("moved", 3));
    ends.catalog.put_workload(&workload("new", 4));
    ends.catalog.remove(ResourceType::Authorization, "shop/p");
    assert!(ends.pump().is_empty());
    assert_eq!(ends.names(), ["kept", "moved", "new"]);
    assert!(ends.allows("shop"));

    let mut sent = Vec::new();
    let (told, heard) = std::sync::mpsc::channel();
    ends.meddle = Box::new(move |response| {
        let names = response.resources.iter().map(|one| one.name.clone());
        names.for_each(|name| told.send(name).unwrap());
    });
    ends.catalog.put_workload(&workload("moved", 2));
    ends.catalog
        .remove(ResourceType::Address, "c1//Pod/shop/new");
    ends.catalog.put_policy(&policy("shop", "p", Action::Allow));
    assert!(ends.connect().is_empty());
    sent.extend(heard.try_iter());
    sent.sort();
    assert_eq!(sent, ["c1//Pod/shop/moved", "shop/p"], "and nothing else");
    assert_eq!(
        ends.workloads(),
        [workload("kept", 1), workload("moved", 2)]
    );
    assert!(!ends.allows("shop"));
    assert_eq!(ends.fewest(), 2, "never without what stays");
}
