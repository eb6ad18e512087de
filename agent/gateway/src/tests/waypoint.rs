//! In and out of the mesh.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent_hbone::headers::{Authority as Named, ConnectRequest};
use agent_hbone::{HboneError, Pool, Settings, Target, TunnelIo, server};
use agent_identity::{Authority, Certificates, server_config};
use agent_model::gateway::{
    Filter, HeaderChange, HeaderValue, HttpRule, Listener, NamedMatch, Parent, PathChange,
    Protocol, Redirect, Rewrite, Route, Scheme, ValueMatch,
};
use agent_model::{
    AppProtocol, GatewayAddress, GatewayTarget, HBONE_PORT, Identity, NetworkAddress, Reason,
    Service, TunnelProtocol, Workload,
};
use agent_net::NetnsCookie;
use agent_xds::{Apply, Update};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

use super::backend::Backend;
use super::bed::{Bed, endpoint, get, listener, route, rule, service, whole};
use crate::plan::Plan;
use crate::{Config, Mesh};

const VIP: &str = "10.96.0.1";

fn identity(namespace: &str, account: &str) -> Identity {
    Identity::new("cluster.local", namespace, account).unwrap()
}

fn certificates() -> Certificates {
    let authority = Authority::in_memory("cluster.local", SystemTime::now()).unwrap();
    let runtime = tokio::runtime::Handle::current();
    Certificates::new(Arc::new(authority), runtime, Duration::from_secs(3600))
}

/// A waypoint with the service `one` behind it.
pub(super) struct Site {
    pub(super) bed: Bed,
    certificates: Certificates,
    tunnels: Pool,
}

fn mesh(certificates: &Certificates) -> Mesh {
    Mesh {
        certificates: certificates.clone(),
        identity: identity("ns", "waypoint"),
    }
}

pub(super) fn behind_waypoint(name: &str) -> Service {
    Service {
        vips: vec![NetworkAddress {
            network: "".into(),
            address: VIP.parse().unwrap(),
        }],
        waypoint: Some(GatewayAddress {
            target: GatewayTarget::Hostname(service("waypoint").key()),
            hbone_mtls_port: HBONE_PORT,
        }),
        ..service(name)
    }
}

impl Site {
    pub(super) fn start(endpoint: Workload) -> Self {
        Self::with(&Config::default(), endpoint)
    }

    fn with(config: &Config, endpoint: Workload) -> Self {
        let certificates = certificates();
        let mut bed = Bed::with(config, Some(&mesh(&certificates)));
        // Of several that own an address the first by uid is taken.
        let own = Workload {
            service_account: "waypoint".into(),
            ..super::bed::endpoint("0-waypoint", "waypoint", bed.address)
        };
        let updates = vec![
            Update::Service(Box::new(service("waypoint"))),
            Update::Workload(Box::new(own)),
            Update::Service(Box::new(behind_waypoint("one"))),
            Update::Workload(Box::new(endpoint)),
        ];
        assert!(bed.writer.apply(updates).is_empty());
        let site = Self {
            bed,
            certificates,
            tunnels: Pool::new(Settings::default(), |_| false),
        };
        site.apply(&[]);
        site
    }

    pub(super) fn apply(&self, routes: &[Route]) {
        assert_eq!(self.bed.apply_with(vec![self.listener()], routes), []);
    }

    /// The waypoint's own.
    pub(super) fn listener(&self) -> Listener {
        Listener {
            protocol: Protocol::Hbone,
            ..listener("mesh", self.bed.address.port())
        }
    }

    /// A stream of a client in a namespace to an authority.
    pub(super) async fn open(
        &self,
        namespace: &str,
        authority: &str,
    ) -> Result<TunnelIo, HboneError> {
        let client = identity(namespace, "client");
        let certificate = self.certificates.get(&client).await.unwrap();
        let expected = vec![identity("ns", "waypoint")];
        let address = self.bed.address;
        let target = Target::new(NetnsCookie(1), certificate, address, expected);
        let request = ConnectRequest::to(authority.parse::<Named>().unwrap());
        let opened = self
            .tunnels
            .open(&target, &request, move || TcpStream::connect(address));
        opened.await.map(TunnelIo::new)
    }

