//! HTTP/2 to backends, with prior knowledge: one connection per endpoint and worker.

use std::sync::Arc;

use agent_model::Reason;
use agent_net::tasks::spawn_local;
use http::Uri;
use http::uri::Scheme;
use hyper::Response;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

use super::awake::Awake;
use super::behalf::{Behalf, are_alike};
use super::connect::Dialer;
use super::endpoint::Endpoint;
use super::h1::Leased;
use super::trial::Trial;
use super::{CONNECT_TIMEOUT, Failed, Outgoing, chain};
use crate::body::RequestBody;
use crate::local::{LocalExecutor, LocalTimer};
use crate::plan::Inside;
use crate::refusal::Refusal;

/// Bytes that may be under way in one stream, and in all of them.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Longest list of response headers, in bytes.
const MAX_HEAD: u32 = 64 * 1024;

/// The connection that an endpoint's requests share. Those that come while it is made wait.
#[derive(Default)]
pub(super) struct Shared(Mutex<Vec<Open>>);

/// A connection, and for whom alone it is.
type Open = (Option<Arc<Behalf>>, SendRequest<RequestBody>);

/// Clients of a waypoint that have a connection to an endpoint at a time; of more, the one that was
/// made first gives way: it ends with its last request.
const MAX_CLIENTS: usize = 256;

impl Shared {
    /// Lets go of the connection, unless it is being made: it ends with its last request.
    pub(super) fn close(&self) {
        if let Ok(mut shared) = self.0.try_lock() {
            shared.clear();
        }
    }
}

/// Sends a request over the endpoint's connection.
pub(super) async fn send(
    dialer: &Dialer,
    mut trial: Trial,
    behalf: Option<&Arc<Behalf>>,
    request: Outgoing,
) -> Result<(Response<Incoming>, Leased), Failed> {
    let mut send = match connection(dialer, trial.endpoint(), behalf).await {
        Ok(send) => send,
        Err(refusal) => return Err(Failed::unsent(refusal, request).at(trial)),
    };
    let request = match trial.endpoint().tls() {
        None => request,
        Some(_) => with_https(request),
    };
    match send.try_send_request(*request).await {
        Ok(response) => {
            trial.answered(response.status(), response.headers());
            Ok((response, Leased::shared(trial)))
        }
        Err(mut error) => {
            let failed = match error.take_message() {
                Some(request) => {
                    let refusal = Refusal::new(Reason::ConnectionReset, chain(error.error()));
                    Failed::unsent(refusal, Box::new(request))
                }
                None => Failed::lost(error.error()),
            };
            Err(failed.at(trial))
        }
    }
}

/// The scheme belongs to an HTTP/2 request's head.
fn with_https(mut request: Outgoing) -> Outgoing {
    let mut target = request.uri().clone().into_parts();
    target.scheme = Some(Scheme::HTTPS);
    if let Ok(target) = Uri::from_parts(target) {
        *request.uri_mut() = target;
    }
    request
}

/// The endpoint's connection. Nobody waits for longer than [`CONNECT_TIMEOUT`] for one that somebody
/// else makes, nor for longer than that for its own.
async fn connection(
    dialer: &Dialer,
    endpoint: &Endpoint,
    behalf: Option<&Arc<Behalf>>,
) -> Result<SendRequest<RequestBody>, Refusal> {
    let late = |_| {
        let detail = format!(
            "{} spoke no HTTP/2 within {CONNECT_TIMEOUT:?}",
            endpoint.address()
        );
        Refusal::new(Reason::ConnectTimeout, detail)
    };
    let shared = timeout(CONNECT_TIMEOUT, endpoint.shared.0.lock());
    let mut shared = shared.await.map_err(late)?;
    let mut open = shared.iter();
    if let Some((_, send)) = open.find(|(of, _)| are_alike(of.as_ref(), behalf))
        && !send.is_closed()
    {
        return Ok(send.clone());
    }
    let (send, heard) = connect(dialer, endpoint, behalf).await?;
    let ended = |_| Refusal::new(Reason::H2Failed, "the connection ended before a word");
    let heard = timeout(CONNECT_TIMEOUT, heard).await.map_err(late)?;
    heard.map_err(ended)?;
    shared.retain(|(_, send)| !send.is_closed());
    if shared.len() >= MAX_CLIENTS {
        shared.remove(0);
    }
    shared.push((behalf.cloned(), send.clone()));
    Ok(send)
}

/// A new connection, which drives itself, and what is told when the endpoint speaks.
async fn connect(
    dialer: &Dialer,
    endpoint: &Endpoint,
    behalf: Option<&Arc<Behalf>>,
) -> Result<(SendRequest<RequestBody>, oneshot::Receiver<()>), Refusal> {
    let line = dialer.line(endpoint, Inside::Http2, behalf).await?;
    let (line, heard) = Awake::new(line);
    let (send, connection) = http2::Builder::new(LocalExecutor)
        .timer(LocalTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD)
        .handshake(TokioIo::new(line))
        .await
        .map_err(|error| Refusal::new(Reason::H2Failed, chain(&error)))?;
    spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(
                error = chain(&error),
                "HTTP/2 connection to a backend ended"
            );
        }
    });
    Ok((send, heard))
}
