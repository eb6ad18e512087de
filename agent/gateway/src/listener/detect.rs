//! HTTP/1.1 or HTTP/2 with prior knowledge: the first bytes tell.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use crate::forward::forward_writes;

/// What every HTTP/2 client says first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client may take to say it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Room for the first read: most requests fit.
const FIRST_READ: usize = 4096;

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    Http2,
}

/// Reads until it is clear what is spoken. `None` when the client says nothing, or leaves.
pub(super) async fn detect<T>(mut stream: T) -> Option<(Spoken, Rewound<T>)>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut first = BytesMut::with_capacity(FIRST_READ);
    let spoken = timeout(PATIENCE, async {
        loop {
            if stream.read_buf(&mut first).await.ok()? == 0 {
                return None;
            }
            let compared = first.len().min(PREFACE.len());
            if first[..compared] != PREFACE[..compared] {
                return Some(Spoken::Http1);
            }
            if compared == PREFACE.len() {
                return Some(Spoken::Http2);
            }
        }
    });
    let spoken = spoken.await.ok()??;
    let first = first.freeze();
    Some((spoken, Rewound { first, stream }))
}

/// Reads until it is clear whether HTTP is spoken: that is `None` for bytes that are something else,
/// for a client that ends or says nothing within `patience`.
pub(super) async fn sniff<T>(mut stream: T, patience: Duration) -> (Option<Spoken>, Rewound<T>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut first = BytesMut::with_capacity(FIRST_READ);
    let spoken = timeout(patience, async {
        loop {
            if stream.read_buf(&mut first).await.ok()? == 0 {
                return None;
            }
            if let Some(spoken) = spoken(&first) {
                return spoken;
            }
        }
    });
    let spoken = spoken.await.ok().flatten();
    let first = first.freeze();
    (spoken, Rewound { first, stream })
}

/// What begins so; `None` while it may be either. Methods of HTTP/1 are words in capitals.
fn spoken(first: &[u8]) -> Option<Option<Spoken>> {
    const LONGEST_METHOD: usize = 24;
    let compared = first.len().min(PREFACE.len());
    if first[..compared] == PREFACE[..compared] {
        return (compared == PREFACE.len()).then_some(Some(Spoken::Http2));
    }
    let method = first
        .iter()
        .take_while(|byte| matches!(byte, b'A'..=b'Z' | b'-'));
    match method.count() {
        0 => Some(None),
        length if length > LONGEST_METHOD => Some(None),
        length => match first.get(length) {
            None => None,
            Some(b' ') => Some(Some(Spoken::Http1)),
            Some(_) => Some(None),
        },
    }
}

/// A stream of which the beginning was read already.
#[derive(Debug)]
pub(super) struct Rewound<T> {
    first: Bytes,
    stream: T,
}

impl<T> Rewound<T> {
    /// A stream of which nothing was read.
    pub(super) fn fresh(stream: T) -> Self {
        Self {
            first: Bytes::new(),
            stream,
        }
    }

    /// A stream of which this was read.
    pub(super) fn begun(first: Bytes, stream: T) -> Self {
        Self { first, stream }
    }

    /// True when nothing was read.
    pub(super) fn is_fresh(&self) -> bool {
        self.first.is_empty()
    }

    /// The stream.
    pub(super) fn get_mut(&mut self) -> &mut T {
        &mut self.stream
    }

    /// What was read and not taken, and the stream.
    pub(super) fn into_parts(self) -> (Bytes, T) {
        (self.first, self.stream)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewound<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, into);
        }
        let taken = self.first.len().min(into.remaining());
        into.put_slice(&self.first.split_to(taken));
        if self.first.is_empty() {
            // Lets go of the buffer.
            self.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

forward_writes!(impl[T: AsyncWrite + Unpin] for Rewound<T>, stream);

#[cfg(test)]
mod tests {
    use super::*;

    async fn seen(chunks: &[&[u8]]) -> Option<(Spoken, Vec<u8>)> {
        let stream = Chunks(chunks.iter().rev().map(|chunk| chunk.to_vec()).collect());
        let (spoken, mut rewound) = detect(stream).await?;
        let mut all = Vec::new();
        rewound.read_to_end(&mut all).await.unwrap();
        Some((spoken, all))
    }

    /// Gives its chunks one per read, the last one first, and then its end.
    struct Chunks(Vec<Vec<u8>>);

    impl AsyncRead for Chunks {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            into.put_slice(&self.0.pop().unwrap_or_default());
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Chunks {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn http_is_told_from_other_bytes() {
        assert_eq!(spoken(b"GET"), None);
        assert_eq!(spoken(b"PRI * HT"), None);
        assert_eq!(spoken(b"GET /"), Some(Some(Spoken::Http1)));
        assert_eq!(spoken(b"M-SEARCH *"), Some(Some(Spoken::Http1)));
        assert_eq!(spoken(PREFACE), Some(Some(Spoken::Http2)));
        for other in [
            &b"SSH-2.0-x"[..],
            b"\x16\x03\x01",
            b"EHLO\r\n",
            b"get / HTTP/1.1",
            &[b'A'; 40],
        ] {
            assert_eq!(spoken(other), Some(None), "{other:?}");
        }
    }

    #[tokio::test]
    async fn first_bytes_tell_and_are_not_lost() {
        let cases: [(&[&[u8]], Spoken); 4] = [
            (&[b"GET / HTTP/1.1\r\n"], Spoken::Http1),
            (&[b"P", b"OST / HTTP/1.1\r\n"], Spoken::Http1),
            (&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxyz"], Spoken::Http2),
            (
                &[b"PRI * HT", b"TP/2.0\r\n\r\nSM\r\n\r", b"\nxyz"],
                Spoken::Http2,
            ),
        ];
        for (chunks, spoken) in cases {
            let all = chunks.concat();
            assert_eq!(seen(chunks).await, Some((spoken, all)));
        }
        assert_eq!(seen(&[b"PRI * HTTP"]).await, None);
        assert_eq!(seen(&[]).await, None);
    }
}