    /// One GET through a stream of its own.
    pub(super) async fn get(&self, namespace: &str, target: &str) -> Response<bytes::Bytes> {
        self.ask(namespace, get("one", target)).await
    }

    /// One request through a stream of its own.
    pub(super) async fn ask(
        &self,
        namespace: &str,
        request: Request<Full<bytes::Bytes>>,
    ) -> Response<bytes::Bytes> {
        let stream = self.open(namespace, &format!("{VIP}:80")).await.unwrap();
        let (mut send, connection) =
            http1::handshake::<_, Full<bytes::Bytes>>(TokioIo::new(stream))
                .await
                .unwrap();
        spawn_local(connection);
        whole(send.send_request(request).await.unwrap()).await
    }
}

/// Runs a test as a worker runs: one thread, one local set.
pub(super) async fn worker(test: impl Future<Output = ()>) {
    let limited = tokio::time::timeout(Duration::from_secs(60), test);
    LocalSet::new()
        .run_until(limited)
        .await
        .expect("the test hangs");
}

/// A route on the service `one` whose answers say which rule it was.
pub(super) fn attached(
    name: &str,
    port: Option<u16>,
    consumers: Option<&str>,
    mut rules: Vec<HttpRule>,
) -> Route {
    for rule in &mut rules {
        let said = HeaderValue {
            name: "x-rule".into(),
            value: name.into(),
        };
        rule.filters.push(Filter::ResponseHeaders(HeaderChange {
            set: vec![said],
            ..HeaderChange::default()
        }));
    }
    let mut route = route(rules);
    route.key.name = name.into();
    // Hosts do not count: the service was dialled by its address.
    route.hostnames = vec!["elsewhere.org".parse().unwrap()];
    route.parents = vec![Parent::Service {
        service: service("one").key(),
        port,
        consumer_namespace: consumers.map(Into::into),
    }];
    route
}

fn said(response: &Response<bytes::Bytes>) -> (u16, &str) {
    let rule = response.headers().get("x-rule");
    let rule = rule.map_or("", |rule| rule.to_str().unwrap());
    (response.status().as_u16(), rule)
}

#[tokio::test]
async fn rules_of_a_service_and_of_its_consumers() {
    worker(async {
        let backend = Backend::start("one").await;
        let site = Site::start(endpoint("one-0", "one", backend.address));
        assert_eq!(said(&site.get("shop", "/x").await), (200, ""));
        site.apply(&[
            attached("producer", None, None, vec![rule("/a", "one")]),
            attached("other-port", Some(81), None, vec![rule("/b", "one")]),
            attached("this-port", Some(80), None, vec![rule("/c", "one")]),
            attached("consumer", None, Some("shop"), vec![rule("/d", "one")]),
        ]);
        for (namespace, target, expected) in [
            ("other", "/a", (200, "producer")),
            ("other", "/b", (404, "")),
            ("other", "/c", (200, "this-port")),
            ("other", "/d", (404, "")),
            ("shop", "/a", (404, "")),
            ("shop", "/d/x/%2e%2e", (200, "consumer")),
        ] {
            let response = site.get(namespace, target).await;
            assert_eq!(said(&response), expected, "{namespace} {target}");
        }
        let seen = backend.last();
        assert_eq!(seen.target, "/d/");
        assert!(!seen.headers.contains_key("x-forwarded-for"));
    })
    .await;
}

