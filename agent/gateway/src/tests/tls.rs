//! HTTPS listeners.

use std::sync::Arc;

use agent_model::gateway::{
    Certificate, ClientValidation, ClientValidationMode, GatewayKey, Listener, ListenerTls, Parent,
    Protocol, Route, SecretKey,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::authority::Authority;
use super::backend::Backend;
use super::bed::{Bed, route, rule, whole};
use crate::plan::Subject;

pub(super) fn https(
    name: &str,
    port: u16,
    hostname: Option<&str>,
    certificates: Vec<Certificate>,
) -> Listener {
    Listener {
        name: name.into(),
        port,
        protocol: Protocol::Https,
        hostname: hostname.map(|name| name.parse().unwrap()),
        tls: Some(ListenerTls::Terminate {
            certificates,
            client_validation: None,
        }),
    }
}

pub(super) fn on(listener: &str, mut route: Route) -> Route {
    route.key.name = listener.into();
    route.parents = vec![Parent::Listener {
        gateway: GatewayKey::new("ns", "edge"),
        name: listener.into(),
    }];
    route
}

/// A client that trusts the authority, and may have a certificate.
pub(super) fn client(
    authority: &Authority,
    alpn: &str,
    identity: Option<(rcgen::Certificate, rcgen::KeyPair)>,
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(authority.root.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
            let chain = vec![certificate.der().clone()];
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// Asks for `host` over a connection to `sni`; the handshake's or the request's error otherwise.
pub(super) async fn ask(
    bed: &Bed,
    connector: &TlsConnector,
    sni: &str,
    host: &str,
) -> Result<Response<Bytes>, String> {
    let tcp = TcpStream::connect(bed.address).await.unwrap();
    let name = ServerName::try_from(sni.to_owned()).unwrap();
    let stream = connector
        .connect(name, tcp)
        .await
        .map_err(|e| e.to_string())?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    let request = |target: String| Request::get(target).body(Full::<Bytes>::default()).unwrap();
    let response = if is_http2 {
        let (mut send, connection) = http2::handshake(TokioExecutor::new(), io)
            .await
            .map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        send.send_request(request(format!("https://{host}/x")))
            .await
    } else {
        let (mut send, connection) = http1::handshake(io).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let mut request = request("/x".to_owned());
        request.headers_mut().insert("host", host.parse().unwrap());
        send.send_request(request).await
    };
    Ok(whole(response.map_err(|e| e.to_string())?).await)
}

pub(super) async fn bed() -> (Bed, Backend) {
    let backend = Backend::start("one").await;
    let mut bed = Bed::start(&[]);
    bed.service("one", &[&backend]);
    // The port is closed, and opened again with another protocol.
    assert_eq!(bed.apply_with(Vec::new(), &[]), []);
    (bed, backend)
}

#[tokio::test]
async fn sni_chooses_the_listener_and_host_must_agree() {
    let (bed, backend) = bed().await;
    let authority = Authority::new();
    let port = bed.address.port();
    let names = ["a.org", "b.org", "*.wild.org", "c.wild.org"];
    let certificate = || vec![authority.certificate(&names)];
    let listeners = vec![
        https("a", port, Some("a.org"), certificate()),
        https("b", port, Some("b.org"), certificate()),
        https("wild", port, Some("*.wild.org"), certificate()),
        https("c", port, Some("c.wild.org"), certificate()),
    ];
    let mut none = on("c", route(vec![rule("/y", "one")]));
    none.key.name = "none".into();
    let routes = ["a", "b", "wild"].map(|name| on(name, route(vec![rule("/", "one")])));
    let routes = [&routes[..], &[none]].concat();
    assert_eq!(bed.apply_with(listeners, &routes), []);
    for alpn in ["h2", "http/1.1"] {
        let client = client(&authority, alpn, None);
        for (sni, host, status) in [
            ("a.org", "a.org", 200),
            ("a.org", "A.org:8443", 200),
            ("b.org", "b.org", 200),
            ("x.wild.org", "x.wild.org", 200),
            ("x.wild.org", "y.wild.org", 200),
            ("a.org", "b.org", 421),
            ("x.wild.org", "c.wild.org", 421),
            ("c.wild.org", "x.wild.org", 421),
            ("a.org", "unknown.org", 404),
            ("c.wild.org", "c.wild.org", 404),
        ] {
            let response = ask(&bed, &client, sni, host).await.unwrap();
            assert_eq!(response.status().as_u16(), status, "{alpn} {sni} {host}");
        }
        assert!(ask(&bed, &client, "unknown.org", "a.org").await.is_err());
    }
    assert_eq!(backend.last().headers["x-forwarded-proto"], "https");
}

#[tokio::test]
async fn clients_show_certificates_where_they_have_to() {
    let (bed, _backend) = bed().await;
    let (authority, clients) = (Authority::new(), Authority::new());
    let port = bed.address.port();
    let listener = |name: &str, mode| {
        let host = format!("{name}.org");
        let mut listener = https(
            name,
            port,
            Some(&host),
            vec![authority.certificate(&[&host])],
        );
        let Some(ListenerTls::Terminate {
            client_validation, ..
        }) = &mut listener.tls
        else {
            unreachable!();
        };
        *client_validation = Some(ClientValidation {
            roots: clients.root.pem().into(),
            mode,
        });
        listener
    };
    let listeners = vec![
        listener("strict", ClientValidationMode::AllowValidOnly),
        listener("lenient", ClientValidationMode::AllowInsecureFallback),
    ];
    let routes = ["strict", "lenient"].map(|name| on(name, route(vec![rule("/", "one")])));
    assert_eq!(bed.apply_with(listeners, &routes), []);
    let valid = client(&authority, "http/1.1", Some(clients.issue(&["me"])));
    let other = client(&authority, "http/1.1", Some(authority.issue(&["me"])));
    let none = client(&authority, "http/1.1", None);
    for (host, connector, works) in [
        ("strict.org", &valid, true),
        ("strict.org", &other, false),
        ("strict.org", &none, false),
        ("lenient.org", &valid, true),
        ("lenient.org", &other, true),
        ("lenient.org", &none, true),
    ] {
        let answer = ask(&bed, connector, host, host).await;
        assert_eq!(answer.is_ok(), works, "{host}: {answer:?}");
    }
}

#[tokio::test]
async fn the_certificate_for_the_name_is_shown() {
    let (bed, _backend) = bed().await;
    let authority = Authority::new();
    let certificates = ["a.org", "b.org"].map(|name| authority.certificate(&[name]));
    let listener = https("all", bed.address.port(), None, certificates.to_vec());
    let routes = [on("all", route(vec![rule("/", "one")]))];
    assert_eq!(bed.apply_with(vec![listener], &routes), []);
    let client = client(&authority, "h2", None);
    for host in ["a.org", "b.org"] {
        let response = ask(&bed, &client, host, host).await.unwrap();
        assert_eq!(response.status(), 200);
    }
}

#[tokio::test]
async fn a_listener_with_a_bad_certificate_takes_no_other_with_it() {
    let (bed, _backend) = bed().await;
    let authority = Authority::new();
    let port = bed.address.port();
    let mut swapped = authority.certificate(&["b.org"]);
    swapped.key = authority.certificate(&["b.org"]).key;
    let garbage = Certificate {
        chain: "garbage".into(),
        key: SecretKey::new(
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----".to_owned(),
        ),
    };
    let listeners = vec![
        https(
            "a",
            port,
            Some("a.org"),
            vec![authority.certificate(&["a.org"])],
        ),
        https("b", port, Some("b.org"), vec![swapped]),
        https("c", port, Some("c.org"), vec![garbage]),
        https("d", port, Some("d.org"), Vec::new()),
    ];
    let faults = bed.apply_with(listeners, &[on("a", route(vec![rule("/", "one")]))]);
    let subjects: Vec<_> = faults.iter().map(|fault| fault.subject.clone()).collect();
    let expected = ["b", "c", "d"].map(|name| Subject::Listener(name.into()));
    assert_eq!(subjects, expected);
    assert!(faults.iter().all(|fault| !fault.what.contains("AAAA")));
    let client = client(&authority, "h2", None);
    assert_eq!(
        ask(&bed, &client, "a.org", "a.org").await.unwrap().status(),
        200
    );
    assert!(ask(&bed, &client, "b.org", "b.org").await.is_err());
}

#[tokio::test]
async fn clients_of_either_version_are_served_with_forward_secrecy() {
    let (bed, _backend) = bed().await;
    let authority = Authority::new();
    let certificate = vec![authority.certificate(&["a.org"])];
    let listener = https("a", bed.address.port(), None, certificate);
    let routes = [on("a", route(vec![rule("/", "one")]))];
    assert_eq!(bed.apply_with(vec![listener], &routes), []);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut roots = RootCertStore::empty();
        roots.add(authority.root.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        let response = ask(&bed, &connector, "a.org", "a.org").await.unwrap();
        assert_eq!(response.status(), 200, "{version:?}");
    }
}
