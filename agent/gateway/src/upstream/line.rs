//! A connection to an endpoint, with the right to it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::group::Pass;
use super::trial::Trial;
use crate::leg::Leg;

/// A connection to an endpoint. It counts towards the limits of its service until it is dropped.
pub(crate) struct Line {
    leg: Leg,
    _pass: Option<Pass>,
    /// For connections whose bytes nobody looks into: each is like one long request.
    trial: Option<Trial>,
}

impl Line {
    pub(super) fn new(leg: Leg, pass: Option<Pass>) -> Self {
        Self {
            leg,
            _pass: pass,
            trial: None,
        }
    }

    /// The whole connection is one request.
    pub(super) fn of(self, trial: Trial) -> Self {
        Self {
            trial: Some(trial),
            ..self
        }
    }

    /// The endpoint, where the whole connection is one request.
    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        let trial = self.trial.as_ref()?;
        Some(trial.endpoint().address())
    }

    /// Closes it so that the endpoint does not take it for a clean end, once it is dropped.
    pub(crate) fn abort(&self) {
        self.leg.abort();
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.leg).poll_read(cx, into)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.leg).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.leg).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.leg.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.leg).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.leg).poll_shutdown(cx)
    }
}
