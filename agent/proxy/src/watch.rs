//! The watch over connections older than enrolment: decided on enrolment and on every change of
//! the mesh, off the data path.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_model::{PolicyKey, Reason, Workload};
use agent_net::copy::Counters;
use agent_net::drain::Watcher;
use agent_net::sockdiag::{self, Connection};
use agent_state::Snapshot;
use agent_telemetry::{Direction, Ends, Record};

use crate::connections::{Grace, Verdict};
use crate::mesh::Mesh;
use crate::older::judge;
use crate::pod::Pod;
use crate::refusal::{Refusal, report};
use crate::workers::Workers;

/// Time until what the kernel did not do is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// What a look at all older connections left to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Unfinished {
    /// Some were spared for the sake of a policy that may still come.
    spared: bool,
    /// The kernel did not end some that are denied.
    failed: bool,
}

/// Ends the older connections that policy denies, within 2 s of what denies them, until the drain
/// begins. For the control runtime; the kernel's work is done on its blocking threads.
pub async fn watch_older(workers: Arc<Workers>, mut draining: Watcher) {
    let mut changes = workers.mesh.state.changed();
    let mut enrolled = workers.enrolled.subscribe();
    let mut synced = workers.mesh.synced.clone();
    tokio::select! {
        () = draining.signalled() => return,
        // Of a mesh that was only half received nothing is decided.
        known = synced.wait_for(|synced| *synced) => if known.is_err() { return },
    }
    let mut grace = Grace::default();
    loop {
        changes.mark_unchanged();
        enrolled.mark_unchanged();
        let patience = grace.lasts();
        let looking = Arc::clone(&workers);
        let look = tokio::task::spawn_blocking(move || look_at_all(&looking, patience));
        let unfinished = look.await.unwrap_or(Unfinished {
            spared: false,
            failed: true,
        });
        grace.note(unfinished.spared);
        let retry = async {
            if !unfinished.failed {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(RETRY).await;
        };
        tokio::select! {
            () = draining.signalled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            changed = enrolled.changed() => if changed.is_err() { return },
            () = grace.over() => {}
            () = retry => {}
        }
    }
}

fn look_at_all(workers: &Workers, patience: bool) -> Unfinished {
    let mesh = &*workers.mesh;
    let snapshot = mesh.state.load();
    let mut all = Unfinished::default();
    for pod in workers.pods() {
        let unfinished = look_at(&pod, mesh, &snapshot, patience);
        all.spared |= unfinished.spared;
        all.failed |= unfinished.failed;
    }
    all
}

fn look_at(pod: &Pod, mesh: &Mesh, snapshot: &Snapshot, patience: bool) -> Unfinished {
    let mut unfinished = Unfinished::default();
    let left = pod.older.left();
    if left.is_empty() {
        return unfinished;
    }
    // A pod without a record keeps them, as it keeps those that the agent carries.
    let Some(local) = pod.workload_in(snapshot, &mesh.config.network) else {
        return unfinished;
    };
    let mut gone = BTreeSet::new();
    for older in &left {
        let connection = &older.connection;
        let policy = match judge(older, snapshot, &mesh.config.network, &local, patience) {
            Verdict::Stays => continue,
            Verdict::Spared => {
                unfinished.spared = true;
                continue;
            }
            Verdict::Denied(policy) => policy,
        };
        match sockdiag::destroy(pod.netns(), connection) {
            Ok(existed) => {
                gone.insert(connection.cookie);
                if existed {
                    tell(
                        mesh,
                        snapshot,
                        connection,
                        &local,
                        policy,
                        pod.older.since(),
                    );
                }
            }
            Err(error) => {
                unfinished.failed = true;
                tracing::error!(pod = %pod.info().name, peer = %connection.remote, %error,
                    "cannot end a denied connection that is older than enrolment");
            }
        }
    }
    pod.older.keep(|cookie| !gone.contains(&cookie));
    unfinished
}

/// The line in the access log and the place among the refusals that any other connection has
/// which a change of policy closes. Its bytes are unknown, its age counts from enrolment.
fn tell(
    mesh: &Mesh,
    snapshot: &Snapshot,
    connection: &Connection,
    local: &Arc<Workload>,
    policy: Option<PolicyKey>,
    since: Instant,
) {
    let ends = Ends {
        source: connection.remote,
        destination: connection.local,
    };
    let mut record = Record::open(&mesh.metrics, Direction::Inbound, ends, since);
    record.destination(local, None);
    if let Some(source) = snapshot.workload_by_ip(&mesh.config.network, connection.remote.ip()) {
        record.source(source, None);
    }
    let mut refusal = Refusal::by_policy(Reason::PolicyChanged, policy);
    refusal
        .detail
        .push_str("; the connection is older than enrolment");
    report(record, &Counters::default(), Err(refusal));
}
