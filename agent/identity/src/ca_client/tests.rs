use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::ca::IstioCertificateResponse;
use proto::ca::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::codegen::Service as _;
use tonic::{Request, Response, Status};

use super::*;
use crate::PendingKey;

const HOUR: Duration = Duration::from_secs(3600);

/// What one call carried.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    bearer: String,
    cluster: String,
    identity: String,
    seconds: i64,
}

/// The service as the wire has it, over an authority.
#[derive(Clone)]
struct Service {
    authority: Arc<Authority>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let header = |name| request.metadata().get(name).unwrap().to_str().unwrap();
        let (bearer, cluster) = (
            header("authorization").to_owned(),
            header("clusterid").to_owned(),
        );
        if bearer != "Bearer good" && bearer != "Bearer better" {
            return Err(Status::unauthenticated("who are you"));
        }
        let body = request.into_inner();
        let metadata = body.metadata.unwrap();
        let Some(Kind::StringValue(identity)) =
            metadata.fields["ImpersonatedIdentity"].kind.clone()
        else {
            return Err(Status::invalid_argument("identity"));
        };
        self.seen.lock().unwrap().push(Seen {
            bearer,
            cluster,
            identity: identity.clone(),
            seconds: body.validity_duration,
        });
        let ttl = Duration::from_secs(body.validity_duration.unsigned_abs());
        let cert_chain = self
            .authority
            .sign(
                &body.csr,
                &identity.parse().unwrap(),
                ttl,
                SystemTime::now(),
            )
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// A running service, and the files a client of it needs.
struct Running {
    service: Service,
    address: SocketAddr,
    directory: PathBuf,
}

impl Running {
    async fn start() -> Self {
        let authority = Arc::new(Authority::in_memory("cluster.local", SystemTime::now()).unwrap());
        let config = serving(&authority, HOUR, SystemTime::now);
        let service = Service {
            authority: Arc::clone(&authority),
            seen: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, TlsAcceptor::from(config), service.clone()));
        let directory =
            std::env::temp_dir().join(format!("culvert-client-{:032x}", rand::random::<u128>()));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("root"), authority.bundle().pem()).unwrap();
        fs::write(directory.join("token"), "good\n").unwrap();
        Self {
            service,
            address,
            directory,
        }
    }

    fn client(&self) -> GrpcCaClient {
        GrpcCaClient::new(GrpcCaConfig {
            address: self.address.to_string(),
            root_cert: self.directory.join("root"),
            token_file: self.directory.join("token"),
            cluster_id: "one".to_owned(),
        })
        .unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, service: Service) {
    let server = IstioCertificateServiceServer::new(service);
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, server) = (acceptor.clone(), server.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(tcp).await else {
                return;
            };
            let service = service_fn(move |request| server.clone().call(request));
            let _ = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn serving(
    authority: &Arc<Authority>,
    ttl: Duration,
    clock: fn() -> SystemTime,
) -> Arc<ServerConfig> {
    let names = ["127.0.0.1".to_owned(), "control.test".to_owned()];
    authority.serving_config(&names, ttl, clock).unwrap()
}

fn web() -> Identity {
    Identity::new("cluster.local", "shop", "web").unwrap()
}

#[tokio::test]
async fn a_certificate_over_the_wire() {
    let running = Running::start().await;
    let key = PendingKey::generate(&web()).unwrap();
    let client = running.client();
    let answer = client.issue(&web(), key.csr_pem(), HOUR).await.unwrap();
    let certificate = key.complete(&answer, SystemTime::now()).unwrap();
    assert_eq!(certificate.identity(), &web());
    assert_eq!(
        *running.service.seen.lock().unwrap(),
        [Seen {
            bearer: "Bearer good".to_owned(),
            cluster: "one".to_owned(),
            identity: web().to_string(),
            seconds: 3600,
        }]
    );
}

#[tokio::test]
async fn the_token_is_read_for_every_call_and_never_told() {
    let running = Running::start().await;
    let client = running.client();
    let key = PendingKey::generate(&web()).unwrap();
    let token = running.directory.join("token");
    fs::write(&token, "secret-but-wrong").unwrap();
    let error = client.issue(&web(), key.csr_pem(), HOUR).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("who are you"), "{text}");
    assert!(!text.contains("secret-but-wrong"), "{text}");
    fs::write(&token, "better").unwrap();
    client.issue(&web(), key.csr_pem(), HOUR).await.unwrap();
    fs::write(&token, "two\nlines").unwrap();
    assert!(client.issue(&web(), key.csr_pem(), HOUR).await.is_err());
}

