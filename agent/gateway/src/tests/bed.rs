//! A gateway with services behind it, and clients in front of it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent_model::gateway::traffic::TrafficPolicy;
use agent_model::gateway::{
    BackendProtocol, BackendRef, Certificate, Gateway as GatewayModel, GatewayKey, GatewayKind,
    HttpMatch, HttpRule, Listener, Parent, PathMatch, Protocol, Route, RouteKey, RouteKind, Rules,
    Target,
};
use agent_model::{
    Health, IpFamilies, LoadBalancing, NamespacedHostname, Reason, Service, ServicePort,
    Visibility, Workload,
};
use agent_state::Writer;
use agent_telemetry::{Limits, Metrics};
use agent_xds::{Apply, Update};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::backend::Backend;
use crate::access::{RequestPolicies, Trial};
use crate::plan::{Fault, Plan, Sources};
use crate::traffic::Policies;
use crate::uncounted::Uncounted;
use crate::{Config, Door, Gateway, Mesh, Passage, Place, Record, Records, bind};

/// What is kept of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) status: Option<u16>,
    pub(super) reason: Reason,
    pub(super) sent: u64,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) detail: String,
    pub(super) trials: Vec<Trial>,
    pub(super) span: Option<String>,
}

/// What is kept of a connection that nobody looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Carried {
    pub(super) name: Option<String>,
    pub(super) route: Option<String>,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) reason: Reason,
    pub(super) received: u64,
    pub(super) sent: u64,
}

#[derive(Default)]
struct Book(Mutex<Vec<Kept>>, Mutex<Vec<Carried>>);

impl Records for Book {
    fn take(&self, record: &Record) {
        self.0.lock().unwrap().push(Kept {
            status: record.status.map(|status| status.as_u16()),
            reason: record.reason,
            sent: record.sent,
            endpoint: record.endpoint,
            detail: record.detail.clone(),
            trials: record.trials.clone(),
            span: record.trace.as_ref().map(|trace| crate::hex(&trace.span)),
        });
    }

    fn passage(&self, passage: &Passage) {
        self.1.lock().unwrap().push(Carried {
            name: passage.name.clone(),
            route: passage
                .rule
                .as_ref()
                .map(|rule| rule.route.name.to_string()),
            endpoint: passage.endpoint,
            reason: passage.reason,
            received: passage.received,
            sent: passage.sent,
        });
    }
}

pub(super) struct Bed {
    pub(super) gateway: Gateway,
    /// Of the listener `http`.
    pub(super) address: SocketAddr,
    pub(super) writer: Writer,
    /// What is said of backends; counts from the next plan on.
    pub(super) backends: Vec<Arc<agent_model::gateway::Backend>>,
    /// Shown to backends that ask; counts from the next plan on.
    pub(super) shown: Option<Certificate>,
    /// Where it listens; counts for ports that are opened from now on.
    pub(super) listen_at: IpAddr,
    pub(super) metrics: Arc<Metrics>,
    pub(super) uncounted: Arc<Uncounted>,
    book: Arc<Book>,
}

impl Bed {
    /// A gateway with one HTTP listener for every host and these routes.
    pub(super) fn start(routes: &[Route]) -> Self {
        let bed = Self::idle(None);
        assert_eq!(bed.apply(routes), []);
        bed
    }

    /// The same, and every request is traced.
    pub(super) fn start_traced(routes: &[Route]) -> Self {
        let config = Config {
            traced: Some(1.0),
            ..Config::default()
        };
        let bed = Self::with(&config, None);
        assert_eq!(bed.apply(routes), []);
        bed
    }

    /// A gateway that listens nowhere yet.
    pub(super) fn idle(mesh: Option<&Mesh>) -> Self {
        Self::with(&Config::default(), mesh)
    }

