//! The two halves of a byte flow, as the copy loop sees them: a TCP socket or a tunnel stream.
//!
//! Chunks are reference-counted [`Bytes`]; TCP reads land in one scratch block per worker thread,
//! so an idle connection holds no buffer and a read of 100 bytes allocates nothing.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// A half that bytes come from.
pub trait FlowRead {
    /// The next chunk, at most `max` bytes and never empty; `None` at a clean end (FIN,
    /// END_STREAM). An error means the flow was reset. Safe to drop before it completes.
    fn read(&mut self, max: usize) -> impl Future<Output = io::Result<Option<Bytes>>>;

    /// Tells the half that `bytes` of what was read have left the agent, so that the peer may
    /// send as much again.
    fn release(&mut self, bytes: usize);
}

/// A half that bytes go to.
pub trait FlowWrite {
    /// Writes the whole chunk, waiting as long as the peer takes.
    fn write(&mut self, chunk: Bytes) -> impl Future<Output = io::Result<()>>;

    /// Ends this direction cleanly (FIN, END_STREAM).
    fn finish(&mut self) -> impl Future<Output = io::Result<()>>;

    /// Ends the flow with a reset (RST, RST_STREAM).
    fn abort(&mut self);

    /// The largest chunk that is worth handing over now, in bytes.
    fn max_chunk(&self) -> usize;
}

/// Chunk size of reads from TCP, in bytes.
pub const TCP_CHUNK: usize = 256 * 1024;
/// A scratch block is replaced when less than this is left of it, in bytes.
const MIN_SPARE: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Reading half of a TCP socket.
#[derive(Debug)]
pub struct TcpReader(OwnedReadHalf);

/// Writing half of a TCP socket; empty once it was aborted.
#[derive(Debug)]
pub struct TcpWriter(Option<OwnedWriteHalf>);

impl TcpWriter {
    fn half(&mut self) -> io::Result<&mut OwnedWriteHalf> {
        self.0
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// Splits a TCP socket into its halves.
pub fn split(stream: TcpStream) -> (TcpReader, TcpWriter) {
    let (read, write) = stream.into_split();
    (TcpReader(read), TcpWriter(Some(write)))
}

impl FlowRead for TcpReader {
    async fn read(&mut self, max: usize) -> io::Result<Option<Bytes>> {
        poll_fn(|cx| poll_read_scratch(Pin::new(&mut self.0), cx, max)).await
    }

    fn release(&mut self, _bytes: usize) {}
}

impl FlowWrite for TcpWriter {
    async fn write(&mut self, mut chunk: Bytes) -> io::Result<()> {
        let half = self.half()?;
        while chunk.has_remaining() {
            let written = poll_fn(|cx| Pin::new(&mut *half).poll_write(cx, chunk.chunk())).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            chunk.advance(written);
        }
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.half()?.shutdown().await
    }

    fn abort(&mut self) {
        let Some(half) = self.0.take() else { return };
        // With a zero linger the close sends RST; it fails on a socket that is already gone.
        let _ = socket2::SockRef::from(half.as_ref()).set_linger(Some(Duration::ZERO));
        // Dropping the half would send FIN first.
        half.forget();
    }

    fn max_chunk(&self) -> usize {
        TCP_CHUNK
    }
}

/// Reads into the worker's scratch block and cuts off what was read.
fn poll_read_scratch(
    source: Pin<&mut OwnedReadHalf>,
    cx: &mut Context<'_>,
    max: usize,
) -> Poll<io::Result<Option<Bytes>>> {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.capacity() - scratch.len() < MIN_SPARE.min(max) {
            scratch.reserve(TCP_CHUNK);
        }
        let spare = scratch.spare_capacity_mut();
        let room = spare.len().min(max);
        let mut buffer = ReadBuf::uninit(&mut spare[..room]);
        ready!(source.poll_read(cx, &mut buffer))?;
        let filled = buffer.filled().len();
        if filled == 0 {
            return Poll::Ready(Ok(None));
        }
        // SAFETY: poll_read initialised the first `filled` bytes of the spare capacity.
        unsafe { scratch.advance_mut(filled) };
        Poll::Ready(Ok(Some(scratch.split().freeze())))
    })
}
