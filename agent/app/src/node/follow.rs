//! Tasks of the control runtime that follow one room for another.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use agent_datapath::{Datapath, DatapathError};
use agent_identity::Certificates;
use agent_model::{Identity, TunnelProtocol};
use agent_net::drain::Watcher;
use agent_state::Snapshot;
use agent_xds::ClientStatus;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::readiness::Pending;

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

/// Runs enrolment; ready once every pod that was enrolled before is served again.
pub(super) fn enrolment(
    control: &Runtime,
    serve: impl Future<Output = Result<(), DatapathError>> + Send + 'static,
    datapath: Arc<Datapath>,
    pending: Pending,
) {
    control.spawn(async move {
        if let Err(error) = serve.await {
            tracing::error!(error = %chain(&error), "enrolment ended; new pods will wait");
        }
    });
    control.spawn(async move {
        let waiting = Duration::from_millis(50);
        while datapath.pods().iter().any(|pod| !pod.verified) {
            tokio::time::sleep(waiting).await;
        }
        pending.done();
    });
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