    /// The same with other settings.
    pub(super) fn with(config: &Config, mesh: Option<&Mesh>) -> Self {
        let (writer, reader) = agent_state::channel();
        let book = Arc::new(Book::default());
        let records: Arc<dyn Records> = Arc::clone(&book) as _;
        let metrics = Metrics::new("1", Limits::default(), Instant::now());
        let config = Config {
            requests: Arc::clone(metrics.requests()),
            own: Some(Arc::new(own())),
            ..config.clone()
        };
        let gateway = Gateway::start(&config, &reader, mesh, &records).unwrap();
        Self {
            gateway,
            address: free_port(),
            writer,
            backends: Vec::new(),
            shown: None,
            listen_at: Ipv4Addr::LOCALHOST.into(),
            metrics,
            uncounted: config.uncounted,
            book,
        }
    }

    pub(super) fn apply(&self, routes: &[Route]) -> Vec<Fault> {
        self.apply_with(vec![listener("http", self.address.port())], routes)
    }

    pub(super) fn apply_with(&self, listeners: Vec<Listener>, routes: &[Route]) -> Vec<Fault> {
        self.apply_guarded(listeners, routes, &RequestPolicies::default())
    }

    pub(super) fn apply_guarded(
        &self,
        listeners: Vec<Listener>,
        routes: &[Route],
        policies: &RequestPolicies<'_>,
    ) -> Vec<Fault> {
        let routes: Vec<_> = routes.iter().cloned().map(Arc::new).collect();
        let gateway = GatewayModel {
            backend_client_certificate: self.shown.clone(),
            ..model(listeners)
        };
        let (plan, mut faults) = Plan::compile(Sources {
            gateway: &gateway,
            routes: &routes,
            backends: &self.backends,
            policies: &Policies::default(),
            before: Some(&self.gateway.plan()),
        });
        let (plan, wrong) = plan.guarded(&gateway.key, policies);
        faults.extend(wrong);
        let errors = self
            .gateway
            .apply(plan, |place| bind(self.listen_at, place));
        assert!(errors.is_empty(), "{errors:?}");
        faults
    }

    /// The listener `http` with these routes and traffic policies.
    pub(super) fn apply_treated(&self, routes: &[Route], policies: &[TrafficPolicy]) -> Vec<Fault> {
        let listeners = vec![listener("http", self.address.port())];
        self.apply_treated_with(listeners, routes, policies)
    }

    pub(super) fn apply_treated_with(
        &self,
        listeners: Vec<Listener>,
        routes: &[Route],
        policies: &[TrafficPolicy],
    ) -> Vec<Fault> {
        let routes: Vec<_> = routes.iter().cloned().map(Arc::new).collect();
        let policies: Vec<_> = policies.iter().cloned().map(Arc::new).collect();
        let gateway = model(listeners);
        let (plan, faults) = Plan::compile(Sources {
            gateway: &gateway,
            routes: &routes,
            backends: &self.backends,
            policies: &Policies::new(&policies),
            before: Some(&self.gateway.plan()),
        });
        let errors = self
            .gateway
            .apply(plan, |place| bind(self.listen_at, place));
        assert!(errors.is_empty(), "{errors:?}");
        faults
    }

    /// Makes the service `name` of these backends, each an endpoint of its own.
    pub(super) fn service(&mut self, name: &str, backends: &[&Backend]) {
        let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
        self.service_at(name, &addresses);
    }

    pub(super) fn service_at(&mut self, name: &str, addresses: &[SocketAddr]) {
        let mut updates = vec![Update::Service(Box::new(service(name)))];
        for (number, address) in addresses.iter().enumerate() {
            let workload = endpoint(&format!("{name}-{number}"), name, *address);
            updates.push(Update::Workload(Box::new(workload)));
        }
        assert!(self.writer.apply(updates).is_empty());
    }

    /// The records so far, once there are that many.
    pub(super) async fn records(&self, count: usize) -> Vec<Kept> {
        let wait = async {
            while self.book.0.lock().unwrap().len() < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), wait)
            .await
            .expect("too few records");
        self.book.0.lock().unwrap().clone()
    }

    /// The connections so far that nobody looked into, once there are that many.
    pub(super) async fn passages(&self, count: usize) -> Vec<Carried> {
        let wait = async {
            while self.book.1.lock().unwrap().len() < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), wait)
            .await
            .expect("too few connections");
        self.book.1.lock().unwrap().clone()
    }

    pub(super) async fn http1(&self) -> http1::SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (send, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        send
    }

    pub(super) async fn http2(&self) -> http2::SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        send
    }

    /// One GET over a connection of its own.
    pub(super) async fn get(&self, host: &str, target: &str) -> Response<Bytes> {
        self.ask(get(host, target)).await
    }

    pub(super) async fn ask(&self, request: Request<Full<Bytes>>) -> Response<Bytes> {
        let mut client = self.http1().await;
        whole(client.send_request(request).await.unwrap()).await
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.gateway.stop(Duration::ZERO);
    }
}