/// `MeshHTTPRouteRewritePath`, `MeshHTTPRouteRedirectPath`, `MeshHTTPRouteRedirectPort`,
/// `MeshHTTPRouteSchemeRedirect`, `MeshHTTPRouteQueryParamMatching`,
/// `MeshHTTPRouteBackendRequestHeaderModifier`, `MeshHTTPRouteNamedRule`: rules of a service do what
/// those of listeners do.
#[tokio::test]
async fn rules_of_a_service_have_every_filter() {
    worker(async {
        let backend = Backend::start("one").await;
        let site = Site::start(endpoint("one-0", "one", backend.address));
        let redirect = |prefix: &str, scheme, path, port| {
            let mut redirected = rule(prefix, "one");
            redirected.backends.clear();
            redirected.filters = vec![Filter::Redirect(Redirect {
                scheme,
                hostname: None,
                path,
                port,
                status: 302,
            })];
            redirected
        };
        let mut rewritten = rule("/strip", "one");
        rewritten.name = Some("named".into());
        rewritten.filters = vec![Filter::Rewrite(Rewrite {
            hostname: None,
            path: Some(PathChange::Prefix("/new".into())),
        })];
        rewritten.backends[0].filters = vec![Filter::RequestHeaders(HeaderChange {
            set: vec![HeaderValue {
                name: "x-share".into(),
                value: "one".into(),
            }],
            ..HeaderChange::default()
        })];
        let mut queried = rule("/query", "one");
        queried.matches[0].query = vec![NamedMatch {
            name: "a".into(),
            value: ValueMatch::Exact("b".into()),
        }];
        site.apply(&[attached(
            "every",
            None,
            None,
            vec![
                rewritten,
                queried,
                redirect("/path", None, Some(PathChange::Full("/there".into())), None),
                redirect("/port", None, None, Some(8083)),
                redirect("/scheme", Some(Scheme::Https), None, None),
            ],
        )]);
        assert_eq!(site.get("shop", "/strip/x").await.status(), StatusCode::OK);
        let seen = backend.last();
        assert_eq!(
            (&*seen.target, &seen.headers["x-share"]),
            ("/new/x", &"one".parse().unwrap())
        );
        for (target, status) in [("/query?a=b", 200), ("/query?a=c", 404)] {
            let response = site.get("shop", target).await;
            assert_eq!(response.status().as_u16(), status, "{target}");
        }
        for (target, location) in [
            ("/path", "http://one/there"),
            ("/port", "http://one:8083/port"),
            ("/scheme", "https://one/scheme"),
        ] {
            let response = site.get("shop", target).await;
            assert_eq!(response.status().as_u16(), 302, "{target}");
            assert_eq!(response.headers()["location"], location);
        }
    })
    .await;
}

/// What a client says of its certificate itself never goes on.
#[tokio::test]
async fn backends_learn_who_asks_where_that_is_wanted() {
    const HEADER: &str = "x-forwarded-client-cert";
    worker(async {
        for wanted in [false, true] {
            let backend = Backend::start("one").await;
            let config = Config {
                tells_certified: wanted,
                ..Config::default()
            };
            let site = Site::with(&config, endpoint("one-0", "one", backend.address));
            site.apply(&[attached("all", None, None, vec![rule("/", "one")])]);
            let stream = site.open("shop", &format!("{VIP}:80")).await.unwrap();
            let handshake = http1::handshake::<_, Full<bytes::Bytes>>(TokioIo::new(stream));
            let (mut send, connection) = handshake.await.unwrap();
            spawn_local(connection);
            let mut forged = get("one", "/x");
            for _ in 0..2 {
                let admin = "By=x;URI=spiffe://cluster.local/ns/ns/sa/admin".parse();
                forged.headers_mut().append(HEADER, admin.unwrap());
            }
            let answer = whole(send.send_request(forged).await.unwrap()).await;
            assert_eq!(said(&answer), (200, "all"));
            let seen = backend.last();
            let seen = seen.headers.get_all(HEADER).iter().collect::<Vec<_>>();
            let told = "By=spiffe://cluster.local/ns/ns/sa/waypoint;\
                        URI=spiffe://cluster.local/ns/shop/sa/client";
            match wanted {
                true => assert_eq!(seen, [told]),
                false => assert!(seen.is_empty(), "{seen:?}"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn bytes_pass_where_there_are_no_rules() {
    worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let site = Site::start(endpoint("one-0", "one", listener.local_addr().unwrap()));
        spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // It speaks first, as mail servers do.
            stream.write_all(b"220 ready\r\n").await.unwrap();
            let mut said = [0; 4];
            stream.read_exact(&mut said).await.unwrap();
            stream.write_all(&said).await.unwrap();
        });
        let mut stream = site.open("shop", &format!("{VIP}:80")).await.unwrap();
        let mut said = [0; 11];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"220 ready\r\n");
        stream.write_all(b"QUIT").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"QUIT");
    })
    .await;
}

