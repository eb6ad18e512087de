//! A connection that goes on being read when it can no longer be written.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::forward::forward_reads;

/// A backend may answer before it has read the whole request, and close: what is written then
/// fails, and what it said is there to be read. The HTTP client would give up at the first of
/// the two, so it is not told of it; where there is no answer, reading fails soon after.
pub(super) struct Patient<T> {
    stream: T,
    /// Nobody reads what is written.
    is_deaf: bool,
}

impl<T> Patient<T> {
    pub(super) fn new(stream: T) -> Self {
        Self {
            stream,
            is_deaf: false,
        }
    }

    pub(super) fn into_inner(self) -> T {
        self.stream
    }

    fn told(&mut self, length: usize, written: io::Result<usize>) -> io::Result<usize> {
        match written {
            Err(error) if is_the_other_end(&error) => {
                self.is_deaf = true;
                Ok(length)
            }
            other => other,
        }
    }
}

/// True when the other end closed, or stopped reading.
fn is_the_other_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

forward_reads!(impl[T: AsyncRead + Unpin] for Patient<T>, stream);

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        Poll::Ready(self.told(bytes.len(), written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        if self.is_deaf {
            return Poll::Ready(Ok(length));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices));
        Poll::Ready(self.told(length, written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_deaf {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        Poll::Ready(self.told(0, flushed.map(|()| 0)).map(drop))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
