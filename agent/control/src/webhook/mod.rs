//! The validating webhook: the API server asks before it takes an object, and the engine of
//! `culvert check` answers. An object that could never be in force is refused; what else is
//! worth knowing comes as warnings, which kubectl shows.

mod registration;
mod review;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use agent_net::drain;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::ControlError;
use crate::collection::Collection;
use crate::serve::{accept_all, listen};

pub(crate) use registration::Registration;
pub(crate) use review::answer;

/// Where reviews are posted.
const PATH: &str = "/validate";
/// Longest request, in bytes: an object and the one before it, each as large as etcd takes.
const MAX_BODY: usize = 8 << 20;
/// One request, from its first byte to the answer; the API server waits for five seconds.
const REQUEST: Duration = Duration::from_secs(4);
/// Requests at one time, each as large as [`MAX_BODY`] at worst: whoever reaches the port may send
/// some, and what they take of the memory is bounded.
const BODIES: usize = 32;
/// Reviews at one time; each may look at a whole namespace.
const AT_ONCE: usize = 2;
/// Requests in flight on one connection.
const MAX_STREAMS: u32 = 64;
/// The head of a request, in bytes.
const MAX_HEAD: usize = 32 * 1024;

type Answer = Response<Full<Bytes>>;

/// A listener that does not serve yet.
#[derive(Debug)]
pub(crate) struct Webhook {
    listener: TcpListener,
}

/// What every request is answered from.
#[derive(Clone)]
struct Judge {
    collection: Arc<RwLock<Collection>>,
    bodies: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Webhook {
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, ControlError> {
        let listener = listen(address)?;
        Ok(Self { listener })
    }

    pub(crate) fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the drain begins, with the certificate that nodes are shown, too.
    pub(crate) async fn run(
        self,
        tls: &ServerConfig,
        collection: Arc<RwLock<Collection>>,
        drain: drain::Watcher,
    ) {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let judge = Judge::new(collection);
        let serve = move |stream, drain| connection(stream, judge.clone(), drain);
        accept_all(self.listener, Arc::new(tls), drain, serve).await;
    }
}

/// One connection from handshake to end. Any error ends this connection alone.
async fn connection(
    stream: TlsStream<TcpStream>,
    judge: Judge,
    mut drain: drain::Watcher,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = TokioIo::new(stream);
    let service = service_fn(move |request| judge.clone().serve(request));
    if is_http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(30))
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD as u32)
            .serve_connection(stream, service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            () = drain.signalled() => connection.as_mut().graceful_shutdown(),
        }
        return Ok(connection.await?);
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30))
        .max_buf_size(MAX_HEAD)
        .serve_connection(stream, service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = drain.signalled() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

impl Judge {
    fn new(collection: Arc<RwLock<Collection>>) -> Self {
        Self {
            collection,
            bodies: Arc::new(Semaphore::new(BODIES)),
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    async fn serve(self, request: Request<Incoming>) -> Result<Answer, Infallible> {
        let answer = timeout(REQUEST, self.respond(request)).await;
        Ok(answer.unwrap_or_else(|_| plain(StatusCode::SERVICE_UNAVAILABLE)))
    }

    async fn respond<B>(self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        if request.uri().path() != PATH {
            return plain(StatusCode::NOT_FOUND);
        }
        if request.method() != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED);
        }
        // Closed is what neither of the two ever is.
        let Ok(_room) = self.bodies.acquire().await else {
            return plain(StatusCode::SERVICE_UNAVAILABLE);
        };
        let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
        let body: Bytes = match body {
            Ok(body) => body.to_bytes(),
            Err(_) => return plain(StatusCode::PAYLOAD_TOO_LARGE),
        };
        let Ok(_place) = self.places.acquire().await else {
            return plain(StatusCode::SERVICE_UNAVAILABLE);
        };
        let collection = Arc::clone(&self.collection);
        let reviewing = tokio::task::spawn_blocking(move || {
            let inventory = collection
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .inventory();
            answer(&body, inventory)
        });
        match reviewing.await {
            Ok(Some(review)) => json(review),
            Ok(None) => plain(StatusCode::BAD_REQUEST),
            Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

fn json(review: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::from(review));
    let kind = http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

fn plain(status: StatusCode) -> Answer {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut answer = Response::new(Full::from(reason));
    *answer.status_mut() = status;
    answer
}