/// A Postgres beside a web server is none of an HTTPRoute's business that names no port.
#[tokio::test]
async fn a_route_without_a_port_is_for_what_speaks_http() {
    const HTTP: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
    const OTHER: &[u8] = b"\x00\x00\x00\x08\x04\xd2\x16\x2f";
    worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut site = Site::start(endpoint("one-0", "one", listener.local_addr().unwrap()));
        spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut said = [0; 64];
                let read = stream.read(&mut said).await.unwrap();
                stream.write_all(&said[..read]).await.unwrap();
            }
        });
        for (spoken, port, first, passes) in [
            (AppProtocol::Tcp, None, HTTP, true),
            (AppProtocol::Tls, None, HTTP, true),
            (AppProtocol::Tcp, Some(81), HTTP, true),
            (AppProtocol::Unknown, None, OTHER, true),
            (AppProtocol::Unknown, None, HTTP, false),
            (AppProtocol::Http1, None, HTTP, false),
            (AppProtocol::Tcp, Some(80), HTTP, false),
        ] {
            let mut service = behind_waypoint("one");
            service.ports[0].app_protocol = spoken;
            let updates = vec![Update::Service(Box::new(service))];
            assert!(site.bed.writer.apply(updates).is_empty());
            let at_81 = attached("at-81", Some(81), None, vec![rule("/", "one")]);
            site.apply(&[attached("r", port, None, vec![rule("/", "one")]), at_81]);
            let mut stream = site.open("shop", &format!("{VIP}:80")).await.unwrap();
            stream.write_all(first).await.unwrap();
            let mut answer = [0; 8];
            stream.read_exact(&mut answer).await.unwrap();
            let expected = if passes { &first[..8] } else { b"HTTP/1.1" };
            assert_eq!(answer, expected, "{spoken:?} {port:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_waypoint_leads_nowhere_else() {
    worker(async {
        let backend = Backend::start("one").await;
        let mut site = Site::start(endpoint("one-0", "one", backend.address));
        let mut other = behind_waypoint("other");
        other.waypoint = None;
        other.vips[0].address = "10.96.0.2".parse().unwrap();
        let endpoint = endpoint("other-0", "other", backend.address);
        let updates = vec![
            Update::Service(Box::new(other)),
            Update::Workload(Box::new(endpoint)),
        ];
        assert!(site.bed.writer.apply(updates).is_empty());
        for authority in [
            "10.96.0.2:80".to_owned(),
            "other.ns.svc.cluster.local:80".to_owned(),
            "10.96.0.3:80".to_owned(),
            backend.address.to_string(),
            "169.254.169.254:80".to_owned(),
        ] {
            let refused = site.open("shop", &authority).await;
            assert!(
                matches!(refused, Err(HboneError::Rejected(_))),
                "{authority}: {refused:?}"
            );
        }
        let by_name = "one.ns.svc.cluster.local:80";
        assert!(site.open("shop", by_name).await.is_ok());
        assert_eq!(backend.seen().len(), 0);
    })
    .await;
}

/// The requests of tunnels.
type Asked = Rc<RefCell<Vec<ConnectRequest>>>;

/// The node of a pod in the mesh: takes tunnels on the pod's address, as that identity.
/// Returns what it has been asked.
async fn node(ip: &str, certificates: &Certificates, account: &str, backend: SocketAddr) -> Asked {
    let asked = Asked::default();
    let of_node = Rc::clone(&asked);
    let listener = TcpListener::bind((ip, HBONE_PORT)).await.unwrap();
    let certificate = certificates.get(&identity("ns", account)).await.unwrap();
    spawn_local(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let config = server_config(&certificate).unwrap();
            let seen = Rc::clone(&of_node);
            spawn_local(async move {
                let session = server::accept(tcp, config, Rc::new(Settings::default()));
                let Ok(session) = session.await else {
                    return;
                };
                assert_eq!(*session.peer(), identity("ns", "waypoint"));
                let seen = Rc::clone(&seen);
                let on_request = move |incoming: server::IncomingRequest| {
                    seen.borrow_mut().push(incoming.request.clone().unwrap());
                    spawn_local(async move {
                        let mut to = TcpStream::connect(backend).await.unwrap();
                        let mut from = TunnelIo::new(incoming.accept(None).unwrap());
                        let _ = copy_bidirectional(&mut from, &mut to).await;
                    });
                };
                let _ = session.serve(on_request, std::future::pending()).await;
            });
        }
    });
    asked
}

