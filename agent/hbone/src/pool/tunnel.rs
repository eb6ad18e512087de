//! One tunnel: its handle in the pool and the task that drives it.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::StatusCode;
use rustls::pki_types::CertificateDer;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::headers::ConnectRequest;
use crate::keepalive::{Beat, Keepalive};
use crate::stream::{Lease, Load, join};
use crate::transport::{Flusher, Transport};
use crate::{HboneError, Phase, Settings, TunnelStream};

type H2 = h2::client::Connection<Transport, Bytes>;

/// An established tunnel as the pool sees it.
pub(super) struct Tunnel {
    /// Gone once no new streams may be opened; HTTP/2 then closes after the last stream.
    send: RefCell<Option<SendRequest<Bytes>>>,
    load: Rc<Load>,
    /// What the peer showed, leaf first.
    chain: Vec<CertificateDer<'static>>,
    /// The connection is dropped after the grace even when streams are left.
    expire: Notify,
}

impl Tunnel {
    pub(super) fn new(send: SendRequest<Bytes>, chain: Vec<CertificateDer<'static>>) -> Rc<Self> {
        Rc::new(Self {
            send: RefCell::new(Some(send)),
            load: Load::new(),
            chain,
            expire: Notify::new(),
        })
    }

    pub(super) fn streams(&self) -> usize {
        self.load.streams()
    }

    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub(super) fn is_open(&self) -> bool {
        self.send.borrow().is_some()
    }

    /// True when one more stream may be opened, by our limit and by the peer's.
    pub(super) fn has_room(&self, limit: usize) -> bool {
        let send = self.send.borrow();
        send.as_ref()
            .is_some_and(|send| self.streams() < limit.min(send.current_max_send_streams()))
    }

    /// No more streams; with `soon`, streams that are left are dropped after the grace.
    pub(super) fn close(&self, soon: bool) {
        self.send.borrow_mut().take();
        if soon {
            self.expire.notify_one();
        }
    }
}

/// A reserved place for one stream. It outlives the tunnel's closing to others.
pub(super) struct Slot {
    tunnel: Rc<Tunnel>,
    send: Option<SendRequest<Bytes>>,
    lease: Rc<Lease>,
}

impl Slot {
    pub(super) fn on(tunnel: &Rc<Tunnel>) -> Self {
        Self {
            tunnel: Rc::clone(tunnel),
            send: tunnel.send.borrow().clone(),
            lease: Lease::of(&tunnel.load),
        }
    }

    /// Sends the request and waits for the answer.
    pub(super) async fn open(
        self,
        request: &ConnectRequest,
        settings: &Settings,
    ) -> Result<TunnelStream, HboneError> {
        let tunnel = Rc::clone(&self.tunnel);
        let result = timeout(settings.response_timeout, self.exchange(request, settings))
            .await
            .unwrap_or(Err(HboneError::Timeout(Phase::Response)));
        if matches!(result, Err(HboneError::Lost(_))) {
            // The driver will notice too; until then nobody else shall try.
            tunnel.close(false);
        }
        result
    }

    async fn exchange(
        self,
        request: &ConnectRequest,
        settings: &Settings,
    ) -> Result<TunnelStream, HboneError> {
        let failed = |error: h2::Error| HboneError::from_h2(&error);
        // Nothing was sent yet, whatever is wrong with the tunnel.
        let unsent = |error: h2::Error| HboneError::Lost(error.to_string());
        let send = self.send;
        let mut send = send.ok_or_else(|| HboneError::Lost("it was closed".to_owned()))?;
        poll_fn(|cx| send.poll_ready(cx)).await.map_err(unsent)?;
        let (response, body) = send.send_request(request.write(), false).map_err(unsent)?;
        // The clone would keep a closed tunnel open.
        drop(send);
        let response = response.await.map_err(failed)?;
        match response.status() {
            StatusCode::OK => Ok(join(
                response.into_body(),
                body,
                Rc::clone(&self.lease),
                settings,
            )),
            StatusCode::UNAUTHORIZED => Err(HboneError::Denied),
            status => Err(HboneError::Rejected(status.as_u16())),
        }
    }
}

/// Drives the connection: reads, writes, PINGs, and its end.
pub(super) struct Driver {
    connection: H2,
    flusher: Flusher,
    keepalive: Option<Keepalive>,
    tunnel: Rc<Tunnel>,
    idle_release: Duration,
    removal_grace: Duration,
}

impl Driver {
    pub(super) fn new(
        mut connection: H2,
        flusher: Flusher,
        tunnel: Rc<Tunnel>,
        settings: &Settings,
    ) -> Self {
        let keepalive = connection
            .ping_pong()
            .map(|pings| Keepalive::new(pings, settings.ping_interval, settings.ping_timeout));
        Self {
            connection,
            flusher,
            keepalive,
            tunnel,
            idle_release: settings.idle_release,
            removal_grace: settings.removal_grace,
        }
    }

    pub(super) async fn run(mut self) {
        let tunnel = Rc::clone(&self.tunnel);
        let grace = self.removal_grace;
        let expired = async {
            tunnel.expire.notified().await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            result = poll_fn(|cx| self.poll(cx)) => {
                if let Err(error) = result {
                    tracing::debug!(%error, "tunnel ended");
                }
            }
            () = expired => {}
        }
        // Streams on it have failed by now; nobody shall find it any more.
        tunnel.close(false);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HboneError>> {
        let polled = Pin::new(&mut self.connection).poll(cx);
        let beat = self.keepalive.as_mut().map(|keepalive| keepalive.poll(cx));
        if beat == Some(Poll::Ready(Beat::Sent)) {
            self.release_when_idle();
        }
        let flushed = self.flusher.poll_flush(cx);
        if let Poll::Ready(result) = polled {
            return Poll::Ready(result.map_err(|error| HboneError::from_h2(&error)));
        }
        if beat == Some(Poll::Ready(Beat::Dead)) {
            return Poll::Ready(Err(HboneError::Timeout(Phase::Ping)));
        }
        match flushed {
            Poll::Ready(Err(error)) => Poll::Ready(Err(HboneError::Lost(error.to_string()))),
            _ => Poll::Pending,
        }
    }

    fn release_when_idle(&self) {
        let idle = self.tunnel.load.idle_since();
        if idle.is_some_and(|since| since.elapsed() >= self.idle_release) {
            self.tunnel.close(false);
        }
    }
}
