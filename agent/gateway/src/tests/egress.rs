//! The way out of the mesh, through a waypoint in front of a ServiceEntry's host.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use agent_hbone::{HboneError, TunnelIo};
use agent_model::gateway::{
    Backend as BackendSettings, BackendTls, Protocol, TrustedRoots, VerifiedTls,
};
use agent_model::{NamespacedHostname, Reason, Service, ServicePort, Workload};
use agent_xds::{Apply, Update};
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::version::TLS13;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;
use tokio_rustls::client;

use super::authority::Authority;
use super::backend::Backend;
use super::bed::{endpoint, get, listener, whole};
use super::streams::{converse, echo};
use super::waypoint::{Site, behind_waypoint, worker};

const HOST: &str = "api.example.com";
const VIP: &str = "240.240.0.1";

/// A waypoint in front of [`HOST`], which has this endpoint.
pub(super) fn site(at: SocketAddr) -> Site {
    let mut site = Site::start(endpoint("one-0", "one", at));
    let mut entry = Service {
        name: "api".into(),
        hostname: HOST.into(),
        ..behind_waypoint("api")
    };
    entry.vips[0].address = VIP.parse().unwrap();
    let port = ServicePort::new(80, at.port());
    let outside = Workload {
        uid: "c/networking.istio.io/ServiceEntry/ns/api".into(),
        services: [(entry.key(), vec![port])].into(),
        ..endpoint("api", "api", at)
    };
    let updates = vec![
        Update::Service(Box::new(entry)),
        Update::Workload(Box::new(outside)),
    ];
    assert!(site.bed.writer.apply(updates).is_empty());
    site
}

pub(super) async fn open(site: &Site) -> TunnelIo {
    site.open("shop", &format!("{VIP}:80")).await.unwrap()
}

async fn ask(site: &Site, host: &str) -> Response<Bytes> {
    let stream = TokioIo::new(open(site).await);
    let (mut send, connection) = http1::handshake::<_, Full<Bytes>>(stream).await.unwrap();
    spawn_local(connection);
    whole(send.send_request(get(host, "/x")).await.unwrap()).await
}

async fn secured(
    site: &Site,
    authority: &Authority,
    name: &str,
) -> io::Result<client::TlsStream<TunnelIo>> {
    authority.trusting(open(site).await, name).await
}

#[tokio::test]
async fn tls_goes_out_by_the_name_that_was_dialled_and_by_no_other() {
    worker(async {
        let authority = Authority::new();
        let config = authority.server(&[HOST, "other.example.com"], &TLS13, &[], None);
        let site = site(echo("api", Some(config)).await);
        let stream = secured(&site, &authority, HOST).await.unwrap();
        assert_eq!(converse(stream).await.unwrap(), "api:hi");
        let refused = secured(&site, &authority, "other.example.com").await;
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("UnrecognisedName")
        );
        let passages = site.bed.passages(2).await;
        assert_eq!(passages[0].name.as_deref(), Some(HOST));
        assert_eq!(passages[0].reason, Reason::Ok);
        assert_eq!(passages[1].reason, Reason::Misdirected);
        assert_eq!(passages[1].endpoint, None);
    })
    .await;
}

#[tokio::test]
async fn requests_go_out_by_the_name_that_was_dialled_and_by_no_other() {
    worker(async {
        let backend = Backend::start("api").await;
        let site = site(backend.address);
        assert_eq!(ask(&site, HOST).await.status(), 200);
        assert_eq!(ask(&site, "api.example.com:80").await.status(), 200);
        assert_eq!(ask(&site, "other.example.com").await.status(), 421);
        assert_eq!(backend.seen().len(), 2);
        // What nobody has made an entry for is not reached.
        let unknown = site.open("shop", "240.240.0.9:80").await;
        assert!(matches!(unknown, Err(HboneError::Rejected(_))));
    })
    .await;
}

#[tokio::test]
async fn tls_begins_at_the_waypoint_where_that_is_wanted() {
    worker(async {
        let authority = Authority::new();
        let config = authority.server(&[HOST], &TLS13, &[], None);
        let mut site = site(echo("api", Some(config)).await);
        site.bed.backends = vec![Arc::new(BackendSettings {
            service: NamespacedHostname::new("ns", HOST),
            port: None,
            tls: Some(BackendTls::Verified(VerifiedTls {
                hostname: HOST.into(),
                roots: TrustedRoots::Certificates(authority.root.pem().into()),
                subject_alt_names: Vec::new(),
            })),
        })];
        let mut mesh = listener("mesh", site.bed.address.port());
        mesh.protocol = Protocol::Hbone;
        assert_eq!(site.bed.apply_with(vec![mesh], &[]), []);
        assert_eq!(converse(open(&site).await).await.unwrap(), "api:hi");
        // A client that brings its own is not wrapped in another.
        let stream = secured(&site, &authority, HOST).await.unwrap();
        assert_eq!(converse(stream).await.unwrap(), "api:hi");
    })
    .await;
}

#[tokio::test]
async fn servers_may_speak_first_but_clients_may_not_name_another_then() {
    worker(async {
        let site = site(echo("ready", None).await);
        let mut stream = open(&site).await;
        let mut said = [0; 5];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"ready");
        stream.write_all(b"EHLO x").await.unwrap();
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"EHLO x");
        drop(stream);

        let mut stream = open(&site).await;
        stream.read_exact(&mut said).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: other.example.com\r\n\r\n")
            .await
            .unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert_eq!(rest, b"");
        let passages = site.bed.passages(2).await;
        assert!(
            passages.iter().any(|one| one.reason == Reason::Misdirected),
            "{passages:?}"
        );
    })
    .await;
}
