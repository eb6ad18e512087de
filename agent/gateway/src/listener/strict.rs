//! A client's bytes on their way to the HTTP/1.1 parser, as far as they have one meaning.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::forward::forward_writes;
use crate::framing::{Ambiguous, Framing};

/// What no parser takes for the end of a head: it answers 400 and closes the connection.
const END_OF_SENSE: &[u8] = b"\0\r\n\r\n";

/// A stream that ends where [`Framing`] stops.
#[derive(Debug)]
pub(super) struct Strict<T> {
    stream: T,
    framing: Framing,
    refused: Option<Ambiguous>,
    /// What is left to say instead of what was refused.
    instead: &'static [u8],
}

impl<T> Strict<T> {
    pub(super) fn new(stream: T) -> Self {
        Self {
            stream,
            framing: Framing::default(),
            refused: None,
            instead: &[],
        }
    }

    /// What was refused, if anything was.
    pub(super) fn refused(&self) -> Option<Ambiguous> {
        self.refused
    }

    pub(super) fn into_inner(self) -> T {
        self.stream
    }

    /// Reads on after the end of sense.
    fn read_instead(&mut self, into: &mut ReadBuf<'_>) {
        let length = self.instead.len().min(into.remaining());
        let (now, later) = self.instead.split_at(length);
        into.put_slice(now);
        self.instead = later;
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Strict<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.refused.is_some() {
            this.read_instead(into);
            return Poll::Ready(Ok(()));
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, into))?;
        let Err(stop) = this.framing.take(&into.filled()[before..]) else {
            return Poll::Ready(Ok(()));
        };
        this.refused = Some(stop.why);
        if stop.in_head {
            into.set_filled(before + stop.at);
            this.instead = END_OF_SENSE;
            this.read_instead(into);
            return Poll::Ready(Ok(()));
        }
        // The body breaks off, and with it the request on its way to the backend.
        into.set_filled(before);
        let error = io::Error::new(io::ErrorKind::InvalidData, stop.why);
        Poll::Ready(Err(error))
    }
}

forward_writes!(impl[T: AsyncWrite + Unpin] for Strict<T>, stream);
