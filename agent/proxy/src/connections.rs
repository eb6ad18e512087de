//! Live inbound connections of one worker: admitted before they are decided, re-decided on every
//! change of the mesh, and closed when denied.
//!
//! A connection is registered *before* its first decision, and the decision reads the snapshot
//! *after* that. So a policy change either is seen by the first decision or finds the connection
//! here: there is no moment in which it is missed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use agent_model::{Identity, PolicyKey, Reason, Workload};
use agent_policy::{Connection, Decision, Target, decide};
use agent_state::Snapshot;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// How long a live connection outlives the arrival of a workload that names a policy which has not
/// arrived. A denied connection must be closed within 2 s.
const POLICY_GRACE: Duration = Duration::from_secs(1);

/// What a decision about an inbound connection is made of.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Local address of the pod, by which its current workload record is found.
    pub(crate) local: IpAddr,
    /// Identity of whoever connects: of the peer, or whom a waypoint connects for; `None` for
    /// plaintext.
    pub(crate) source: Option<Identity>,
    /// Identity of the peer's certificate.
    pub(crate) peer: Option<Identity>,
    /// Address of whoever connects.
    pub(crate) source_ip: IpAddr,
    /// Pod address and application port.
    pub(crate) destination: SocketAddr,
}

impl Facts {
    /// Decides against `snapshot`; `local` is the destination's workload record in it.
    pub(crate) fn decide(&self, snapshot: &Snapshot, network: &str, local: &Workload) -> Decision {
        let target = Target {
            namespace: &local.namespace,
            policies: &local.authorization_policies,
        };
        let connection = Connection {
            source: self.source.as_ref(),
            peer: self.peer.as_ref(),
            source_ip: self.source_ip,
            source_ip_vouched: self.is_vouched(snapshot, network),
            destination: self.destination,
        };
        decide(snapshot.policies(), &target, &connection)
    }

    /// Decides again. With `patience`, what is denied only because a policy has not arrived yet is
    /// spared: on a new stream to the control plane workloads may come before the policies they
    /// name, and that must not cut what was allowed.
    pub(crate) fn judge(
        &self,
        snapshot: &Snapshot,
        network: &str,
        local: &Workload,
        patience: bool,
    ) -> Verdict {
        match self.decide(snapshot, network, local) {
            Decision::Allow { .. } => Verdict::Stays,
            Decision::Deny {
                reason: Reason::PolicyUnknown,
                ..
            } if patience => Verdict::Spared,
            Decision::Deny { policy, .. } => Verdict::Denied(policy),
        }
    }

    /// A plaintext peer with the address of a workload that would have come by tunnel is not that
    /// workload; everybody else's address is as good as addresses are.
    fn is_vouched(&self, snapshot: &Snapshot, network: &str) -> bool {
        self.source.is_some()
            || snapshot
                .workload_by_ip(network, self.source_ip)
                .is_none_or(|workload| {
                    workload.tunnel_protocol == agent_model::TunnelProtocol::None
                })
    }
}

/// What is to become of a live connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on.
    Stays,
    /// It goes on until the policy that is missing has had its time.
    Spared,
    /// It ends, by that policy where one is to be named.
    Denied(Option<PolicyKey>),
}

/// For how long connections are spared. It starts with the first that is, and others do not put
/// its end off.
#[derive(Debug, Default)]
pub(crate) struct Grace(Option<Instant>);

impl Grace {
    /// Whether a connection may be spared now.
    pub(crate) fn lasts(&self) -> bool {
        self.0
            .is_none_or(|since| Instant::now() < since + POLICY_GRACE)
    }

    /// Notes whether one was spared just now.
    pub(crate) fn note(&mut self, spared: bool) {
        self.0 = spared.then(|| self.0.unwrap_or_else(Instant::now));
    }

    /// Completes when those that were spared must be decided; never when none was.
    pub(crate) async fn over(&self) {
        match self.0 {
            Some(since) => sleep_until(since + POLICY_GRACE).await,
            None => std::future::pending().await,
        }
    }
}

/// The live inbound connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    next: Cell<u64>,
    live: RefCell<BTreeMap<u64, Rc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    facts: Facts,
    denied: RefCell<Option<Option<PolicyKey>>>,
    closed: Notify,
}

/// One admitted connection; leaving the registry on drop.
#[derive(Debug)]
pub(crate) struct Admitted {
    id: u64,
    entry: Rc<Entry>,
    registry: Weak<Connections>,
}

impl Connections {
    /// Registers a connection that is about to be decided.
    pub(crate) fn admit(self: &Rc<Self>, facts: Facts) -> Admitted {
        let id = self.next.replace(self.next.get() + 1);
        let entry = Rc::new(Entry {
            facts,
            denied: RefCell::new(None),
            closed: Notify::new(),
        });
        self.live.borrow_mut().insert(id, Rc::clone(&entry));
        Admitted {
            id,
            entry,
            registry: Rc::downgrade(self),
        }
    }

    /// Re-decides every live connection and closes those that are denied now. `find` gives the
    /// current record of a local pod; a pod without one keeps its connections, because losing the
    /// control plane must not cut traffic.
    ///
    /// True when one was spared, see [`Facts::judge`]; the caller then decides again soon, without
    /// patience.
    pub(crate) fn recheck(
        &self,
        snapshot: &Snapshot,
        network: &str,
        patience: bool,
        find: impl Fn(IpAddr) -> Option<Arc<Workload>>,
    ) -> bool {
        let mut spared = false;
        for entry in self.live.borrow().values() {
            let Some(local) = find(entry.facts.local) else {
                continue;
            };
            match entry.facts.judge(snapshot, network, &local, patience) {
                Verdict::Stays => {}
                Verdict::Spared => spared = true,
                Verdict::Denied(policy) => {
                    entry.denied.replace(Some(policy));
                    entry.closed.notify_one();
                }
            }
        }
        spared
    }
}

impl Admitted {
    /// What the connection is decided by.
    pub(crate) fn facts(&self) -> &Facts {
        &self.entry.facts
    }

    /// Completes when a change of the mesh denied the connection, with the policy that did.
    pub(crate) async fn denied(&self) -> Option<PolicyKey> {
        loop {
            if let Some(policy) = self.entry.denied.borrow().clone() {
                return policy;
            }
            self.entry.closed.notified().await;
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.live.borrow_mut().remove(&self.id);
        }
    }
}
