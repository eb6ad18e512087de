//! The waypoint's listener: tunnels of the mesh, and what is spoken in them.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use agent_hbone::TunnelIo;
use agent_hbone::headers::Authority;
use agent_hbone::server::{self, IncomingRequest};
use agent_identity::server_config;
use agent_model::gateway::{BackendProtocol, Scheme};
use agent_model::{AppProtocol, NamespacedHostname, Reason};
use agent_net::drain::Watcher;
use agent_net::socket::canonical;
use agent_net::tasks::spawn_local;
use agent_policy::http::{Address, Peer, Request};
use agent_state::Snapshot;
use http::StatusCode;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::behind::{Lost, await_destination, look, serve_while};
use super::detect::{Rewound, Spoken, detect, sniff};
use super::egress::{Leaving, leave};
use super::http::speak;
use super::look::{Before, is_treated};
use super::pod;
use super::standing::{End, Standing, pass, until_over};
use crate::access::connection;
use crate::behind::Destination;
use crate::mesh::Mesh;
use crate::outside::is_outside;
use crate::passage::Passage;
use crate::place::Transport;
use crate::plan::{Inside, Rule};
use crate::refusal::Refusal;
use crate::request::{Downstream, Origin};
use crate::source::Source;
use crate::upstream::{Behalf, Call};
use crate::worker::Worker;

/// Serves a tunnel: who the peer is, then each of its streams in a task.
pub(super) async fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    client: SocketAddr,
    mut draining: Watcher,
) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let Some(mesh) = worker.mesh.clone() else {
        tracing::warn!(%client, "tunnel refused: this gateway is not in the mesh");
        return;
    };
    let revocations = mesh.certificates.revocations();
    let mut withdrawals = mesh.certificates.withdrawals();
    let session = match handshake(&worker, &mesh, stream).await {
        Ok(session) => session,
        Err(refusal) => {
            tracing::debug!(%client, reason = %refusal.reason, detail = refusal.detail,
                "tunnel refused");
            return;
        }
    };
    let tunnel = Rc::new(Tunnel {
        client,
        own: canonical(local).ip(),
        peer: Peer::new(session.peer().clone()),
        draining: draining.clone(),
    });
    let of_streams = Rc::clone(&worker);
    let on_request = move |incoming| {
        let (worker, tunnel) = (Rc::clone(&of_streams), Rc::clone(&tunnel));
        spawn_local(async move { serve_stream(worker, &tunnel, incoming).await });
    };
    let chain = session.peer_chain().to_vec();
    let revoked = until_revoked(revocations, || mesh.certificates.revoke(&chain));
    let no_more = async {
        tokio::select! {
            () = draining.signalled() => {}
            // The root that the peer was verified by may count no longer.
            Ok(()) = withdrawals.changed() => {}
        }
    };
    tokio::select! {
        served = session.serve(on_request, no_more) => if let Err(error) = served {
            tracing::debug!(%client, %error, "tunnel ended");
        },
        () = revoked => {
            tracing::warn!(%client, reason = %Reason::PeerRevoked, "tunnel ended");
        }
    }
}

/// What the streams of one tunnel have in common.
pub(super) struct Tunnel {
    client: SocketAddr,
    /// Our own address, as the peer dialled it.
    pub(super) own: IpAddr,
    peer: Peer,
    pub(super) draining: Watcher,
}

impl Tunnel {
    /// Who the peer is to the mesh as it is now.
    fn source(&self, worker: &Worker) -> Source {
        let snapshot = worker.upstreams.snapshot();
        Source::peer(
            &snapshot,
            &worker.network,
            self.client.ip(),
            self.peer.identity(),
        )
    }
}

async fn handshake(
    worker: &Worker,
    mesh: &Mesh,
    stream: TcpStream,
) -> Result<server::Connection, Refusal> {
    let no_certificate = |detail: String| Refusal::new(Reason::NoCertificate, detail);
    let certificate = mesh.certificates.get(&mesh.identity).await;
    let certificate = certificate.map_err(|error| no_certificate(error.to_string()))?;
    let config = server_config(&certificate).map_err(|error| no_certificate(error.to_string()))?;
    server::accept(stream, config, Rc::clone(&worker.tunnels))
        .await
        .map_err(|error| Refusal::new(error.reason(), error.to_string()))
}

