//! What answers behind the gateways: one server for each pod and port, for the whole program.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;

/// Serves HTTP/1.1, and HTTP/2 by prior knowledge.
pub(crate) const HTTP: u16 = 3000;
/// Speaks HTTP/2 only.
pub(crate) const H2C: u16 = 3001;
/// Says its name to whoever connects, and then what it is told.
pub(crate) const TCP: u16 = 3005;
/// Answers datagrams with its name.
pub(crate) const UDP: u16 = 3006;
/// The same as [`HTTP`] in TLS.
pub(crate) const TLS: u16 = 8443;
/// Closes every connection at once.
pub(crate) const RESET: u16 = 3009;

/// Name of each pod, by the last byte of its address.
pub(crate) const PODS: [&str; 9] = [
    "infra-v1-a",
    "infra-v1-b",
    "infra-v2-a",
    "infra-v2-b",
    "infra-v3-a",
    "infra-v3-b",
    "app-v1-a",
    "app-v2-a",
    "web-a",
];

/// Where a pod of 10.77.0.0/24 really is: on loopback, at a place of this process's own.
pub(crate) fn moved(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) if v4.octets()[..3] == [10, 77, 0] => home(v4.octets()[3]).into(),
        other => other,
    }
}

fn home(pod: u8) -> Ipv4Addr {
    let process = std::process::id();
    // Not 127.0: that is everybody's.
    Ipv4Addr::new(
        127,
        1 + (process % 250) as u8,
        (process / 250 % 250) as u8,
        pod,
    )
}

/// The authority of the certificates of pods, PEM.
pub(crate) fn authority() -> &'static str {
    &CERTIFICATES.authority
}

struct Certificates {
    authority: String,
    server: Arc<rustls::ServerConfig>,
}

static CERTIFICATES: LazyLock<Certificates> = LazyLock::new(|| {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let names = ["abc.example.com", "other.example.com"].map(str::to_owned);
    let mut params = CertificateParams::new(names.to_vec()).unwrap();
    let spiffe = "spiffe://abc.example.com/test-identity".try_into().unwrap();
    params.subject_alt_names.push(SanType::URI(spiffe));
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    // What clients show is looked at by nobody, but it is asked for.
    let asked = Arc::new(AnyClient(rustls::crypto::aws_lc_rs::default_provider()));
    let mut server = rustls::ServerConfig::builder()
        .with_client_cert_verifier(asked)
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Certificates {
        authority: issuer.pem(),
        server: Arc::new(server),
    }
});

/// Starts the servers, once.
pub(crate) fn start() {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        let (ready, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                for (index, pod) in PODS.into_iter().enumerate() {
                    serve(pod, home(index as u8 + 1)).await;
                }
                ready.send(()).unwrap();
                std::future::pending::<()>().await;
            });
        });
        wait.recv().unwrap();
    });
}

async fn serve(pod: &'static str, ip: Ipv4Addr) {
    for port in [HTTP, H2C, TLS, TCP, RESET] {
        let listener = TcpListener::bind((ip, port)).await.unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = talk(pod, port, stream).await;
                });
            }
        });
    }
    let socket = UdpSocket::bind(SocketAddr::from((ip, UDP))).await.unwrap();
    tokio::spawn(async move {
        let mut datagram = [0; 64];
        while let Ok((_, client)) = socket.recv_from(&mut datagram).await {
            let _ = socket.send_to(pod.as_bytes(), client).await;
        }
    });
}

async fn talk(pod: &'static str, port: u16, mut stream: tokio::net::TcpStream) -> io::Result<()> {
    match port {
        TCP => {
            stream.write_all(pod.as_bytes()).await?;
            let mut told = [0; 64];
            while let read @ 1.. = stream.read(&mut told).await? {
                stream.write_all(&told[..read]).await?;
            }
        }
        // A connection that ends before anything was said.
        RESET => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?,
        TLS => {
            let acceptor = TlsAcceptor::from(Arc::clone(&CERTIFICATES.server));
            let stream = acceptor.accept(stream).await?;
            let (_, session) = stream.get_ref();
            let seen = json!({
                "sni": session.server_name(),
                "clientCertificates": session.peer_certificates().map_or(0, <[_]>::len),
            });
            http(pod, false, Some(seen), TokioIo::new(stream)).await;
        }
        _ => http(pod, port == H2C, None, TokioIo::new(stream)).await,
    }
    Ok(())
}

async fn http<I>(pod: &'static str, only_h2: bool, tls: Option<Value>, io: I)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(pod, tls.clone(), request));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    if only_h2 {
        builder = builder.http2_only();
    }
    let _ = builder.serve_connection_with_upgrades(io, service).await;
}

