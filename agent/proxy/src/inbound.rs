//! Inbound: tunnels that peers open to a pod's port 15008, and the connections inside them.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use agent_hbone::headers::{Authority, Baggage, ConnectRequest, RequestError};
use agent_hbone::server::{self, IncomingRequest};
use agent_identity::server_config;
use agent_model::{Identity, Reason, Workload};
use agent_net::copy::Counters;
use agent_net::socket::canonical;
use agent_net::tasks::spawn_local;
use agent_state::resolve::{self, AuthorityRef, Inbound};
use agent_telemetry::{Direction, Ends, Record};
use http::StatusCode;
use tokio::net::TcpStream;

use crate::accept::Accepted;
use crate::connections::{Admitted, Facts};
use crate::forward::{pod_removed, tcp_end, until_cut};
use crate::pod::{LocalPod, Slot, identity_of};
use crate::refusal::{Refusal, report};

/// A peer's tunnel: TLS, identity, HTTP/2; each CONNECT in it becomes a task.
pub(crate) async fn handle(pod: LocalPod, accepted: Accepted) {
    let (peer, local) = (accepted.peer, accepted.local);
    let served = tokio::select! {
        served = serve_tunnel(&pod, accepted) => served,
        () = pod.removed() => Err(pod_removed()),
    };
    if served.is_err() {
        let ends = Ends {
            source: peer,
            destination: local,
        };
        let metrics = &pod.worker.mesh.metrics;
        let record = Record::open(metrics, Direction::Inbound, ends, Instant::now());
        report(record, &Counters::default(), served);
    }
}

async fn serve_tunnel(pod: &LocalPod, accepted: Accepted) -> Result<(), Refusal> {
    let (peer, local) = (accepted.peer, accepted.local);
    let worker = &pod.worker;
    let handshake = async {
        let _turn = worker.handshakes.acquire().await;
        let workload = pod.workload().await?;
        let certificate = worker
            .mesh
            .certificates
            .get(&identity_of(&workload)?)
            .await
            .map_err(|error| Refusal::new(Reason::NoCertificate, error.to_string()))?;
        let config = server_config(&certificate)
            .map_err(|error| Refusal::new(Reason::NoCertificate, error.to_string()))?;
        let settings = Rc::clone(&worker.settings);
        server::accept(accepted.stream, config, settings)
            .await
            .map_err(Refusal::from)
    };
    let session = handshake.await?;
    let tunnel = Tunnel {
        peer,
        local,
        identity: session.peer().clone(),
    };
    let pod_of_streams = pod.clone();
    let on_request = move |request| {
        spawn_local(handle_stream(
            pod_of_streams.clone(),
            tunnel.clone(),
            request,
        ));
    };
    session
        .serve(on_request, worker.draining.clone())
        .await
        .map_err(Refusal::from)
}

/// What the streams of one tunnel have in common.
#[derive(Debug, Clone)]
struct Tunnel {
    peer: SocketAddr,
    local: SocketAddr,
    identity: Identity,
}

/// One connection inside a tunnel: accept, describe, decide, dial, forward, report.
async fn handle_stream(pod: LocalPod, tunnel: Tunnel, incoming: IncomingRequest) {
    let metrics = &pod.worker.mesh.metrics;
    let ends = Ends {
        source: tunnel.peer,
        destination: tunnel.local,
    };
    let mut record = Record::open(metrics, Direction::Inbound, ends, Instant::now());
    let counters = Counters::default();
    let result = proxy(&pod, &tunnel, incoming, &counters, &mut record).await;
    report(record, &counters, result);
}

async fn proxy(
    pod: &LocalPod,
    tunnel: &Tunnel,
    incoming: IncomingRequest,
    counters: &Counters,
    record: &mut Record,
) -> Result<(), Refusal> {
    let dialled = tokio::select! {
        dialled = admit_and_dial(pod, tunnel, &incoming.request, record) => dialled,
        () = pod.removed() => Err(Rejection { status: StatusCode::SERVICE_UNAVAILABLE, refusal: pod_removed() }),
    };
    let (local, application) = match dialled {
        Ok(dialled) => dialled,
        Err(Rejection { status, refusal }) => {
            incoming.reject(status);
            return Err(refusal);
        }
    };
    let baggage = Baggage::of(&local).to_string();
    let stream = incoming
        .accept(Some(&baggage))
        .map_err(|error| Refusal::new(Reason::ConnectionReset, error.to_string()))?;
    let Application {
        stream: upstream,
        admitted,
        _slot,
    } = application;
    record.established(Instant::now());
    let cut = until_denied(pod, &admitted);
    until_cut(stream, tcp_end(upstream), counters, cut).await
}

