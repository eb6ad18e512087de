//! Bytes from one end to the other, counted, until both ends are done, or one fails, or time is up.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use agent_hbone::TunnelIo;
use agent_model::Reason;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::detect::Rewound;
use crate::leg::{Leg, reset};
use crate::passage::Carried;
use crate::upstream::Line;

/// An end that can be closed so that its peer does not take it for a clean end.
pub(super) trait Abort {
    fn abort(&mut self);
}

impl Abort for TcpStream {
    fn abort(&mut self) {
        reset(self);
    }
}

impl<T: Abort> Abort for TlsStream<T> {
    fn abort(&mut self) {
        self.get_mut().0.abort();
    }
}

impl Abort for TunnelIo {
    fn abort(&mut self) {
        Self::abort(self);
    }
}

impl Abort for Line {
    fn abort(&mut self) {
        Self::abort(self);
    }
}

impl Abort for Leg {
    fn abort(&mut self) {
        Self::abort(self);
    }
}

impl<T: Abort> Abort for Rewound<T> {
    fn abort(&mut self) {
        self.get_mut().abort();
    }
}

/// Copies both ways, `early` first to the backend. A reset of either end resets the other, and both
/// are reset when `over` says why they have to end.
pub(super) async fn relay<C, B>(
    client: C,
    mut backend: B,
    early: Bytes,
    carried: &Carried,
    over: impl Future<Output = (Reason, String)>,
) -> (Reason, String)
where
    C: AsyncRead + AsyncWrite + Abort + Unpin,
    B: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let mut client = Counted {
        inner: client,
        read: &carried.received,
        written: &carried.sent,
    };
    let copied = async {
        backend.write_all(&early).await?;
        add(&carried.received, early.len());
        copy_bidirectional(&mut client, &mut backend).await
    };
    let ended = tokio::select! {
        biased;
        why = over => Err(why),
        copied = copied => copied.map_err(|error| (reason(&error), error.to_string())),
    };
    match ended {
        Ok(_) => (Reason::Ok, String::new()),
        Err(failed) => {
            client.inner.abort();
            backend.abort();
            failed
        }
    }
}

fn reason(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Reason::Misdirected,
        _ => Reason::ConnectionReset,
    }
}

/// A stream whose bytes are counted.
struct Counted<'a, T> {
    inner: T,
    read: &'a Cell<u64>,
    written: &'a Cell<u64>,
}

fn add(count: &Cell<u64>, bytes: usize) {
    count.set(count.get() + bytes as u64);
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, into))?;
        add(self.read, into.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<'_, T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        add(self.written, written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