/// Requests so far by pod and path, for mirrors.
static SEEN: Mutex<BTreeMap<(&'static str, String), Vec<Value>>> = Mutex::new(BTreeMap::new());

/// What a pod was asked for at a path.
pub(crate) fn seen(pod: &'static str, path: &str) -> Vec<Value> {
    let seen = SEEN.lock().unwrap();
    seen.get(&(pod, path.to_owned()))
        .cloned()
        .unwrap_or_default()
}

type Body = BoxBody<Bytes, Infallible>;

/// Says what it was asked. `?delay=MS` waits, `?status=CODE` answers so, `?fail=N` answers 503 the
/// first N times for that query, `x-echo-set` is `name:value,..` of headers of the answer, and a
/// request to change to WebSocket is granted.
async fn answer(
    pod: &'static str,
    tls: Option<Value>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let said = said(pod, tls, &request);
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let times = {
        let mut seen = SEEN.lock().unwrap();
        let all = seen.entry((pod, path.clone())).or_default();
        all.push(said.clone());
        all.iter().filter(|one| one["query"] == query).count()
    };
    let argument = |name: &str| {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        let found = pairs.find(|(key, _)| key == name);
        found.and_then(|(_, value)| value.parse::<u64>().ok())
    };
    if let Some(delay) = argument("delay") {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let mut response = Response::builder();
    for pair in value(request.headers(), "x-echo-set").split(',') {
        if let Some((name, value)) = pair.split_once(':') {
            response = response.header(name, value);
        }
    }
    if argument("fail").is_some_and(|fail| times as u64 <= fail) {
        response = response.status(StatusCode::SERVICE_UNAVAILABLE);
    }
    if let Some(status) = argument("status") {
        response = response.status(status as u16);
    }
    if value(request.headers(), "upgrade") == "websocket" {
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
            let mut stream = TokioIo::new(upgraded);
            let mut told = [0; 64];
            while let Ok(read @ 1..) = stream.read(&mut told).await {
                let _ = stream.write_all(&told[..read]).await;
            }
        });
        let response = response
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "websocket");
        return Ok(response.body(whole(Vec::new())).unwrap());
    }
    let is_grpc = value(request.headers(), "content-type").starts_with("application/grpc");
    let text = said.to_string();
    if !is_grpc {
        return Ok(response.body(whole(text.into())).unwrap());
    }
    let mut message = vec![0];
    message.extend((text.len() as u32).to_be_bytes());
    message.extend(text.as_bytes());
    let mut trailers = HeaderMap::new();
    let status = HeaderName::from_static("grpc-status");
    trailers.insert(status, HeaderValue::from_static("0"));
    let frames = [
        Ok(Frame::data(Bytes::from(message))),
        Ok(Frame::trailers(trailers)),
    ];
    let body = BodyExt::boxed(StreamBody::new(tokio_stream::iter(frames)));
    let response = response.header("content-type", "application/grpc");
    Ok(response.body(body).unwrap())
}

fn whole(text: Vec<u8>) -> Body {
    http_body_util::Full::new(Bytes::from(text)).boxed()
}

fn value<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let found = headers.get(name).and_then(|value| value.to_str().ok());
    found.unwrap_or_default()
}

fn said(pod: &str, tls: Option<Value>, request: &Request<Incoming>) -> Value {
    let mut headers = serde_json::Map::new();
    for name in request.headers().keys() {
        let all = request.headers().get_all(name).iter();
        let all: Vec<&str> = all.filter_map(|value| value.to_str().ok()).collect();
        headers.insert(name.to_string(), json!(all.join(",")));
    }
    let host = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => value(request.headers(), "host"),
    };
    json!({
        "pod": pod,
        "path": request.uri().path(),
        "query": request.uri().query().unwrap_or_default(),
        "host": host,
        "method": request.method().as_str(),
        "version": format!("{:?}", request.version()),
        "headers": headers,
        "tls": tls,
    })
}

/// Takes every certificate of a client, and none.
#[derive(Debug)]
struct AnyClient(rustls::crypto::CryptoProvider);

mod any_client {
    use rustls::client::danger::HandshakeSignatureValid;
    use rustls::pki_types::{CertificateDer, UnixTime};
    use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
    use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

    use super::AnyClient;

    impl ClientCertVerifier for AnyClient {
        fn client_auth_mandatory(&self) -> bool {
            false
        }

        fn root_hint_subjects(&self) -> &[DistinguishedName] {
            &[]
        }

        fn verify_client_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: UnixTime,
        ) -> Result<ClientCertVerified, Error> {
            Ok(ClientCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let known = &self.0.signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let known = &self.0.signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}
