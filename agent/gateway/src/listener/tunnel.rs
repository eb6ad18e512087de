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
use agent_model::{NamespacedHostname, Reason};
use agent_net::drain::Watcher;
use agent_net::socket::canonical;
use agent_net::tasks::spawn_local;
use agent_policy::http::{Address, Peer, Request};
use agent_state::Snapshot;
use http::StatusCode;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::detect::{Rewound, Spoken, detect, sniff};
use super::egress::{Leaving, leave};
use super::http::speak;
use super::splice::copy;
use crate::access::connection;
use crate::mesh::Mesh;
use crate::outside::is_outside;
use crate::plan::{Inside, Rule};
use crate::refusal::Refusal;
use crate::request::{Downstream, Origin};
use crate::upstream::Call;
use crate::worker::Worker;

/// How long a client may be silent before it is one that waits for the server to speak.
const SPEAKS_FIRST: Duration = Duration::from_millis(300);

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
struct Tunnel {
    client: SocketAddr,
    /// Our own address, as the peer dialled it.
    own: IpAddr,
    peer: Peer,
    draining: Watcher,
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
    let snapshot = worker.upstreams.snapshot();
    let found = destination(&snapshot, &worker.network, tunnel, &authority);
    drop(snapshot);
    match found {
        Ok(dialled) => serve_service(worker, tunnel, incoming, dialled).await,
        Err(detail) => {
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

/// The service that a stream is for. Only services that this gateway is the waypoint of: it must
/// not lead around the waypoint of another.
fn destination(
    snapshot: &Snapshot,
    network: &str,
    tunnel: &Tunnel,
    authority: &Authority,
) -> Result<Dialled, String> {
    let namespace = tunnel.peer.identity().namespace();
    let (service, port) = match authority {
        Authority::Ip(address) => {
            let service = snapshot.service_by_vip(network, address.ip(), namespace);
            (service, address.port())
        }
        Authority::Host { hostname, port } => {
            (snapshot.service_by_hostname(hostname, namespace), *port)
        }
    };
    let service = service.ok_or_else(|| format!("no service is known by {authority}"))?;
    let own = snapshot
        .workload_by_ip(network, tunnel.own)
        .ok_or_else(|| format!("this gateway is not known by its address {}", tunnel.own))?;
    let is_ours = service
        .waypoint
        .as_ref()
        .is_some_and(|waypoint| snapshot.is_gateway(own, waypoint));
    if !is_ours {
        return Err(format!("this is not the waypoint of {}", service.key()));
    }
    let ip = match authority {
        Authority::Ip(address) => Some(address.ip()),
        Authority::Host { .. } => {
            let mut vips = service.vips.iter();
            vips.find(|vip| *vip.network == *network)
                .map(|vip| vip.address)
        }
    };
    Ok(Dialled {
        service: service.key(),
        port,
        ip: ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
    })
}

async fn serve_service(
    worker: Rc<Worker>,
    tunnel: &Tunnel,
    incoming: IncomingRequest,
    Dialled { service, port, ip }: Dialled,
) {
    let namespace: Arc<str> = tunnel.peer.identity().namespace().into();
    let plan = worker.plan.load_full();
    let is_ruled = plan.service(&service, port, &namespace).is_some();
    let guard = plan.guards().of_service(&service).cloned();
    drop(plan);
    let facts = facts_of(tunnel, SocketAddr::new(ip, port));
    let outside = is_outside(&service);
    let refused = guard.as_ref().and_then(|guard| guard.refuses_bytes(&facts));
    let looks = guard
        .as_ref()
        .is_some_and(|guard| !guard.is_of_connections());
    if !is_ruled && !looks {
        if let Some(refusal) = refused {
            return refuse(tunnel, incoming, &refusal);
        }
        if !outside {
            return pass_through(&worker, tunnel, incoming, &service, port).await;
        }
    }
    let Ok(stream) = incoming.accept(None) else {
        return;
    };
    let stream = TunnelIo::new(stream);
    let found = if is_ruled {
        detect(stream).await
    } else if outside {
        let leaving = Leaving {
            client: tunnel.client,
            service: &service,
            port,
            refused: refused.as_ref(),
        };
        leave(&worker, leaving, stream, tunnel.draining.clone()).await
    } else {
        guarded(&worker, tunnel, refused, (&service, port), stream).await
    };
    let Some((spoken, stream)) = found else {
        return;
    };
    let protocol = match spoken {
        Spoken::Http1 => BackendProtocol::Http,
        Spoken::Http2 => BackendProtocol::H2c,
    };
    let plain = Arc::new(Rule::plain(&service, port, protocol));
    let downstream = Downstream {
        port,
        scheme: Scheme::Http,
        origin: Origin::Service {
            service,
            namespace,
            plain,
        },
        client: tunnel.client,
        source: Some(tunnel.peer.clone()),
        destination: SocketAddr::new(ip, port),
        sni: None,
        forwarded_for: None,
        upgraded: RefCell::default(),
    };
    let draining = tunnel.draining.clone();
    speak(worker, Rc::new(downstream), spoken, stream, draining).await;
}

/// A stream that policies look into. `None` when it is over: whatever is not HTTP passes as bytes,
/// unless it is `refused`.
async fn guarded(
    worker: &Worker,
    tunnel: &Tunnel,
    refused: Option<Refusal>,
    (service, port): (&NamespacedHostname, u16),
    stream: TunnelIo,
) -> Option<(Spoken, Rewound<TunnelIo>)> {
    // Where nothing else passes, there is no hurry to find out.
    let patience = match refused {
        None => SPEAKS_FIRST,
        Some(_) => Duration::from_secs(30),
    };
    let (spoken, stream) = sniff(stream, patience).await;
    if let Some(spoken) = spoken {
        return Some((spoken, stream));
    }
    let call = call_for(tunnel, service, port);
    let connected = match refused {
        None => worker.upstreams.connect(&call, Inside::Bytes).await,
        Some(refusal) => Err(refusal),
    };
    match connected {
        Ok(backend) => copy(stream, backend).await,
        Err(refusal) => log_refused(tunnel, &refusal),
    }
    None
}

/// What policies may ask of a connection.
fn facts_of(tunnel: &Tunnel, destination: SocketAddr) -> Request<'_> {
    let address = Address {
        ip: tunnel.client.ip(),
        // By the peer's certificate.
        vouched: true,
    };
    connection(Some(&tunnel.peer), address, destination, None)
}

fn refuse(tunnel: &Tunnel, incoming: IncomingRequest, refusal: &Refusal) {
    log_refused(tunnel, refusal);
    incoming.reject(match refusal.reason {
        // What nodes answer, and take for a policy's word.
        Reason::PolicyDenied | Reason::PolicyNotAllowed | Reason::PolicyUnknown => {
            StatusCode::UNAUTHORIZED
        }
        _ => StatusCode::SERVICE_UNAVAILABLE,
    });
}

fn log_refused(tunnel: &Tunnel, refusal: &Refusal) {
    tracing::debug!(client = %tunnel.client, peer = %tunnel.peer.identity(),
        reason = %refusal.reason, detail = refusal.detail, "stream refused");
}

/// A connection to an endpoint, for bytes.
fn call_for<'a>(tunnel: &Tunnel, service: &'a NamespacedHostname, port: u16) -> Call<'a> {
    Call {
        service,
        port,
        protocol: BackendProtocol::default(),
        client: Some(tunnel.client.ip()),
        session: None,
        deadline: None,
    }
}

/// Bytes to an endpoint of the service, whatever they are.
async fn pass_through(
    worker: &Worker,
    tunnel: &Tunnel,
    incoming: IncomingRequest,
    service: &NamespacedHostname,
    port: u16,
) {
    let call = call_for(tunnel, service, port);
    match worker.upstreams.connect(&call, Inside::Bytes).await {
        Ok(backend) => {
            if let Ok(stream) = incoming.accept(None) {
                copy(TunnelIo::new(stream), backend).await;
            }
        }
        Err(refusal) => refuse(tunnel, incoming, &refusal),
    }
}
