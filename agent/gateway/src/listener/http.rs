//! HTTP with a client, over whatever its bytes come over.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use agent_net::drain::Watcher;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::detect::{Rewound, Spoken};
use super::relay::Abort;
use super::standing::{End, pass};
use super::strict::Strict;
use crate::local::{LocalExecutor, LocalTimer};
use crate::passage::Passage;
use crate::place::Transport;
use crate::request::{self, Downstream, Head, Left};
use crate::response::ResponseBody;
use crate::upstream::Upgraded;
use crate::worker::Worker;

/// How long a request's head may take; also how long a connection may wait for its next request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest head of a request, in bytes (431 beyond).
const MAX_HEAD: usize = 64 * 1024;
/// Most fields of a head (431 beyond).
const MAX_FIELDS: usize = 128;
/// Requests of one HTTP/2 connection at a time.
const MAX_STREAMS: u32 = 256;
/// Bytes that may be under way in one HTTP/2 stream, and in all of them.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How often a silent HTTP/2 client is asked whether it is there, and how long it may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

type Answered = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>>>>;

/// Serves a client's HTTP until it ends, or until its requests have ended after the drain began.
pub(super) async fn speak<T>(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    spoken: Spoken,
    stream: Rewound<T>,
    draining: Watcher,
) where
    T: AsyncRead + AsyncWrite + Abort + Unpin + 'static,
{
    match spoken {
        Spoken::Http1 => serve_http1(worker, downstream, stream, draining).await,
        Spoken::Http2 => serve_http2(worker, downstream, stream, draining).await,
    }
}

async fn serve_http1<T>(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    stream: Rewound<T>,
    mut draining: Watcher,
) where
    T: AsyncRead + AsyncWrite + Abort + Unpin + 'static,
{
    let service = service(Rc::clone(&worker), Rc::clone(&downstream));
    let mut connection = http1::Builder::new()
        .timer(LocalTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD)
        .max_headers(MAX_FIELDS)
        .half_close(false)
        .serve_connection(TokioIo::new(Strict::new(stream)), service);
    let mut told = false;
    let ended = loop {
        tokio::select! {
            biased;
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break ended,
            () = draining.signalled(), if !told => {
                told = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    let parts = connection.into_parts();
    let strict = parts.io.into_inner();
    let refused = strict.refused();
    let mut stream = strict.into_inner();
    if let Err(error) = ended {
        tracing::trace!(client = %downstream.client, %error, "connection ended");
        request::unread(&worker, &downstream, &error, refused);
        // What cannot be read was answered; the answer has to arrive before the end.
        let _ = stream.shutdown().await;
        return;
    }
    let left = downstream.left.borrow_mut().take();
    match left {
        Some(left) => {
            let (unread, stream) = stream.into_parts();
            let early = [&parts.read_buf[..], &unread[..]].concat();
            let stream = Rewound::begun(early.into(), stream);
            // Boxed: few connections leave HTTP.
            Box::pin(splice(&worker, &downstream, stream, *left)).await;
        }
        None => {
            let _ = stream.shutdown().await;
        }
    }
}

/// Bytes of a connection that has left HTTP, until both ends are done, or one fails, or policies would
/// refuse the request by which it left.
async fn splice<T>(worker: &Worker, downstream: &Downstream, client: Rewound<T>, left: Left)
where
    T: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let Left {
        upgraded: Upgraded { stream, early },
        endpoint,
        head,
    } = left;
    let now = std::time::Instant::now();
    let mut passage = Passage::begin(downstream.client, downstream.port, Transport::Tcp, now);
    passage.name = downstream.sni.as_deref().map(str::to_owned);
    passage.endpoint = Some(endpoint);
    let ends = (client, Rewound::begun(early, stream));
    pass(worker, passage, ends, || end(worker, downstream, &head)).await;
}

/// Why a connection that has left HTTP has to end.
fn end(worker: &Worker, downstream: &Downstream, head: &Head) -> Option<End> {
    let refused = head.refused_now(worker, downstream)?;
    match refused.missing {
        None => End::denied(refused.refusal),
        // They may be on their way.
        Some(_) => Some(End::Changed("the keys of its token are not to be had")),
    }
}

async fn serve_http2<T>(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    stream: Rewound<T>,
    mut draining: Watcher,
) where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service(Rc::clone(&worker), Rc::clone(&downstream));
    let connection = http2::Builder::new(LocalExecutor)
        .timer(LocalTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut told = false;
    let ended = loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => break ended,
            () = draining.signalled(), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        tracing::trace!(client = %downstream.client, %error, "connection ended");
        request::unread_frames(&worker, &downstream, &error);
    }
}

fn service(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
) -> impl Service<
    Request<Incoming>,
    Response = Response<ResponseBody>,
    Error = Infallible,
    Future = Answered,
> + Unpin {
    service_fn(move |request| -> Answered {
        let (worker, downstream) = (Rc::clone(&worker), Rc::clone(&downstream));
        Box::pin(async move { Ok(request::serve(&worker, &downstream, request).await) })
    })
}
