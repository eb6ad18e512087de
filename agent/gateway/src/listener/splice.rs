//! Connections that left HTTP: bytes from one end to the other.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional};

use crate::upstream::Upgraded;

/// Copies both ways until both ends are done, or one fails. `early` is what the client said right
/// after its request.
pub(super) async fn splice<T>(mut client: T, early: Bytes, backend: Upgraded)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let Upgraded {
        mut stream,
        early: answer,
    } = backend;
    let begun = async {
        stream.write_all(&early).await?;
        client.write_all(&answer).await
    };
    if let Err(error) = begun.await {
        tracing::trace!(%error, "upgraded connection ended");
        return;
    }
    copy(client, stream).await;
}

/// Copies both ways until both ends are done, or one fails.
pub(super) async fn copy<A, B>(mut client: A, mut backend: B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    if let Err(error) = copy_bidirectional(&mut client, &mut backend).await {
        tracing::trace!(%error, "connection ended");
    }
}
