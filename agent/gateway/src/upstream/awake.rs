//! A connection that tells when its other end has said the first word.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::forward::forward_writes;

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

forward_writes!(impl[T: AsyncWrite + Unpin] for Awake<T>, stream);
