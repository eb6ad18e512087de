//! The node's end alone: what it asks, acknowledges, refuses and remembers.

use std::time::{Duration, SystemTime};

use agent_model::{Action, Authorization, PolicyKey, Scope, Workload};
use prost::Message;
use prost_types::Any;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use proto::security;

use crate::client::{Kept, save};
use crate::convert::{encode_authorization, encode_workload};
use crate::{Apply, ClientSession, NodeFacts, Rejection, ResourceType, Update};

const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";

/// Notes what it is given and refuses the names it is told to.
#[derive(Default)]
struct Notebook {
    updates: Vec<Update>,
    refuses: Vec<&'static str>,
}

impl Apply for Notebook {
    fn apply(&mut self, updates: Vec<Update>) -> Vec<Rejection> {
        self.updates.extend(updates);
        let refused = self.refuses.iter();
        let refused = refused.map(|name| Rejection {
            name: (*name).to_owned(),
            reason: "not wanted".to_owned(),
        });
        refused.collect()
    }
}

fn session() -> ClientSession {
    ClientSession::new(&NodeFacts::new("n1", "Kubernetes", ""))
}

fn workload(uid: &str) -> Workload {
    Workload {
        uid: uid.into(),
        ..Workload::default()
    }
}

fn resource(name: &str, version: &str, body: Any) -> Resource {
    Resource {
        version: version.to_owned(),
        resource: Some(body),
        name: name.to_owned(),
        aliases: Vec::new(),
    }
}

fn response(type_url: &str, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        nonce: "7".to_owned(),
        resources,
        ..DeltaDiscoveryResponse::default()
    }
}

fn unreadable_policy() -> Any {
    let message = security::Authorization {
        name: "odd".to_owned(),
        namespace: "ns".to_owned(),
        action: 9,
        ..security::Authorization::default()
    };
    Any {
        type_url: AUTHORIZATION.to_owned(),
        value: message.encode_to_vec(),
    }
}

fn policy(name: &str) -> Authorization {
    Authorization {
        name: name.into(),
        namespace: "ns".into(),
        scope: Scope::Namespace,
        action: Action::Deny,
        rules: Vec::new(),
        dry_run: false,
    }
}

fn message_of(request: &DeltaDiscoveryRequest) -> Option<&str> {
    let error = request.error_detail.as_ref();
    error.map(|error| error.message.as_str())
}

#[test]
fn a_stream_opens_with_both_wildcards_address_first() {
    let requests = session().connected();
    let types: Vec<_> = requests.iter().map(|r| r.type_url.as_str()).collect();
    assert_eq!(types, [ADDRESS, AUTHORIZATION]);
    for request in requests {
        assert!(request.resource_names_subscribe.is_empty());
        assert!(request.initial_resource_versions.is_empty());
        assert_eq!(request.response_nonce, "");
        let node = request.node.unwrap();
        assert_eq!(
            node.id,
            "ztunnel~1.1.1.1~culvert-n1.culvert-system~culvert-system.svc.cluster.local"
        );
        assert!(node.metadata.unwrap().fields.contains_key("NODE_NAME"));
    }
}

