//! How endpoints are reached: by a tunnel when they are in the mesh, by TCP when not. Never by TCP
//! because a tunnel does not work. Over that TLS, where the backend wants it; never without.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use agent_hbone::headers::{Authority, ConnectRequest};
use agent_hbone::{HboneError, Pool, Settings, Target, TunnelIo};
use agent_model::{HBONE_PORT, Identity, NamespacedHostname, Reason, TunnelProtocol, Workload};
use agent_net::NetnsCookie;
use agent_net::socket::set_leg_options;
use agent_state::Reader;
use agent_state::resolve::{Chooser, Outbound, onward};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::behalf::Behalf;
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
    state: Reader,
    /// This gateway, as far as it is known to itself.
    own: Workload,
}

impl Dialer {
    pub(crate) fn new(mesh: Option<Mesh>, state: Reader, network: Arc<str>) -> Self {
        let own = own(mesh.as_ref(), network);
        let with_pool = |mesh: Mesh| {
            let certificates = mesh.certificates.clone();
            let pool = Pool::new(Settings::default(), move |chain| certificates.revoke(chain));
            (mesh, pool)
        };
        Self {
            mesh: mesh.map(with_pool),
            state,
            own,
        }
    }

    /// Connects to an endpoint, to speak this with it, when its service may have one more
    /// connection. Each of waiting and connecting is bounded by [`CONNECT_TIMEOUT`].
    pub(super) async fn line(
        &self,
        endpoint: &Endpoint,
        inside: Inside,
        behalf: Option<&Arc<Behalf>>,
    ) -> Result<Line, Refusal> {
        let admission = endpoint.group().connection(CONNECT_TIMEOUT).await?;
        // Who speaks with the endpoint by TLS of their own is not wrapped in another.
        let tls = endpoint.tls().filter(|_| inside != Inside::Tls);
        // Boxed: it is large, and most requests need none.
        let (workload, group) = (endpoint.workload(), endpoint.group());
        let of = (group.service(), group.port());
        let to = (&*workload, endpoint.address());
        let dialled = match group.is_pod() {
            false => Box::pin(self.dial(of, to, tls, inside, behalf)).await,
            true => Box::pin(self.pod(&workload, endpoint.address(), behalf)).await,
        };
        let pass = admission.map(Admission::made);
        dialled.map(|leg| Line::new(leg, pass))
    }

    /// Connects to an endpoint of a port of a service, by TLS where that is wanted, within
    /// [`CONNECT_TIMEOUT`]. What is behind another's waypoint is reached through that one.
    pub(super) async fn dial(
        &self,
        (service, port): (&NamespacedHostname, u16),
        (workload, address): (&Workload, SocketAddr),
        tls: Option<&Arc<Origination>>,
        inside: Inside,
        behalf: Option<&Arc<Behalf>>,
    ) -> Result<Leg, Refusal> {
        let dialled = async {
            let leg = match self.waypoint((service, port), (workload, address)) {
                Some(onward) => self.through(onward).await?,
                None => {
                    let host = &service.hostname;
                    self.reach(workload, address, behalf, host).await?
                }
            };
            match tls {
                None => Ok(leg),
                Some(tls) => secure(leg, tls, inside)
                    .await
                    .map_err(|error| tls_failed(address, &error)),
            }
        };
        within(address, dialled).await
    }

    /// Connects to a workload itself, which this gateway is the waypoint of.
    pub(super) async fn pod(
        &self,
        workload: &Workload,
        address: SocketAddr,
        behalf: Option<&Arc<Behalf>>,
    ) -> Result<Leg, Refusal> {
        within(address, self.reach(workload, address, behalf, "")).await
    }

    /// The way through a waypoint, where an endpoint is behind one that is not this gateway.
    fn waypoint(
        &self,
        service: (&NamespacedHostname, u16),
        endpoint: (&Workload, SocketAddr),
    ) -> Option<Outbound> {
        let mut chooser = Chooser {
            random: &mut rand::random,
            active: &|_| 0,
            tried: &[],
        };
        onward(
            &self.state.load(),
            &self.own,
            service,
            endpoint,
            &mut chooser,
        )
    }

    async fn through(&self, onward: Outbound) -> Result<Leg, Refusal> {
        match onward {
            Outbound::Tunnel(hop) => {
                let request = ConnectRequest::to(Authority::Ip(hop.authority));
                self.tunnel(hop.peer, hop.expected, &request).await
            }
            Outbound::Deny { reason, detail } => Err(Refusal::new(reason, detail)),
            Outbound::Passthrough { .. } | Outbound::Direct { .. } | Outbound::Named(_) => {
                let detail = "a waypoint is reached by a tunnel only";
                Err(Refusal::new(Reason::WaypointUnavailable, detail))
            }
        }
    }

    async fn reach(
        &self,
        workload: &Workload,
        address: SocketAddr,
        behalf: Option<&Arc<Behalf>>,
        host: &str,
    ) -> Result<Leg, Refusal> {
        if workload.tunnel_protocol == TunnelProtocol::None {
            let stream = connect(address).await;
            return stream
                .map(Leg::Tcp)
                .map_err(|error| refusal(address, &error));
        }
        let expected = workload
            .identity()
            .map_err(|error| Refusal::new(Reason::PeerIdentityMismatch, error.to_string()))?;
        let peer = SocketAddr::new(address.ip(), HBONE_PORT);
        let request = Behalf::request(behalf, address, host);
        self.tunnel(peer, vec![expected], &request).await
    }

    async fn tunnel(
        &self,
        peer: SocketAddr,
        expected: Vec<Identity>,
        request: &ConnectRequest,
    ) -> Result<Leg, Refusal> {
        let no_certificate = |detail: String| Refusal::new(Reason::NoCertificate, detail);
        let Some((mesh, pool)) = &self.mesh else {
            let detail = "the endpoint is in the mesh, and this gateway is not";
            return Err(no_certificate(detail.to_owned()));
        };
        let certificate = mesh.certificates.get(&mesh.identity).await;
        let certificate = certificate.map_err(|error| no_certificate(error.to_string()))?;
        let target = Target::new(SELF, certificate, peer, expected);
        let stream = pool.open(&target, request, || connect(peer)).await;
        let stream = stream.map_err(|error: HboneError| {
            let authority = &request.authority;
            Refusal::new(error.reason(), format!("{authority}: {error}"))
        })?;
        Ok(Leg::Tunnel(TunnelIo::new(stream)))
    }
}

/// The gateway as a source of connections.
fn own(mesh: Option<&Mesh>, network: Arc<str>) -> Workload {
    let nobody = Workload {
        network,
        ..Workload::default()
    };
    let Some(Mesh { identity, .. }) = mesh else {
        return nobody;
    };
    Workload {
        trust_domain: identity.trust_domain().into(),
        namespace: identity.namespace().into(),
        service_account: identity.service_account().into(),
        tunnel_protocol: TunnelProtocol::Hbone,
        ..nobody
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

/// TLS over a connection, once the other end has proved who it is.
pub(crate) async fn secure(leg: Leg, tls: &Origination, inside: Inside) -> io::Result<Leg> {
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
