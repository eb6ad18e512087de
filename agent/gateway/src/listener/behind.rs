//! What is behind this waypoint, and what was until a moment ago. Nodes and this gateway hear of a
//! change at different moments: a stream that comes too early is kept waiting, one that comes too
//! late is served all the same, and a client that stays is asked to come again by its new way.

use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use agent_hbone::headers::Authority;
use agent_net::drain;
use agent_state::Snapshot;
use tokio::time::{Instant, sleep, timeout_at};

use crate::behind::Destination;
use crate::worker::Worker;

/// How long a stream waits that is for something this gateway has not been put in front of yet.
const EARLY: Duration = Duration::from_secs(1);
/// How long clients go on being served before they are asked to leave: their nodes hear of it.
const LEAVE: Duration = Duration::from_millis(500);

/// Why a stream leads nowhere from here.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lost {
    /// What it is for, when that is only not behind this waypoint.
    destination: Option<Destination>,
    pub(super) detail: String,
}

/// What an authority leads to for a client of a namespace. Only what this gateway, which has the
/// address `own`, is the waypoint of: it must not lead around the waypoint of another.
pub(super) fn look(
    snapshot: &Snapshot,
    network: &str,
    own: IpAddr,
    namespace: &str,
    authority: &Authority,
) -> Result<Destination, Lost> {
    let workload = match authority {
        Authority::Ip(address) => snapshot.workload_by_ip(network, address.ip()),
        Authority::Host { .. } => None,
    };
    let (destination, waypoint, name) = match (authority, workload) {
        (Authority::Ip(address), Some(workload)) => {
            let destination = Destination::Workload(Arc::clone(workload), *address);
            (destination, &workload.waypoint, workload.uid.to_string())
        }
        (authority, _) => {
            let (service, port) = match authority {
                Authority::Ip(address) => {
                    let service = snapshot.service_by_vip(network, address.ip(), namespace);
                    (service, address.port())
                }
                Authority::Host { hostname, port } => {
                    (snapshot.service_by_hostname(hostname, namespace), *port)
                }
            };
            let service = service.ok_or_else(|| Lost {
                destination: None,
                detail: format!("nothing is known by {authority}"),
            })?;
            let key = service.key();
            let name = key.to_string();
            (Destination::Service(key, port), &service.waypoint, name)
        }
    };
    let Some(gateway) = snapshot.workload_by_ip(network, own) else {
        return Err(Lost {
            destination: None,
            detail: format!("this gateway is not known by its address {own}"),
        });
    };
    let is_ours = waypoint
        .as_ref()
        .is_some_and(|waypoint| snapshot.is_gateway(gateway, waypoint));
    if is_ours {
        return Ok(destination);
    }
    Err(Lost {
        destination: Some(destination),
        detail: format!("this is not the waypoint of {name}"),
    })
}

/// [`look`], now or within [`EARLY`]; what was right a moment ago still is.
pub(super) async fn await_destination(
    worker: &Worker,
    look: impl Fn(&Snapshot) -> Result<Destination, Lost>,
) -> Result<Destination, Lost> {
    let mut changes = worker.upstreams.changes();
    let deadline = Instant::now() + EARLY;
    loop {
        changes.mark_unchanged();
        let lost = match look(&worker.upstreams.snapshot()) {
            Ok(destination) => {
                worker.behind.note(&destination, Instant::now());
                return Ok(destination);
            }
            Err(lost) => lost,
        };
        if let Some(destination) = &lost.destination
            && worker.behind.was_right(destination, Instant::now())
        {
            return Ok(destination.clone());
        }
        match timeout_at(deadline, changes.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(lost),
        }
    }
}

/// Serves HTTP of a client, who is asked to leave, after its requests under way, when the drain
/// begins or when `is_ours` says no longer yes.
pub(super) async fn serve_while<F: Future<Output = ()>>(
    worker: &Rc<Worker>,
    mut draining: drain::Watcher,
    is_ours: impl Fn(&Snapshot) -> bool,
    serve: impl FnOnce(drain::Watcher) -> F,
) {
    let (leaving, left) = drain::channel();
    let mut served = pin!(serve(left));
    tokio::select! {
        () = &mut served => return,
        () = draining.signalled() => {}
        () = until_left(worker, is_ours) => {}
    }
    // Said; those who watch it are awaited below.
    leaving.drain(Duration::ZERO).await;
    served.await;
}

async fn until_left(worker: &Worker, is_ours: impl Fn(&Snapshot) -> bool) {
    let mut changes = worker.upstreams.changes();
    loop {
        changes.mark_unchanged();
        if !is_ours(&worker.upstreams.snapshot()) {
            sleep(LEAVE).await;
            if !is_ours(&worker.upstreams.snapshot()) {
                return;
            }
        }
        if changes.changed().await.is_err() {
            // Nobody tells of changes any more: the gateway ends.
            std::future::pending::<()>().await;
        }
    }
}
