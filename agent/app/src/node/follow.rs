//! Tasks of the control runtime that follow one room for another.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use agent_datapath::{Datapath, DatapathError, Wishes};
use agent_identity::Certificates;
use agent_model::{Identity, TunnelProtocol};
use agent_net::drain::Watcher;
use agent_proxy::Workers;
use agent_state::Snapshot;
use agent_xds::ClientStatus;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::readiness::Pending;

/// Time between two looks at the pods while they are enrolled again.
const FIRST_LOOKS: Duration = Duration::from_millis(50);
/// Time after which the agent is ready although a pod is not.
const LONGEST: Duration = Duration::from_secs(10);
/// Time between two looks at the hooks after that.
const LATER_LOOKS: Duration = Duration::from_secs(2);

/// Becomes true when workloads and policies have both been received, and readiness with it.
pub(super) fn synced(
    control: &Runtime,
    mut status: watch::Receiver<ClientStatus>,
    pending: Pending,
) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    control.spawn(async move {
        if status.wait_for(|status| status.synced).await.is_ok() {
            sender.send_replace(true);
            pending.done();
            // The data path takes a closed channel for a mesh that will never be known.
            sender.closed().await;
        }
    });
    receiver
}

/// Keeps a certificate for every meshed identity of this node, and none for others.
pub(super) async fn certificates(
    state: agent_state::Reader,
    certificates: Certificates,
    node: String,
    mut draining: Watcher,
) {
    let mut changes = state.changed();
    let mut held = BTreeSet::new();
    loop {
        let wanted = identities_of(&state.load(), &node);
        certificates.prefetch(wanted.difference(&held).cloned());
        held.difference(&wanted)
            .for_each(|gone| certificates.forget(gone));
        held = wanted;
        tokio::select! {
            () = draining.signalled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

fn identities_of(snapshot: &Snapshot, node: &str) -> BTreeSet<Identity> {
    let local = snapshot.workloads().filter(|workload| {
        *workload.node == *node && workload.tunnel_protocol == TunnelProtocol::Hbone
    });
    local
        .filter_map(|workload| workload.identity().ok())
        .collect()
}

/// Has the workers leave the names of those pods alone whose labels say so.
pub(super) async fn names(workers: Arc<Workers>, mut wishes: watch::Receiver<Wishes>) {
    loop {
        let node = wishes.borrow_and_update().node.clone();
        if let Some(node) = node {
            let workers = Arc::clone(&workers);
            if let Err(error) = tokio::task::spawn_blocking(move || workers.heed(node)).await {
                tracing::error!(%error, "whose names are answered");
            }
        }
        if wishes.changed().await.is_err() {
            return;
        }
    }
}

/// Runs enrolment; ready once every pod that was enrolled before is served again, and not ready
/// whenever a hook is lost. The handle ends when enrolment does: with an error only if the agent
/// is of no more use.
pub(super) fn enrolment(
    control: &Runtime,
    serve: impl Future<Output = Result<(), DatapathError>> + Send + 'static,
    datapath: Arc<Datapath>,
    pending: Pending,
) -> JoinHandle<Result<(), DatapathError>> {
    control.spawn(async move {
        // One bad pod must not keep the others of this node waiting: it stays closed, is tried
        // again, and the status names it.
        let mut last_look = None;
        while !is_served_again(&datapath) {
            let now = tokio::time::Instant::now();
            if datapath.is_list_read() && now >= *last_look.get_or_insert(now + LONGEST) {
                tracing::warn!("ready, although not every pod is served again");
                break;
            }
            tokio::time::sleep(FIRST_LOOKS).await;
        }
        loop {
            if datapath.attached() {
                pending.done();
            } else {
                pending.pending("an eBPF hook of this node is not attached");
            }
            tokio::time::sleep(LATER_LOOKS).await;
        }
    });
    control.spawn(serve)
}

/// True when every pod of the agent's own list is captured, verified and served.
fn is_served_again(datapath: &Datapath) -> bool {
    datapath.is_list_read() && datapath.pods().iter().all(|pod| pod.verified)
}
