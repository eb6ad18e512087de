//! A stream for protocols that are spoken inside it and want bytes rather than chunks.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::TunnelStream;

/// A [`TunnelStream`] as one byte stream. Dropping it before [`AsyncWrite::poll_shutdown`] resets
/// the stream with CANCEL, which peers take for an end.
#[derive(Debug)]
pub struct TunnelIo {
    stream: TunnelStream,
}

impl TunnelIo {
    /// Takes the stream as it is.
    pub fn new(stream: TunnelStream) -> Self {
        Self { stream }
    }

    /// Resets the stream with CONNECT_ERROR: the peer does not take it for an end.
    pub fn abort(&mut self) {
        agent_net::flow::FlowWrite::abort(&mut self.stream.write);
    }
}

impl AsyncRead for TunnelIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = &mut self.stream.read;
        if let Some(chunk) = ready!(read.poll_chunk(cx, into.remaining()))? {
            into.put_slice(&chunk);
            agent_net::flow::FlowRead::release(read, chunk.len());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    /// The slices go into one frame: a head and its body, or the records of TLS.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.write.poll_copy(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written is with the tunnel's task, which sends it on its next turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.write.end())
    }
}
