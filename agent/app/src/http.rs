//! The small HTTP/1 server behind the admin socket, metrics and readiness: GET only, one request a
//! connection, a bounded number of connections, a deadline on everything.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

/// Connections one listener serves at a time; more wait in the accept queue.
pub(crate) const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection may last in all.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest request head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// What a route answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

impl Answer {
    /// Plain text.
    pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }

    /// 200 with `value` as JSON.
    pub(crate) fn json(value: &impl serde::Serialize) -> Self {
        match serde_json::to_string(value) {
            Ok(body) => Self {
                status: StatusCode::OK,
                content_type: "application/json",
                body,
            },
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

/// A route: answers the requests it knows. Runs on a blocking thread, so it may take locks.
pub(crate) type Route = Arc<dyn Fn(&Parts) -> Option<Answer> + Send + Sync>;

/// A bound socket that gives connections.
pub(crate) trait Listener {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>>;
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn next(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn next(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }
}

/// Serves `routes` (the first that answers wins) until dropped.
pub(crate) async fn serve(listener: impl Listener, routes: Arc<[Route]>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return; // the semaphore is never closed
        };
        match listener.next().await {
            Ok(stream) => {
                let routes = Arc::clone(&routes);
                tokio::spawn(async move {
                    serve_connection(stream, routes).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(target: "admin", %error, "accept failed");
                // Out of descriptors: trying again at once would only spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    routes: Arc<[Route]>,
) {
    let service = service_fn(move |request| respond(request, Arc::clone(&routes)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(target: "admin", %error, "connection failed"),
        Err(_) => tracing::debug!(target: "admin", "connection timed out"),
    }
}

async fn respond(
    request: Request<Incoming>,
    routes: Arc<[Route]>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, _body) = request.into_parts();
    if parts.method != Method::GET {
        let answer = Answer::text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        let mut response = response(answer);
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET"));
        return Ok(response);
    }
    let answer = tokio::task::spawn_blocking(move || answer(&parts, &routes)).await;
    Ok(response(answer.unwrap_or_else(|_| {
        Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the handler failed\n")
    })))
}

fn answer(parts: &Parts, routes: &[Route]) -> Answer {
    routes
        .iter()
        .find_map(|route| route(parts))
        .unwrap_or_else(|| Answer::text(StatusCode::NOT_FOUND, "not found\n"))
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
