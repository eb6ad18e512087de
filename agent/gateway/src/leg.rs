//! Connections to endpoints: plain where the endpoint is not in the mesh, a tunnel where it is; TLS
//! over either where the endpoint wants it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use agent_hbone::TunnelIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A connection to an endpoint.
pub(crate) enum Leg {
    Tcp(TcpStream),
    Tunnel(TunnelIo),
    Tls(Box<TlsStream<Self>>),
}

impl Leg {
    /// Closes it so that the endpoint does not take it for a clean end, once it is dropped.
    pub(crate) fn abort(&mut self) {
        match self {
            Self::Tcp(stream) => reset(stream),
            Self::Tunnel(stream) => stream.abort(),
            Self::Tls(stream) => stream.get_mut().0.abort(),
        }
    }
}

/// Has a connection reset when it is closed; fails on one that is already gone.
pub(crate) fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Does the same with whichever stream it is.
macro_rules! each {
    ($leg:expr, $stream:ident => $done:expr) => {
        match $leg {
            Leg::Tcp($stream) => $done,
            Leg::Tunnel($stream) => $done,
            Leg::Tls($stream) => $done,
        }
    };
}

impl AsyncRead for Leg {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, into))
    }
}

impl AsyncWrite for Leg {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}