#[test]
fn an_acknowledgement_is_type_and_nonce_alone() {
    let (mut session, mut notebook) = (session(), Notebook::default());
    let good = resource("a", "v1", encode_workload(&workload("a")));
    let request = session.response(response(ADDRESS, vec![good]), &mut notebook);
    let expected = DeltaDiscoveryRequest {
        type_url: ADDRESS.to_owned(),
        response_nonce: "7".to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    assert_eq!(request, expected);
    assert_eq!(
        notebook.updates,
        [Update::Workload(Box::new(workload("a")))]
    );
}

#[test]
fn a_bad_resource_spoils_only_itself() {
    let (mut session, mut notebook) = (session(), Notebook::default());
    let odd = Any {
        type_url: ADDRESS.to_owned(),
        value: vec![0xff; 3],
    };
    let resources = vec![
        resource("bad", "v1", odd),
        resource("renamed", "v1", encode_workload(&workload("other"))),
        resource("alien", "v1", encode_authorization(&policy("x"))),
        resource("good", "v1", encode_workload(&workload("good"))),
    ];
    let request = session.response(response(ADDRESS, resources), &mut notebook);
    let message = message_of(&request).unwrap();
    for refused in [
        "bad: undecodable",
        "renamed: name is invalid",
        "alien: type_url",
    ] {
        assert!(message.contains(refused), "{message}");
    }
    assert_eq!(
        notebook.updates,
        [Update::Workload(Box::new(workload("good")))]
    );
    let known = &session.connected()[0].initial_resource_versions;
    assert_eq!(known.keys().collect::<Vec<_>>(), ["good"]);
    assert_eq!(session.rejected().len(), 3);
}

#[test]
fn an_unreadable_policy_is_reported_and_not_forgotten() {
    let (mut session, mut notebook) = (session(), Notebook::default());
    let odd = resource("ns/odd", "v1", unreadable_policy());
    let request = session.response(response(AUTHORIZATION, vec![odd]), &mut notebook);
    assert_eq!(message_of(&request), Some("ns/odd: unknown enum: action 9"));
    let key = PolicyKey::new("ns", "odd");
    assert_eq!(notebook.updates, [Update::RejectedPolicy(key.clone())]);
    // Known without a version: sent again, and its removal noticed.
    let known = &session.connected()[1].initial_resource_versions;
    assert_eq!(known["ns/odd"], "");

    let mut removal = response(AUTHORIZATION, Vec::new());
    removal.removed_resources.push("ns/odd".to_owned());
    session.response(removal, &mut notebook);
    assert_eq!(notebook.updates[1], Update::RemovePolicy(key));
    assert!(session.rejected().is_empty());
    assert!(session.connected()[1].initial_resource_versions.is_empty());
}

#[test]
fn what_the_state_refuses_is_refused_on_the_wire() {
    let mut session = session();
    let mut notebook = Notebook {
        refuses: vec!["a"],
        ..Notebook::default()
    };
    let good = resource("a", "v1", encode_workload(&workload("a")));
    let request = session.response(response(ADDRESS, vec![good]), &mut notebook);
    assert_eq!(message_of(&request), Some("a: not wanted"));
    assert_eq!(session.connected()[0].initial_resource_versions["a"], "");
}

#[test]
fn a_reconnect_tells_versions_and_a_repair_clears_the_refusal() {
    let (mut session, mut notebook) = (session(), Notebook::default());
    let v1 = resource("ns/odd", "v1", unreadable_policy());
    session.response(response(AUTHORIZATION, vec![v1]), &mut notebook);
    let v2 = resource("ns/odd", "v2", encode_authorization(&policy("odd")));
    let request = session.response(response(AUTHORIZATION, vec![v2]), &mut notebook);
    assert_eq!(request.error_detail, None);
    assert!(session.rejected().is_empty());
    let known = &session.connected()[1].initial_resource_versions;
    assert_eq!(known["ns/odd"], "v2");
}

#[test]
fn synced_means_both_types_in_full() {
    let (mut session, mut notebook) = (session(), Notebook::default());
    let mut first_part = response(ADDRESS, Vec::new());
    first_part.system_version_info = "1+more".to_owned();
    session.response(first_part, &mut notebook);
    let odd = resource("ns/odd", "v1", unreadable_policy());
    session.response(response(AUTHORIZATION, vec![odd]), &mut notebook);
    assert!(!session.is_synced(), "half of the addresses is missing");
    session.response(response(ADDRESS, Vec::new()), &mut notebook);
    assert!(session.is_synced(), "a refused policy must not hold it up");
}

#[test]
fn an_unknown_type_is_acknowledged_and_ignored() {
    let (mut session, mut notebook) = (session(), Notebook::default());
    let good = resource("a", "v1", encode_workload(&workload("a")));
    let request = session.response(response("example.com/Other", vec![good]), &mut notebook);
    assert_eq!(request.response_nonce, "7");
    assert_eq!(request.error_detail, None);
    assert!(notebook.updates.is_empty());
    assert_eq!(session.held(ResourceType::Address), 0);
}

/// A mesh of one of each, written down a minute before `at`.
fn written(at: SystemTime) -> Vec<u8> {
    let (workload, policy) = (workload("a"), policy("deny"));
    let service = agent_model::Service {
        name: "s".into(),
        namespace: "ns".into(),
        hostname: "s.ns".into(),
        vips: Vec::new(),
        ports: Vec::new(),
        subject_alt_names: Vec::new(),
        waypoint: None,
        load_balancing: Default::default(),
        ip_families: Default::default(),
        canonical: true,
        visibility: Default::default(),
        ingress_use_waypoint: false,
    };
    let odd = PolicyKey("ns/odd".into());
    let kept = [
        Kept::Workload(&workload),
        Kept::Service(&service),
        Kept::Policy(&policy),
        Kept::Unreadable(&odd),
    ];
    save(kept.into_iter(), at - Duration::from_secs(60))
}

/// An agent that starts in an outage goes on with what was written down; what has changed
/// meanwhile the control plane says when it is back, and nothing goes before that.
#[test]
fn f_15_what_was_written_down_counts_until_the_control_plane_is_back() {
    let now = SystemTime::now();
    let (mut session, mut notebook) = (session(), Notebook::default());
    assert_eq!(session.restored(), None);
    let at = session.restore(&written(now), now, &mut notebook).unwrap();
    assert!(session.is_synced());
    assert_eq!(session.restored(), Some(at));
    let updates = std::mem::take(&mut notebook.updates);
    assert_eq!(updates.len(), 4);
    assert_eq!(updates[0], Update::Policy(policy("deny")));
    let odd = PolicyKey("ns/odd".into());
    assert!(
        updates.contains(&Update::RejectedPolicy(odd)),
        "it still denies"
    );
    assert!(updates.contains(&Update::Workload(Box::new(workload("a")))));

    // All of it is asked for again, by name, so that its end is told.
    let requests = session.connected();
    for (request, names) in requests
        .iter()
        .zip([["a", "ns/s.ns"], ["ns/deny", "ns/odd"]])
    {
        let versions = names.map(|name| (name.to_owned(), String::new()));
        assert_eq!(request.initial_resource_versions, versions.into());
    }
    let mut news = response(ADDRESS, Vec::new());
    news.removed_resources.push("a".to_owned());
    session.response(news, &mut notebook);
    assert_eq!(session.restored(), Some(at), "policies are still those");
    session.response(response(AUTHORIZATION, Vec::new()), &mut notebook);
    assert_eq!(session.restored(), None);
    assert_eq!(notebook.updates, [Update::RemoveAddress("a".to_owned())]);
}

#[test]
fn f_15_what_is_old_or_damaged_does_not_count() {
    let now = SystemTime::now();
    let good = written(now);
    let mut session = session();
    let mut refused = |content: &[u8], now| {
        let mut notebook = Notebook::default();
        let error = session.restore(content, now, &mut notebook).unwrap_err();
        assert!(notebook.updates.is_empty());
        error.to_string()
    };
    let day = Duration::from_secs(24 * 3600);
    assert!(refused(&good, now + day).contains("older than a day"));
    assert!(refused(b"", now).contains("another form"));
    assert!(refused(&good[..20], now).contains("another form"));
    for at in 15..good.len() {
        let mut damaged = good.clone();
        damaged[at] ^= 1;
        assert!(
            refused(&damaged, now).contains("not what was written"),
            "{at}"
        );
    }
    assert!(refused(&good[..good.len() - 1], now).contains("not what was written"));
    assert!(!session.is_synced());
}
