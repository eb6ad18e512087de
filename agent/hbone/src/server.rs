//! The server: TLS, then CONNECT requests handed out one by one.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use agent_identity::peer_identity;
use agent_model::Identity;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response, StatusCode};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::headers::{ConnectRequest, RequestError, insert_baggage};
use crate::keepalive::{Beat, Keepalive};
use crate::stream::{Lease, Load, join};
use crate::transport::{Flusher, Transport};
use crate::{HboneError, Phase, Settings, TunnelStream};

type H2 = h2::server::Connection<Transport, Bytes>;

/// How long a new peer is awaited that is to be told to go away.
const FIRST_REQUEST_PATIENCE: Duration = Duration::from_secs(1);

/// Completes the TLS handshake of an accepted connection (see
/// [`agent_identity::server_config`]) within [`Settings::handshake_timeout`].
pub async fn accept(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
    settings: Rc<Settings>,
) -> Result<Connection, HboneError> {
    let handshake = TlsAcceptor::from(config).accept(tcp);
    let stream = timeout(settings.handshake_timeout, handshake)
        .await
        .map_err(|_| HboneError::Timeout(Phase::Handshake))?
        .map_err(|error| HboneError::from_tls(&error))?;
    let (tcp, session) = stream.into_inner();
    // The verifier let nobody through without an identity.
    let peer = peer_identity(&session)
        .ok_or_else(|| HboneError::Tls("peer without an identity".to_owned()))?;
    let chain = session.peer_certificates().unwrap_or_default().to_vec();
    let (transport, flusher) = Transport::new(tcp, session.into());
    Ok(Connection {
        peer,
        chain,
        transport,
        flusher,
        settings,
    })
}

/// A peer that proved its identity and has not spoken HTTP/2 yet.
pub struct Connection {
    peer: Identity,
    chain: Vec<CertificateDer<'static>>,
    transport: Transport,
    flusher: Flusher,
    settings: Rc<Settings>,
}

impl Connection {
    /// Who the peer is.
    pub fn peer(&self) -> &Identity {
        &self.peer
    }

