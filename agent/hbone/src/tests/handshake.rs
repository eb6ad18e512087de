//! Who gets in, over what.

use std::time::SystemTime;

use agent_identity::{client_config, dummy_server_name, peer_identity, provider, server_config};
use agent_model::Reason;
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig, ProtocolVersion, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::harness::*;
use crate::{HboneError, Target};

#[test]
fn both_ends_know_each_other() {
    worker(async {
        let config = server_config(&certificate("server")).unwrap();
        let client = client_config(&client(), &[identity("server")]).unwrap();
        let (near, far) = tokio::io::duplex(1 << 16);
        let connect = TlsConnector::from(client).connect(dummy_server_name(), near);
        let (connected, accepted) = tokio::join!(connect, TlsAcceptor::from(config).accept(far));
        let (connected, accepted) = (connected.unwrap(), accepted.unwrap());
        let session = accepted.get_ref().1;
        assert_eq!(peer_identity(session), Some(identity("client")));
        assert_eq!(
            peer_identity(connected.get_ref().1),
            Some(identity("server"))
        );
        assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(session.server_name(), None, "no SNI");
        let suite = session.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
        let group = session.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    });
}

#[test]
fn a_server_of_another_identity_is_refused_with_certificate_unknown() {
    worker(async {
        let server = Server::with(certificate("other"), Default::default(), echo).await;
        let error = server.open(&pool()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::PeerIdentityMismatch);
        assert!(error.to_string().contains("/sa/other"), "{error}");
        let Err(HboneError::Tls(seen)) = &server.ended(1).await[0] else {
            panic!("{:?}", server.ends);
        };
        assert!(seen.contains("CertificateUnknown"), "{seen}");
    });
}

#[test]
fn nobody_is_expected_nobody_gets_in() {
    worker(async {
        let server = Server::start(echo).await;
        let target = Target::new(POD, client(), server.address, vec![]);
        let result = pool().open(&target, &request(), to(server.address)).await;
        assert_eq!(result.unwrap_err().reason(), Reason::PeerIdentityMismatch);
    });
}

#[test]
fn one_of_several_expected_identities_is_enough() {
    worker(async {
        let server = Server::start(echo).await;
        let expected = vec![identity("a"), identity("server"), identity("z")];
        let target = Target::new(POD, client(), server.address, expected);
        let pool = pool();
        let mut stream = pool
            .open(&target, &request(), to(server.address))
            .await
            .unwrap();
        ping(&mut stream, "hello").await;
    });
}

#[test]
fn a_client_of_another_trust_domain_is_refused() {
    worker(async {
        let server = Server::start(echo).await;
        // The same root vouches for it: only the trust domain differs.
        let stranger = "spiffe://elsewhere.example/ns/shop/sa/client"
            .parse()
            .unwrap();
        let stranger = issue(mesh(), &stranger, SystemTime::now(), HOUR);
        let target = server.target(&stranger);
        let error = pool()
            .open(&target, &request(), to(server.address))
            .await
            .unwrap_err();
        // The client's side of the handshake is over before the server has seen its certificate.
        assert_eq!(error.reason(), Reason::TlsFailed, "{error}");
        assert!(error.to_string().contains("CertificateUnknown"), "{error}");
        let ends = server.ended(1).await;
        assert!(matches!(ends[0], Err(HboneError::Peer(_))), "{ends:?}");
    });
}

#[test]
fn a_client_of_another_root_is_refused() {
    worker(async {
        let server = Server::start(echo).await;
        let forged = issue(
            &authority("cluster.local"),
            &identity("client"),
            SystemTime::now(),
            HOUR,
        );
        let target = server.target(&forged);
        let error = pool()
            .open(&target, &request(), to(server.address))
            .await
            .unwrap_err();
        // The forger does not trust the server's root either, and says so first.
        assert_eq!(error.reason(), Reason::TlsFailed, "{error}");
        assert!(matches!(server.ended(1).await[0], Err(HboneError::Tls(_))));
    });
}

#[test]
fn expired_certificates_are_refused_at_both_ends() {
    worker(async {
        let old = SystemTime::now() - HOUR * 2;
        let authority = agent_identity::Authority::in_memory("cluster.local", old).unwrap();
        let fresh = |account| issue(&authority, &identity(account), SystemTime::now(), HOUR);
        let stale = |account| issue(&authority, &identity(account), old, HOUR);

        let server = Server::with(stale("server"), Default::default(), echo).await;
        let target = server.target(&fresh("client"));
        let result = pool().open(&target, &request(), to(server.address)).await;
        let error = result.unwrap_err();
        assert_eq!(error.reason(), Reason::TlsFailed);
        assert!(error.to_string().contains("expired"), "{error}");

        let server = Server::with(fresh("server"), Default::default(), echo).await;
        let target = server.target(&stale("client"));
        let result = pool().open(&target, &request(), to(server.address)).await;
        assert!(
            result
                .unwrap_err()
                .to_string()
                .contains("CertificateExpired")
        );
        let ends = server.ended(1).await;
        let Err(HboneError::Tls(why)) = &ends[0] else {
            panic!("{ends:?}");
        };
        assert!(why.contains("expired"), "{why}");
    });
}

/// The mesh's own client configuration, bent.
fn raw_client(alpn: &[&[u8]], with_certificate: bool) -> ClientConfig {
    let mut config = (*client_config(&client(), &[identity("server")]).unwrap()).clone();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    if !with_certificate {
        let nobody = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.client_auth_cert_resolver = nobody.client_auth_cert_resolver;
    }
    config
}

