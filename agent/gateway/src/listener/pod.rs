//! Tunnels to the address of a pod behind a waypoint for workloads: HTTP where services say that it
//! is, or where somebody asks and the first bytes are; bytes where not. No route is for it. Policies
//! of the gateway hold, and those of the services that lead to the same port.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use agent_hbone::TunnelIo;
use agent_hbone::server::IncomingRequest;
use agent_model::Workload;
use agent_state::Snapshot;

use super::behind::serve_while;
use super::detect::sniff;
use super::http::speak;
use super::look::{Before, is_treated};
use super::standing::{Standing, pass};
use super::tunnel::{
    Tunnel, behalf, downstream, facts_of, log_refused, passage, protocol_of, refuse,
};
use crate::plan::Rule;
use crate::pod::Pod;
use crate::request::Origin;
use crate::worker::Worker;

pub(super) async fn serve(
    worker: Rc<Worker>,
    tunnel: &Tunnel,
    incoming: IncomingRequest,
    workload: &Arc<Workload>,
    address: SocketAddr,
) {
    let pod = Pod::new(&worker.upstreams.snapshot(), workload, address);
    let Standing {
        refused, patience, ..
    } = standing(&worker, tunnel, &pod, address);
    let again = |was_looked| {
        let pod = known_now(&worker, workload, address);
        standing(&worker, tunnel, &pod, address).ends(was_looked)
    };
    let behalf = behalf(tunnel, &incoming);
    let passage = passage(tunnel, address.port(), Some(address));
    let Some(patience) = patience else {
        let connected = match refused {
            Some(refusal) => Err(refusal),
            None => {
                let upstreams = &worker.upstreams;
                upstreams.connect_to(workload, address, &behalf).await
            }
        };
        return match connected {
            Err(refusal) => refuse(tunnel, incoming, &refusal),
            Ok(backend) => {
                if let Ok(stream) = incoming.accept(None) {
                    let ends = (TunnelIo::new(stream), backend);
                    pass(&worker, passage, ends, || again(false)).await;
                }
            }
        };
    };
    let Ok(stream) = incoming.accept(None) else {
        return;
    };
    let (spoken, stream) = sniff(TunnelIo::new(stream), patience).await;
    let Some(spoken) = spoken else {
        let connected = match refused {
            Some(refusal) => Err(refusal),
            None => {
                let upstreams = &worker.upstreams;
                upstreams.connect_to(workload, address, &behalf).await
            }
        };
        return match connected {
            Err(refusal) => log_refused(tunnel, &refusal),
            Ok(backend) => pass(&worker, passage, (stream, backend), || again(true)).await,
        };
    };
    let plain = Rule::plain(&pod.name, address.port(), protocol_of(spoken));
    let origin = Origin::Pod {
        pod: Rc::new(pod),
        plain: Arc::new(plain),
    };
    let is_ours = {
        let (network, own) = (Arc::clone(&worker.network), tunnel.own);
        move |snapshot: &Snapshot| is_behind(snapshot, &network, own, address.ip())
    };
    let downstream = downstream(&worker, tunnel, origin, address, behalf);
    let of_serving = Rc::clone(&worker);
    let serve = |leaving| speak(of_serving, Rc::new(downstream), spoken, stream, leaving);
    serve_while(&worker, tunnel.draining.clone(), is_ours, serve).await;
}

/// A pod as it is known now, or as it was when nobody knows it any more.
fn known_now(worker: &Worker, workload: &Arc<Workload>, address: SocketAddr) -> Pod {
    let snapshot = worker.upstreams.snapshot();
    let now = snapshot.workload_by_ip(&worker.network, address.ip());
    let now = now.filter(|now| now.uid == workload.uid);
    Pod::new(&snapshot, now.unwrap_or(workload), address)
}

/// How policies would have a connection to a pod.
fn standing(worker: &Worker, tunnel: &Tunnel, pod: &Pod, address: SocketAddr) -> Standing {
    let plan = worker.plan.load();
    let guards = plan.guards().of_pod(&pod.services);
    let facts = facts_of(tunnel, address);
    let refused = guards.iter().find_map(|guard| guard.refuses_bytes(&facts));
    let asks = guards.iter().any(|guard| !guard.is_of_connections())
        || is_treated(worker, &plan, &pod.name, address.port());
    let before = Before {
        is_routed: false,
        said: pod.spoken,
        asks,
        is_refused: refused.is_some(),
    };
    Standing {
        is_routed: false,
        is_ruled: false,
        patience: before.patience(),
        refused,
    }
}

/// True while this gateway is the waypoint of whoever has that address.
fn is_behind(snapshot: &Snapshot, network: &str, own: IpAddr, address: IpAddr) -> bool {
    let workload = snapshot.workload_by_ip(network, address);
    let waypoint = workload.and_then(|workload| workload.waypoint.as_ref());
    let own = snapshot.workload_by_ip(network, own);
    own.zip(waypoint)
        .is_some_and(|(own, waypoint)| snapshot.is_gateway(own, waypoint))
}
