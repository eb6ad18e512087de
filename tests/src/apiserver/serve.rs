//! The sockets: accepting, TLS, HTTP, and which request waits, is refused, or is done.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

use super::controls;
use super::failure::Failure;
use super::handle::{Answer, Request, handle};
use super::path::{Query, Target};
use super::shared::Shared;
use super::tokens::Caller;
use super::watching;

/// Bytes of a request's body.
const LARGEST: usize = 8 << 20;
/// Pieces of a watch on their way to the socket.
const PIECES: usize = 16;
/// Time between two looks of the controllers.
pub(super) const CONTROLLERS: Duration = Duration::from_millis(50);
const HANDSHAKE: Duration = Duration::from_secs(10);

type Body = BoxBody<Bytes, Infallible>;

/// Serves until it is stopped; listens while it is up.
pub(super) async fn serve(
    shared: Arc<Shared>,
    first: std::net::TcpListener,
    tls: Option<Arc<ServerConfig>>,
) -> Result<()> {
    let address = first.local_addr().context("the listening address")?;
    let mut listener = Some(TcpListener::from_std(first).context("the listening socket")?);
    let _controllers = AbortOnDrop(tokio::spawn(controllers(Arc::clone(&shared))));
    let mut up = shared.signals.up.subscribe();
    let mut stop = shared.signals.stop.subscribe();
    loop {
        let open = match listener.take() {
            Some(open) => open,
            None => bind(address).await?,
        };
        shared.signals.listening.send_replace(true);
        let mut connections = JoinSet::new();
        tokio::select! {
            () = accept(&shared, &open, tls.as_ref(), &mut connections) => {}
            _ = up.wait_for(|up| !up) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
        drop(open);
        connections.shutdown().await;
        shared.signals.listening.send_replace(false);
        tokio::select! {
            _ = up.wait_for(|up| *up) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
    }
}

/// What happens by itself, whether the server is up or not.
async fn controllers(shared: Arc<Shared>) {
    let mut seen = 0;
    loop {
        tokio::time::sleep(CONTROLLERS).await;
        let mut world = shared.world();
        world.empty_namespaces(std::time::Instant::now());
        if shared.endpoint_slices && world.store.version() != seen {
            world.sync_slices();
            seen = world.store.version();
        }
    }
}

/// A task that ends with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address} again"))
}

async fn accept(
    shared: &Arc<Shared>,
    listener: &TcpListener,
    tls: Option<&Arc<ServerConfig>>,
    connections: &mut JoinSet<()>,
) {
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // An error concerns one connection, or too many at once: the next may be fine.
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(connection(Arc::clone(shared), stream, tls.map(Arc::clone)));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, tls: Option<Arc<ServerConfig>>) {
    // Only a matter of speed.
    let _slow = stream.set_nodelay(true);
    let Some(config) = tls else {
        http1(shared, stream).await;
        return;
    };
    let handshake = TlsAcceptor::from(config).accept(stream);
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, handshake).await else {
        return;
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2(shared, stream).await;
    } else {
        http1(shared, stream).await;
    }
}

async fn http1(shared: Arc<Shared>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
    // The client sees why a connection ends.
    let _ended = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn http2(shared: Arc<Shared>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
    let _ended = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    shared: Arc<Shared>,
    request: http::Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    Ok(match take(&shared, request).await {
        Ok(Answer::Json(code, text)) => json(code, text),
        Ok(Answer::Text(text)) => plain(text),
        Ok(Answer::Watch(watch)) => {
            let (pieces, body) = mpsc::channel(PIECES);
            tokio::spawn(watching::run(Arc::clone(&shared), *watch, pieces));
            typed(200, StreamBody::new(ReceiverStream::new(body)).boxed())
        }
        Err(failure) => {
            let mut response = json(failure.code, failure.status().to_string());
            if let Some(seconds) = failure.retry_after {
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, seconds.into());
            }
            response
        }
    })
}

async fn take(shared: &Arc<Shared>, request: http::Request<Incoming>) -> Result<Answer, Failure> {
    let (head, body) = request.into_parts();
    let header = |name: header::HeaderName| {
        head.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let body = Limited::new(body, LARGEST)
        .collect()
        .await
        .map_err(|error| Failure::new(413, "RequestEntityTooLarge", error.to_string()))?;
    let mut request = Request {
        method: head.method.clone(),
        target: Target::parse(head.uri.path()),
        query: Query::parse(head.uri.query()),
        accept: header(header::ACCEPT),
        content_type: header(header::CONTENT_TYPE),
        user_agent: header(header::USER_AGENT),
        body: body.to_bytes().to_vec(),
        caller: None,
    };
    request.caller = authenticate(shared, &header(header::AUTHORIZATION), &request)?;
    if let Target::Fixture(words) = &request.target {
        if request.caller != Some(Caller::Admin) {
            return Err(unauthorized());
        }
        return controls::control(shared, words, &request);
    }
    if let Some((verb, resource)) = request.verb() {
        let noted = shared.faults().note(verb, &resource);
        watching::be_slow(shared).await;
        noted?;
    }
    handle(&mut shared.world(), &request)
}

/// Whose token it is; probes and the version need none.
fn authenticate(
    shared: &Shared,
    authorization: &str,
    request: &Request,
) -> Result<Option<Caller>, Failure> {
    let open = matches!(request.target, Target::Health | Target::Version);
    let token = authorization.strip_prefix("Bearer ").unwrap_or_default();
    let world = shared.world();
    let caller = world.tokens.caller(&world.store, world.now(), token.trim());
    if caller.is_none() && !open {
        return Err(unauthorized());
    }
    Ok(caller)
}

fn unauthorized() -> Failure {
    Failure::new(401, "Unauthorized", "Unauthorized")
}

fn json(code: u16, text: String) -> Response<Body> {
    typed(code, Full::new(Bytes::from(text)).boxed())
}

fn typed(code: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}

fn plain(text: &'static str) -> Response<Body> {
    let mut response = typed(200, Full::new(Bytes::from_static(text.as_bytes())).boxed());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