/// How the server's handshake ends and what the client reads first.
async fn raw_handshake(config: ClientConfig) -> (Option<HboneError>, std::io::Result<u8>) {
    let server = Server::start(echo).await;
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let connected = TlsConnector::from(std::sync::Arc::new(config))
        .connect(dummy_server_name(), tcp)
        .await;
    let first = match connected {
        Ok(mut stream) => {
            stream
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
                .await
                .unwrap();
            stream.read_u8().await
        }
        Err(error) => Err(error),
    };
    let failed = server
        .ends
        .borrow()
        .first()
        .and_then(|end| end.clone().err());
    (failed, first)
}

fn alert(error: &std::io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

#[test]
fn alpn_h2_or_none_and_nothing_else() {
    worker(async {
        for alpn in [&[][..], &[&b"h2"[..]], &[&b"http/1.1"[..], &b"h2"[..]]] {
            let (failed, first) = raw_handshake(raw_client(alpn, true)).await;
            assert!(failed.is_none(), "{failed:?}");
            // The length of the SETTINGS frame, below 256 * 256.
            assert_eq!(first.unwrap(), 0);
        }
        let (failed, first) = raw_handshake(raw_client(&[b"http/1.1"], true)).await;
        assert!(matches!(failed, Some(HboneError::Tls(_))));
        let refused = alert(&first.unwrap_err());
        assert_eq!(refused, Some(AlertDescription::NoApplicationProtocol));
    });
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    worker(async {
        let config = raw_client(&[b"h2"], false);
        let (failed, first) = raw_handshake(config).await;
        assert!(matches!(failed, Some(HboneError::Tls(_))), "{failed:?}");
        let refused = alert(&first.unwrap_err());
        assert_eq!(refused, Some(AlertDescription::CertificateRequired));
    });
}

/// A TLS 1.2 ClientHello: ECDHE with AES-GCM, P-256, no supported_versions extension.
const TLS12_HELLO: &[u8] = &[
    0x16, 0x03, 0x01, 0x00, 0x4d, // record
    0x01, 0x00, 0x00, 0x49, 0x03, 0x03, // ClientHello, TLS 1.2
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    0x00, // no session id
    0x00, 0x02, 0xc0, 0x2b, // ECDHE-ECDSA-AES128-GCM-SHA256
    0x01, 0x00, // no compression
    0x00, 0x1e, // extensions
    0x00, 0x0a, 0x00, 0x04, 0x00, 0x02, 0x00, 0x17, // groups: P-256
    0x00, 0x0b, 0x00, 0x02, 0x01, 0x00, // uncompressed points
    0x00, 0x0d, 0x00, 0x04, 0x00, 0x02, 0x04, 0x03, // ECDSA-P256-SHA256
    0x00, 0x17, 0x00, 0x00, // extended master secret
    0x00, 0x23, 0x00, 0x00, // session ticket
];

#[test]
fn tls_1_2_is_refused_with_protocol_version() {
    worker(async {
        let server = Server::start(echo).await;
        let mut tcp = TcpStream::connect(server.address).await.unwrap();
        tcp.write_all(TLS12_HELLO).await.unwrap();
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer).await.unwrap();
        // A fatal alert, 70.
        assert_eq!(&answer[..1], [0x15]);
        assert_eq!(&answer[5..], [2, 70]);
    });
}

#[test]
fn garbage_ends_only_its_own_connection() {
    worker(async {
        let server = Server::start(echo).await;
        let pool = pool();
        let mut stream = server.open(&pool).await.unwrap();
        for garbage in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0xff; 4096],
            &[0x16, 3, 1, 0xff],
        ] {
            let mut tcp = TcpStream::connect(server.address).await.unwrap();
            let _ = tcp.write_all(garbage).await;
            let _ = tcp.shutdown().await;
            let mut rest = Vec::new();
            let _ = tcp.read_to_end(&mut rest).await;
            ping(&mut stream, "still here").await;
        }
        assert!(server.ended(3).await.iter().all(Result::is_err));
    });
}

#[test]
fn a_silent_client_is_dropped() {
    worker(async {
        let settings = crate::Settings {
            handshake_timeout: std::time::Duration::from_millis(50),
            first_request_timeout: std::time::Duration::from_millis(80),
            ..Default::default()
        };
        let server = Server::with(certificate("server"), settings, echo).await;
        let _silent = TcpStream::connect(server.address).await.unwrap();
        let ends = server.ended(1).await;
        assert_eq!(ends[0].as_ref().unwrap_err().reason(), Reason::IdleTimeout);

        // After the handshake, without and with the HTTP/2 preface.
        for greeting in [
            &b""[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        ] {
            let before = server.ends.borrow().len();
            let tcp = TcpStream::connect(server.address).await.unwrap();
            let config = std::sync::Arc::new(raw_client(&[b"h2"], true));
            let mut stream = TlsConnector::from(config)
                .connect(dummy_server_name(), tcp)
                .await
                .unwrap();
            stream.write_all(greeting).await.unwrap();
            let ends = server.ended(before + 1).await;
            let end = ends[before].as_ref().unwrap_err();
            assert!(
                matches!(end, HboneError::Timeout(crate::Phase::FirstRequest)),
                "{end}"
            );
        }
    });
}
