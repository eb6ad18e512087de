//! HTTP/1.1 to backends.
//!
//! A connection is driven by whoever uses it: the task of the client's request polls it while it
//! waits for the head, and the response's body polls it while it is read. No task of its own, no
//! hop between threads or tasks; while it waits for its next request nobody touches it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use agent_model::Reason;
use bytes::Bytes;
use hyper::Response;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, Parts, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::behalf::{Behalf, are_alike};
use super::connect::Dialer;
use super::endpoint::Endpoint;
use super::h2::Share;
use super::line::Line;
use super::patient::Patient;
use super::trial::Trial;
use super::{Failed, IDLE, Outgoing, chain};
use crate::body::RequestBody;
use crate::plan::Inside;
use crate::refusal::Refusal;

/// Connections to one endpoint that may wait for a request, for each worker.
const MAX_IDLE: usize = 256;
/// Longest head of a response, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// A connection and what it is driven by.
struct Wire {
    send: SendRequest<RequestBody>,
    connection: Connection<TokioIo<Patient<Line>>, RequestBody>,
    /// It is over: closed, broken, or no longer HTTP.
    ended: bool,
    /// For whom alone it is.
    behalf: Option<Arc<Behalf>>,
}

/// A connection that waits for a request. Boxed, as everywhere: it goes from hand to hand with each
/// request, and is as large as all that a request otherwise holds.
pub(super) struct Idle {
    wire: Box<Wire>,
    since: Instant,
}

impl Idle {
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        now.duration_since(self.since) < IDLE
    }
}

/// A connection while a response comes over it. Goes back to its endpoint when the response ended
/// well, and is closed otherwise.
pub(crate) struct Leased {
    /// `None` once it went back, and for connections that drive themselves.
    wire: Option<Box<Wire>>,
    trial: Trial,
    /// Its part in a connection that is shared.
    _share: Option<Share>,
    /// The body's end was seen.
    complete: bool,
}

/// What is left of a connection that was upgraded.
pub(crate) struct Upgraded {
    pub(crate) stream: Line,
    /// What came right after the head.
    pub(crate) early: Bytes,
}

/// Sends a request over a connection that waits, or over a new one.
pub(super) async fn send(
    dialer: &Dialer,
    mut trial: Trial,
    behalf: Option<&Arc<Behalf>>,
    mut request: Outgoing,
) -> Result<(Response<Incoming>, Leased), Failed> {
    loop {
        let waiting = take_idle(trial.endpoint(), behalf);
        let is_new = waiting.is_none();
        let wire = match waiting {
            Some(wire) => wire,
            // Boxed: most requests find a connection.
            None => match Box::pin(connect(dialer, trial.endpoint(), behalf)).await {
                Ok(wire) => wire,
                Err(refusal) => return Err(Failed::unsent(refusal, request).at(trial)),
            },
        };
        match exchange(trial, wire, request).await {
            Ok(answered) => return Ok(answered),
            // It was closed meanwhile, before anything was sent.
            Err((
                same,
                Failed {
                    unsent: Some(unsent),
                    ..
                },
            )) if !is_new => (trial, request) = (same, unsent),
            Err((trial, failed)) => return Err(failed.at(trial)),
        }
    }
}

async fn connect(
    dialer: &Dialer,
    endpoint: &Endpoint,
    behalf: Option<&Arc<Behalf>>,
) -> Result<Box<Wire>, Refusal> {
    let line = dialer.line(endpoint, Inside::Http1, behalf).await?;
    let (send, connection) = http1::Builder::new()
        .max_header_size(MAX_HEAD)
        .handshake(TokioIo::new(Patient::new(line)))
        .await
        .map_err(|error| Refusal::new(Reason::ConnectFailed, chain(&error)))?;
    Ok(Box::new(Wire {
        send,
        connection,
        ended: false,
        behalf: behalf.cloned(),
    }))
}

