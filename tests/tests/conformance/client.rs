//! Clients in front of a gateway.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::bed::{Bed, until};

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: &'static str,
    pub(crate) host: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: Vec<(&'static str, String)>,
}

pub(crate) fn get(host: &str, target: &str) -> Ask {
    Ask {
        method: "GET",
        host: host.to_owned(),
        target: target.to_owned(),
        headers: Vec::new(),
    }
}

impl Ask {
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(crate) fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }
}

/// An answer, with what the echo server said it was asked.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Null where no echo server answered.
    pub(crate) echo: Value,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The backend that answered: the name of its pod without the last part. Empty for none.
    pub(crate) fn backend(&self) -> &str {
        let pod = self.echo["pod"].as_str().unwrap_or_default();
        pod.rsplit_once('-').map_or(pod, |(backend, _)| backend)
    }
}

/// What goes wrong before there is an answer.
pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Asks over a connection of its own.
pub(crate) async fn ask(at: SocketAddr, asked: &Ask) -> Result<Answer, Failed> {
    http1(TcpStream::connect(at).await?, asked).await
}

async fn http1<T>(stream: T, asked: &Ask) -> Result<Answer, Failed>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    use hyper::client::conn::http1::handshake;
    let (mut send, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().uri(&asked.target);
    let request = request.header("host", &asked.host);
    answer(send.send_request(whole(request, asked)?).await?).await
}

pub(crate) async fn http2<T>(stream: T, asked: &Ask) -> Result<Answer, Failed>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    use hyper::client::conn::http2::handshake;
    let (mut send, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let uri = format!("http://{}{}", asked.host, asked.target);
    let request = Request::builder().uri(uri);
    answer(send.send_request(whole(request, asked)?).await?).await
}

fn whole(mut request: http::request::Builder, asked: &Ask) -> Result<Request<Full<Bytes>>, Failed> {
    request = request.method(asked.method);
    for (name, value) in &asked.headers {
        request = request.header(*name, value);
    }
    Ok(request.body(Full::default())?)
}

async fn answer(response: hyper::Response<hyper::body::Incoming>) -> Result<Answer, Failed> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let body = body.to_bytes();
    // A message of gRPC has five bytes before it.
    let text = if body.first() == Some(&0) {
        body.slice(5..)
    } else {
        body
    };
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        echo: serde_json::from_slice(&text).unwrap_or(Value::Null),
        trailers,
    })
}

/// Who a client says it is: its certificate with the key of it.
pub(crate) type Shown = Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>;

/// Speaks TLS for a name, with `h2` or `http/1.1` inside, and looks at nobody's certificate.
pub(crate) async fn tls(
    at: SocketAddr,
    name: &str,
    inside: &str,
    shown: &Shown,
) -> Result<TlsStream<TcpStream>, Failed> {
    let config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trusting::Trusting));
    let mut config = match shown {
        Some((certificate, key)) => {
            config.with_client_auth_cert(vec![certificate.clone()], key.clone_key())?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![inside.as_bytes().to_vec()];
    if inside.is_empty() {
        config.alpn_protocols.clear();
    }
    let name = ServerName::try_from(name.to_owned())?;
    let stream = TcpStream::connect(at).await?;
    let connector = TlsConnector::from(Arc::new(config));
    Ok(connector.connect(name, stream).await?)
}

/// Asks over TLS for a name.
pub(crate) async fn ask_tls(
    at: SocketAddr,
    name: &str,
    shown: &Shown,
    asked: &Ask,
) -> Result<Answer, Failed> {
    http1(tls(at, name, "http/1.1", shown).await?, asked).await
}

impl Bed {
    /// Asks until the answer has this status and comes from this backend (`""` for none).
    pub(crate) async fn expect(
        &self,
        (gateway, port): (&str, u16),
        asked: &Ask,
        status: u16,
        backend: &str,
    ) -> Answer {
        let at = self.tcp(gateway, port).await;
        until(async || {
            let answer = ask(at, asked).await;
            let answer = answer.map_err(|error| format!("{asked:?}: {error}"))?;
            let is_so = answer.status == status && answer.backend() == backend;
            is_so.then_some(()).ok_or_else(|| {
                format!("{asked:?}: {answer:?} instead of {status} by {backend:?}")
            })?;
            Ok(answer)
        })
        .await
    }

    /// `host path -> backend` each; `404` and the like for an answer of the gateway's own.
    pub(crate) async fn expect_all(&self, at: (&str, u16), cases: &[(&str, &str, &str)]) {
        for (host, target, to) in cases {
            self.expect_one(at, &get(host, target), to).await;
        }
    }

    /// A backend, or the status of an answer of the gateway's own.
    pub(crate) async fn expect_one(&self, at: (&str, u16), asked: &Ask, to: &str) -> Answer {
        match to.parse() {
            Ok(status) => self.expect(at, asked, status, "").await,
            Err(_) => self.expect(at, asked, StatusCode::OK.as_u16(), to).await,
        }
    }
}

mod trusting {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    /// Believes everybody.
    #[derive(Debug)]
    pub(super) struct Trusting;

    impl ServerCertVerifier for Trusting {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            let provider = rustls::crypto::aws_lc_rs::default_provider();
            provider
                .signature_verification_algorithms
                .supported_schemes()
        }
    }
}
