//! F-94: handshakes that must come to nothing, and those that are only written strangely.

use std::sync::Arc;
use std::time::Duration;

use agent_model::gateway::{ClientValidation, ClientValidationMode, ListenerTls};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::authority::Authority;
use super::backend::Backend;
use super::bed::{Bed, route, rule};
use super::tls::{ask, bed, client, https, on};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const HANDSHAKE_FAILURE: u8 = 40;
const ACCESS_DENIED: u8 = 49;
const PROTOCOL_VERSION: u8 = 70;

/// A gateway with one HTTPS listener for `a.org`.
async fn served(authority: &Authority) -> (Bed, Backend) {
    let (bed, backend) = bed().await;
    let certificate = vec![authority.certificate(&["a.org"])];
    let listener = https("a", bed.address.port(), None, certificate);
    let routes = [on("a", route(vec![rule("/", "one")]))];
    assert_eq!(bed.apply_with(vec![listener], &routes), []);
    (bed, backend)
}

/// What the gateway answers to these bytes until it closes or falls silent.
async fn answer(bed: &Bed, pieces: &[&[u8]]) -> Vec<u8> {
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        // It may have closed already.
        if stream.write_all(piece).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let read = stream.read_buf(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .expect("neither an answer nor the end");
    answer
}

/// A ClientHello of a version and with one cipher suite, as clients before TLS 1.3 write it.
fn old_hello(version: u16, suite: u16) -> Vec<u8> {
    let mut hello = version.to_be_bytes().to_vec();
    hello.extend([7; 32]);
    hello.push(0);
    hello.extend([0, 2]);
    hello.extend(suite.to_be_bytes());
    hello.extend([1, 0]);
    let extensions: &[u8] = &[
        // Groups: P-256, X25519. Point formats: plain. Signatures: ECDSA and RSA with SHA-256.
        0, 10, 0, 6, 0, 4, 0, 23, 0, 29, //
        0, 11, 0, 2, 1, 0, //
        0, 13, 0, 6, 0, 4, 4, 3, 4, 1, //
        // Extended master secret.
        0, 23, 0, 0,
    ];
    hello.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    hello.extend(extensions);
    let length = u32::try_from(hello.len()).unwrap().to_be_bytes();
    let message = [&[1], &length[1..], &hello[..]].concat();
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    [&[HANDSHAKE, 3, 1], &length[..], &message[..]].concat()
}

#[tokio::test]
async fn f_94_old_versions_and_weak_suites_get_an_alert() {
    let (bed, backend) = served(&Authority::new()).await;
    const ECDHE_ECDSA_AES_128_GCM: u16 = 0xc02b;
    for (version, suite, alert) in [
        (0x0300, ECDHE_ECDSA_AES_128_GCM, PROTOCOL_VERSION),
        (0x0301, ECDHE_ECDSA_AES_128_GCM, PROTOCOL_VERSION),
        (0x0302, ECDHE_ECDSA_AES_128_GCM, PROTOCOL_VERSION),
        // CBC, RC4, no forward secrecy, no encryption, nobody's certificate.
        (0x0303, 0xc009, HANDSHAKE_FAILURE),
        (0x0303, 0xc007, HANDSHAKE_FAILURE),
        (0x0303, 0x009c, HANDSHAKE_FAILURE),
        (0x0303, 0xc006, HANDSHAKE_FAILURE),
        (0x0303, 0xc018, HANDSHAKE_FAILURE),
    ] {
        let found = answer(&bed, &[&old_hello(version, suite)]).await;
        // A certificate that no suite is for may be what is missing first.
        let fine = [alert, ACCESS_DENIED].map(|alert| [Some(ALERT), Some(alert)]);
        let end = [found.first().copied(), found.get(6).copied()];
        assert!(fine.contains(&end), "{version:x} {suite:x}: {found:?}");
    }
    // The hello is a good one otherwise.
    let found = answer(&bed, &[&old_hello(0x0303, ECDHE_ECDSA_AES_128_GCM)]).await;
    assert_eq!(found.first(), Some(&HANDSHAKE), "{found:?}");
    assert_eq!(backend.seen().len(), 0);
}

#[tokio::test]
async fn f_94_what_is_no_hello_ends_and_one_in_pieces_is_one() {
    let authority = Authority::new();
    let (bed, _backend) = served(&authority).await;
    let endless = [&[1, 0xff, 0xff, 0xff][..], &[0; 16_000]].concat();
    let endless = [&[HANDSHAKE, 3, 1, 0x3e, 0x84][..], &endless].concat();
    let long = [&[HANDSHAKE, 3, 1, 0x48, 0x01][..], &[0; 0x4801]].concat();
    let mut garbage = old_hello(0x0303, 0xc02b);
    garbage[50..].fill(0xff);
    for (what, bytes) in [
        ("a hello without an end", endless.repeat(8)),
        ("a record that is too long", long),
        ("garbage", garbage),
        ("no TLS", b"GET / HTTP/1.1\r\nhost: a.org\r\n\r\n".to_vec()),
    ] {
        let found = answer(&bed, &[&bytes]).await;
        assert_ne!(found.first(), Some(&HANDSHAKE), "{what}: {found:?}");
    }
    let mut roots = RootCertStore::empty();
    roots.add(authority.root.der().clone()).unwrap();
    let name = ServerName::try_from("a.org").unwrap();
    let mut connection = ClientConnection::new(Arc::new(config(roots)), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    let pieces: Vec<&[u8]> = hello.chunks(1).collect();
    let found = answer(&bed, &pieces).await;
    assert_eq!(found.first(), Some(&HANDSHAKE), "{found:?}");
}

fn config(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.enable_early_data = true;
    config
}

#[tokio::test]
async fn f_94_nothing_is_taken_before_the_handshake_is_over() {
    let authority = Authority::new();
    let (bed, _backend) = served(&authority).await;
    let mut roots = RootCertStore::empty();
    roots.add(authority.root.der().clone()).unwrap();
    let config = Arc::new(config(roots));
    let name = || ServerName::try_from("a.org").unwrap();
    for resumed in [HandshakeKind::Full, HandshakeKind::Resumed] {
        // No ticket of this gateway is good for early data.
        let mut early = ClientConnection::new(Arc::clone(&config), name()).unwrap();
        assert!(early.early_data().is_none());
        let tcp = TcpStream::connect(bed.address).await.unwrap();
        let connector = TlsConnector::from(Arc::clone(&config));
        let mut stream = connector.connect(name(), tcp).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(resumed));
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a.org\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text).await;
        assert!(text.starts_with(b"HTTP/1.1 200"), "{}", text.escape_ascii());
    }
}