/// Completes when the peer is revoked by a list that came after `changes` began.
async fn until_revoked(mut changes: watch::Receiver<u64>, is_revoked: impl Fn() -> bool) {
    while changes.changed().await.is_ok() {
        if is_revoked() {
            return;
        }
    }
    // Nobody tells of lists any more: the gateway ends.
    std::future::pending().await
}

/// One stream: a service of this waypoint, and then HTTP where it has rules or policies, bytes
/// where not.
async fn serve_stream(worker: Rc<Worker>, tunnel: &Tunnel, incoming: IncomingRequest) {
    let Some(_slot) = worker.connection() else {
        return incoming.reject(StatusCode::SERVICE_UNAVAILABLE);
    };
    let authority = match &incoming.request {
        Ok(request) => request.authority.clone(),
        Err(error) => {
            tracing::debug!(client = %tunnel.client, %error, "stream refused");
            return incoming.reject(StatusCode::BAD_REQUEST);
        }
    };
    let (own, namespace) = (tunnel.own, tunnel.peer.identity().namespace());
    let network = Arc::clone(&worker.network);
    let found = await_destination(&worker, |snapshot| {
        look(snapshot, &network, own, namespace, &authority)
    });
    let found = found.await;
    if let Some(refusal) = worker.plan.load().guards().refusal() {
        return refuse(tunnel, incoming, &refusal);
    }
    match found {
        Ok(Destination::Service(service, port)) => {
            let ip = address_of(&worker.upstreams.snapshot(), &network, &service, &authority);
            let dialled = Dialled { service, port, ip };
            serve_service(worker, tunnel, incoming, dialled).await;
        }
        Ok(Destination::Workload(workload, address)) => {
            pod::serve(worker, tunnel, incoming, &workload, address).await;
        }
        Err(Lost { detail, .. }) => {
            tracing::debug!(client = %tunnel.client, peer = %tunnel.peer.identity(),
                reason = %Reason::AuthorityUnknown, detail, "stream refused");
            incoming.reject(StatusCode::SERVICE_UNAVAILABLE);
        }
    }
}

/// What a stream is for.
struct Dialled {
    service: NamespacedHostname,
    port: u16,
    /// The service's address, the one that was dialled where it was an address.
    ip: IpAddr,
}

/// The address that was dialled, or the service's own where it was its name.
fn address_of(
    snapshot: &Snapshot,
    network: &str,
    service: &NamespacedHostname,
    authority: &Authority,
) -> IpAddr {
    if let Authority::Ip(address) = authority {
        return address.ip();
    }
    let service = snapshot.service(service);
    let mut vips = service.into_iter().flat_map(|service| &service.vips);
    let vip = vips.find(|vip| *vip.network == *network);
    vip.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |vip| vip.address)
}

async fn serve_service(
    worker: Rc<Worker>,
    tunnel: &Tunnel,
    incoming: IncomingRequest,
    dialled: Dialled,
) {
    let Standing {
        is_ruled,
        is_routed,
        refused,
        patience,
    } = standing(&worker, tunnel, &dialled);
    let Dialled { service, port, ip } = &dialled;
    let (port, outside) = (*port, is_outside(service));
    let again = |was_looked| standing(&worker, tunnel, &dialled).ends(was_looked);
    if !is_ruled && patience.is_none() {
        if let Some(refusal) = refused {
            return refuse(tunnel, incoming, &refusal);
        }
        if !outside {
            return pass_through(&worker, tunnel, incoming, (service, port), || again(false)).await;
        }
    }
    let behalf = behalf(tunnel, &incoming);
    let Ok(stream) = incoming.accept(None) else {
        return;
    };
    let stream = TunnelIo::new(stream);
    let found = if is_ruled {
        detect(stream).await
    } else if outside {
        let leaving = Leaving {
            client: tunnel.client,
            service,
            port,
            refused: refused.as_ref(),
        };
        let over = until_over(&worker, tunnel.draining.clone(), || again(true));
        leave(&worker, leaving, stream, over).await
    } else {
        let (to, patience) = ((service, port, &behalf), patience.unwrap_or_default());
        let stream = (stream, patience, is_routed);
        let again = || again(true);
        guarded(&worker, tunnel, refused, to, stream, again).await
    };
    let Some((spoken, stream)) = found else {
        return;
    };
    let plain = Arc::new(Rule::plain(service, port, protocol_of(spoken)));
    let is_ours = {
        let (network, own) = (Arc::clone(&worker.network), tunnel.own);
        let service = service.clone();
        move |snapshot: &Snapshot| is_behind(snapshot, &network, own, &service)
    };
    let origin = Origin::Service {
        service: service.clone(),
        namespace: tunnel.peer.identity().namespace().into(),
        plain,
    };
    let dialled = SocketAddr::new(*ip, port);
    let downstream = downstream(&worker, tunnel, origin, dialled, behalf);
    let of_serving = Rc::clone(&worker);
    let serve = |leaving| speak(of_serving, Rc::new(downstream), spoken, stream, leaving);
    serve_while(&worker, tunnel.draining.clone(), is_ours, serve).await;
}