/// What metrics call the gateway.
fn own() -> Workload {
    Workload {
        namespace: "ns".into(),
        workload_name: "edge".into(),
        ..Workload::default()
    }
}

pub(super) fn get(host: &str, target: &str) -> Request<Full<Bytes>> {
    let request = Request::get(target).header("host", host);
    request.body(Full::default()).unwrap()
}

pub(super) async fn whole(response: Response<hyper::body::Incoming>) -> Response<Bytes> {
    let (head, body) = response.into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

pub(super) fn model(listeners: Vec<Listener>) -> GatewayModel {
    GatewayModel {
        key: GatewayKey::new("ns", "edge"),
        kind: GatewayKind::Edge,
        listeners,
        backend_client_certificate: None,
    }
}

pub(super) fn listener(name: &str, port: u16) -> Listener {
    Listener {
        name: name.into(),
        port,
        protocol: Protocol::Http,
        hostname: None,
        tls: None,
    }
}

pub(super) fn loopback(place: Place) -> io::Result<Door> {
    bind(Ipv4Addr::LOCALHOST.into(), place)
}

/// A port that nothing listens on; the kernel does not give it to others for a while.
pub(super) fn free_port() -> SocketAddr {
    match loopback(Place::tcp(0)).unwrap() {
        Door::Connections(listener) => listener.local_addr().unwrap(),
        Door::Datagrams(socket) => socket.local_addr().unwrap(),
    }
}

pub(super) fn route(rules: Vec<HttpRule>) -> Route {
    Route {
        key: RouteKey::new(RouteKind::Http, "ns", "route"),
        created: 0,
        hostnames: Vec::new(),
        parents: vec![Parent::Listener {
            gateway: GatewayKey::new("ns", "edge"),
            name: "http".into(),
        }],
        rules: Rules::Http(rules),
    }
}

/// A rule for a prefix, to one service.
pub(super) fn rule(prefix: &str, service: &str) -> HttpRule {
    HttpRule {
        matches: vec![HttpMatch {
            path: PathMatch::Prefix(prefix.into()),
            ..HttpMatch::default()
        }],
        backends: vec![to(service, 1)],
        ..HttpRule::default()
    }
}

pub(super) fn to(service: &str, weight: u32) -> BackendRef {
    BackendRef {
        weight,
        target: target(service, BackendProtocol::Http),
        filters: Vec::new(),
    }
}

pub(super) fn target(name: &str, protocol: BackendProtocol) -> Target {
    Target::Service {
        service: service(name).key(),
        port: 80,
        protocol,
    }
}

/// An endpoint of a service, outside the mesh.
pub(super) fn endpoint(name: &str, of: &str, address: SocketAddr) -> Workload {
    let port = ServicePort::new(80, address.port());
    Workload {
        uid: format!("c//Pod/ns/{name}").into(),
        name: name.into(),
        namespace: "ns".into(),
        addresses: vec![address.ip()],
        health: Health::Healthy,
        services: [(service(of).key(), vec![port])].into(),
        ..Workload::default()
    }
}

pub(super) fn service(name: &str) -> Service {
    let key = NamespacedHostname::new("ns", &format!("{name}.ns.svc.cluster.local"));
    Service {
        name: name.into(),
        namespace: key.namespace,
        hostname: key.hostname,
        vips: Vec::new(),
        ports: vec![ServicePort::new(80, 0)],
        subject_alt_names: Vec::new(),
        waypoint: None,
        ingress_use_waypoint: false,
        load_balancing: LoadBalancing::default(),
        ip_families: IpFamilies::Automatic,
        canonical: true,
        visibility: Visibility::Public,
    }
}
