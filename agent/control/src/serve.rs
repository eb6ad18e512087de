//! One TLS listener for discovery, certificates and the node service.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_net::drain;
use agent_xds::{Authenticate, Discovery, Source};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use proto::ca::istio_certificate_service_server::IstioCertificateServiceServer;
use proto::discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use proto::node::node_service_server::NodeServiceServer;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::Status;
use tonic::codegen::Service as _;
use tracing::{debug, warn};

use crate::ControlError;
use crate::ca::CertificateService;
use crate::nodes::NodeService;

/// Connections at once, those in the handshake included.
const MAX_CONNECTIONS: usize = 4_096;
/// Of those, from one address: nobody without a token may use them all up.
const MAX_PER_ADDRESS: usize = 256;
/// A client must have finished its handshake by then.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// PING after so much silence, and the wait for its answer: streams of dead nodes end.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests in flight on one connection.
const MAX_STREAMS: u32 = 256;
/// Header list accepted, in bytes.
const MAX_HEADERS: u32 = 32 * 1024;
/// Flow-control windows: a request of one stream, of one connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Between two lines on connections that are refused.
const REFUSALS_SAID: Duration = Duration::from_secs(30);
/// Connections get this long to end after the drain began.
const GRACE: Duration = Duration::from_secs(5);

/// The services of the listener.
pub(crate) struct Services<A, S> {
    /// `None` where it is another control plane's, like certificates.
    pub(crate) discovery: Option<AggregatedDiscoveryServiceServer<Discovery<A, S>>>,
    pub(crate) certificates: Option<IstioCertificateServiceServer<CertificateService<A>>>,
    pub(crate) nodes: NodeServiceServer<NodeService<A>>,
}

impl<A, S> Clone for Services<A, S> {
    fn clone(&self) -> Self {
        Self {
            discovery: self.discovery.clone(),
            certificates: self.certificates.clone(),
            nodes: self.nodes.clone(),
        }
    }
}

impl<A: Authenticate, S: Source> Services<A, S> {
    /// Paths of services that are not here get gRPC's UNIMPLEMENTED.
    async fn call(
        mut self,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<tonic::body::Body>, Infallible> {
        let path = request.uri().path();
        let is_of = |service: &str| path.strip_prefix(service).is_some();
        let discovery = is_of("/envoy.service.discovery.v3.AggregatedDiscoveryService/");
        let certificates = is_of("/istio.v1.auth.IstioCertificateService/");
        match (&mut self.discovery, &mut self.certificates) {
            (Some(service), _) if discovery => service.call(request).await,
            (_, Some(service)) if certificates => service.call(request).await,
            _ if is_of("/culvert.node.v1.NodeService/") => self.nodes.call(request).await,
            _ => Ok(Status::unimplemented("no such service here").into_http()),
        }
    }
}

/// Listens for [`accept_all`]; to be called within a runtime.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, ControlError> {
    let listener = agent_net::socket::listen_on(address).and_then(TcpListener::from_std);
    listener.map_err(|source| ControlError::Listen { address, source })
}

/// Serves until the drain begins and the connections have ended.
pub(crate) async fn serve<A: Authenticate, S: Source>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    services: Services<A, S>,
    drain: drain::Watcher,
) {
    let serve = move |stream, drain| connection(stream, services.clone(), drain);
    accept_all(listener, tls, drain, serve).await;
}

/// Accepts until the drain begins, gives each connection its handshake and to `serve`, and waits
/// for those that are left.
pub(crate) async fn accept_all<F, S>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    mut drain: drain::Watcher,
    serve: S,
) where
    F: Future<Output = Result<(), Ended>> + Send + 'static,
    S: Fn(TlsStream<TcpStream>, drain::Watcher) -> F + Clone + Send + Sync + 'static,
{
    let acceptor = TlsAcceptor::from(tls);
    let places = Places::default();
    let mut refusals = Refusals::default();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = drain.signalled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely; the loop must not spin on it.
                warn!(%error, "accept failed");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(place) = places.take(client.ip().to_canonical()) else {
            if let Some(refused) = refusals.note(Instant::now()) {
                warn!(
                    %client, refused, most = MAX_CONNECTIONS, most_of_one_address = MAX_PER_ADDRESS,
                    "too many connections; new ones are refused"
                );
            }
            continue;
        };
        let (acceptor, serve, drain) = (acceptor.clone(), serve.clone(), drain.clone());
        let connection = async move { serve(handshake(&acceptor, stream).await?, drain).await };
        connections.spawn(async move {
            if let Err(error) = connection.await {
                debug!(%client, %error, "connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    // What has not ended by then is aborted with the set.
    let _ = timeout(GRACE, ended).await;
}

/// Why a connection ended.
type Ended = Box<dyn std::error::Error + Send + Sync>;

/// One connection after its handshake. Any error ends this connection alone.
async fn connection<A: Authenticate, S: Source>(
    stream: TlsStream<TcpStream>,
    services: Services<A, S>,
    mut drain: drain::Watcher,
) -> Result<(), Ended> {
    let service = service_fn(move |request| services.clone().call(request));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = drain.signalled() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

async fn handshake(acceptor: &TlsAcceptor, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    agent_net::socket::set_leg_options(&stream)?;
    timeout(HANDSHAKE, acceptor.accept(stream))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Connections refused; whoever refuses one could do so a thousand times a second.
#[derive(Debug, Default)]
struct Refusals {
    said: Option<Instant>,
    unsaid: u64,
}

impl Refusals {
    /// Counts one; the number since it was said last, when it is time to say so.
    fn note(&mut self, now: Instant) -> Option<u64> {
        self.unsaid += 1;
        let is_due = self
            .said
            .is_none_or(|said| now.duration_since(said) >= REFUSALS_SAID);
        is_due.then(|| {
            self.said = Some(now);
            std::mem::take(&mut self.unsaid)
        })
    }
}

/// Counts connections, in all and by address.
#[derive(Debug, Clone, Default)]
struct Places(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Places {
    /// A place, given back when dropped; `None` when there is none left.
    fn take(&self, address: IpAddr) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = taken.values().sum();
        let of_address = taken.get(&address).copied().unwrap_or(0);
        if total >= MAX_CONNECTIONS || of_address >= MAX_PER_ADDRESS {
            return None;
        }
        taken.insert(address, of_address + 1);
        Some(Place {
            places: self.clone(),
            address,
        })
    }
}

#[derive(Debug)]
struct Place {
    places: Places,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_said_now_and_then_and_all_are_counted() {
        let mut refusals = Refusals::default();
        let start = Instant::now();
        let mut said = (0..65).filter_map(|second| {
            let now = start + Duration::from_secs(second);
            (0..100).find_map(|_| refusals.note(now).map(|refused| (second, refused)))
        });
        assert_eq!(said.next(), Some((0, 1)));
        let rest: Vec<_> = said.collect();
        assert_eq!(rest.len(), 2, "{rest:?}");
        assert!(
            rest.iter()
                .all(|(second, refused)| second % 30 == 0 && *refused > 2_000)
        );
    }

    #[test]
    fn one_address_cannot_take_every_place() {
        let places = Places::default();
        let (greedy, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let mut held: Vec<_> = (0..MAX_PER_ADDRESS).map(|_| places.take(greedy)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(places.take(greedy).is_none());
        assert!(places.take(other).is_some());
        held.pop();
        assert!(places.take(greedy).is_some());
        drop(held);
        assert!(places.0.lock().unwrap().is_empty());
    }
}
