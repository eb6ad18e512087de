//! Copies a flow in both directions until both ends have finished or one is reset.

use std::cell::Cell;
use std::io;

use crate::flow::{FlowRead, FlowWrite};

/// Bytes a flow has carried so far, readable while it runs.
#[derive(Debug, Default)]
pub struct Counters {
    /// From the first pair (the client) to the second (the server).
    pub forward: Cell<u64>,
    /// From the second pair back to the first.
    pub backward: Cell<u64>,
}

/// Which end failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first pair.
    Client,
    /// The second pair.
    Server,
}

/// A flow that ended by a reset or an error rather than by two clean ends.
#[derive(Debug, thiserror::Error)]
#[error("{side:?} side: {source}")]
pub struct CopyError {
    /// Which end failed.
    pub side: Side,
    /// What it reported.
    #[source]
    pub source: io::Error,
}

/// One end of a flow: what it reads from and what it writes to.
#[derive(Debug)]
pub struct End<R, W> {
    /// Bytes come from here.
    pub read: R,
    /// Bytes go here.
    pub write: W,
}

/// Copies between `client` and `server`. A clean end of one direction is passed on as such and
/// leaves the other open (half-close). A reset of either end resets the other.
///
/// Dropping the future closes both ends without a reset; call [`abort`] before where the peer
/// must not take the end for a clean one.
pub async fn bidirectional<CR, CW, SR, SW>(
    client: &mut End<CR, CW>,
    server: &mut End<SR, SW>,
    counters: &Counters,
) -> Result<(), CopyError>
where
    CR: FlowRead,
    CW: FlowWrite,
    SR: FlowRead,
    SW: FlowWrite,
{
    let forward = one_way(
        &mut client.read,
        &mut server.write,
        &counters.forward,
        (Side::Client, Side::Server),
    );
    let backward = one_way(
        &mut server.read,
        &mut client.write,
        &counters.backward,
        (Side::Server, Side::Client),
    );
    let result = tokio::try_join!(forward, backward).map(|_| ());
    if result.is_err() {
        abort(client, server);
    }
    result
}

/// Resets both ends.
pub fn abort<CR, CW: FlowWrite, SR, SW: FlowWrite>(
    client: &mut End<CR, CW>,
    server: &mut End<SR, SW>,
) {
    client.write.abort();
    server.write.abort();
}

async fn one_way<R: FlowRead, W: FlowWrite>(
    from: &mut R,
    to: &mut W,
    count: &Cell<u64>,
    (reader, writer): (Side, Side),
) -> Result<(), CopyError> {
    let failed = |side| move |source| CopyError { side, source };
    while let Some(chunk) = from.read(to.max_chunk()).await.map_err(failed(reader))? {
        let bytes = chunk.len();
        to.write(chunk).await.map_err(failed(writer))?;
        from.release(bytes);
        count.set(count.get() + bytes as u64);
    }
    to.finish()
        .await
        .or_else(ignore_not_connected)
        .map_err(failed(writer))
}

/// A peer that closed both directions already has nothing left to finish.
fn ignore_not_connected(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected {
        Ok(())
    } else {
        Err(error)
    }
}
