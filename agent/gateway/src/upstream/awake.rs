//! A connection that tells when its other end has said the first word.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// An HTTP/2 server speaks at once (RFC 9113, 3.4). One that accepts connections and is silent
/// would otherwise hold every request that is given to it.
pub(super) struct Awake<T> {
    stream: T,
    heard: Option<oneshot::Sender<()>>,
}

impl<T> Awake<T> {
    /// The stream, and what is told when something was read; an error when it ended before.
    pub(super) fn new(stream: T) -> (Self, oneshot::Receiver<()>) {
        let (heard, told) = oneshot::channel();
        let heard = Some(heard);
        (Self { stream, heard }, told)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Awake<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        if into.filled().len() > before
            && let Some(heard) = self.heard.take()
        {
            // Nobody may want to know any more.
            let _ = heard.send(());
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Awake<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
