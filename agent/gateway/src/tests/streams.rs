//! TLSRoutes and TCPRoutes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_model::Reason;
use agent_model::gateway::{
    Backend as BackendSettings, BackendProtocol, BackendTls, GatewayKey, L4Rule, Listener,
    ListenerTls, Parent, Protocol, Route, RouteKey, RouteKind, Rules, Target, TrustedRoots,
    VerifiedTls, WeightedTarget,
};
use rustls::ServerConfig;
use rustls::version::TLS13;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, client};

use super::authority::Authority;
use super::backend::Backend;
use super::bed::{Bed, get, listener, route, rule, service, target, whole};

/// Says its name, then echoes until its client is done; over TLS where it has a certificate.
pub(super) async fn echo(name: &'static str, tls: Option<Arc<ServerConfig>>) -> SocketAddr {
    echo_with("127.0.0.1", name, tls).await
}

/// The same on another address.
pub(super) async fn echo_at(ip: &str, name: &'static str) -> SocketAddr {
    echo_with(ip, name, None).await
}

async fn echo_with(ip: &str, name: &'static str, tls: Option<Arc<ServerConfig>>) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                match tls {
                    None => serve_echo(name, stream).await,
                    Some(tls) => match TlsAcceptor::from(tls).accept(stream).await {
                        Ok(stream) => serve_echo(name, stream).await,
                        Err(_) => Ok(()),
                    },
                }
            });
        }
    });
    address
}

async fn serve_echo(name: &str, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.write_all(name.as_bytes()).await?;
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            read => stream.write_all(&buffer[..read]).await?,
        }
    }
}

/// Sends, half-closes, and reads to the end.
pub(super) async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<String> {
    stream.write_all(b":hi").await?;
    stream.shutdown().await?;
    let mut all = String::new();
    stream.read_to_string(&mut all).await?;
    Ok(all)
}

async fn secured(
    bed: &Bed,
    authority: &Authority,
    name: &str,
) -> io::Result<client::TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(bed.address).await.unwrap();
    authority.trusting(tcp, name).await
}

pub(super) fn on(
    kind: RouteKind,
    listener: &str,
    name: &str,
    hostnames: &[&str],
    backends: &[(u32, Target)],
) -> Route {
    let backends = backends.iter().map(|(weight, target)| WeightedTarget {
        weight: *weight,
        target: target.clone(),
    });
    Route {
        key: RouteKey::new(kind, "ns", name),
        created: 0,
        hostnames: hostnames.iter().map(|name| name.parse().unwrap()).collect(),
        parents: vec![Parent::Listener {
            gateway: GatewayKey::new("ns", "edge"),
            name: listener.into(),
        }],
        rules: Rules::L4(vec![L4Rule {
            name: None,
            backends: backends.collect(),
        }]),
    }
}

pub(super) fn to(name: &str) -> Target {
    target(name, BackendProtocol::Http)
}

pub(super) fn of(port: u16, name: &str, protocol: Protocol, hostname: Option<&str>) -> Listener {
    Listener {
        protocol,
        hostname: hostname.map(|name| name.parse().unwrap()),
        tls: (protocol == Protocol::Tls).then_some(ListenerTls::Passthrough),
        ..listener(name, port)
    }
}

fn terminating(authority: &Authority, names: &[&str]) -> Option<ListenerTls> {
    Some(ListenerTls::Terminate {
        certificates: vec![authority.certificate(names)],
        client_validation: None,
    })
}

#[tokio::test]
async fn tls_passes_through_by_name_to_whom_its_route_says() {
    let authority = Authority::new();
    let mut bed = Bed::idle(None);
    let names = ["a.org", "x.wild.org", "b.wild.org"];
    for name in ["exact", "wild", "narrow"] {
        let config = authority.server(&names, &TLS13, &[], None);
        let address = echo(name, Some(config)).await;
        bed.service_at(name, &[address]);
    }
    let routes = [
        on(
            RouteKind::Tls,
            "tls",
            "exact",
            &["a.org"],
            &[(1, to("exact"))],
        ),
        on(
            RouteKind::Tls,
            "tls",
            "wild",
            &["*.wild.org"],
            &[(1, to("wild"))],
        ),
        on(
            RouteKind::Tls,
            "tls",
            "narrow",
            &["b.wild.org"],
            &[(1, to("narrow"))],
        ),
    ];
    let port = bed.address.port();
    let listeners = vec![of(port, "tls", Protocol::Tls, None)];
    assert_eq!(bed.apply_with(listeners, &routes), []);
    for (name, expected) in [
        ("a.org", "exact"),
        ("x.wild.org", "wild"),
        ("b.wild.org", "narrow"),
    ] {
        // The gateway has no certificate at all: the one that is accepted is the backend's.
        let stream = secured(&bed, &authority, name).await.unwrap();
        assert_eq!(converse(stream).await.unwrap(), format!("{expected}:hi"));
    }
    for unknown in ["wild.org", "c.org"] {
        // An alert would be an answer, of whom the client did not ask.
        let refused = secured(&bed, &authority, unknown).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionReset, "{refused}");
    }
    let passages = bed.passages(5).await;
    let first = &passages[0];
    assert_eq!(first.name.as_deref(), Some("a.org"));
    assert_eq!(first.route.as_deref(), Some("exact"));
    assert_eq!(first.reason, Reason::Ok);
    assert!(first.received > 100 && first.sent > 500, "{first:?}");
    assert_eq!(passages[4].reason, Reason::NoRoute);

    // The same where the listener is not for that name.
    let mut listener = of(port, "tls", Protocol::Tls, None);
    listener.hostname = Some("a.org".parse().unwrap());
    assert_eq!(bed.apply_with(vec![listener], &routes[..1]), []);
    assert!(secured(&bed, &authority, "a.org").await.is_ok());
    let refused = secured(&bed, &authority, "x.wild.org").await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionReset, "{refused}");
}

