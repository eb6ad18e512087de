//! The control plane's end alone, and both ends together through drops and reconnects.

use std::collections::{BTreeMap, VecDeque};

use agent_model::{Action, Authorization, PolicyKey, Scope, Service, Workload};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use prost_types::Any;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status};

use super::catalog::Offer;
use crate::{
    Apply, Catalog, ClientSession, NodeFacts, Rejection, ResourceType, ServerSession, Update,
};

const ADDRESS: ResourceType = ResourceType::Address;
const AUTHORIZATION: ResourceType = ResourceType::Authorization;

fn workload(uid: &str, node: &str) -> Workload {
    Workload {
        uid: uid.into(),
        node: node.into(),
        addresses: vec![[10, 0, 0, 1].into()],
        ..Workload::default()
    }
}

fn policy(name: &str, dry_run: bool) -> Authorization {
    Authorization {
        name: name.into(),
        namespace: "ns".into(),
        scope: Scope::WorkloadSelector,
        action: Action::Allow,
        rules: Vec::new(),
        dry_run,
    }
}

fn subscribe(kind: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.url().to_owned(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// Names in a response: what it brings, and what it takes with a `-`.
fn names(responses: &[DeltaDiscoveryResponse]) -> Vec<String> {
    let names = responses.iter().flat_map(|response| {
        let brought = response.resources.iter().map(|r| r.name.clone());
        let taken = response.removed_resources.iter().map(|n| format!("-{n}"));
        brought.chain(taken)
    });
    names.collect()
}

#[test]
fn versions_are_hashes_of_the_content() {
    let mut catalog = Catalog::default();
    assert!(catalog.put_workload(&workload("a", "n1")));
    let version = catalog.version(ADDRESS, "a").unwrap().to_owned();
    let any = crate::convert::encode_workload(&workload("a", "n1"));
    let hash = xxhash_rust::xxh64::xxh64(&any.encode_to_vec(), 0);
    assert_eq!(version, format!("{hash:x}"));
    assert!(
        !catalog.put_workload(&workload("a", "n1")),
        "nothing changed"
    );
    assert!(catalog.put_workload(&workload("a", "n2")));
    assert_ne!(catalog.version(ADDRESS, "a"), Some(version.as_str()));
    assert!(catalog.remove(ADDRESS, "a"));
    assert!(!catalog.remove(ADDRESS, "a"));
    assert!(catalog.is_empty());
}

#[test]
fn a_wildcard_gets_what_differs_and_the_names_that_are_gone() {
    let mut catalog = Catalog::default();
    for uid in ["a", "b", "c"] {
        catalog.put_workload(&workload(uid, "n1"));
    }
    let mut request = subscribe(ADDRESS, &[]);
    let current = catalog.version(ADDRESS, "a").unwrap().to_owned();
    request.initial_resource_versions = BTreeMap::from([
        ("a".to_owned(), current),
        ("b".to_owned(), String::new()),
        ("gone".to_owned(), "1".to_owned()),
    ]);
    let responses = ServerSession::new().request(request, &catalog).unwrap();
    assert_eq!(responses.len(), 1);
    assert_eq!(names(&responses), ["b", "c", "-gone"]);
}

#[test]
fn the_first_request_of_a_type_is_answered_even_with_nothing() {
    let catalog = Catalog::default();
    let mut session = ServerSession::new();
    for kind in ResourceType::ALL {
        let responses = session.request(subscribe(kind, &[]), &catalog).unwrap();
        assert_eq!(responses.len(), 1);
        assert!(names(&responses).is_empty());
    }
    let unknown = DeltaDiscoveryRequest {
        type_url: "example.com/Other".to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    let responses = session.request(unknown, &catalog).unwrap();
    assert_eq!(responses[0].type_url, "example.com/Other");
}

#[test]
fn changes_come_as_deltas_with_policies_before_and_after_addresses() {
    let mut catalog = Catalog::default();
    catalog.put_policy(&policy("old", false));
    let mut session = ServerSession::new();
    assert!(session.changed(&catalog).is_empty(), "nobody has asked yet");
    for kind in ResourceType::ALL {
        session.request(subscribe(kind, &[]), &catalog).unwrap();
    }
    assert!(session.changed(&catalog).is_empty());
    catalog.put_policy(&policy("new", false));
    catalog.put_workload(&workload("a", "n1"));
    catalog.remove(AUTHORIZATION, "ns/old");
    let responses = session.changed(&catalog);
    assert_eq!(names(&responses), ["ns/new", "a", "-ns/old"]);
    assert!(session.changed(&catalog).is_empty());
}

#[test]
fn a_refused_resource_is_not_sent_again_before_it_changes() {
    let mut catalog = Catalog::default();
    catalog.put_workload(&workload("a", "n1"));
    let mut session = ServerSession::new();
    let sent = session.request(subscribe(ADDRESS, &[]), &catalog).unwrap();
    let refusal = DeltaDiscoveryRequest {
        type_url: ADDRESS.url().to_owned(),
        response_nonce: sent[0].nonce.clone(),
        error_detail: Some(Status {
            code: 3,
            message: "a: no".to_owned(),
        }),
        ..DeltaDiscoveryRequest::default()
    };
    assert!(session.request(refusal, &catalog).unwrap().is_empty());
    assert_eq!(session.last_refusal(), Some("a: no"));
    assert_eq!((session.sent(), session.acknowledged()), (1, 1));
    assert!(session.changed(&catalog).is_empty());
    catalog.put_workload(&workload("a", "n2"));
    assert_eq!(names(&session.changed(&catalog)), ["a"]);
}

#[test]
fn names_and_aliases_can_be_asked_for_one_by_one() {
    let mut catalog = Catalog::default();
    catalog.put_workload(&workload("a", "n1"));
    catalog.put_workload(&Workload {
        addresses: vec![[10, 0, 0, 2].into()],
        ..workload("b", "n1")
    });
    let mut session = ServerSession::new();
    let mut open = subscribe(ADDRESS, &["*"]);
    open.resource_names_unsubscribe.push("*".to_owned());
    let responses = session.request(open, &catalog).unwrap();
    assert_eq!((responses.len(), names(&responses).len()), (1, 0));

    let asked = subscribe(ADDRESS, &["/10.0.0.1", "/10.0.0.9"]);
    let responses = session.request(asked, &catalog).unwrap();
    assert_eq!(names(&responses), ["a", "-/10.0.0.9"]);
    assert_eq!(responses[0].resources[0].aliases, ["/10.0.0.1"]);

    catalog.put_workload(&workload("a", "n2"));
    catalog.put_workload(&workload("c", "n1"));
    assert_eq!(names(&session.changed(&catalog)), ["a", "c"], "same IP");
    catalog.remove(ADDRESS, "a");
    assert_eq!(names(&session.changed(&catalog)), ["-a"]);
}

#[test]
fn too_many_names_end_the_stream() {
    let mut request = subscribe(ADDRESS, &[]);
    request.resource_names_subscribe = (0..100_001).map(|n| n.to_string()).collect();
    let error = ServerSession::new()
        .request(request, &Catalog::default())
        .unwrap_err();
    assert!(error.to_string().contains("100001, at most 100000"));
}

#[test]
fn large_answers_are_split_and_only_the_last_part_is_final() {
    let mut catalog = Catalog::default();
    for n in 0..10 {
        let body = Any {
            type_url: ADDRESS.url().to_owned(),
            value: vec![0; 1_000_000],
        };
        catalog.put(ADDRESS, format!("{n}").into(), Offer::new(body, [].into()));
    }
    let responses = ServerSession::new()
        .request(subscribe(ADDRESS, &[]), &catalog)
        .unwrap();
    assert_eq!(responses.len(), 3);
    assert!(responses.iter().all(|r| r.encoded_len() < 4 * 1024 * 1024));
    let more: Vec<_> = responses
        .iter()
        .map(|r| r.system_version_info.ends_with("+more"))
        .collect();
    assert_eq!(more, [true, true, false]);
    assert_eq!(names(&responses).len(), 10);
}

/// The state of a node, by name.
#[derive(Debug, Default, PartialEq)]
struct Held(BTreeMap<String, Update>);

impl Apply for Held {
    fn apply(&mut self, updates: Vec<Update>) -> Vec<Rejection> {
        for update in updates {
            match &update {
                Update::Workload(workload) => self.0.insert(workload.uid.to_string(), update),
                Update::Service(service) => self.0.insert(service.key().to_string(), update),
                Update::Policy(policy) => self.0.insert(policy.key().to_string(), update),
                Update::RejectedPolicy(_) => None,
                Update::RemoveAddress(name) => self.0.remove(name),
                Update::RemovePolicy(PolicyKey(name)) => self.0.remove(&**name),
            };
        }
        Vec::new()
    }
}

#[derive(Debug, Clone)]
enum Step {
    PutWorkload(u8, u8),
    PutService(u8, bool),
    PutPolicy(u8, bool),
    RemoveWorkload(u8),
    RemovePolicy(u8),
    /// The server notices a change of the catalog.
    Notice,
    /// A message of the client arrives.
    ToServer,
    /// A message of the server arrives.
    ToClient,
    /// Everything on the way is lost and a new stream opened.
    Reconnect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..4_u8, 0..3_u8).prop_map(|(name, value)| Step::PutWorkload(name, value)),
        (0..4_u8, any::<bool>()).prop_map(|(name, value)| Step::PutService(name, value)),
        (0..4_u8, any::<bool>()).prop_map(|(name, value)| Step::PutPolicy(name, value)),
        (0..4_u8).prop_map(Step::RemoveWorkload),
        (0..4_u8).prop_map(Step::RemovePolicy),
        Just(Step::Notice),
        Just(Step::ToServer),
        Just(Step::ToServer),
        Just(Step::ToClient),
        Just(Step::ToClient),
        Just(Step::Reconnect),
    ];
    vec(step, 0..120)
}

fn service(name: u8, canonical: bool) -> Service {
    Service {
        name: format!("s{name}").into(),
        namespace: "ns".into(),
        hostname: format!("s{name}.ns").into(),
        vips: Vec::new(),
        ports: Vec::new(),
        subject_alt_names: Vec::new(),
        waypoint: None,
        load_balancing: Default::default(),
        ip_families: Default::default(),
        canonical,
        visibility: Default::default(),
    }
}

/// A catalog, and beside it what a node that knows everything would hold.
#[derive(Default)]
struct World {
    catalog: Catalog,
    truth: Held,
    server: ServerSession,
    to_server: VecDeque<DeltaDiscoveryRequest>,
    to_client: VecDeque<DeltaDiscoveryResponse>,
}

impl World {
    fn put(&mut self, update: Update) {
        match &update {
            Update::Workload(workload) => self.catalog.put_workload(workload),
            Update::Service(service) => self.catalog.put_service(service),
            Update::Policy(policy) => self.catalog.put_policy(policy),
            _ => false,
        };
        self.truth.apply(vec![update]);
    }

    fn step(&mut self, step: Step, client: &mut ClientSession, held: &mut Held) {
        match step {
            Step::PutWorkload(name, value) => {
                let workload = workload(&format!("w{name}"), &value.to_string());
                self.put(Update::Workload(Box::new(workload)));
            }
            Step::PutService(name, value) => {
                self.put(Update::Service(Box::new(service(name, value))));
            }
            Step::PutPolicy(name, value) => {
                self.put(Update::Policy(policy(&format!("p{name}"), value)));
            }
            Step::RemoveWorkload(name) => {
                let uid = format!("w{name}");
                self.catalog.remove(ADDRESS, &uid);
                self.truth.0.remove(&uid);
            }
            Step::RemovePolicy(name) => {
                let key = format!("ns/p{name}");
                self.catalog.remove(AUTHORIZATION, &key);
                self.truth.0.remove(&key);
            }
            Step::Notice => self.to_client.extend(self.server.changed(&self.catalog)),
            Step::ToServer => {
                if let Some(request) = self.to_server.pop_front() {
                    let responses = self.server.request(request, &self.catalog).unwrap();
                    self.to_client.extend(responses);
                }
            }
            Step::ToClient => {
                if let Some(response) = self.to_client.pop_front() {
                    let request = client.response(response, held);
                    assert_eq!(request.error_detail, None);
                    self.to_server.push_back(request);
                }
            }
            Step::Reconnect => {
                self.server = ServerSession::new();
                self.to_client.clear();
                self.to_server = client.connected().into();
            }
        }
    }
}

proptest! {
    #[test]
    fn the_node_ends_up_with_what_the_control_plane_has(steps in steps()) {
        let mut world = World::default();
        let mut client = ClientSession::new(&NodeFacts::new("n1", "Kubernetes", ""));
        let mut held = Held::default();
        world.step(Step::Reconnect, &mut client, &mut held);
        for step in steps {
            world.step(step, &mut client, &mut held);
        }
        // Until both queues run dry: the requests, then the answers and the last notice.
        for _ in 0..2 {
            while !world.to_server.is_empty() || !world.to_client.is_empty() {
                world.step(Step::ToServer, &mut client, &mut held);
                world.step(Step::ToClient, &mut client, &mut held);
            }
            world.step(Step::Notice, &mut client, &mut held);
        }
        while !world.to_client.is_empty() {
            world.step(Step::ToClient, &mut client, &mut held);
        }
        prop_assert_eq!(&held, &world.truth);
        prop_assert!(client.is_synced());
        prop_assert!(world.server.changed(&world.catalog).is_empty());
    }
}
