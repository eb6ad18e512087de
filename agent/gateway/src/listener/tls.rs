//! TLS of clients: the name that one asks for chooses the listener, and with it what happens to the
//! connection. Only the first message is read before that is known, and it is kept: where TLS goes
//! on to the backend, the backend is told it as it was said.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::ServerConfig;
use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

use super::relay::Abort;

/// How long a client may take to say what it wants, and as long again for the handshake.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of the longest first message.
const LONGEST_HELLO: usize = 64 * 1024;
/// Bytes read at a time: a hello of today fits.
const READ: usize = 4096;
/// `unrecognized_name`, fatal (RFC 6066, 3).
const NAME_UNKNOWN: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A client that has said what it wants and waits for an answer.
pub(super) struct Hello<T> {
    /// The name that it asks for, in lower case; empty when it asks for none.
    pub(super) name: String,
    accepted: Accepted,
    said: Bytes,
    stream: T,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Hello<T> {
    /// Reads what a client wants. An error when that is not TLS, or takes too long: the client has
    /// its alert by then.
    pub(super) async fn read(stream: T) -> io::Result<Self> {
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        timeout(PATIENCE, read(stream)).await.map_err(|_| late())?
    }

    /// Completes the handshake.
    pub(super) async fn terminate(self, config: &Arc<ServerConfig>) -> io::Result<TlsStream<T>> {
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        let start = StartHandshake::from_parts(self.accepted, self.stream);
        let stream = start.into_stream(Arc::clone(config));
        timeout(PATIENCE, stream).await.map_err(|_| late())?
    }

    /// What the client said, for somebody else to answer.
    pub(super) fn into_parts(self) -> (Bytes, T) {
        (self.said, self.stream)
    }

    /// Nobody has that name.
    pub(super) async fn refuse(mut self) {
        let _ = timeout(PATIENCE, self.stream.write_all(&NAME_UNKNOWN)).await;
        let _ = self.stream.shutdown().await;
    }
}

impl<T: Abort> Hello<T> {
    /// Nobody has that name, where it may be somebody else whose TLS it is: nobody here answers it,
    /// not even with an alert. What passes names through is expected to close (Gateway API, TLSRoute).
    pub(super) fn abort(mut self) {
        self.stream.abort();
    }
}

async fn read<T: AsyncRead + AsyncWrite + Unpin>(mut stream: T) -> io::Result<Hello<T>> {
    let mut acceptor = Acceptor::default();
    let mut said = BytesMut::with_capacity(READ);
    loop {
        let before = said.len();
        if stream.read_buf(&mut said).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut new = &said[before..];
        while !new.is_empty() {
            acceptor.read_tls(&mut new)?;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let name = hello.server_name().unwrap_or_default();
                let name = name.to_ascii_lowercase();
                return Ok(Hello {
                    name,
                    accepted,
                    said: said.freeze(),
                    stream,
                });
            }
            Ok(None) if said.len() < LONGEST_HELLO => {}
            Ok(None) => return Err(io::Error::other("the first message of TLS is too long")),
            Err((error, mut alert)) => {
                let mut text = Vec::new();
                alert.write_all(&mut text)?;
                let _ = stream.write_all(&text).await;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }
}