/// Who was let in before does not get in by a ticket once certificates are asked for.
#[tokio::test]
async fn f_94_a_ticket_is_no_certificate() {
    let authority = Authority::new();
    let (bed, _backend) = served(&authority).await;
    let anybody = client(&authority, "http/1.1", None);
    assert!(ask(&bed, &anybody, "a.org", "a.org").await.is_ok());
    let certificate = vec![authority.certificate(&["a.org"])];
    let mut strict = https("a", bed.address.port(), None, certificate);
    strict.tls = strict.tls.map(|tls| match tls {
        ListenerTls::Terminate { certificates, .. } => ListenerTls::Terminate {
            certificates,
            client_validation: Some(ClientValidation {
                roots: authority.root.pem().into(),
                mode: ClientValidationMode::AllowValidOnly,
            }),
        },
        passed => passed,
    });
    let routes = [on("a", route(vec![rule("/", "one")]))];
    assert_eq!(bed.apply_with(vec![strict], &routes), []);
    let refused = ask(&bed, &anybody, "a.org", "a.org").await;
    assert!(refused.is_err(), "{refused:?}");
    let known = client(&authority, "http/1.1", Some(authority.issue(&["me"])));
    assert!(ask(&bed, &known, "a.org", "a.org").await.is_ok());
}
