//! Responses of a control plane that is not ours: each is taken, or refused by name, and the
//! state stays one that decisions can be taken from.

use std::net::SocketAddr;
use std::sync::Arc;

use agent_model::Workload;
use agent_state::resolve::{AuthorityRef, Chooser, Inbound, Outbound, inbound, outbound};
use agent_state::view::View;
use agent_state::{Snapshot, channel};
use agent_xds::{Apply, ClientSession, NodeFacts, Rejection, ResourceType, Update};
use prost::Message;
use proto::discovery::DeltaDiscoveryResponse;

pub(super) const WORDS: &[&str] = &[
    "type.googleapis.com/istio.workload.Address",
    "type.googleapis.com/istio.security.Authorization",
    "\x0a\x04\x0a\0\0\x01",
    "\x08\x01",
    "\x10\x02",
    "\u{7f}",
    "\x1a\x00",
    "shop/p0",
    "Kubernetes//Pod/shop/web",
    "shop/web.shop.svc.cluster.local",
    "\x12\x04\x7f\0\0\x01",
];

/// One response after the other, each after its length in two bytes, big end first. Where the
/// lengths make no sense the rest is one response.
pub(super) fn run(bytes: &[u8]) {
    let mut session = ClientSession::new(&NodeFacts::new("node-a", "Kubernetes", ""));
    let (mut writer, reader) = channel();
    let mut rest = bytes;
    while let Some((response, after)) = cut(rest) {
        rest = after;
        let Ok(response) = DeltaDiscoveryResponse::decode(response) else {
            continue;
        };
        let mut applier = Counting {
            inner: &mut writer,
            updates: 0,
        };
        let answer = session.response(response.clone(), &mut applier);
        assert_eq!(answer.response_nonce, response.nonce);
        assert_eq!(answer.type_url, response.type_url);
        let known = ResourceType::from_url(&response.type_url).is_some();
        let resources = response.resources.len() + response.removed_resources.len();
        assert!(applier.updates <= resources && (known || applier.updates == 0));
        if let Some(error) = &answer.error_detail {
            assert!(error.message.len() < 64 * 1024 && !error.message.is_empty());
        } else if known {
            let removed = response.removed_resources.len();
            assert_eq!(applier.updates, response.resources.len() + removed);
        }
    }
    for rejection in session.rejected() {
        assert!(!rejection.reason.is_empty());
    }
    let held = session.held(ResourceType::Address);
    let snapshot = reader.load();
    assert!(snapshot.workloads().count() + snapshot.services().count() <= held);
    let view = View::new(&snapshot);
    assert!(serde_json::to_string(&view).is_ok());
    for request in session.connected() {
        let versions = request.initial_resource_versions.len();
        let kind = ResourceType::from_url(&request.type_url).expect("a type of ours");
        assert_eq!(versions, session.held(kind));
    }
    decide(&snapshot);
}

fn cut(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    Some(rest.split_at_checked(length).unwrap_or((rest, &[])))
}

/// Passes updates on and counts them.
struct Counting<'a> {
    inner: &'a mut dyn Apply,
    updates: usize,
}

impl Apply for Counting<'_> {
    fn apply(&mut self, updates: Vec<Update>) -> Vec<Rejection> {
        self.updates += updates.len();
        self.inner.apply(updates)
    }
}

/// Every decision that the state may be asked for.
fn decide(snapshot: &Snapshot) {
    let workloads: Vec<Arc<Workload>> = snapshot.workloads().take(8).cloned().collect();
    let of_pods = workloads
        .iter()
        .flat_map(|workload| workload.addresses.clone());
    let of_services = snapshot.services().flat_map(|service| service.vips.clone());
    let ips: Vec<_> = of_pods
        .chain(of_services.map(|vip| vip.address))
        .take(16)
        .collect();
    for source in &workloads {
        for ip in &ips {
            for port in [0, 80, 15001, 15006, 15008] {
                check_outbound(snapshot, source, SocketAddr::new(*ip, port));
            }
            let authority = AuthorityRef::Ip(SocketAddr::new(*ip, 15008));
            let decision = inbound(snapshot, source, *ip, &authority);
            assert!(
                matches!(decision, Inbound::Reject { .. }),
                "a port of the agent"
            );
        }
        for service in snapshot.services().take(8) {
            for ip in &ips {
                let authority = AuthorityRef::Host(&service.hostname, 80);
                match inbound(snapshot, source, *ip, &authority) {
                    Inbound::Forward { destination, .. } => {
                        assert_eq!(destination.ip(), ip.to_canonical());
                        assert!(![0, 15001, 15006, 15008].contains(&destination.port()));
                    }
                    Inbound::Reject { status, .. } => assert!((400..600).contains(&status)),
                }
            }
        }
    }
}

fn check_outbound(snapshot: &Snapshot, source: &Workload, destination: SocketAddr) {
    let mut random = || 0x1234_5678_9abc_def0;
    let mut tried: Vec<Arc<str>> = Vec::new();
    // Every failed endpoint is tried once and no more.
    for _ in 0..=snapshot.workloads().count() {
        let mut chooser = Chooser {
            random: &mut random,
            active: &|_| 0,
            tried: &tried,
        };
        let failed = match outbound(snapshot, source, destination, &mut chooser) {
            Outbound::Tunnel(hop) => {
                assert!(!hop.expected.is_empty(), "a tunnel to just anyone");
                hop.workload
            }
            Outbound::Named(named) => named.workload,
            Outbound::Direct {
                workload: Some(workload),
                ..
            } => workload,
            _ => return,
        };
        assert!(
            !tried.contains(&failed.uid),
            "{} is tried again",
            failed.uid
        );
        tried.push(Arc::clone(&failed.uid));
    }
}
