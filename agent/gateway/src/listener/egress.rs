//! The way out of the mesh: what clients begin with that go to a service that is not the cluster's
//! own, at the waypoint in front of it. What they name has to be that service: by TLS (SNI), or as
//! the host of each HTTP request. Other protocols pass, to the service's endpoints and nowhere else.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use agent_hbone::TunnelIo;
use agent_model::{NamespacedHostname, Reason};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::detect::{Rewound, Spoken};
use super::relay::Abort;
use super::stream::{end, through};
use super::tls::Hello;
use crate::forward::forward_writes;
use crate::outside::{is_name_of, other_name};
use crate::passage::{Carried, Passage};
use crate::place::Transport;
use crate::plan::Inside;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// How long a client may be silent before it is taken for one whose server speaks first.
const SILENCE: Duration = Duration::from_millis(500);
/// Bytes that are looked at.
const FIRST: usize = 16;
/// First byte of TLS: a handshake record.
const TLS: u8 = 22;
/// What requests begin with.
const METHODS: [&[u8]; 10] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
    HTTP2,
];
/// And HTTP/2.
const HTTP2: &[u8] = b"PRI * ";

/// What a client begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begins {
    /// TLS.
    Tls,
    /// An HTTP request.
    Http(Spoken),
    /// Something else.
    Other,
    /// Nothing, so far.
    Silent,
}

/// A connection on its way out.
#[derive(Clone, Copy)]
pub(super) struct Leaving<'a> {
    pub(super) client: SocketAddr,
    pub(super) service: &'a NamespacedHostname,
    pub(super) port: u16,
    /// Why nothing but HTTP gets out.
    pub(super) refused: Option<&'a Refusal>,
}

/// Finds out what a client wants of a service outside. HTTP is given back, to be looked into
/// request by request; whatever else goes to the service, until `over` says why it has to end, or is
/// refused, and is over then.
pub(super) async fn leave(
    worker: &Worker,
    leaving: Leaving<'_>,
    stream: TunnelIo,
    over: impl Future<Output = (Reason, String)>,
) -> Option<(Spoken, Rewound<TunnelIo>)> {
    let (begins, mut stream) = listen(stream).await.ok()?;
    if let Begins::Http(spoken) = begins {
        return Some((spoken, stream));
    }
    let Leaving {
        client,
        service,
        port,
        refused,
    } = leaving;
    let mut passage = Passage::begin(client, port, Transport::Tcp, Instant::now());
    let carried = Carried::default();
    let book = (&mut passage, &carried);
    let to = (service, port);
    if let Some(refusal) = refused {
        passage.refuse(refusal.clone());
        stream.abort();
        end(worker, passage, &carried);
        return None;
    }
    match begins {
        Begins::Tls => named(worker, to, stream, book, over).await,
        Begins::Silent => {
            let client = (Unheard::new(stream), Bytes::new());
            through(worker, to, client, Inside::Bytes, book, over).await;
        }
        Begins::Http(_) | Begins::Other => {
            let client = (stream, Bytes::new());
            through(worker, to, client, Inside::Bytes, book, over).await;
        }
    }
    end(worker, passage, &carried);
    None
}

/// TLS, which the endpoint ends: it has to be asked for by its own name.
async fn named(
    worker: &Worker,
    to: (&NamespacedHostname, u16),
    stream: Rewound<TunnelIo>,
    (passage, carried): (&mut Passage, &Carried),
    over: impl Future<Output = (Reason, String)>,
) {
    match Hello::read(stream).await {
        Ok(hello) => {
            passage.name = Some(hello.name.clone());
            if !is_name_of(to.0, &hello.name) {
                passage.refuse(other_name(to.0, &hello.name));
                return hello.refuse().await;
            }
            let (said, stream) = hello.into_parts();
            let client = (stream, said);
            through(worker, to, client, Inside::Tls, (passage, carried), over).await;
        }
        Err(error) => passage.refuse(Refusal::new(Reason::TlsFailed, error.to_string())),
    }
}

/// Reads until it is clear what a client begins with.
async fn listen<T>(mut stream: T) -> io::Result<(Begins, Rewound<T>)>
where
    T: AsyncRead + Unpin,
{
    let mut first = BytesMut::with_capacity(4096);
    let heard = timeout(SILENCE, async {
        loop {
            if let Some(begins) = judge(&first) {
                return Ok::<_, io::Error>(begins);
            }
            if stream.read_buf(&mut first).await? == 0 {
                return Ok(Begins::Other);
            }
        }
    });
    let begins = match heard.await {
        Ok(begins) => begins?,
        Err(_) if first.is_empty() => Begins::Silent,
        // The beginning of a method, and nothing more.
        Err(_) => Begins::Http(Spoken::Http1),
    };
    Ok((begins, Rewound::begun(first.freeze(), stream)))
}

/// `None` until it is clear.
fn judge(first: &[u8]) -> Option<Begins> {
    let first = &first[..first.len().min(FIRST)];
    match first {
        [] => None,
        [TLS, ..] => Some(Begins::Tls),
        _ if first.starts_with(HTTP2) => Some(Begins::Http(Spoken::Http2)),
        _ if METHODS.iter().any(|method| first.starts_with(method)) => {
            Some(Begins::Http(Spoken::Http1))
        }
        _ if METHODS.iter().any(|method| method.starts_with(first)) => None,
        _ => Some(Begins::Other),
    }
}

/// A client that was silent: should it begin with what would have been judged, it is refused.
struct Unheard<T> {
    stream: T,
    heard: Option<Vec<u8>>,
}

impl<T> Unheard<T> {
    fn new(stream: T) -> Self {
        Self {
            stream,
            heard: Some(Vec::with_capacity(FIRST)),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Unheard<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        let Some(heard) = &mut self.heard else {
            return Poll::Ready(Ok(()));
        };
        heard.extend(into.filled()[before..].iter().take(FIRST));
        match judge(heard) {
            Some(Begins::Tls | Begins::Http(_)) => {
                into.set_filled(before);
                let detail = "the client named its destination too late";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::PermissionDenied, detail)))
            }
            Some(_) => {
                self.heard = None;
                Poll::Ready(Ok(()))
            }
            None => Poll::Ready(Ok(())),
        }
    }
}

forward_writes!(impl[T: AsyncWrite + Unpin] for Unheard<T>, stream);

impl<T: Abort> Abort for Unheard<T> {
    fn abort(&mut self) {
        self.stream.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell() {
        for (first, begins) in [
            (&b""[..], None),
            (b"\x16", Some(Begins::Tls)),
            (b"G", None),
            (b"GET", None),
            (b"GET ", Some(Begins::Http(Spoken::Http1))),
            (b"PO", None),
            (
                b"PRI * HTTP/2.0\r\n\r\nSM",
                Some(Begins::Http(Spoken::Http2)),
            ),
            (b"GETS", Some(Begins::Other)),
            (b"\0\0\0\x08", Some(Begins::Other)),
            (b"EHLO x", Some(Begins::Other)),
        ] {
            assert_eq!(judge(first), begins, "{first:?}");
        }
    }

    #[tokio::test]
    async fn who_was_silent_may_not_name_another_destination_later() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut unheard = Unheard::new(server);
        for late in [&b"GE"[..], b"T /"] {
            tokio::io::AsyncWriteExt::write_all(&mut client, late)
                .await
                .unwrap();
        }
        let mut all = Vec::new();
        let error = unheard.read_to_end(&mut all).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