    /// The certificates it showed, leaf first.
    pub fn peer_chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Serves requests until the peer closes, breaks the protocol, or is silent for too long, and
    /// after `no_more` completed until the last stream ended (new streams are refused by GOAWAY). Every
    /// request is handed to `on_request`, which must not block: it spawns what takes time.
    ///
    /// The future drives all streams of the connection: run it in a task of its own. Dropping it
    /// ends every stream as lost.
    pub async fn serve(
        self,
        mut on_request: impl FnMut(IncomingRequest),
        no_more: impl Future<Output = ()>,
    ) -> Result<(), HboneError> {
        let settings = self.settings;
        let deadline = Instant::now() + settings.first_request_timeout;
        let handshake = builder(&settings).handshake(self.transport);
        let mut h2: H2 = timeout_at(deadline, handshake)
            .await
            .map_err(|_| HboneError::Timeout(Phase::FirstRequest))?
            .map_err(|error| HboneError::from_h2(&error))?;
        self.flusher.take_over();
        let mut session = Session::new(&mut h2, &settings, deadline);
        let mut no_more = pin!(no_more);
        let mut asked = false;
        poll_fn(|cx| {
            if !asked && no_more.as_mut().poll(cx).is_ready() {
                asked = true;
                session.ask_to_go();
            }
            let polled = session.poll(cx, &mut h2, &mut on_request);
            match self.flusher.poll_flush(cx) {
                Poll::Ready(Err(error)) if polled.is_pending() => {
                    Poll::Ready(Err(HboneError::Lost(error.to_string())))
                }
                _ => polled,
            }
        })
        .await
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// The state of one connection beside HTTP/2's own.
struct Session {
    settings: Rc<Settings>,
    load: Rc<Load>,
    keepalive: Option<Keepalive>,
    /// Runs until the first request.
    first_request: Option<Pin<Box<Sleep>>>,
    /// When the peer is to be told to go away.
    farewell: Option<Pin<Box<Sleep>>>,
    draining: bool,
}

impl Session {
    fn new(h2: &mut H2, settings: &Rc<Settings>, first_request: Instant) -> Self {
        Self {
            settings: Rc::clone(settings),
            load: Load::new(),
            keepalive: h2
                .ping_pong()
                .map(|pings| Keepalive::new(pings, settings.ping_interval, settings.ping_timeout)),
            first_request: Some(Box::pin(sleep_until(first_request))),
            farewell: None,
            draining: false,
        }
    }

    /// Tells the peer to go away, soon. Who was accepted a moment ago is about to send its first
    /// request, and may take a farewell that comes before it for a failure.
    fn ask_to_go(&mut self) {
        let patience = match self.first_request {
            Some(_) => FIRST_REQUEST_PATIENCE,
            None => Duration::ZERO,
        };
        self.farewell = Some(Box::pin(sleep_until(Instant::now() + patience)));
    }

    /// True when the peer is to be told to go away now.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(timer) = &mut self.farewell else {
            return false;
        };
        let now = timer.as_mut().poll(cx).is_ready() || self.first_request.is_none();
        if now {
            self.farewell = None;
        }
        now
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        h2: &mut H2,
        on_request: &mut impl FnMut(IncomingRequest),
    ) -> Poll<Result<(), HboneError>> {
        loop {
            match h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.first_request = None;
                    on_request(self.incoming(request, respond));
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(HboneError::from_h2(&error)));
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        if let Some(phase) = self.poll_silence(cx) {
            // Sends what it can of the farewell; nobody may be there to read it.
            h2.abrupt_shutdown(h2::Reason::NO_ERROR);
            let _ = h2.poll_closed(cx);
            return Poll::Ready(Err(HboneError::Timeout(phase)));
        }
        let farewell = self.poll_farewell(cx);
        if !self.draining && (farewell || self.is_idle()) {
            self.draining = true;
            h2.graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// The deadline that passed, if one did.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Option<Phase> {
        if let Some(timer) = &mut self.first_request
            && timer.as_mut().poll(cx).is_ready()
        {
            return Some(Phase::FirstRequest);
        }
        let beat = self.keepalive.as_mut().map(|keepalive| keepalive.poll(cx));
        (beat == Some(Poll::Ready(Beat::Dead))).then_some(Phase::Ping)
    }

    fn is_idle(&self) -> bool {
        self.load
            .idle_since()
            .is_some_and(|since| since.elapsed() >= self.settings.server_idle)
    }

    fn incoming(
        &self,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> IncomingRequest {
        let (parts, body) = request.into_parts();
        IncomingRequest {
            request: ConnectRequest::read(&parts),
            body,
            respond,
            lease: Lease::of(&self.load),
            settings: Rc::clone(&self.settings),
        }
    }
}

/// One request, to be answered by [`Self::accept`] or [`Self::reject`]. Dropping it resets the
/// stream.
pub struct IncomingRequest {
    /// What was asked, or why it is not a CONNECT request (to be rejected with 400).
    pub request: Result<ConnectRequest, RequestError>,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    lease: Rc<Lease>,
    settings: Rc<Settings>,
}

impl IncomingRequest {
    /// Answers 200, with the `baggage` of the destination when given. Fails when the peer gave up
    /// meanwhile.
    pub fn accept(mut self, baggage: Option<&str>) -> io::Result<TunnelStream> {
        let mut response = Response::new(());
        if let Some(baggage) = baggage {
            insert_baggage(response.headers_mut(), baggage);
        }
        let send = self
            .respond
            .send_response(response, false)
            .map_err(|error| io::Error::new(io::ErrorKind::BrokenPipe, error.to_string()))?;
        Ok(join(self.body, send, self.lease, &self.settings))
    }

    /// Answers an error status and ends the stream: headers with END_STREAM, then
    /// RST_STREAM(NO_ERROR) because the peer's half is still open.
    pub fn reject(mut self, status: StatusCode) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        // Fails only when the peer gave up meanwhile. Dropping the halves sends the reset.
        let _ = self.respond.send_response(response, true);
    }

    /// Completes when the peer gives up before an answer. Safe to drop.
    pub async fn abandoned(&mut self) {
        let _ = poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }
}

impl fmt::Debug for IncomingRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingRequest")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

fn builder(settings: &Settings) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_frame_size(settings.max_frame)
        .max_header_list_size(settings.max_headers)
        .max_concurrent_streams(settings.max_streams)
        .max_send_buffer_size(settings.send_buffer);
    builder
}
