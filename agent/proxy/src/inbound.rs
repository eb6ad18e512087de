//! Inbound: tunnels that peers open to a pod's port 15008, and the connections inside them.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_hbone::headers::{Authority, Baggage, ConnectRequest, RequestError};
use agent_hbone::server::{self, IncomingRequest};
use agent_identity::{IdentityError, server_config};
use agent_model::{Identity, PolicyKey, Reason, Workload};
use agent_net::copy::Counters;
use agent_net::socket::canonical;
use agent_net::tasks::spawn_local;
use agent_state::resolve::{self, AuthorityRef, Inbound};
use agent_telemetry::{Direction, Ends, Record};
use http::StatusCode;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::accept::Accepted;
use crate::connections::{Admitted, Facts};
use crate::forward::{tcp_end, until_cut};
use crate::local::{LocalPod, Slot, identity_of};
use crate::refusal::{Refusal, report};

/// How long an accepted tunnel waits for its turn to shake hands.
const TURN_WAIT: Duration = Duration::from_secs(5);
/// How long a tunnel may take for GOAWAY and the resets of its streams when its pod ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// A peer's tunnel: TLS, identity, HTTP/2; each CONNECT in it becomes a task.
pub(crate) async fn handle(pod: LocalPod, accepted: Accepted) {
    let (peer, local) = (accepted.peer, accepted.local);
    let served = serve_tunnel(&pod, accepted).await;
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
    let _slot = pod.admit_tunnel()?;
    let (peer, local) = (accepted.peer, accepted.local);
    let mut withdrawals = pod.worker.mesh.certificates.withdrawals();
    let revocations = pod.worker.mesh.certificates.revocations();
    let session = tokio::select! {
        session = handshake(pod, accepted.stream) => session?,
        refusal = pod.ended() => return Err(refusal),
    };
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
    let mut draining = pod.worker.draining.clone();
    let no_more = async {
        tokio::select! {
            () = draining.signalled() => {}
            _ = pod.ended() => {}
            // The peer may have been verified by a root that counts no longer: it has to show a
            // certificate again for its next stream.
            Ok(()) = withdrawals.changed() => {}
        }
    };
    let cut = async {
        let refusal = pod.ended().await;
        tokio::time::sleep(FAREWELL).await;
        refusal
    };
    let chain = session.peer_chain().to_vec();
    let certificates = &pod.worker.mesh.certificates;
    let revoked = until_revoked(revocations, || certificates.revoke(&chain));
    tokio::select! {
        served = session.serve(on_request, no_more) => served.map_err(Refusal::from),
        refusal = cut => Err(refusal),
        refusal = revoked => Err(refusal),
    }
}

/// Completes when the peer is revoked by a list that came after `changes` began.
async fn until_revoked(
    mut changes: watch::Receiver<u64>,
    is_revoked: impl Fn() -> bool,
) -> Refusal {
    while changes.changed().await.is_ok() {
        if is_revoked() {
            return Refusal::new(Reason::PeerRevoked, "it is on a revocation list".to_owned());
        }
    }
    // Nobody tells of lists any more: the agent ends.
    std::future::pending().await
}

/// TLS, when this pod has a turn and a certificate.
async fn handshake(pod: &LocalPod, stream: TcpStream) -> Result<server::Connection, Refusal> {
    let no_certificate =
        |error: IdentityError| Refusal::new(Reason::NoCertificate, error.to_string());
    let worker = &pod.worker;
    let workload = pod.workload().await?;
    let identity = identity_of(&workload)?;
    let certificates = &worker.mesh.certificates;
    let certificate = certificates.get(&identity).await.map_err(no_certificate)?;
    let config = server_config(&certificate).map_err(no_certificate)?;
    let _turn = tokio::time::timeout(TURN_WAIT, pod.handshakes.acquire())
        .await
        .map_err(|_| {
            let detail = format!("no turn for a TLS handshake within {TURN_WAIT:?}");
            Refusal::new(Reason::LimitExceeded, detail)
        })?;
    server::accept(stream, config, Rc::clone(&worker.settings))
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
    mut incoming: IncomingRequest,
    counters: &Counters,
    record: &mut Record,
) -> Result<(), Refusal> {
    let request = incoming.request.clone();
    let dialled = tokio::select! {
        dialled = admit_and_dial(pod, tunnel, &request, record) => dialled,
        refusal = pod.ended() => Err(Rejection::unavailable(refusal)),
        () = incoming.abandoned() => Err(Rejection::unavailable(gave_up())),
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
    until_cut(stream, tcp_end(upstream), counters, record, cut).await
}

/// A refusal and the HTTP status that tells the peer.
struct Rejection {
    status: StatusCode,
    refusal: Refusal,
}

impl Rejection {
    fn unavailable(refusal: Refusal) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { status, refusal }
    }
}