/// The most recently used connection that still stands. What a backend said before this request
/// came has been noticed by the runtime before it: a look without waiting sees it.
fn take_idle(endpoint: &Endpoint, behalf: Option<&Arc<Behalf>>) -> Option<Box<Wire>> {
    let now = Instant::now();
    loop {
        let mut idle = {
            let mut all = endpoint.idle.borrow_mut();
            let fits = |idle: &Idle| are_alike(idle.wire.behalf.as_ref(), behalf);
            let place = all.iter().rposition(fits)?;
            all.remove(place)
        };
        if !idle.is_fresh(now) {
            // Those before it have waited for longer.
            endpoint.sweep(now);
            return None;
        }
        let Idle { wire, .. } = &mut idle;
        wire.drive(&mut Context::from_waker(Waker::noop()));
        if wire.is_free() {
            return Some(idle.wire);
        }
    }
}

async fn exchange(
    mut trial: Trial,
    mut wire: Box<Wire>,
    request: Outgoing,
) -> Result<(Response<Incoming>, Leased), (Trial, Failed)> {
    let answered = {
        let mut sent = pin!(wire.send.try_send_request(*request));
        poll_fn(|cx| {
            wire.drive(cx);
            sent.as_mut().poll(cx)
        })
        .await
    };
    match answered {
        Ok(response) => {
            trial.answered(response.status(), response.headers());
            let leased = Leased {
                wire: Some(wire),
                trial,
                _share: None,
                complete: false,
            };
            Ok((response, leased))
        }
        Err(mut error) => match error.take_message() {
            Some(request) => {
                let detail = chain(error.error());
                let refusal = Refusal::new(Reason::ConnectionReset, detail);
                Err((trial, Failed::unsent(refusal, Box::new(request))))
            }
            None => Err((trial, Failed::lost(error.error()))),
        },
    }
}

impl Wire {
    /// Lets the connection do what it can now.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if self.ended {
            return;
        }
        if let Poll::Ready(ended) = self.connection.poll_without_shutdown(cx) {
            if let Err(error) = ended {
                tracing::trace!(error = chain(&error), "connection to a backend ended");
            }
            self.ended = true;
        }
    }

    /// True when it can take a request.
    fn is_free(&self) -> bool {
        !self.ended && self.send.is_ready()
    }
}

impl Leased {
    /// A response over a connection that is shared and drives itself.
    pub(super) fn shared(trial: Trial, share: Share) -> Self {
        Self {
            wire: None,
            trial,
            _share: Some(share),
            complete: false,
        }
    }

    /// Lets the connection do what it can now.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(wire) = &mut self.wire {
            wire.drive(cx);
        }
    }

    /// Who answers.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        self.trial.endpoint()
    }

    /// The response's body has ended: the connection may be used again.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }

    /// The connection after a 101, when HTTP is over on it.
    pub(crate) async fn upgrade(mut self) -> Option<Upgraded> {
        poll_fn(|cx| {
            self.drive(cx);
            match &self.wire {
                Some(wire) if !wire.ended => Poll::Pending,
                _ => Poll::Ready(()),
            }
        })
        .await;
        let wire = self.wire.take()?;
        let Parts { io, read_buf, .. } = wire.connection.into_parts();
        Some(Upgraded {
            stream: io.into_inner().into_inner(),
            early: read_buf,
        })
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if !self.complete {
            return;
        }
        let Some(mut wire) = self.wire.take() else {
            return;
        };
        // The connection notices the end of the exchange when it is polled once more. Nobody waits
        // for it, so nobody needs to be woken.
        wire.drive(&mut Context::from_waker(Waker::noop()));
        let endpoint = self.trial.endpoint();
        let mut idle = endpoint.idle.borrow_mut();
        let is_wanted = endpoint.group().is_wanted();
        if wire.is_free() && idle.len() < MAX_IDLE && !is_wanted {
            idle.push(Idle {
                wire,
                since: Instant::now(),
            });
        }
    }
}