#[tokio::test]
async fn a_service_of_another_root_is_not_told_the_token() {
    let running = Running::start().await;
    let other = Authority::in_memory("cluster.local", SystemTime::now()).unwrap();
    fs::write(running.directory.join("root"), other.bundle().pem()).unwrap();
    let key = PendingKey::generate(&web()).unwrap();
    let error = running
        .client()
        .issue(&web(), key.csr_pem(), HOUR)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    assert!(running.service.seen.lock().unwrap().is_empty());
}

#[test]
fn plain_http_is_refused() {
    let config = GrpcCaConfig {
        address: "http://127.0.0.1:1".to_owned(),
        root_cert: PathBuf::new(),
        token_file: PathBuf::new(),
        cluster_id: String::new(),
    };
    assert!(GrpcCaClient::new(config).is_err());
}

/// A clock of one test alone, in seconds since 40 minutes ago: never later than the real one,
/// which the client goes by.
static ELAPSED: AtomicU64 = AtomicU64::new(0);

fn clock() -> SystemTime {
    SystemTime::now() - HOUR * 2 / 3 + Duration::from_secs(ELAPSED.load(Ordering::SeqCst))
}

#[tokio::test]
async fn the_serving_certificate_renews_itself() {
    let authority = Arc::new(Authority::in_memory("cluster.local", clock()).unwrap());
    let config = serving(&authority, HOUR, clock);
    let first = served_leaf(&authority, &config).await;
    assert_eq!(served_leaf(&authority, &config).await, first);
    ELAPSED.store(20 * 60, Ordering::SeqCst);
    assert_eq!(
        served_leaf(&authority, &config).await,
        first,
        "before half-life"
    );
    ELAPSED.store(34 * 60, Ordering::SeqCst);
    let second = served_leaf(&authority, &config).await;
    assert_ne!(second, first, "after half-life");
    let facts = crate::x509::facts(&second.as_slice().into()).unwrap();
    let expiry = facts
        .not_after
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let expected = (clock() + HOUR)
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert!(expected.abs_diff(expiry) <= 2);
}

#[tokio::test]
async fn f_25_the_server_follows_the_issuer_that_signs() {
    let authority = Arc::new(Authority::in_memory("cluster.local", SystemTime::now()).unwrap());
    let config = serving(&authority, HOUR, SystemTime::now);
    let first = served_leaf(&authority, &config).await;
    let next = Authority::in_memory("cluster.local", SystemTime::now()).unwrap();
    // Both are trusted, the old one signs: nothing changes for who is served.
    let both = authority.bundle().with(next.bundle().roots());
    authority.replace(authority.signer(), both);
    assert_eq!(served_leaf(&authority, &config).await, first);
    // The new one alone: a client that trusts nothing else gets a certificate of its own.
    authority.replace(next.signer(), next.bundle());
    assert_ne!(served_leaf(&next, &config).await, first);
    let web = Identity::new("cluster.local", "shop", "web").unwrap();
    let key = PendingKey::generate(&web).unwrap();
    let answer = authority.sign(key.csr_pem(), &web, HOUR, SystemTime::now());
    let certificate = key.complete(&answer.unwrap(), SystemTime::now()).unwrap();
    assert_eq!(certificate.trust(), &next.bundle());
}

/// The leaf that a client sees which checks chain and name.
async fn served_leaf(authority: &Authority, config: &Arc<ServerConfig>) -> Vec<u8> {
    let mut roots = rustls::RootCertStore::empty();
    for root in crate::x509::parse_pem(authority.bundle().pem()).unwrap() {
        roots.add(root).unwrap();
    }
    let client = rustls::ClientConfig::builder_with_provider(crate::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connect = tokio_rustls::TlsConnector::from(Arc::new(client))
        .connect("control.test".try_into().unwrap(), near);
    let accept = TlsAcceptor::from(Arc::clone(config)).accept(far);
    let (client, server) = tokio::join!(connect, accept);
    server.unwrap();
    let client = client.unwrap();
    client.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}
