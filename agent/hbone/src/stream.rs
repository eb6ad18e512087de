//! One CONNECT stream as the two halves of a flow.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use agent_net::copy::End;
use agent_net::flow::{FlowRead, FlowWrite};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::time::Instant;

use crate::Settings;

/// Both halves of a stream. Dropping both before a clean end resets the stream with CANCEL, which
/// peers take for an end; [`FlowWrite::abort`] resets it with CONNECT_ERROR, which is a TCP reset
/// (RFC 9113 section 8.5).
pub type TunnelStream = End<TunnelReader, TunnelWriter>;

/// How many streams a tunnel has, shared by the tunnel and its streams.
#[derive(Debug)]
pub(crate) struct Load {
    streams: Cell<usize>,
    idle_since: Cell<Instant>,
}

impl Load {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            streams: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
        })
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.get()
    }

    /// Since when there has been no stream; `None` while there is one.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        (self.streams.get() == 0).then(|| self.idle_since.get())
    }
}

/// Counts as one stream of a tunnel until it is dropped.
#[derive(Debug)]
pub(crate) struct Lease(Rc<Load>);

impl Lease {
    pub(crate) fn of(load: &Rc<Load>) -> Rc<Self> {
        load.streams.set(load.streams.get() + 1);
        Rc::new(Self(Rc::clone(load)))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.idle_since.set(Instant::now());
    }
}

/// Makes the halves of an established stream.
pub(crate) fn join(
    receive: RecvStream,
    send: SendStream<Bytes>,
    lease: Rc<Lease>,
    settings: &Settings,
) -> TunnelStream {
    End {
        read: TunnelReader {
            receive,
            rest: Bytes::new(),
            ended: false,
            _lease: Rc::clone(&lease),
        },
        write: TunnelWriter {
            send,
            lease,
            shared_chunk: settings.shared_chunk,
            single_chunk: settings.single_chunk,
        },
    }
}

/// Reading half. A peer's RST_STREAM with NO_ERROR or CANCEL reads as an end, STREAM_CLOSED as
/// `BrokenPipe`, any other as `ConnectionReset`; a lost tunnel is `ConnectionAborted`.
#[derive(Debug)]
pub struct TunnelReader {
    receive: RecvStream,
    /// Of a frame larger than the reader asked for.
    rest: Bytes,
    ended: bool,
    _lease: Rc<Lease>,
}

impl TunnelReader {
    /// The next chunk, as [`FlowRead::read`].
    pub(crate) fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<io::Result<Option<Bytes>>> {
        while self.rest.is_empty() {
            if self.ended {
                return Poll::Ready(Ok(None));
            }
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(frame)) => self.rest = frame,
                Some(Err(error)) if is_end(&error) => self.ended = true,
                Some(Err(error)) => return Poll::Ready(Err(to_io(&error))),
                None => self.ended = true,
            }
        }
        Poll::Ready(Ok(Some(self.rest.split_to(max.min(self.rest.len())))))
    }
}

impl FlowRead for TunnelReader {
    async fn read(&mut self, max: usize) -> io::Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_chunk(cx, max)).await
    }

    fn release(&mut self, bytes: usize) {
        // Fails only for more than was received, or on a stream that is gone.
        let _ = self.receive.flow_control().release_capacity(bytes);
    }
}

/// Writing half. Takes only what flow control allows, so a stalled peer holds no more than one
/// send buffer.
#[derive(Debug)]
pub struct TunnelWriter {
    send: SendStream<Bytes>,
    lease: Rc<Lease>,
    shared_chunk: usize,
    single_chunk: usize,
}

impl FlowWrite for TunnelWriter {
    async fn write(&mut self, mut chunk: Bytes) -> io::Result<()> {
        while !chunk.is_empty() {
            let allowed = poll_fn(|cx| self.poll_capacity(cx, chunk.len())).await?;
            let piece = chunk.split_to(allowed.min(chunk.len()));
            self.send
                .send_data(piece, false)
                .map_err(|error| closed_or(&error, io::ErrorKind::BrokenPipe))?;
        }
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.end()
    }

    fn abort(&mut self) {
        self.send.send_reset(Reason::CONNECT_ERROR);
    }

    fn max_chunk(&self) -> usize {
        if self.lease.0.streams() > 1 {
            self.shared_chunk
        } else {
            self.single_chunk
        }
    }
}

impl TunnelWriter {
    /// Sends a copy of some of the bytes, as much as one chunk and flow control take.
    pub(crate) fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if length == 0 {
            return Poll::Ready(Ok(0));
        }
        let wanted = length.min(self.max_chunk());
        let allowed = ready!(self.poll_capacity(cx, wanted))?.min(wanted);
        let sent = self.send.send_data(gathered(slices, allowed), false);
        sent.map_err(|error| closed_or(&error, io::ErrorKind::BrokenPipe))?;
        Poll::Ready(Ok(allowed))
    }

    /// Ends this direction.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.send
            .send_data(Bytes::new(), true)
            .map_err(|error| closed_or(&error, io::ErrorKind::NotConnected))
    }

    /// Waits until some of `wanted` bytes may be sent, in one DATA frame.
    fn poll_capacity(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(wanted);
        loop {
            // poll_capacity reports growth only: what is there already must be asked for.
            let allowed = self.send.capacity();
            if allowed > 0 {
                return Poll::Ready(Ok(allowed));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(to_io(&error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }
}

/// A copy of the first `length` bytes of all slices.
fn gathered(slices: &[IoSlice<'_>], length: usize) -> Bytes {
    let mut all = Vec::with_capacity(length);
    for slice in slices {
        let taken = slice.len().min(length - all.len());
        all.extend_from_slice(&slice[..taken]);
    }
    all.into()
}

/// A reset that peers of this protocol mean as an end of the data.
fn is_end(error: &h2::Error) -> bool {
    error.is_reset()
        && error.is_remote()
        && matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL))
}

fn to_io(error: &h2::Error) -> io::Error {
    let kind = if error.is_io() || error.is_go_away() {
        io::ErrorKind::ConnectionAborted
    } else if error.reason() == Some(Reason::STREAM_CLOSED) {
        io::ErrorKind::BrokenPipe
    } else {
        io::ErrorKind::ConnectionReset
    };
    io::Error::new(kind, error.to_string())
}

/// The error of a call on a stream that may just be gone: that is `gone`, anything else as usual.
fn closed_or(error: &h2::Error, gone: io::ErrorKind) -> io::Error {
    if error.is_io() || error.is_go_away() || error.is_reset() {
        to_io(error)
    } else {
        io::Error::new(gone, error.to_string())
    }
}