/// How policies and routes would have a connection to a service.
fn standing(worker: &Worker, tunnel: &Tunnel, dialled: &Dialled) -> Standing {
    let Dialled { service, port, ip } = dialled;
    let namespace = tunnel.peer.identity().namespace();
    let plan = worker.plan.load();
    let guard = plan.guards().of_service(service);
    let facts = facts_of(tunnel, SocketAddr::new(*ip, *port));
    let refused = guard.and_then(|guard| guard.refuses_bytes(&facts));
    let asks = guard.is_some_and(|guard| !guard.is_of_connections())
        || is_treated(worker, &plan, service, *port);
    let said = spoken_at(&worker.upstreams.snapshot(), service, *port);
    let has_rules = plan.service(service, *port, namespace).is_some();
    // A route that names no port is for those that speak HTTP.
    let is_http = plan.is_named(service, *port, namespace)
        || match said {
            AppProtocol::Http1 | AppProtocol::Http2 | AppProtocol::Grpc => true,
            AppProtocol::Tcp | AppProtocol::Tls => false,
            AppProtocol::Unknown => is_outside(service),
        };
    let before = Before {
        said,
        is_routed: has_rules,
        asks,
        is_refused: refused.is_some(),
    };
    Standing {
        is_ruled: has_rules && is_http,
        is_routed: has_rules && !is_http,
        refused,
        // What goes out has to say where to, whatever it is.
        patience: match is_outside(service) {
            true => asks.then_some(Duration::ZERO),
            false => before.patience(),
        },
    }
}

/// What a service says is spoken on a port.
fn spoken_at(snapshot: &Snapshot, service: &NamespacedHostname, port: u16) -> AppProtocol {
    let service = snapshot.service(service);
    let mut ports = service.into_iter().flat_map(|service| &service.ports);
    let port = ports.find(|candidate| candidate.service_port == port);
    port.map_or(AppProtocol::Unknown, |port| port.app_protocol)
}

/// What a service is spoken to by where nobody says otherwise.
pub(super) fn protocol_of(spoken: Spoken) -> BackendProtocol {
    match spoken {
        Spoken::Http1 => BackendProtocol::Http,
        Spoken::Http2 => BackendProtocol::H2c,
    }
}

/// A client whose requests have this for their destination.
pub(super) fn downstream(
    worker: &Worker,
    tunnel: &Tunnel,
    origin: Origin,
    destination: SocketAddr,
    behalf: Arc<Behalf>,
) -> Downstream {
    Downstream {
        port: destination.port(),
        scheme: Scheme::Http,
        origin,
        client: tunnel.client,
        source: Some(tunnel.peer.clone()),
        counted: tunnel.source(worker),
        destination,
        sni: None,
        forwarded_for: None,
        certified: worker.certified(Some(&tunnel.peer)),
        behalf: Some(behalf),
        left: RefCell::default(),
    }
}

/// True while this gateway is the waypoint of a service.
fn is_behind(
    snapshot: &Snapshot,
    network: &str,
    own: IpAddr,
    service: &NamespacedHostname,
) -> bool {
    let waypoint = snapshot.service(service);
    let waypoint = waypoint.and_then(|service| service.waypoint.as_ref());
    let own = snapshot.workload_by_ip(network, own);
    own.zip(waypoint)
        .is_some_and(|(own, waypoint)| snapshot.is_gateway(own, waypoint))
}