/// A refusal and the HTTP status that tells the peer.
struct Rejection {
    status: StatusCode,
    refusal: Refusal,
}

async fn admit_and_dial(
    pod: &LocalPod,
    tunnel: &Tunnel,
    request: &Result<ConnectRequest, RequestError>,
    record: &mut Record,
) -> Result<(Arc<Workload>, Application), Rejection> {
    let reject = |status| move |refusal| Rejection { status, refusal };
    let request = request.as_ref().map_err(|error| Rejection {
        status: StatusCode::BAD_REQUEST,
        refusal: Refusal::new(Reason::RequestInvalid, error.to_string()),
    })?;
    let local = pod
        .workload()
        .await
        .map_err(reject(StatusCode::SERVICE_UNAVAILABLE))?;
    let mesh = &pod.worker.mesh;
    let snapshot = mesh.state.load();
    let source = snapshot.workload_by_ip(&mesh.config.network, tunnel.peer.ip());
    record.mutual_tls(true);
    record.source_identity(tunnel.identity.clone());
    record.hbone_addr(&request.authority);
    if let Some(source) = source {
        record.source(source, None);
    }
    let asked = match &request.authority {
        Authority::Ip(address) => AuthorityRef::Ip(*address),
        Authority::Host { hostname, port } => AuthorityRef::Host(hostname, *port),
    };
    let destination = match resolve::inbound(&snapshot, &local, tunnel.local.ip(), &asked) {
        Inbound::Forward {
            destination,
            service,
        } => {
            record.destination(&local, identity_of(&local).ok());
            service.iter().for_each(|service| record.service(service));
            destination
        }
        Inbound::Reject {
            reason,
            status,
            detail,
        } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            return Err(Rejection {
                status,
                refusal: Refusal::new(reason, detail),
            });
        }
    };
    let facts = Facts {
        local: tunnel.local.ip(),
        source: Some(tunnel.identity.clone()),
        source_ip: tunnel.peer.ip(),
        destination,
    };
    let client = client_of(tunnel, request);
    let application = dial_admitted(pod, &local, facts, client)
        .await
        .map_err(|refusal| {
            let status = if refusal.policy.is_some() {
                StatusCode::UNAUTHORIZED
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            Rejection { status, refusal }
        })?;
    Ok((local, application))
}

/// The address the application sees: the peer's, with the client's own port where the tunnel's
/// other end told it. Only the port is taken from the wire, and nothing is decided by it.
fn client_of(tunnel: &Tunnel, request: &ConnectRequest) -> SocketAddr {
    let told = request.forwarded.client.map(canonical);
    told.filter(|client| client.ip() == tunnel.peer.ip())
        .unwrap_or(tunnel.peer)
}

/// A dialled application and what keeps its connection admitted.
pub(crate) struct Application {
    pub(crate) stream: TcpStream,
    pub(crate) admitted: Admitted,
    pub(crate) _slot: Slot,
}

/// Admits, decides and dials. The connection is registered before it is decided, see
/// [`crate::connections`].
pub(crate) async fn dial_admitted(
    pod: &LocalPod,
    local: &Workload,
    facts: Facts,
    client: SocketAddr,
) -> Result<Application, Refusal> {
    let _slot = pod.admit()?;
    let mesh = &pod.worker.mesh;
    let destination = facts.destination;
    let admitted = pod.worker.connections.admit(facts);
    let decision = admitted
        .facts()
        .decide(&mesh.state.load(), &mesh.config.network, local);
    if let agent_policy::Decision::Deny { reason, policy } = decision {
        return Err(Refusal::by_policy(reason, policy));
    }
    let stream = pod.dial_application(destination, client).await?;
    Ok(Application {
        stream,
        admitted,
        _slot,
    })
}

/// Completes when an admitted connection must end: denied by a change, or its pod is gone.
pub(crate) async fn until_denied(pod: &LocalPod, admitted: &Admitted) -> Refusal {
    tokio::select! {
        policy = admitted.denied() => Refusal::by_policy(Reason::PolicyChanged, policy),
        () = pod.removed() => pod_removed(),
    }
}