/// The outcome of a stream whose peer reset it before the answer.
fn gave_up() -> Refusal {
    Refusal::new(Reason::ConnectionReset, "the peer gave up before an answer")
}

async fn admit_and_dial(
    pod: &LocalPod,
    tunnel: &Tunnel,
    request: &Result<ConnectRequest, RequestError>,
    record: &mut Record,
) -> Result<(Arc<Workload>, Application), Rejection> {
    let request = request.as_ref().map_err(|error| Rejection {
        status: StatusCode::BAD_REQUEST,
        refusal: Refusal::new(Reason::RequestInvalid, error.to_string()),
    })?;
    let local = pod.workload().await.map_err(Rejection::unavailable)?;
    if !pod.owns(tunnel.local.ip()) {
        let detail = format!("{} is not an address of this pod", tunnel.local.ip());
        return Err(Rejection {
            status: StatusCode::BAD_REQUEST,
            refusal: Refusal::new(Reason::AuthorityMismatch, detail),
        });
    }
    let mesh = &pod.worker.mesh;
    let asked = match &request.authority {
        Authority::Ip(address) => AuthorityRef::Ip(*address),
        Authority::Host { hostname, port } => AuthorityRef::Host(hostname, *port),
    };
    // A name that the control plane says nothing of is decided as any other unknown one.
    let told = mesh.state.for_inbound(&local, &asked).await;
    let snapshot = told.unwrap_or_else(|_| mesh.state.load());
    let client = Client::of(pod, &local, tunnel, request).await;
    record.mutual_tls(true);
    record.source_identity(client.identity.clone());
    record.hbone_addr(&request.authority);
    if let Some(source) = snapshot.workload_by_ip(&mesh.config.network, client.address.ip()) {
        record.source(source, None);
    }
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
        source: Some(client.identity),
        peer: Some(tunnel.identity.clone()),
        source_ip: client.address.ip(),
        destination,
    };
    // A socket of one family cannot have a peer of the other.
    let client = match client.address.is_ipv4() == destination.is_ipv4() {
        true => client.address,
        false => tunnel.peer,
    };
    let slot = pod.admit().map_err(Rejection::unavailable)?;
    let application = dial_admitted(pod, slot, &local, facts, client)
        .await
        .map_err(|refusal| Rejection {
            status: status_of(refusal.reason),
            refusal,
        })?;
    Ok((local, application))
}

/// What the peer is told: that policy refused it, or that it may try elsewhere.
fn status_of(reason: Reason) -> StatusCode {
    match reason {
        Reason::PolicyDenied
        | Reason::PolicyNotAllowed
        | Reason::PolicyUnknown
        | Reason::WaypointBypassed
        | Reason::PolicyChanged => StatusCode::UNAUTHORIZED,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// For whom a stream is.
struct Client {
    identity: Identity,
    /// What the application sees.
    address: SocketAddr,
}

impl Client {
    /// The tunnel's peer; or, where that is a waypoint in front of this pod, whom it says it
    /// connects for.
    async fn of(
        pod: &LocalPod,
        local: &Workload,
        tunnel: &Tunnel,
        request: &ConnectRequest,
    ) -> Self {
        if let Some(identity) = &request.source {
            let mesh = &pod.worker.mesh;
            let (network, address) = (&mesh.config.network, tunnel.peer.ip());
            let told = mesh.state.for_peer(network, address).await;
            let snapshot = told.unwrap_or_else(|_| mesh.state.load());
            let peer = &tunnel.identity;
            if resolve::speaks_for_clients(&snapshot, network, local, peer, address) {
                return Self {
                    identity: identity.clone(),
                    address: request.forwarded.client.map_or(tunnel.peer, canonical),
                };
            }
            tracing::debug!(target: "inbound", %peer, claimed = %identity,
                "not believed: it is no waypoint in front of this pod");
        }
        Self {
            identity: tunnel.identity.clone(),
            address: client_of(tunnel, request),
        }
    }
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
    _slot: Slot,
    local: &Workload,
    facts: Facts,
    client: SocketAddr,
) -> Result<Application, Refusal> {
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
        policy = admitted.denied() => {
            let is_guard = policy.as_ref().is_some_and(PolicyKey::is_waypoint_guard);
            let reason = match is_guard {
                true => Reason::WaypointBypassed,
                false => Reason::PolicyChanged,
            };
            Refusal::by_policy(reason, policy)
        }
        refusal = pod.ended() => refusal,
    }
}
