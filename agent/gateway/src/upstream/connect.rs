//! How endpoints are reached: by a tunnel when they are in the mesh, by TCP when not. Never by TCP
//! because a tunnel does not work. Over that TLS, where the backend wants it; never without.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use agent_hbone::headers::{Authority, ConnectRequest};
use agent_hbone::{HboneError, Pool, Settings, Target, TunnelIo};
use agent_model::{HBONE_PORT, Reason, TunnelProtocol, Workload};
use agent_net::NetnsCookie;
use agent_net::socket::set_leg_options;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::endpoint::Endpoint;
use super::group::Admission;
use super::line::Line;
use super::{CONNECT_TIMEOUT, chain};
use crate::leg::Leg;
use crate::mesh::Mesh;
use crate::plan::{Inside, Origination};
use crate::refusal::Refusal;

/// The gateway is the only source of its tunnels.
const SELF: NetnsCookie = NetnsCookie(0);

/// Makes connections to endpoints, for one worker.
pub(crate) struct Dialer {
    mesh: Option<(Mesh, Pool)>,
}

impl Dialer {
    pub(crate) fn new(mesh: Option<Mesh>) -> Self {
        let with_pool = |mesh: Mesh| {
            let certificates = mesh.certificates.clone();
            let pool = Pool::new(Settings::default(), move |chain| certificates.revoke(chain));
            (mesh, pool)
        };
        Self {
            mesh: mesh.map(with_pool),
        }
    }

    /// Connects to an endpoint, to speak this with it, when its service may have one more
    /// connection. Each of waiting and connecting is bounded by [`CONNECT_TIMEOUT`].
    pub(super) async fn line(&self, endpoint: &Endpoint, inside: Inside) -> Result<Line, Refusal> {
        let admission = endpoint.group().connection(CONNECT_TIMEOUT).await?;
        let (workload, address) = (endpoint.workload(), endpoint.address());
        // Who speaks with the endpoint by TLS of their own is not wrapped in another.
        let tls = endpoint.tls().filter(|_| inside != Inside::Tls);
        // Boxed: it is large, and most requests need none.
        let dialled = Box::pin(self.dial((&workload, address), tls, inside)).await;
        let pass = admission.map(Admission::made);
        dialled.map(|leg| Line::new(leg, pass))
    }

    /// Connects to an endpoint, by TLS where that is wanted, within [`CONNECT_TIMEOUT`].
    pub(super) async fn dial(
        &self,
        (workload, address): (&Workload, SocketAddr),
        tls: Option<&Arc<Origination>>,
        inside: Inside,
    ) -> Result<Leg, Refusal> {
        let dialled = async {
            let leg = self.reach(workload, address).await?;
            match tls {
                None => Ok(leg),
                Some(tls) => secure(leg, tls, inside)
                    .await
                    .map_err(|error| tls_failed(address, &error)),
            }
        };
        within(address, dialled).await
    }

    async fn reach(&self, workload: &Workload, address: SocketAddr) -> Result<Leg, Refusal> {
        match workload.tunnel_protocol {
            TunnelProtocol::None => connect(address)
                .await
                .map(Leg::Tcp)
                .map_err(|error| refusal(address, &error)),
            TunnelProtocol::Hbone => self.tunnel(workload, address).await,
        }
    }

    async fn tunnel(&self, workload: &Workload, address: SocketAddr) -> Result<Leg, Refusal> {
        let no_certificate = |detail: String| Refusal::new(Reason::NoCertificate, detail);
        let Some((mesh, pool)) = &self.mesh else {
            let detail = "the endpoint is in the mesh, and this gateway is not";
            return Err(no_certificate(detail.to_owned()));
        };
        let certificate = mesh.certificates.get(&mesh.identity).await;
        let certificate = certificate.map_err(|error| no_certificate(error.to_string()))?;
        let expected = workload
            .identity()
            .map_err(|error| Refusal::new(Reason::PeerIdentityMismatch, error.to_string()))?;
        let peer = SocketAddr::new(address.ip(), HBONE_PORT);
        let target = Target::new(SELF, certificate, peer, vec![expected]);
        let request = ConnectRequest::to(Authority::Ip(address));
        let stream = pool.open(&target, &request, || connect(peer)).await;
        let stream = stream.map_err(|error: HboneError| {
            Refusal::new(error.reason(), format!("{address}: {error}"))
        })?;
        Ok(Leg::Tunnel(TunnelIo::new(stream)))
    }
}

async fn within<T>(
    address: SocketAddr,
    dialled: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    timeout(CONNECT_TIMEOUT, dialled).await.map_err(|_| {
        let detail = format!("{address} did not answer within {CONNECT_TIMEOUT:?}");
        Refusal::new(Reason::ConnectTimeout, detail)
    })?
}

async fn secure(leg: Leg, tls: &Origination, inside: Inside) -> io::Result<Leg> {
    let connector = TlsConnector::from(Arc::clone(tls.config(inside)));
    let stream = connector.connect(tls.name(), leg).await?;
    Ok(Leg::Tls(Box::new(stream)))
}

fn tls_failed(address: SocketAddr, error: &io::Error) -> Refusal {
    Refusal::new(Reason::TlsFailed, format!("{address}: {}", chain(error)))
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    set_leg_options(&stream)?;
    Ok(stream)
}

fn refusal(address: SocketAddr, error: &io::Error) -> Refusal {
    let reason = match error.kind() {
        io::ErrorKind::ConnectionRefused => Reason::ConnectRefused,
        io::ErrorKind::TimedOut => Reason::ConnectTimeout,
        _ => Reason::ConnectFailed,
    };
    Refusal::new(reason, format!("{address}: {error}"))
}