/// For whom a stream is: its port is the application's where the client's node has told it.
pub(super) fn behalf(tunnel: &Tunnel, incoming: &IncomingRequest) -> Arc<Behalf> {
    let request = incoming.request.as_ref().ok();
    let told = request
        .and_then(|request| request.forwarded.client)
        .map(canonical);
    let told = told.filter(|client| client.ip() == canonical(tunnel.client).ip());
    Arc::new(Behalf {
        identity: tunnel.peer.identity().clone(),
        address: told.unwrap_or(tunnel.client),
    })
}

/// A stream that policies look into. `None` when it is over: whatever is not HTTP passes as bytes,
/// unless it is `refused`.
async fn guarded(
    worker: &Worker,
    tunnel: &Tunnel,
    refused: Option<Refusal>,
    (service, port, behalf): (&NamespacedHostname, u16, &Arc<Behalf>),
    (stream, patience, is_routed): (TunnelIo, Duration, bool),
    again: impl Fn() -> Option<End>,
) -> Option<(Spoken, Rewound<TunnelIo>)> {
    let (spoken, stream) = sniff(stream, patience).await;
    if let Some(spoken) = spoken {
        return Some((spoken, stream));
    }
    if is_routed && stream.is_fresh() {
        // What it would say later might be requests.
        return None;
    }
    let call = call_for(tunnel, service, port, behalf);
    let connected = match refused {
        None => worker.upstreams.connect(&call, Inside::Bytes).await,
        Some(refusal) => Err(refusal),
    };
    match connected {
        Ok(backend) => {
            let passage = passage(tunnel, port, backend.endpoint());
            pass(worker, passage, (stream, backend), again).await;
        }
        Err(refusal) => log_refused(tunnel, &refusal),
    }
    None
}

/// What policies may ask of a connection.
pub(super) fn facts_of(tunnel: &Tunnel, destination: SocketAddr) -> Request<'_> {
    let address = Address {
        ip: tunnel.client.ip(),
        // By the peer's certificate.
        vouched: true,
    };
    connection(Some(&tunnel.peer), address, destination, None)
}

pub(super) fn refuse(tunnel: &Tunnel, incoming: IncomingRequest, refusal: &Refusal) {
    log_refused(tunnel, refusal);
    incoming.reject(match refusal.reason {
        // What nodes answer, and take for a policy's word.
        Reason::PolicyDenied | Reason::PolicyNotAllowed | Reason::PolicyUnknown => {
            StatusCode::UNAUTHORIZED
        }
        _ => StatusCode::SERVICE_UNAVAILABLE,
    });
}

pub(super) fn log_refused(tunnel: &Tunnel, refusal: &Refusal) {
    tracing::debug!(client = %tunnel.client, peer = %tunnel.peer.identity(),
        reason = %refusal.reason, detail = refusal.detail, "stream refused");
}

/// A connection to an endpoint, for bytes.
fn call_for<'a>(
    tunnel: &Tunnel,
    service: &'a NamespacedHostname,
    port: u16,
    behalf: &'a Arc<Behalf>,
) -> Call<'a> {
    Call {
        service,
        port,
        protocol: BackendProtocol::default(),
        client: Some(tunnel.client.ip()),
        session: None,
        hash: None,
        deadline: None,
        behalf: Some(behalf),
        pod: None,
    }
}

/// A stream of bytes to an endpoint.
pub(super) fn passage(tunnel: &Tunnel, port: u16, endpoint: Option<SocketAddr>) -> Passage {
    let now = std::time::Instant::now();
    let mut passage = Passage::begin(tunnel.client, port, Transport::Tcp, now);
    passage.endpoint = endpoint;
    passage
}

/// Bytes to an endpoint of the service, whatever they are, until `again` says why not.
async fn pass_through(
    worker: &Worker,
    tunnel: &Tunnel,
    incoming: IncomingRequest,
    (service, port): (&NamespacedHostname, u16),
    again: impl Fn() -> Option<End>,
) {
    let behalf = behalf(tunnel, &incoming);
    let call = call_for(tunnel, service, port, &behalf);
    match worker.upstreams.connect(&call, Inside::Bytes).await {
        Ok(backend) => {
            if let Ok(stream) = incoming.accept(None) {
                let passage = passage(tunnel, port, backend.endpoint());
                let ends = (TunnelIo::new(stream), backend);
                pass(worker, passage, ends, again).await;
            }
        }
        Err(refusal) => refuse(tunnel, incoming, &refusal),
    }
}
