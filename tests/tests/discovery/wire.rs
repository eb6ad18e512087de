//! T-XDS-1 on a network: a server with the right certificate and the wrong bytes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_net::drain;
use agent_xds::{Apply, ClientConfig, ClientStatus, NodeFacts, Rejection, Update};
use bytes::Bytes;
use http::{Response, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use prost_types::Any;
use proto::discovery::{DeltaDiscoveryResponse, Resource};
use proto::workload as wire;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt;

use crate::ends::{ADDRESS, AUTHORIZATION};

const PATIENCE: Duration = Duration::from_secs(20);

/// A message with its head (gRPC over HTTP/2, "Length-Prefixed-Message").
fn message(payload: &[u8]) -> Bytes {
    let length = u32::try_from(payload.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], payload].concat().into()
}

/// Both kinds in full: these workloads and no policy.
fn state(uids: &[&str]) -> Vec<Bytes> {
    let resources = uids.iter().map(|uid| {
        let workload = wire::Workload {
            uid: (*uid).to_owned(),
            ..wire::Workload::default()
        };
        let r#type = Some(wire::address::Type::Workload(workload));
        Resource {
            name: (*uid).to_owned(),
            version: "1".to_owned(),
            resource: Some(Any {
                type_url: ADDRESS.to_owned(),
                value: wire::Address { r#type }.encode_to_vec(),
            }),
            ..Resource::default()
        }
    });
    let addresses = DeltaDiscoveryResponse {
        type_url: ADDRESS.to_owned(),
        nonce: "1".to_owned(),
        resources: resources.collect(),
        ..DeltaDiscoveryResponse::default()
    };
    let policies = DeltaDiscoveryResponse {
        type_url: AUTHORIZATION.to_owned(),
        nonce: "2".to_owned(),
        ..DeltaDiscoveryResponse::default()
    };
    [addresses, policies]
        .map(|response| message(&response.encode_to_vec()))
        .into()
}

/// A server that says the first script on its first stream, the second on the next, and so on;
/// the last one on every further one. Streams stay open.
struct Impostor {
    address: SocketAddr,
    folder: PathBuf,
}

impl Impostor {
    async fn start(name: &str, scripts: Vec<Vec<Bytes>>) -> Self {
        let folder = format!("culvert-impostor-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("token"), "token").unwrap();
        let acceptor = TlsAcceptor::from(certified(&folder));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scripts = Arc::new(Mutex::new(scripts));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, scripts) = (acceptor.clone(), Arc::clone(&scripts));
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let answer = service_fn(|_| std::future::ready(speak(&scripts)));
                    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    // How the client leaves is up to it.
                    let _ = http.serve_connection(TokioIo::new(tls), answer).await;
                });
            }
        });
        Self { address, folder }
    }

    fn client(&self) -> ClientConfig {
        ClientConfig {
            address: self.address.to_string(),
            root_cert: self.folder.join("root.pem"),
            token_file: self.folder.join("token"),
            node: NodeFacts::new("n1", "c1", ""),
        }
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

type Body =
    std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

fn speak(scripts: &Mutex<Vec<Vec<Bytes>>>) -> Result<Response<StreamBody<Body>>, Infallible> {
    let mut scripts = scripts.lock().unwrap();
    let script = match scripts.len() {
        1 => scripts[0].clone(),
        _ => scripts.remove(0),
    };
    let said = tokio_stream::iter(script).map(|piece| Ok(Frame::data(piece)));
    let body: Body = Box::pin(said.chain(tokio_stream::pending()));
    let response = Response::builder().header(header::CONTENT_TYPE, "application/grpc");
    Ok(response.body(StreamBody::new(body)).unwrap())
}

/// TLS of a server whose root is `root.pem` of the folder.
fn certified(folder: &std::path::Path) -> Arc<rustls::ServerConfig> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap();
    std::fs::write(folder.join("root.pem"), root.pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(tls)
}

/// Workloads that a node was told of, and that were taken from it with a `-`.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Apply for Seen {
    fn apply(&mut self, updates: Vec<Update>) -> Vec<Rejection> {
        let names = updates.into_iter().map(|update| match update {
            Update::Workload(workload) => workload.uid.to_string(),
            Update::RemoveAddress(name) => format!("-{name}"),
            other => panic!("{other:?}"),
        });
        self.0.lock().unwrap().extend(names);
        Vec::new()
    }
}

/// What a node does with `broken`, said after a state that is well. It must end the stream for the
/// reason, keep what it knows, and take what the next stream brings.
async fn survives(name: &str, broken: Bytes, reason: &str) {
    let mut first = state(&["a"]);
    first.push(broken);
    let server = Impostor::start(name, vec![first, state(&["b"])]).await;
    let seen = Seen::default();
    let (status, mut current) = watch::channel(ClientStatus::default());
    let mut errors = status.subscribe();
    let (end, watcher) = drain::channel();
    let run = agent_xds::client::run(server.client(), seen.clone(), status, watcher);
    let node = tokio::spawn(run);
    let failed = errors.wait_for(|status| status.failures == 1);
    let failed = tokio::time::timeout(PATIENCE, failed)
        .await
        .unwrap()
        .unwrap();
    let error = failed.last_error.clone().unwrap_or_default();
    assert!(error.contains(reason), "{name}: {error}");
    assert!(failed.synced && failed.addresses == 1, "{name}: {failed:?}");
    drop(failed);
    let back = current.wait_for(|status| status.addresses == 2);
    tokio::time::timeout(PATIENCE, back).await.unwrap().unwrap();
    assert_eq!(*seen.0.lock().unwrap(), ["a", "b"], "{name}");
    assert!(end.drain(PATIENCE).await);
    node.await.unwrap();
}

/// Only its head is sent: who waited for the rest, or made room for it, would not come back.
#[tokio::test]
async fn t_xds_1_a_message_of_a_gigabyte_is_refused_by_its_head() {
    let head = [&[0], &(1u32 << 30).to_be_bytes()[..]].concat();
    survives("gigabyte", head.into(), "too large").await;
}

#[tokio::test]
async fn t_xds_1_a_message_that_is_none_ends_its_stream_only() {
    survives("garbage", message(&[0xff; 64]), "stream ended").await;
    // Compressed, which nobody asked for.
    let head = [&[1], &4u32.to_be_bytes()[..], b"gzip"].concat();
    survives("compressed", head.into(), "stream ended").await;
}
