//! The control plane's end alone, and both ends together through drops and reconnects.

use std::collections::{BTreeMap, VecDeque};

use agent_model::{Action, Authorization, PolicyKey, Scope, Service, Workload};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use prost_types::Any;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status};

use super::catalog::Offer;
use crate::links::Links;
use crate::{
    Apply, Catalog, Client, ClientSession, NodeFacts, Rejection, ResourceType, ServerSession,
    Update,
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

/// Everything the session has to say.
fn said(session: &mut ServerSession, catalog: &Catalog) -> Vec<DeltaDiscoveryResponse> {
    std::iter::from_fn(|| session.respond(catalog).unwrap()).collect()
}

fn answers(
    session: &mut ServerSession,
    request: DeltaDiscoveryRequest,
    catalog: &Catalog,
) -> Vec<DeltaDiscoveryResponse> {
    session.request(request, catalog).unwrap();
    said(session, catalog)
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
    let version = catalog.version(ADDRESS, "a").unwrap();
    let any = crate::convert::encode_workload(&workload("a", "n1"));
    let hash = xxhash_rust::xxh64::xxh64(&any.encode_to_vec(), 0);
    assert_eq!(version, format!("{hash:x}"));
    assert!(
        !catalog.put_workload(&workload("a", "n1")),
        "nothing changed"
    );
    assert!(catalog.put_workload(&workload("a", "n2")));
    assert_ne!(catalog.version(ADDRESS, "a"), Some(version));
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
    let current = catalog.version(ADDRESS, "a").unwrap();
    request.initial_resource_versions = BTreeMap::from([
        ("a".to_owned(), current),
        ("b".to_owned(), String::new()),
        ("gone".to_owned(), "1".to_owned()),
    ]);
    let responses = answers(
        &mut ServerSession::new(Client::Node("n1".into())),
        request,
        &catalog,
    );
    assert_eq!(responses.len(), 1);
    assert_eq!(names(&responses), ["b", "c", "-gone"]);
}

#[test]
fn the_first_request_of_a_type_is_answered_even_with_nothing() {
    let catalog = Catalog::default();
    let mut session = ServerSession::new(Client::Node("n1".into()));
    for kind in [ADDRESS, AUTHORIZATION] {
        let responses = answers(&mut session, subscribe(kind, &[]), &catalog);
        assert_eq!(responses.len(), 1);
        assert!(names(&responses).is_empty());
    }
    let unknown = DeltaDiscoveryRequest {
        type_url: "example.com/Other".to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    let responses = answers(&mut session, unknown, &catalog);
    assert_eq!(responses[0].type_url, "example.com/Other");
}

#[test]
fn changes_come_as_deltas_with_policies_before_and_after_addresses() {
    let mut catalog = Catalog::default();
    catalog.put_policy(&policy("old", false));
    let mut session = ServerSession::new(Client::Node("n1".into()));
    assert!(
        said(&mut session, &catalog).is_empty(),
        "nobody has asked yet"
    );
    for kind in [ADDRESS, AUTHORIZATION] {
        answers(&mut session, subscribe(kind, &[]), &catalog);
    }
    assert!(said(&mut session, &catalog).is_empty());
    catalog.put_policy(&policy("new", false));
    catalog.put_workload(&workload("a", "n1"));
    catalog.remove(AUTHORIZATION, "ns/old");
    let responses = said(&mut session, &catalog);
    assert_eq!(names(&responses), ["ns/new", "a", "-ns/old"]);
    assert!(said(&mut session, &catalog).is_empty());
}

#[test]
fn a_refused_resource_is_not_sent_again_before_it_changes() {
    let mut catalog = Catalog::default();
    catalog.put_workload(&workload("a", "n1"));
    let mut session = ServerSession::new(Client::Node("n1".into()));
    let sent = answers(&mut session, subscribe(ADDRESS, &[]), &catalog);
    let refusal = DeltaDiscoveryRequest {
        type_url: ADDRESS.url().to_owned(),
        response_nonce: sent[0].nonce.clone(),
        error_detail: Some(Status {
            code: 3,
            message: "a: no".to_owned(),
        }),
        ..DeltaDiscoveryRequest::default()
    };
    assert!(answers(&mut session, refusal, &catalog).is_empty());
    assert_eq!(session.last_refusal(), Some("a: no"));
    assert_eq!((session.sent(), session.acknowledged()), (1, 1));
    assert!(said(&mut session, &catalog).is_empty());
    catalog.put_workload(&workload("a", "n2"));
    assert_eq!(names(&said(&mut session, &catalog)), ["a"]);
}

#[test]
fn names_and_aliases_can_be_asked_for_one_by_one() {
    let mut catalog = Catalog::default();
    catalog.put_workload(&workload("a", "n1"));
    catalog.put_workload(&Workload {
        addresses: vec![[10, 0, 0, 2].into()],
        ..workload("b", "n1")
    });
    let mut session = ServerSession::new(Client::Node("n9".into()));
    let mut open = subscribe(ADDRESS, &["*"]);
    open.resource_names_unsubscribe.push("*".to_owned());
    let responses = answers(&mut session, open, &catalog);
    assert_eq!((responses.len(), names(&responses).len()), (1, 0));

    let asked = subscribe(ADDRESS, &["/10.0.0.1", "/10.0.0.9"]);
    let responses = answers(&mut session, asked, &catalog);
    assert_eq!(names(&responses), ["a", "-/10.0.0.9"]);
    assert_eq!(responses[0].resources[0].aliases, ["/10.0.0.1"]);

    catalog.put_workload(&workload("a", "n2"));
    catalog.put_workload(&workload("c", "n1"));
    assert_eq!(names(&said(&mut session, &catalog)), ["a", "c"], "same IP");
    catalog.remove(ADDRESS, "a");
    assert_eq!(names(&said(&mut session, &catalog)), ["-a"]);
}

fn on_demand(versions: &[(&str, &str)]) -> DeltaDiscoveryRequest {
    let versions = versions.iter();
    DeltaDiscoveryRequest {
        resource_names_unsubscribe: vec!["*".to_owned()],
        initial_resource_versions: versions
            .map(|(name, version)| (name.to_string(), version.to_string()))
            .collect(),
        ..subscribe(ADDRESS, &["*"])
    }
}

/// Two endpoints of service `ns/s0.ns` and one workload of nothing, none on node n1.
fn served() -> Catalog {
    let mut catalog = Catalog::default();
    let mut service = service(0, true);
    service.vips.push(agent_model::NetworkAddress {
        network: "".into(),
        address: [10, 96, 0, 1].into(),
    });
    catalog.put_service(&service);
    for uid in ["e1", "e2"] {
        catalog.put_workload(&endpoint(uid));
    }
    catalog.put_workload(&workload("other", "n2"));
    catalog
}

fn endpoint(uid: &str) -> Workload {
    Workload {
        services: BTreeMap::from([(service(0, true).key(), Vec::new())]),
        addresses: Vec::new(),
        ..workload(uid, "n2")
    }
}

#[test]
fn with_a_service_come_its_endpoints_now_and_later() {
    let mut catalog = served();
    let mut session = ServerSession::new(Client::Node("n1".into()));
    answers(&mut session, on_demand(&[]), &catalog);
    let asked = subscribe(ADDRESS, &["/10.96.0.1"]);
    let responses = answers(&mut session, asked, &catalog);
    assert_eq!(names(&responses), ["e1", "e2", "ns/s0.ns"]);
    catalog.put_workload(&endpoint("e3"));
    catalog.put_workload(&workload("stranger", "n2"));
    catalog.remove(ADDRESS, "e1");
    assert_eq!(names(&said(&mut session, &catalog)), ["e3", "-e1"]);
    // Nobody wants it any more: that is told, and no change after it.
    let mut drop = subscribe(ADDRESS, &[]);
    drop.resource_names_unsubscribe
        .push("/10.96.0.1".to_owned());
    let responses = answers(&mut session, drop, &catalog);
    assert_eq!(names(&responses), ["-e2", "-e3", "-ns/s0.ns"]);
    catalog.remove(ADDRESS, "e2");
    catalog.put_workload(&endpoint("e4"));
    assert!(said(&mut session, &catalog).is_empty());
}

#[test]
fn what_is_given_up_but_wanted_for_another_reason_is_sent_again() {
    let mut catalog = served();
    catalog.put_workload(&workload("here", "n1"));
    let mut session = ServerSession::new(Client::Node("n1".into()));
    answers(&mut session, on_demand(&[]), &catalog);
    answers(
        &mut session,
        subscribe(ADDRESS, &["e1", "ns/s0.ns"]),
        &catalog,
    );
    let mut drop = subscribe(ADDRESS, &[]);
    drop.resource_names_unsubscribe = ["e1", "here"].map(str::to_owned).into();
    let responses = answers(&mut session, drop, &catalog);
    assert_eq!(names(&responses), ["e1", "here"], "an endpoint, and local");
    catalog.remove(ADDRESS, "e1");
    assert_eq!(names(&said(&mut session, &catalog)), ["-e1"]);
}

/// Else whoever waits for it would do so for ever.
#[test]
fn an_alias_that_leads_nowhere_when_it_is_answered_is_said_to_be_gone() {
    let mut catalog = Catalog::default();
    catalog.put_workload(&workload("a", "n1"));
    let mut session = ServerSession::new(Client::Node("n9".into()));
    let mut open = subscribe(ADDRESS, &["*"]);
    open.resource_names_unsubscribe.push("*".to_owned());
    assert_eq!(names(&answers(&mut session, open, &catalog)), [""; 0]);
    let asked = subscribe(ADDRESS, &["/10.0.0.1"]);
    session.request(asked, &catalog).unwrap();
    catalog.put_workload(&Workload {
        addresses: vec![[10, 0, 0, 2].into()],
        ..workload("a", "n1")
    });
    let told = names(&said(&mut session, &catalog));
    assert_eq!(told[..2], ["a", "-/10.0.0.1"]);
    assert!(!told.contains(&"-a".to_owned()), "{told:?}");
}

#[test]
fn names_asked_for_again_on_a_new_stream_cost_no_second_push() {
    let mut catalog = served();
    let version = |name| catalog.version(ADDRESS, name).unwrap();
    let held = [version("ns/s0.ns"), version("e1"), version("e2")];
    let mut request = on_demand(&[("ns/s0.ns", &held[0]), ("e1", &held[1]), ("e2", &held[2])]);
    let again = ["/10.96.0.1", "/10.9.9.9"].map(str::to_owned);
    request.resource_names_subscribe.extend(again);
    let mut session = ServerSession::new(Client::Node("n1".into()));
    let responses = answers(&mut session, request, &catalog);
    assert_eq!(names(&responses), ["-/10.9.9.9"]);
    // The address is still asked for.
    catalog.put_workload(&Workload {
        addresses: vec![[10, 9, 9, 9].into()],
        ..workload("late", "n2")
    });
    assert_eq!(names(&said(&mut session, &catalog)), ["late"]);
}

#[test]
fn what_was_not_there_is_sent_when_it_comes_with_what_was() {
    let mut catalog = Catalog::default();
    catalog.put_workload(&endpoint("e1"));
    let mut session = ServerSession::new(Client::Node("n1".into()));
    answers(&mut session, on_demand(&[]), &catalog);
    let asked = subscribe(ADDRESS, &["ns/s0.ns"]);
    let responses = answers(&mut session, asked, &catalog);
    assert_eq!(names(&responses), ["-ns/s0.ns"]);
    catalog.put_service(&service(0, true));
    let responses = said(&mut session, &catalog);
    assert_eq!(names(&responses), ["ns/s0.ns", "e1"]);
}

#[test]
fn what_runs_on_the_clients_node_comes_unasked() {
    let mut catalog = served();
    catalog.put_workload(&workload("here", "n1"));
    let mut session = ServerSession::new(Client::Node("n1".into()));
    let responses = answers(&mut session, on_demand(&[]), &catalog);
    assert_eq!(names(&responses), ["here"]);
    catalog.put_workload(&workload("here-2", "n1"));
    catalog.put_workload(&workload("there", "n2"));
    assert_eq!(names(&said(&mut session, &catalog)), ["here-2"]);
    // It moves away, and is told of to the end.
    catalog.remove(ADDRESS, "here");
    assert_eq!(names(&said(&mut session, &catalog)), ["-here"]);
}

#[test]
fn who_asks_by_name_goes_on_where_it_was_at_any_replica() {
    let (before, mut after) = (served(), served());
    let version = |name| before.version(ADDRESS, name).unwrap();
    let (service, endpoint_1) = (version("ns/s0.ns"), version("e1"));
    after.remove(ADDRESS, "e2");
    after.put_workload(&endpoint("e3"));
    let held = [
        ("ns/s0.ns", service.as_str()),
        ("e1", endpoint_1.as_str()),
        ("e2", "1"),
    ];
    let mut session = ServerSession::new(Client::Node("n1".into()));
    let responses = answers(&mut session, on_demand(&held), &after);
    assert_eq!(names(&responses), ["e3", "-e2"]);
    after.remove(ADDRESS, "e1");
    assert_eq!(names(&said(&mut session, &after)), ["-e1"]);
}

#[test]
fn a_slow_client_is_sent_the_latest_state_once() {
    let mut catalog = Catalog::default();
    let mut session = ServerSession::new(Client::Node("n1".into()));
    for kind in [ADDRESS, AUTHORIZATION] {
        answers(&mut session, subscribe(kind, &[]), &catalog);
    }
    for round in 0..1000 {
        catalog.put_workload(&workload("a", &round.to_string()));
        catalog.put_workload(&workload("passing", "n"));
        catalog.remove(ADDRESS, "passing");
    }
    let responses = said(&mut session, &catalog);
    assert_eq!(responses.len(), 1);
    assert_eq!(names(&responses), ["a", "-passing"]);
}

#[test]
fn what_changes_while_a_long_answer_is_under_way_is_told_after_it() {
    let mut catalog = Catalog::default();
    for n in 0..2000 {
        catalog.put_workload(&workload(&format!("w{n:04}"), "n2"));
    }
    let mut session = ServerSession::new(Client::Node("n1".into()));
    session.request(subscribe(ADDRESS, &[]), &catalog).unwrap();
    let mut responses = vec![session.respond(&catalog).unwrap().unwrap()];
    catalog.remove(ADDRESS, "w0000");
    catalog.remove(ADDRESS, "w1999");
    catalog.put_workload(&workload("w1998", "n3"));
    responses.extend(said(&mut session, &catalog));
    let mut held = Held::default();
    let mut client = ClientSession::new(&NodeFacts::new("n1", "Kubernetes", ""));
    assert!(responses.len() > 2, "an answer of several parts");
    for response in responses {
        client.response(response, &mut held);
    }
    assert_eq!(held.0.len(), 1998);
    assert!(!held.0.contains_key("w0000") && !held.0.contains_key("w1999"));
    let Some(Update::Workload(last)) = held.0.get("w1998") else {
        panic!("it is a workload");
    };
    assert_eq!(&*last.node, "n3");
}

#[test]
fn too_many_names_end_the_stream() {
    let mut request = subscribe(ADDRESS, &[]);
    request.resource_names_subscribe = (0..100_001).map(|n| n.to_string()).collect();
    let error = ServerSession::new(Client::Node("n1".into()))
        .request(request, &Catalog::default())
        .unwrap_err();
    assert!(error.to_string().contains("100001, at most 100000"));
}

#[test]
fn who_asks_and_does_not_read_is_not_listened_to() {
    let catalog = Catalog::default();
    let mut session = ServerSession::new(Client::Node("n1".into()));
    let mut asked = 0;
    while session.listens() {
        let unknown = DeltaDiscoveryRequest {
            type_url: "example.com/Other".to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        session.request(unknown, &catalog).unwrap();
        asked += 1;
        assert!(asked <= 64, "no end of what waits");
    }
    assert!(session.respond(&catalog).unwrap().is_some());
    assert!(session.listens(), "there is room for one more");
    assert_eq!(
        said(&mut session, &catalog).len(),
        asked - 1,
        "each is answered"
    );
}

#[test]
fn large_answers_are_split_and_only_the_last_part_is_final() {
    let mut catalog = Catalog::default();
    for n in 0..10 {
        let body = Any {
            type_url: ADDRESS.url().to_owned(),
            value: vec![0; 80_000],
        };
        catalog.put(
            ADDRESS,
            format!("{n}").into(),
            Offer::new(body, Links::default()),
        );
    }
    let responses = answers(
        &mut ServerSession::new(Client::Node("n1".into())),
        subscribe(ADDRESS, &[]),
        &catalog,
    );
    assert_eq!(responses.len(), 4);
    assert!(responses.iter().all(|r| r.encoded_len() < 300 * 1024));
    let more: Vec<_> = responses
        .iter()
        .map(|r| r.system_version_info.ends_with("+more"))
        .collect();
    assert_eq!(more, [true, true, true, false]);
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
                Update::RemoveAddress(name) | Update::RemoveOfGateway(_, name) => {
                    self.0.remove(name)
                }
                Update::RejectedOfGateway(..) => None,
                Update::Gateway(_)
                | Update::Route(..)
                | Update::Backend(..)
                | Update::Access(..)
                | Update::Authentication(..)
                | Update::TrafficPolicy(..) => self.0.insert(update.resource_name(), update),
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
        ingress_use_waypoint: false,
    }
}

/// A catalog, and beside it what a node that knows everything would hold.
struct World {
    catalog: Catalog,
    truth: Held,
    server: ServerSession,
    to_server: VecDeque<DeltaDiscoveryRequest>,
    to_client: VecDeque<DeltaDiscoveryResponse>,
    /// The client's.
    node: &'static str,
    /// Workloads have addresses of their own, and serve something.
    with_services: bool,
}

impl World {
    fn new() -> Self {
        Self {
            catalog: Catalog::default(),
            truth: Held::default(),
            server: ServerSession::new(Client::Node("n1".into())),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            node: "n1",
            with_services: false,
        }
    }

    /// Until nobody has anything to say.
    fn settle(&mut self, client: &mut ClientSession, held: &mut Held) {
        loop {
            while !self.to_server.is_empty() || !self.to_client.is_empty() {
                self.step(Step::ToServer, client, held);
                self.step(Step::ToClient, client, held);
            }
            self.step(Step::Notice, client, held);
            if self.to_client.is_empty() {
                break;
            }
        }
    }

    fn workload(&self, name: u8, value: u8) -> Workload {
        let plain = workload(&format!("w{name}"), &value.to_string());
        if !self.with_services {
            return plain;
        }
        let served = (value > 0).then(|| (service(name % 2, true).key(), Vec::new()));
        Workload {
            addresses: vec![[10, 0, 0, value].into()],
            services: served.into_iter().collect(),
            ..plain
        }
    }

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
                let workload = self.workload(name, value);
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
            Step::Notice => self
                .to_client
                .extend(self.server.respond(&self.catalog).unwrap()),
            Step::ToServer => {
                if let Some(request) = self.to_server.pop_front() {
                    self.server.request(request, &self.catalog).unwrap();
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
                self.server = ServerSession::new(Client::Node(self.node.into()));
                self.to_client.clear();
                self.to_server = client.connected().into();
            }
        }
    }
}

proptest! {
    #[test]
    fn the_node_ends_up_with_what_the_control_plane_has(steps in steps()) {
        let mut world = World::new();
        let mut client = ClientSession::new(&NodeFacts::new("n1", "Kubernetes", ""));
        let mut held = Held::default();
        world.step(Step::Reconnect, &mut client, &mut held);
        for step in steps {
            world.step(step, &mut client, &mut held);
        }
        world.settle(&mut client, &mut held);
        prop_assert_eq!(&held, &world.truth);
        prop_assert!(client.is_synced());
    }
}

#[derive(Debug, Clone)]
enum Demanded {
    World(Step),
    Ask(usize),
    /// A request for what was asked leaves the client.
    Say,
    /// Nothing was used for long.
    GiveUp,
}

const ASKED: [&str; 6] = ["w0", "w3", "ns/s0.ns", "ns/s1.ns", "/10.0.0.1", "/10.0.0.9"];

fn demanded() -> impl Strategy<Value = Vec<Demanded>> {
    let world = (0..4_u8, 0..3_u8).prop_map(|(name, value)| Step::PutWorkload(name, value));
    let others = prop_oneof![
        (0..2_u8, any::<bool>()).prop_map(|(name, value)| Step::PutService(name, value)),
        (0..4_u8).prop_map(Step::RemoveWorkload),
        Just(Step::Notice),
        Just(Step::ToServer),
        Just(Step::ToClient),
        Just(Step::Reconnect),
    ];
    let step = prop_oneof![
        2 => world.prop_map(Demanded::World),
        6 => others.prop_map(Demanded::World),
        1 => (0..ASKED.len()).prop_map(Demanded::Ask),
        1 => Just(Demanded::Say),
        1 => Just(Demanded::GiveUp),
    ];
    vec(step, 0..150)
}

/// What is on offer that a node named "1" wants which asks for `names`.
fn wanted(truth: &Held, names: &std::collections::BTreeSet<std::sync::Arc<str>>) -> Vec<String> {
    let links = truth.0.iter().filter_map(|(name, update)| {
        let links = match update {
            Update::Workload(workload) => Links::of_workload(workload),
            Update::Service(service) => Links::of_service(service),
            _ => return None,
        };
        Some((name.as_str().into(), links))
    });
    let links: BTreeMap<std::sync::Arc<str>, Links> = links.collect();
    let wanted = crate::links::wanted(links.iter(), names, "1");
    wanted.iter().map(ToString::to_string).collect()
}

proptest! {
    #[test]
    fn a_node_that_asks_by_name_ends_up_with_what_it_wants(steps in demanded()) {
        let mut world = World::new();
        world.node = "1";
        world.with_services = true;
        let demand = crate::Demand::new();
        let facts = NodeFacts::new("1", "Kubernetes", "");
        let mut client = ClientSession::on_demand(&facts, demand.clone());
        let mut held = Held::default();
        world.step(Step::Reconnect, &mut client, &mut held);
        for step in steps {
            match step {
                Demanded::World(step) => world.step(step, &mut client, &mut held),
                Demanded::Ask(which) => {
                    let _ = demand.want(&[ASKED[which].to_owned()]);
                }
                Demanded::Say => world.to_server.extend(client.ask()),
                Demanded::GiveUp => {
                    let later = std::time::Instant::now() + std::time::Duration::from_secs(3600);
                    world.to_server.extend(client.forget(later, &mut held));
                }
            }
        }
        world.to_server.extend(client.ask());
        world.settle(&mut client, &mut held);
        let names = demand.all();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        prop_assert_eq!(demand.want(&names), Ok(true), "everything is answered");
        let names = names.iter().map(|name| name.as_str().into()).collect();
        for name in wanted(&world.truth, &names) {
            prop_assert!(held.0.contains_key(&name), "{name} is wanted");
        }
        // It may hold more, such as a pod that moved to another node, but nothing old.
        let up_to_date = held.0.iter().all(|(name, update)| world.truth.0.get(name) == Some(update));
        prop_assert!(up_to_date);
        prop_assert!(client.is_synced());
    }
}

mod gateways {
    //! What is of one gateway goes to nobody else.

    use agent_model::NamespacedHostname;
    use agent_model::access::Access;
    use agent_model::authentication::Authentication;
    use agent_model::gateway::traffic::TrafficPolicy;
    use agent_model::gateway::{
        Backend, Gateway, GatewayKey, GatewayKind, Listener, Protocol, Route, RouteKey, RouteKind,
        Rules,
    };

    use super::*;

    const OF_GATEWAYS: [ResourceType; 6] = [
        ResourceType::Authentication,
        ResourceType::Access,
        ResourceType::Backend,
        ResourceType::TrafficPolicy,
        ResourceType::Gateway,
        ResourceType::Route,
    ];

    fn key(name: &str) -> GatewayKey {
        GatewayKey::new("shop", name)
    }

    fn served_gateway() -> Gateway {
        Gateway {
            key: key("edge"),
            kind: GatewayKind::Edge,
            listeners: Vec::new(),
            backend_client_certificate: None,
        }
    }

    fn put(catalog: &mut Catalog, name: &str, created: u64) {
        let gateway = key(name);
        catalog.put_gateway(&Gateway {
            key: gateway.clone(),
            ..served_gateway()
        });
        let route = Route {
            key: RouteKey::new(RouteKind::Http, "shop", "web"),
            created,
            hostnames: Vec::new(),
            parents: Vec::new(),
            rules: Rules::Http(Vec::new()),
        };
        catalog.put_route(&gateway, &route);
        let backend = Backend {
            service: NamespacedHostname::new("shop", "web"),
            port: None,
            tls: None,
        };
        catalog.put_backend(&gateway, &backend);
        let access = Access {
            name: "p".into(),
            namespace: "shop".into(),
            targets: Vec::new(),
            action: Action::Deny,
            rules: Vec::new(),
            dry_run: false,
        };
        catalog.put_access(&gateway, &access);
        let authentication = Authentication {
            name: "p".into(),
            namespace: "shop".into(),
            targets: Vec::new(),
            rules: Vec::new(),
        };
        catalog.put_authentication(&gateway, &authentication);
        let traffic = TrafficPolicy {
            name: "p".into(),
            namespace: "shop".into(),
            ..TrafficPolicy::default()
        };
        catalog.put_traffic_policy(&gateway, &traffic);
    }

    fn heard(
        session: &mut ServerSession,
        request: DeltaDiscoveryRequest,
        from: &Catalog,
    ) -> String {
        names(&answers(session, request, from)).join(" ")
    }

    #[test]
    fn a_gateway_is_told_of_itself_alone() {
        let mut catalog = Catalog::default();
        put(&mut catalog, "edge", 1);
        put(&mut catalog, "edge2", 1);
        let mut session = ServerSession::new(Client::Gateway(key("edge"), None));
        let told = OF_GATEWAYS.map(|kind| heard(&mut session, subscribe(kind, &[]), &catalog));
        assert_eq!(
            told,
            [
                "shop/edge|shop/p",
                "shop/edge|shop/p",
                "shop/edge|shop/web",
                "shop/edge|shop/p",
                "shop/edge",
                "shop/edge|HTTPRoute/shop/web"
            ]
        );
        put(&mut catalog, "edge2", 2);
        assert!(said(&mut session, &catalog).is_empty());
        put(&mut catalog, "edge", 2);
        assert_eq!(
            names(&said(&mut session, &catalog)),
            ["shop/edge|HTTPRoute/shop/web"]
        );
        catalog.remove(ResourceType::Gateway, "shop/edge2");
        assert!(said(&mut session, &catalog).is_empty());
        catalog.remove(ResourceType::Gateway, "shop/edge");
        assert_eq!(names(&said(&mut session, &catalog)), ["-shop/edge"]);
    }

    /// A gateway is never without its policies, not even while it is taken away.
    #[test]
    fn what_protects_a_gateway_leaves_after_it() {
        let mut catalog = Catalog::default();
        put(&mut catalog, "edge", 1);
        let mut session = ServerSession::new(Client::Gateway(key("edge"), None));
        for kind in OF_GATEWAYS {
            assert_ne!(heard(&mut session, subscribe(kind, &[]), &catalog), "");
        }
        for (kind, name) in [
            (ResourceType::Authentication, "shop/edge|shop/p"),
            (ResourceType::Access, "shop/edge|shop/p"),
            (ResourceType::Backend, "shop/edge|shop/web"),
            (ResourceType::Gateway, "shop/edge"),
            (ResourceType::Route, "shop/edge|HTTPRoute/shop/web"),
        ] {
            catalog.remove(kind, name);
        }
        let gone = [
            "-shop/edge",
            "-shop/edge|HTTPRoute/shop/web",
            "-shop/edge|shop/p",
            "-shop/edge|shop/p",
            "-shop/edge|shop/web",
        ];
        assert_eq!(names(&said(&mut session, &catalog)), gone);
    }

    /// The same when all of it went while its stream was away.
    #[test]
    fn a_gateway_that_comes_back_loses_its_protection_last() {
        let mut catalog = Catalog::default();
        put(&mut catalog, "edge", 1);
        let mut client = ClientSession::of_gateway(&NodeFacts::new("edge", "Kubernetes", ""));
        let mut held = Held::default();
        meet(&mut client, &mut held, &catalog);
        empty(&mut catalog);
        let told = meet(&mut client, &mut held, &catalog);
        let gone = [
            "-shop/edge|shop/p",
            "-shop/edge",
            "-shop/edge|HTTPRoute/shop/web",
            "-shop/edge|shop/p",
            "-shop/edge|shop/p",
            "-shop/edge|shop/web",
        ];
        assert_eq!(told, gone, "a TrafficPolicy protects nobody");
        for kind in OF_GATEWAYS {
            assert_eq!(client.held(kind), 0, "{kind:?}");
        }

        // What is there again before it would have left stays.
        put(&mut catalog, "edge", 1);
        meet(&mut client, &mut held, &catalog);
        empty(&mut catalog);
        let mut server = ServerSession::new(Client::Gateway(key("edge"), None));
        for request in client.connected() {
            server.request(request, &catalog).unwrap();
        }
        put(&mut catalog, "edge", 1);
        let mut told = said_to(&mut server, &mut client, &mut held, &catalog);
        told.retain(|name| name.starts_with('-'));
        assert_eq!(told, gone[..3], "its policies and backends stay");
        for kind in OF_GATEWAYS {
            assert_eq!(client.held(kind), 1, "{kind:?}");
        }
    }

    fn empty(catalog: &mut Catalog) {
        for kind in OF_GATEWAYS {
            let names: Vec<_> = catalog.names(kind).cloned().collect();
            for name in names {
                catalog.remove(kind, &name);
            }
        }
    }

    /// A stream from its beginning until neither has more to say; what the client was told.
    fn meet(client: &mut ClientSession, held: &mut Held, catalog: &Catalog) -> Vec<String> {
        let mut server = ServerSession::new(Client::Gateway(key("edge"), None));
        for request in client.connected() {
            server.request(request, catalog).unwrap();
        }
        said_to(&mut server, client, held, catalog)
    }

    fn said_to(
        server: &mut ServerSession,
        client: &mut ClientSession,
        held: &mut Held,
        catalog: &Catalog,
    ) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(response) = server.respond(catalog).unwrap() {
            told.extend(names(std::slice::from_ref(&response)));
            let request = client.response(response, held);
            server.request(request, catalog).unwrap();
        }
        told
    }

    #[test]
    fn what_a_gateway_has_taken_is_known() {
        let mut catalog = Catalog::default();
        put(&mut catalog, "edge", 1);
        let version = catalog.version(ResourceType::Gateway, "shop/edge");
        assert!(version.is_some());
        let mut client = ClientSession::of_gateway(&NodeFacts::new("edge", "Kubernetes", ""));
        let mut held = Held::default();
        meet(&mut client, &mut held, &catalog);
        // What it holds counts on a stream on which it is not sent again.
        let mut server = ServerSession::new(Client::Gateway(key("edge"), None));
        assert_eq!(server.taken().unwrap().gateway, None);
        for request in client.connected() {
            server.request(request, &catalog).unwrap();
        }
        assert_eq!(server.taken().unwrap().gateway, version);
        said_to(&mut server, &mut client, &mut held, &catalog);
        let mut changed = served_gateway();
        changed.listeners.push(Listener {
            name: "http".into(),
            port: 80,
            protocol: Protocol::Http,
            hostname: None,
            tls: None,
        });
        catalog.put_gateway(&changed);
        let sent = server.respond(&catalog).unwrap().unwrap();
        assert_eq!(server.taken().unwrap().gateway, version, "not acknowledged");
        let request = client.response(sent, &mut held);
        server.request(request, &catalog).unwrap();
        let version = Catalog::version_of_gateway(&changed);
        assert_eq!(server.taken().unwrap().gateway, Some(version));
        assert!(server.taken().unwrap().refused.is_empty());
        assert!(
            ServerSession::new(Client::Node("n".into()))
                .taken()
                .is_none()
        );
    }

    #[test]
    fn nobody_gets_what_is_of_another_by_asking() {
        let mut catalog = Catalog::default();
        put(&mut catalog, "edge", 1);
        for client in [
            Client::Node("shop/edge".into()),
            Client::Gateway(key("edg"), None),
        ] {
            for names in [&[][..], &["shop/edge"], &["*", "shop/edge"]] {
                for kind in OF_GATEWAYS {
                    let mut session = ServerSession::new(client.clone());
                    let request = subscribe(kind, names);
                    assert_eq!(heard(&mut session, request, &catalog), "", "{client}");
                    put(&mut catalog, "edge", 2);
                    assert!(said(&mut session, &catalog).is_empty(), "{client}");
                }
            }
        }
    }

    #[test]
    fn both_ends_of_a_gateway_agree() {
        let mut catalog = Catalog::default();
        catalog.put_workload(&workload("a", "n1"));
        put(&mut catalog, "edge", 1);
        let mut server = ServerSession::new(Client::Gateway(key("edge"), None));
        let mut client = ClientSession::of_gateway(&NodeFacts::new("edge", "Kubernetes", ""));
        let mut held = Held::default();
        for request in client.connected() {
            server.request(request, &catalog).unwrap();
        }
        while let Some(response) = server.respond(&catalog).unwrap() {
            assert!(!client.is_synced());
            let request = client.response(response, &mut held);
            assert_eq!(request.error_detail, None);
            server.request(request, &catalog).unwrap();
        }
        assert!(client.is_synced());
        for kind in ResourceType::OF_GATEWAYS {
            assert_eq!(client.held(*kind), 1, "{kind:?}");
        }
    }
}
