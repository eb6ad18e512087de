//! A backend that says what it saw.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A request as the backend saw it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    pub(super) host: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

#[derive(Default)]
struct Log {
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    is_ill: AtomicBool,
}

/// A running backend. Its answers carry its name in `x-backend`.
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    log: Arc<Log>,
}

impl Backend {
    pub(super) async fn start(name: &'static str) -> Self {
        Self::start_at("127.0.0.1", name).await
    }

    /// On another address of loopback.
    pub(super) async fn start_at(ip: &str, name: &'static str) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Log::default());
        let kept = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                log.connections.fetch_add(1, Ordering::Relaxed);
                let log = Arc::clone(&log);
                tokio::spawn(async move {
                    let service =
                        service_fn(move |request| answer(name, Arc::clone(&log), request));
                    let server = auto::Builder::new(TokioExecutor::new());
                    let served =
                        server.serve_connection_with_upgrades(TokioIo::new(stream), service);
                    let _ = served.await;
                });
            }
        });
        Self { address, log: kept }
    }

    pub(super) fn set_well(&self, is_well: bool) {
        self.log.is_ill.store(!is_well, Ordering::Relaxed);
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.log.seen.lock().unwrap().clone()
    }

    pub(super) fn last(&self) -> Seen {
        self.seen().pop().expect("no request came")
    }

    pub(super) fn connections(&self) -> usize {
        self.log.connections.load(Ordering::Relaxed)
    }

    /// Waits until that many requests have come.
    pub(super) async fn wait_for(&self, requests: usize) -> Vec<Seen> {
        let wait = async {
            while self.seen().len() < requests {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), wait)
            .await
            .expect("too few requests came");
        self.seen()
    }
}

type Answered = Result<Response<BoxBody<Bytes, hyper::Error>>, Infallible>;

/// One whose name begins with `bad` answers 503, `grpc-bad` that it is unavailable. `/healthz`
/// is answered as [`Backend::set_well`] says. `/delay/MS` waits, `/status/CODE` answers that, `/fail-first/N` answers 503 so
/// often, `/close` closes the connection, `/trailers` has
/// trailers, `/ws` changes to WebSocket and echoes, everything else echoes the body as it comes.
async fn answer(name: &'static str, log: Arc<Log>, mut request: Request<Incoming>) -> Answered {
    let target = request.uri().path_and_query().unwrap().to_string();
    let host = match request.headers().get("host") {
        Some(host) => host.to_str().unwrap().to_owned(),
        None => request.uri().authority().unwrap().to_string(),
    };
    let mut seen = Seen {
        method: request.method().to_string(),
        target: target.clone(),
        host,
        headers: request.headers().clone(),
        body: Bytes::new(),
    };
    let mut response = Response::builder().header("x-backend", name);
    if target.starts_with("/ws") {
        log.seen.lock().unwrap().push(seen);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(hyper::upgrade::on(&mut request).await.unwrap());
            let mut buffer = [0; 64];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                stream.write_all(&buffer[..read]).await.unwrap();
            }
        });
        return Ok(response
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, "websocket")
            .body(full(""))
            .unwrap());
    }
    if target == "/stream" {
        log.seen.lock().unwrap().push(seen);
        return Ok(response.body(request.into_body().boxed()).unwrap());
    }
    seen.body = request
        .into_body()
        .collect()
        .await
        .map_or_else(|_| Bytes::new(), |body| body.to_bytes());
    let echo = seen.body.clone();
    log.seen.lock().unwrap().push(seen);
    let argument = target.rsplit('/').next().unwrap_or_default();
    if target.starts_with("/delay/") {
        tokio::time::sleep(Duration::from_millis(argument.parse().unwrap())).await;
    }
    if target.starts_with("/fail-first/") {
        let seen = log.seen.lock().unwrap();
        let times = seen.iter().filter(|seen| seen.target == target).count();
        if times <= argument.parse::<usize>().unwrap() {
            response = response.status(StatusCode::SERVICE_UNAVAILABLE);
        }
    }
    if name.starts_with("bad") {
        response = response.status(StatusCode::SERVICE_UNAVAILABLE);
    }
    if name == "grpc-bad" {
        response = response.header("grpc-status", "14");
    }
    if target == "/healthz" && log.is_ill.load(Ordering::Relaxed) {
        response = response.status(StatusCode::INTERNAL_SERVER_ERROR);
    }
    if target.starts_with("/status/") {
        response = response.status(argument.parse::<u16>().unwrap());
    }
    if target == "/close" {
        response = response.header(CONNECTION, "close");
    }
    if target == "/trailers" {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = [
            Ok(Frame::data(Bytes::from("body"))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        return Ok(response
            .header("trailer", "grpc-status")
            .body(BodyExt::boxed(body))
            .unwrap());
    }
    Ok(response.body(full(echo)).unwrap())
}

fn full(content: impl Into<Bytes>) -> BoxBody<Bytes, hyper::Error> {
    Full::new(content.into())
        .map_err(|never| match never {})
        .boxed()
}