fn meshed(ip: &str, backend: SocketAddr) -> Workload {
    let address = SocketAddr::new(ip.parse().unwrap(), backend.port());
    Workload {
        tunnel_protocol: TunnelProtocol::Hbone,
        service_account: "one".into(),
        ..endpoint("one-0", "one", address)
    }
}

#[tokio::test]
async fn pods_in_the_mesh_are_reached_by_tunnel_and_as_themselves() {
    worker(async {
        let backend = Backend::start("one").await;
        let mut site = Site::start(meshed("127.77.0.1", backend.address));
        site.apply(&[attached("all", None, None, vec![rule("/", "one")])]);
        let asked = node("127.77.0.1", &site.certificates, "one", backend.address).await;
        for _ in 0..5 {
            assert_eq!(said(&site.get("shop", "/x").await), (200, "all"));
        }
        assert_eq!(backend.connections(), 1);
        // One connection is for one client, whom the node is told of.
        assert_eq!(said(&site.get("other", "/x").await), (200, "all"));
        assert_eq!(backend.connections(), 2);
        let sources: Vec<_> = asked
            .borrow()
            .iter()
            .map(|one| one.source.clone())
            .collect();
        let client = |namespace| Some(identity(namespace, "client"));
        assert_eq!(sources, [client("shop"), client("other")]);
        let address = asked.borrow()[0].forwarded.client.unwrap();
        assert_eq!(address.ip(), site.bed.address.ip());
        // Another one answers at the address of a pod.
        node(
            "127.77.0.2",
            &site.certificates,
            "impostor",
            backend.address,
        )
        .await;
        let pod = meshed("127.77.0.2", backend.address);
        let updates = vec![Update::Workload(Box::new(pod))];
        assert!(site.bed.writer.apply(updates).is_empty());
        assert_eq!(
            site.get("shop", "/x").await.status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
        let record = site.bed.records(7).await.remove(6);
        assert_eq!(record.reason, Reason::PeerIdentityMismatch);
        assert_eq!(backend.seen().len(), 6);
    })
    .await;
}

#[tokio::test]
async fn a_pod_in_the_mesh_is_never_reached_in_the_clear() {
    let backend = Backend::start("one").await;
    let mut bed = Bed::start(&[route(vec![rule("/", "one")])]);
    let updates = vec![
        Update::Service(Box::new(service("one"))),
        Update::Workload(Box::new(meshed("127.0.0.1", backend.address))),
    ];
    assert!(bed.writer.apply(updates).is_empty());
    assert_eq!(
        bed.get("a", "/").await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(bed.records(1).await.remove(0).reason, Reason::NoCertificate);
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn a_pod_behind_it_is_reached_by_its_own_address() {
    worker(async {
        let listener = TcpListener::bind("127.77.0.5:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pod = |waypoint| Workload {
            waypoint,
            ..endpoint("one-0", "one", address)
        };
        let mut site = Site::start(pod(behind_waypoint("one").waypoint));
        spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(b"220 ready\r\n").await.unwrap();
            }
        });
        let mut stream = site.open("shop", &address.to_string()).await.unwrap();
        let mut said = [0; 11];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"220 ready\r\n");
        // A node that has not heard that it is no longer so is served for a while.
        let updates = vec![Update::Workload(Box::new(pod(None)))];
        assert!(site.bed.writer.apply(updates).is_empty());
        assert!(site.open("shop", &address.to_string()).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn who_comes_before_the_gateway_has_heard_of_it_waits() {
    worker(async {
        let backend = Backend::start("one").await;
        let mut site = Site::start(endpoint("one-0", "one", backend.address));
        let mut free = behind_waypoint("one");
        free.waypoint = None;
        let update = |service| vec![Update::Service(Box::new(service))];
        assert!(site.bed.writer.apply(update(free)).is_empty());
        let authority = format!("{VIP}:80");
        let mut writer = std::mem::replace(&mut site.bed.writer, agent_state::channel().0);
        let opened = site.open("shop", &authority);
        let mut opened = std::pin::pin!(opened);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut opened).await;
        assert!(early.is_err(), "it is kept waiting");
        let bound = behind_waypoint("one");
        assert!(writer.apply(update(bound)).is_empty());
        assert!(opened.await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_client_that_stays_is_asked_to_come_again_by_its_new_way() {
    worker(async {
        let backend = Backend::start("one").await;
        let mut site = Site::start(endpoint("one-0", "one", backend.address));
        site.apply(&[attached("all", None, None, vec![rule("/", "one")])]);
        let stream = site.open("shop", &format!("{VIP}:80")).await.unwrap();
        let handshake = http1::handshake::<_, Full<bytes::Bytes>>(TokioIo::new(stream));
        let (mut send, connection) = handshake.await.unwrap();
        let connection = spawn_local(connection);
        let answer = whole(send.send_request(get("one", "/x")).await.unwrap()).await;
        assert_eq!(said(&answer), (200, "all"));
        let mut free = behind_waypoint("one");
        free.waypoint = None;
        let updates = vec![Update::Service(Box::new(free))];
        assert!(site.bed.writer.apply(updates).is_empty());
        // Whether its own goodbye still finds somebody is all the same to it.
        let ended = tokio::time::timeout(Duration::from_secs(10), connection);
        let _ = ended.await.expect("it ends").unwrap();
        let late = site.open("shop", &format!("{VIP}:80")).await;
        assert!(late.is_ok(), "a node that has not heard of it is served");
    })
    .await;
}

/// Its ports close a moment later, and what is open until then is not without guards.
#[tokio::test]
async fn a_gateway_that_is_gone_lets_nothing_more_pass() {
    worker(async {
        let backend = Backend::start("one").await;
        let site = Site::start(endpoint("one-0", "one", backend.address));
        let before = site.bed.gateway.plan();
        site.apply(&[attached("all", None, None, vec![rule("/", "one")])]);
        let authority = format!("{VIP}:80");
        let stream = site.open("shop", &authority).await.unwrap();
        let handshake = http1::handshake::<_, Full<bytes::Bytes>>(TokioIo::new(stream));
        let (mut send, connection) = handshake.await.unwrap();
        spawn_local(connection);
        let answer = whole(send.send_request(get("one", "/x")).await.unwrap()).await;
        assert_eq!(said(&answer), (200, "all"));
        let gone = async {
            backend.wait_for(2).await;
            site.bed.gateway.store(Plan::closed(Some(&before)));
            whole(send.send_request(get("one", "/y")).await.unwrap()).await
        };
        let (under_way, late) = tokio::join!(site.get("shop", "/delay/300"), gone);
        assert_eq!(said(&under_way), (200, "all"), "it ends as it began");
        assert_eq!(late.status(), StatusCode::SERVICE_UNAVAILABLE);
        let records = site.bed.records(3).await;
        let mut reasons = records.iter().map(|record| record.reason);
        assert!(reasons.any(|reason| reason == Reason::WaypointUnavailable));
        // By the open tunnel, and by another.
        let refused = site.open("shop", &authority).await.unwrap_err();
        assert_eq!(refused.reason(), Reason::PeerRejected, "{refused}");
        assert!(site.open("other", &authority).await.is_err());
        assert_eq!(backend.seen().len(), 2, "nothing came through");
    })
    .await;
}
