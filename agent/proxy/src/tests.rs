//! Decisions of this room that need no socket. The paths as a whole are in `tests/kernel`.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use agent_model::{Action, Authorization, Identity, PolicyKey, Reason, Rule, Scope, Workload};
use agent_net::copy::{CopyError, Side};
use agent_state::Snapshot;
use agent_xds::{Apply, Update};

use crate::Refusal;
use crate::connections::{Connections, Facts};

fn facts(source: Option<&str>) -> Facts {
    let source = source.map(|account| Identity::new("cluster.local", "shop", account).unwrap());
    Facts {
        local: "10.1.0.2".parse().unwrap(),
        peer: source.clone(),
        source,
        source_ip: "10.1.0.1".parse().unwrap(),
        destination: "10.1.0.2:80".parse().unwrap(),
    }
}

fn local(lists: &[&str]) -> Arc<Workload> {
    Arc::new(Workload {
        namespace: "shop".into(),
        authorization_policies: lists
            .iter()
            .map(|name| PolicyKey::new("shop", name))
            .collect(),
        ..Workload::default()
    })
}

fn holding(policies: &[(&str, Action)]) -> Arc<Snapshot> {
    let (mut writer, reader) = agent_state::channel();
    let policies = policies.iter().map(|(name, action)| {
        Update::Policy(Authorization {
            name: (*name).into(),
            namespace: "shop".into(),
            scope: Scope::WorkloadSelector,
            action: *action,
            rules: vec![Rule::default()],
            dry_run: false,
        })
    });
    assert!(writer.apply(policies.collect()).is_empty());
    reader.load()
}

/// Decides again; whether a connection was spared, and by which policy the one given was denied.
fn recheck(
    policies: &[(&str, Action)],
    lists: &[&str],
    patience: bool,
) -> (bool, Option<Option<PolicyKey>>) {
    let connections: Rc<Connections> = Rc::default();
    let admitted = connections.admit(facts(Some("web")));
    let spared = connections.recheck(&holding(policies), "", patience, |_| Some(local(lists)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let denied = runtime.block_on(async {
        tokio::select! {
            biased;
            policy = admitted.denied() => Some(policy),
            () = std::future::ready(()) => None,
        }
    });
    (spared, denied)
}

#[test]
fn a_live_connection_is_denied_allowed_or_spared() {
    let key = |name| Some(Some(PolicyKey::new("shop", name)));
    let (allow, deny) = (("a", Action::Allow), ("d", Action::Deny));
    assert_eq!(recheck(&[], &[], true), (false, None));
    assert_eq!(recheck(&[allow], &["a"], true), (false, None));
    assert_eq!(
        recheck(&[allow, deny], &["a", "d"], true),
        (false, key("d"))
    );
    assert_eq!(recheck(&[allow], &["a", "d"], true), (true, None));
    assert_eq!(recheck(&[allow], &["a", "d"], false), (false, key("d")));
}

#[test]
fn a_pod_that_the_control_plane_lost_keeps_its_connections() {
    let connections: Rc<Connections> = Rc::default();
    let _admitted = connections.admit(facts(None));
    let snapshot = holding(&[]);
    assert!(!connections.recheck(&snapshot, "", false, |_| None));
}

#[test]
fn who_left_is_not_decided_again() {
    let connections: Rc<Connections> = Rc::default();
    let looks = Cell::new(0);
    let snapshot = holding(&[]);
    let count = |_| {
        looks.set(looks.get() + 1);
        None
    };
    let (first, second) = (
        connections.admit(facts(None)),
        connections.admit(facts(None)),
    );
    connections.recheck(&snapshot, "", true, count);
    assert_eq!(looks.get(), 2);
    drop(first);
    connections.recheck(&snapshot, "", true, count);
    assert_eq!(looks.get(), 3);
    drop(second);
    connections.recheck(&snapshot, "", true, count);
    assert_eq!(looks.get(), 3);
}

#[test]
fn a_lost_tunnel_a_dead_peer_and_a_reset_are_told_apart() {
    let reason = |kind: io::ErrorKind| {
        let side = Side::Server;
        let source = io::Error::from(kind);
        Refusal::from(CopyError { side, source }).reason
    };
    assert_eq!(reason(io::ErrorKind::ConnectionAborted), Reason::TunnelLost);
    assert_eq!(reason(io::ErrorKind::TimedOut), Reason::IdleTimeout);
    assert_eq!(
        reason(io::ErrorKind::ConnectionReset),
        Reason::ConnectionReset
    );
    assert_eq!(reason(io::ErrorKind::BrokenPipe), Reason::ConnectionReset);
}