#[tokio::test]
async fn a_hello_in_pieces_passes_and_what_is_none_gets_an_alert() {
    let authority = Authority::new();
    let config = authority.server(&["a.org"], &TLS13, &[], None);
    let mut bed = Bed::idle(None);
    bed.service_at("one", &[echo("one", Some(config)).await]);
    let route = on(RouteKind::Tls, "tls", "r", &["a.org"], &[(1, to("one"))]);
    let port = bed.address.port();
    bed.apply_with(vec![of(port, "tls", Protocol::Tls, None)], &[route]);

    // A proxy between them that passes one byte at a time.
    let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (real, between) = (bed.address, slow.local_addr().unwrap());
    tokio::spawn(async move {
        let (client, _) = slow.accept().await.unwrap();
        client.set_nodelay(true).unwrap();
        let gateway = TcpStream::connect(real).await.unwrap();
        gateway.set_nodelay(true).unwrap();
        let (mut from, mut back) = client.into_split();
        let (mut answers, mut into) = gateway.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
        let mut byte = [0];
        while from.read_exact(&mut byte).await.is_ok() && into.write_all(&byte).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    bed.address = between;
    let stream = secured(&bed, &authority, "a.org").await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    write.write_all(b":hi").await.unwrap();
    let mut answer = [0; 6];
    read.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"one:hi");

    let mut garbage = TcpStream::connect(real).await.unwrap();
    garbage
        .write_all(b"GET / HTTP/1.1\r\nhost: a.org\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = garbage.read_to_end(&mut answer).await;
    assert_eq!(answer.first(), Some(&21), "an alert: {answer:?}");
}

#[tokio::test]
async fn what_a_name_gets_differs_on_one_port() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let mut bed = Bed::idle(None);
    let http = Backend::start("http").await;
    bed.service("http", &[&http]);
    bed.service_at("plain", &[echo("plain", None).await]);
    let config = theirs.server(&["through.org", "again.org"], &TLS13, &[], None);
    let through = echo("through", Some(config)).await;
    bed.service_at("through", &[through]);
    bed.service_at("again", &[through]);
    let port = bed.address.port();
    let listeners = vec![
        Listener {
            tls: terminating(&ours, &["http.org"]),
            ..of(port, "https", Protocol::Https, Some("http.org"))
        },
        Listener {
            tls: terminating(&ours, &["ends.org"]),
            ..of(port, "ends", Protocol::Tls, Some("ends.org"))
        },
        Listener {
            tls: terminating(&ours, &["again.org"]),
            ..of(port, "again", Protocol::Tls, Some("again.org"))
        },
        of(port, "through", Protocol::Tls, Some("*.org")),
    ];
    let mut web = route(vec![rule("/", "http")]);
    web.parents = vec![Parent::Listener {
        gateway: GatewayKey::new("ns", "edge"),
        name: "https".into(),
    }];
    let tls = RouteKind::Tls;
    let routes = [
        web,
        on(tls, "ends", "ends", &["ends.org"], &[(1, to("plain"))]),
        on(tls, "again", "again", &["again.org"], &[(1, to("again"))]),
        on(
            tls,
            "through",
            "through",
            &["through.org"],
            &[(1, to("through"))],
        ),
    ];
    // TLS that has ended here begins again where the backend wants it.
    bed.backends = vec![Arc::new(BackendSettings {
        service: service("again").key(),
        port: None,
        tls: Some(BackendTls::Verified(VerifiedTls {
            hostname: "again.org".into(),
            roots: TrustedRoots::Certificates(theirs.root.pem().into()),
            subject_alt_names: Vec::new(),
        })),
    })];
    assert_eq!(bed.apply_with(listeners.clone(), &routes), []);
    let stream = secured(&bed, &ours, "http.org").await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let response = whole(send.send_request(get("http.org", "/x")).await.unwrap()).await;
    assert_eq!(response.status(), 200);
    for (authority, name, expected) in [
        (&ours, "ends.org", "plain:hi"),
        (&ours, "again.org", "through:hi"),
        (&theirs, "through.org", "through:hi"),
    ] {
        let stream = secured(&bed, authority, name).await.unwrap();
        assert_eq!(converse(stream).await.unwrap(), expected, "{name}");
    }
    // What has not changed is not compiled again.
    let before = bed.gateway.plan();
    assert_eq!(bed.apply_with(listeners, &routes), []);
    let after = bed.gateway.plan();
    let config = |plan: &crate::plan::Plan| {
        let listener = plan.port(port).unwrap().stream("ends.org").unwrap();
        Arc::clone(listener.tls.as_ref().unwrap())
    };
    assert!(Arc::ptr_eq(&config(&before), &config(&after)));
}

#[tokio::test]
async fn connections_are_shared_by_weight_and_the_oldest_route_has_them() {
    let mut bed = Bed::idle(None);
    bed.service_at("a", &[echo("a", None).await]);
    bed.service_at("b", &[echo("b", None).await]);
    let port = bed.address.port();
    let listeners = vec![of(port, "tcp", Protocol::Tcp, None)];
    let shares = [
        (3, to("a")),
        (1, Target::Invalid("BackendNotFound".into())),
        (0, to("b")),
    ];
    let oldest = on(RouteKind::Tcp, "tcp", "oldest", &[], &shares);
    let younger = Route {
        created: 1,
        ..on(
            RouteKind::Tcp,
            "tcp",
            "an-earlier-name",
            &[],
            &[(1, to("b"))],
        )
    };
    assert_eq!(
        bed.apply_with(listeners.clone(), &[younger.clone(), oldest]),
        []
    );
    const CONNECTIONS: usize = 80;
    let mut served = 0;
    for _ in 0..CONNECTIONS {
        // Who is refused may learn it before the connection is told to stand.
        let conversed = async { converse(TcpStream::connect(bed.address).await?).await };
        match conversed.await {
            Ok(answer) => {
                assert_eq!(answer, "a:hi");
                served += 1;
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }
    // Six standard deviations around 60.
    assert!((37..=79).contains(&served), "{served}");
    let passages = bed.passages(CONNECTIONS).await;
    for passage in &passages {
        assert_eq!(passage.route.as_deref(), Some("oldest"));
        match passage.reason {
            Reason::Ok => assert_eq!((passage.received, passage.sent), (3, 4)),
            reason => assert_eq!(reason, Reason::BackendInvalid),
        }
    }
    // Without the older one the other has them, and a listener without routes refuses.
    bed.apply_with(listeners.clone(), &[younger]);
    let stream = TcpStream::connect(bed.address).await.unwrap();
    assert_eq!(converse(stream).await.unwrap(), "b:hi");
    bed.apply_with(listeners, &[]);
    let conversed = async { converse(TcpStream::connect(bed.address).await?).await };
    assert!(conversed.await.is_err());
}

#[tokio::test]
async fn a_connection_outlives_its_route_and_a_reset_is_passed_on() {
    let mut bed = Bed::idle(None);
    bed.service_at("a", &[echo("a", None).await]);
    let port = bed.address.port();
    let listeners = vec![of(port, "tcp", Protocol::Tcp, None)];
    bed.apply_with(
        listeners.clone(),
        &[on(RouteKind::Tcp, "tcp", "r", &[], &[(1, to("a"))])],
    );
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    let mut answer = [0; 2];
    stream.read_exact(&mut answer[..1]).await.unwrap();
    bed.apply_with(listeners, &[]);
    stream.write_all(b"hi").await.unwrap();
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hi");
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
    assert_eq!(bed.passages(1).await[0].reason, Reason::ConnectionReset);

    // And from the backend to the client.
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    bed.service_at("rude", &[backend.local_addr().unwrap()]);
    bed.apply_with(
        vec![of(port, "tcp", Protocol::Tcp, None)],
        &[on(RouteKind::Tcp, "tcp", "r", &[], &[(1, to("rude"))])],
    );
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    let (rude, _) = backend.accept().await.unwrap();
    socket2::SockRef::from(&rude)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(rude);
    let ended = stream.read(&mut answer).await.unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn nobody_at_home_is_a_reason() {
    let mut bed = Bed::idle(None);
    bed.service_at("gone", &[super::bed::free_port()]);
    let port = bed.address.port();
    bed.apply_with(
        vec![of(port, "tcp", Protocol::Tcp, None)],
        &[on(RouteKind::Tcp, "tcp", "r", &[], &[(1, to("gone"))])],
    );
    let conversed = async { converse(TcpStream::connect(bed.address).await?).await };
    assert!(conversed.await.is_err());
    assert_eq!(bed.passages(1).await[0].reason, Reason::ConnectRefused);
}
