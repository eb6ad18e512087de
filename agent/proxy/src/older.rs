//! Connections older than enrolment: what a pod had open when the agent came to it. They go past
//! the agent, so the kernel ends those that policy denies. Inbound ones are decided by the same
//! facts as plaintext that the agent carries; outbound ones are only listed, because policy is the
//! destination's.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use agent_datapath::{OlderConnection, OlderDirection};
use agent_model::Workload;
use agent_net::Netns;
use agent_net::sockdiag;
use agent_state::Snapshot;

use crate::connections::{Facts, Verdict};

/// Connections a namespace may have for those that are gone to be told from those that are left.
const LISTED: usize = 65_536;

/// The older connections of one pod.
#[derive(Debug)]
pub(crate) struct Older {
    since: Instant,
    left: Mutex<Vec<OlderConnection>>,
}

impl Older {
    /// What enrolment found.
    pub(crate) fn new(found: Vec<OlderConnection>, now: Instant) -> Self {
        Self {
            since: now,
            left: Mutex::new(found),
        }
    }

    /// When they were found.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// Those that have not been seen to be gone.
    pub(crate) fn left(&self) -> Vec<OlderConnection> {
        let left = self.left.lock();
        left.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets those that `stays` denies, by cookie.
    pub(crate) fn keep(&self, stays: impl Fn(u64) -> bool) {
        let left = self.left.lock();
        let mut left = left.unwrap_or_else(PoisonError::into_inner);
        left.retain(|older| stays(older.connection.cookie));
        left.shrink_to_fit();
    }

    /// Forgets those that are gone.
    pub(crate) fn refresh(&self, netns: &Netns) -> io::Result<()> {
        if self.left().is_empty() {
            return Ok(());
        }
        let open = sockdiag::list(netns, LISTED)?.connections;
        let open: BTreeSet<u64> = open.iter().map(|connection| connection.cookie).collect();
        self.keep(|cookie| open.contains(&cookie));
        Ok(())
    }
}

/// Decides about one, as [`Facts::judge`] does; `local` is the pod's record in `snapshot`.
pub(crate) fn judge(
    older: &OlderConnection,
    snapshot: &Snapshot,
    network: &str,
    local: &Workload,
    patience: bool,
) -> Verdict {
    let connection = &older.connection;
    let facts = Facts {
        local: connection.local.ip(),
        source: None,
        peer: None,
        source_ip: connection.remote.ip(),
        destination: connection.local,
    };
    match older.direction {
        OlderDirection::Outbound => Verdict::Stays,
        OlderDirection::Inbound => facts.judge(snapshot, network, local, patience),
    }
}

#[cfg(test)]
mod tests {
    use agent_model::{Action, Authorization, PolicyKey, Rule, Scope};
    use agent_net::sockdiag::Connection;
    use agent_xds::{Apply, Update};

    use super::*;

    fn workload() -> Workload {
        Workload {
            uid: "c//Pod/shop/server".into(),
            name: "server".into(),
            namespace: "shop".into(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            ..Workload::default()
        }
    }

    fn older(direction: OlderDirection) -> OlderConnection {
        OlderConnection {
            direction,
            connection: Connection {
                cookie: 1,
                local: "10.0.0.1:80".parse().unwrap(),
                remote: "10.0.0.2:40000".parse().unwrap(),
                interface: 0,
            },
        }
    }

    fn judged(direction: OlderDirection, updates: Vec<Update>, listed: &[&str]) -> [Verdict; 2] {
        let (mut writer, reader) = agent_state::channel();
        assert!(writer.apply(updates).is_empty());
        let mut local = workload();
        local.authorization_policies = listed
            .iter()
            .map(|name| PolicyKey::new("shop", name))
            .collect();
        [true, false].map(|patience| judge(&older(direction), &reader.load(), "", &local, patience))
    }

    fn deny() -> Update {
        Update::Policy(Authorization {
            name: "nobody".into(),
            namespace: "shop".into(),
            scope: Scope::Namespace,
            action: Action::Deny,
            rules: vec![Rule::default()],
            dry_run: false,
        })
    }

    #[test]
    fn inbound_ones_are_decided_like_plaintext() {
        let judged = |updates, listed: &[_]| judged(OlderDirection::Inbound, updates, listed);
        assert_eq!(judged(vec![], &[]), [Verdict::Stays, Verdict::Stays]);
        let by_name = || Verdict::Denied(Some(PolicyKey::new("shop", "nobody")));
        assert_eq!(judged(vec![deny()], &[]), [by_name(), by_name()]);
        let unknown = Verdict::Denied(Some(PolicyKey::new("shop", "late")));
        assert_eq!(judged(vec![], &["late"]), [Verdict::Spared, unknown]);
    }

    #[test]
    fn outbound_ones_stay() {
        let judged = judged(OlderDirection::Outbound, vec![deny()], &[]);
        assert_eq!(judged, [Verdict::Stays, Verdict::Stays]);
    }
}
