//! TLS to backends.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agent_model::Reason;
use agent_model::gateway::{
    Backend, BackendProtocol, BackendTls, SubjectAltName, TrustedRoots, VerifiedTls,
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::version::{TLS12, TLS13};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::authority::Authority;
use super::backend::Backend as PlainBackend;
use super::bed::{Bed, route, rule, service, target};
use crate::plan::Subject;

const HTTP: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A backend that speaks TLS and says in its answers what it saw of it.
struct Peer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Peer {
    async fn start(config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let acceptor = TlsAcceptor::from(Arc::clone(&config));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let tls = stream.get_ref().1;
                    let mut seen = HeaderMap::new();
                    let alpn = tls.alpn_protocol().unwrap_or_default();
                    seen.insert("x-alpn", alpn.try_into().unwrap());
                    let sni = tls.server_name().unwrap_or_default();
                    seen.insert("x-sni", sni.parse().unwrap());
                    let shown = tls.peer_certificates().map_or(0, <[_]>::len);
                    seen.insert("x-shown", shown.into());
                    let service = service_fn(move |request: Request<Incoming>| {
                        let mut response = Response::new(Full::<Bytes>::default());
                        *response.headers_mut() = seen.clone();
                        if let Some(scheme) = request.uri().scheme_str() {
                            let scheme = scheme.parse().unwrap();
                            response.headers_mut().insert("x-scheme", scheme);
                        }
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self {
            address,
            connections,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

fn settings(port: Option<u16>, tls: BackendTls) -> Arc<Backend> {
    Arc::new(Backend {
        service: service("one").key(),
        port,
        tls: Some(tls),
    })
}

fn verified(hostname: &str, authority: &Authority, names: &[SubjectAltName]) -> BackendTls {
    BackendTls::Verified(VerifiedTls {
        hostname: hostname.into(),
        roots: TrustedRoots::Certificates(authority.root.pem().into()),
        subject_alt_names: names.to_vec(),
    })
}

/// A gateway in front of the service `one` of that address, reached like this.
fn bed(address: SocketAddr, protocol: BackendProtocol, tls: BackendTls) -> Bed {
    let mut bed = Bed::idle(None);
    bed.service_at("one", &[address]);
    say(&mut bed, protocol, tls);
    bed
}

fn say(bed: &mut Bed, protocol: BackendProtocol, tls: BackendTls) {
    bed.backends = vec![settings(None, tls)];
    let mut rule = rule("/", "one");
    rule.backends[0].target = target("one", protocol);
    assert_eq!(bed.apply(&[route(vec![rule])]), []);
}

#[tokio::test]
async fn endpoints_are_spoken_to_in_tls_by_the_name_and_protocol_of_the_policy() {
    let authority = Authority::new();
    for version in [&TLS13, &TLS12] {
        let config = authority.server(&["one.org"], version, &HTTP, None);
        let peer = Peer::start(config).await;
        for (protocol, alpn) in [
            (BackendProtocol::Http, "http/1.1"),
            (BackendProtocol::H2c, "h2"),
        ] {
            let bed = bed(peer.address, protocol, verified("one.org", &authority, &[]));
            let response = bed.get("a.org", "/").await;
            assert_eq!(response.status(), 200);
            let seen = |name: &str| response.headers()[name].to_str().unwrap();
            assert_eq!((seen("x-alpn"), seen("x-sni")), (alpn, "one.org"));
            if protocol == BackendProtocol::H2c {
                assert_eq!(seen("x-scheme"), "https");
            }
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_cannot_prove_its_name_gets_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let uri = "spiffe://cluster.local/ns/ns/sa/one";
    let config = authority.server(&["one.org", "*.wild.org", uri], &TLS13, &HTTP, None);
    let peer = Peer::start(config).await;
    let host = |name: &str| SubjectAltName::Hostname(name.into());
    let spiffe = |name: &str| SubjectAltName::Uri(name.into());
    let cases = [
        (verified("one.org", &authority, &[]), true),
        (verified("x.wild.org", &authority, &[]), true),
        (verified("two.org", &authority, &[]), false),
        (verified("one.org", &other, &[]), false),
        // Other names replace the one that is asked for.
        (verified("two.org", &authority, &[host("one.org")]), true),
        (verified("two.org", &authority, &[spiffe(uri)]), true),
        (verified("two.org", &authority, &[host("x.wild.org")]), true),
        (verified("two.org", &authority, &[host("*.wild.org")]), true),
        (verified("two.org", &authority, &[host("*.org")]), false),
        (verified("one.org", &authority, &[host("two.org")]), false),
        (
            verified(
                "one.org",
                &authority,
                &[spiffe("spiffe://cluster.local/ns/ns/sa/on")],
            ),
            false,
        ),
        (
            verified("a.org", &authority, &[host("b.org"), spiffe(uri)]),
            true,
        ),
        (verified("one.org", &other, &[spiffe(uri)]), false),
    ];
    for (tls, works) in cases {
        let bed = bed(peer.address, BackendProtocol::Http, tls.clone());
        let status = bed.get("a.org", "/").await.status();
        assert_eq!(status, if works { 200 } else { 503 }, "{tls:?}");
        if !works {
            assert_eq!(bed.records(1).await[0].reason, Reason::TlsFailed);
        }
    }
}

#[tokio::test]
async fn where_tls_is_wanted_nothing_goes_in_the_clear() {
    let authority = Authority::new();
    let plain = PlainBackend::start("one").await;
    let tls = verified("one.org", &authority, &[]);
    let mut bed = bed(plain.address, BackendProtocol::Http, tls.clone());
    assert_eq!(bed.get("a.org", "/").await.status(), 503);

    // Of the port counts more than of the service, and of another port not at all.
    let invalid = |port| settings(port, BackendTls::Invalid("no roots".into()));
    bed.backends = vec![settings(None, tls), invalid(Some(80))];
    let faults = bed.apply(&[route(vec![rule("/", "one")])]);
    let subject = Subject::Backend(service("one").key(), Some(80));
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].subject, subject);
    assert_eq!(bed.get("a.org", "/").await.status(), 500);
    assert_eq!(bed.records(2).await[1].reason, Reason::BackendInvalid);
    assert_eq!(plain.seen().len(), 0);
    bed.backends = vec![invalid(Some(81))];
    bed.apply(&[route(vec![rule("/", "one")])]);
    assert_eq!(bed.get("a.org", "/").await.status(), 200);
    bed.backends = vec![invalid(None)];
    bed.apply(&[route(vec![rule("/", "one")])]);
    assert_eq!(bed.get("a.org", "/").await.status(), 500);
    bed.backends = Vec::new();
    assert_eq!(bed.apply(&[route(vec![rule("/", "one")])]), []);
    assert_eq!(bed.get("a.org", "/").await.status(), 200);
}

#[tokio::test]
async fn the_gateway_shows_its_certificate_when_it_is_asked_for() {
    let (authority, clients) = (Authority::new(), Authority::new());
    for version in [&TLS13, &TLS12] {
        let config = authority.server(&["one.org"], version, &HTTP, Some(&clients));
        let peer = Peer::start(config).await;
        let tls = verified("one.org", &authority, &[]);
        let mut bed = bed(peer.address, BackendProtocol::Http, tls.clone());
        assert_eq!(bed.get("a.org", "/").await.status(), 503);
        bed.shown = Some(clients.certificate(&["gateway"]));
        say(&mut bed, BackendProtocol::Http, tls.clone());
        let response = bed.get("a.org", "/").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-shown"], "1");
        bed.shown = Some(authority.certificate(&["gateway"]));
        say(&mut bed, BackendProtocol::Http, tls);
        assert_eq!(bed.get("a.org", "/").await.status(), 503);
    }
}

#[tokio::test]
async fn connections_live_as_long_as_what_is_said_of_their_backend() {
    let (authority, other) = (Authority::new(), Authority::new());
    let config = authority.server(&["one.org"], &TLS13, &HTTP, None);
    let peer = Peer::start(config).await;
    let tls = verified("one.org", &authority, &[]);
    let mut bed = bed(peer.address, BackendProtocol::Http, tls.clone());
    for _ in 0..3 {
        assert_eq!(bed.get("a.org", "/").await.status(), 200);
        say(&mut bed, BackendProtocol::Http, tls.clone());
    }
    assert_eq!(peer.connections(), 1);
    say(
        &mut bed,
        BackendProtocol::Http,
        verified("one.org", &other, &[]),
    );
    assert_eq!(bed.get("a.org", "/").await.status(), 503);
    say(&mut bed, BackendProtocol::Http, tls);
    assert_eq!(bed.get("a.org", "/").await.status(), 200);
}
