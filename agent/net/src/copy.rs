//! Copies a flow in both directions until both ends have finished or one is reset.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use tokio::task::coop::has_budget_remaining;

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

/// Asks a running copy to come to a clean end, each direction by itself. Whoever polls the copy
/// sets it and polls again: nothing is woken.
#[derive(Debug, Default)]
pub struct Ending {
    forward: Cell<bool>,
    backward: Cell<bool>,
}

impl Ending {
    /// The client's direction ends: what has arrived from the client is still passed on, then the
    /// server sees the end, as after a half-close.
    pub fn end_forward(&self) {
        self.forward.set(true);
    }

    /// The server's direction ends in the same way.
    pub fn end_backward(&self) {
        self.backward.set(true);
    }
}

/// Copies between `client` and `server`. A clean end of one direction is passed on as such and
/// leaves the other open (half-close). A reset of either end resets the other. `ending` makes an
/// end where there is none.
///
/// Dropping the future closes both ends without a reset; call [`abort`] before where the peer
/// must not take the end for a clean one.
pub async fn bidirectional<CR, CW, SR, SW>(
    client: &mut End<CR, CW>,
    server: &mut End<SR, SW>,
    counters: &Counters,
    ending: &Ending,
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
        (&counters.forward, &ending.forward),
        (Side::Client, Side::Server),
    );
    let backward = one_way(
        &mut server.read,
        &mut client.write,
        (&counters.backward, &ending.backward),
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
    (count, ends): (&Cell<u64>, &Cell<bool>),
    (reader, writer): (Side, Side),
) -> Result<(), CopyError> {
    let failed = |side| move |source| CopyError { side, source };
    while let Some(chunk) = next(from, to.max_chunk(), ends)
        .await
        .map_err(failed(reader))?
    {
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

/// The next chunk; once `ends` is set, only of what has arrived.
async fn next<R: FlowRead>(
    from: &mut R,
    max: usize,
    ends: &Cell<bool>,
) -> io::Result<Option<Bytes>> {
    let mut read = pin!(from.read(max));
    poll_fn(|cx| match read.as_mut().poll(cx) {
        // A task that has used up its turn is told that nothing is there, which may not be true.
        Poll::Pending if ends.get() && has_budget_remaining() => Poll::Ready(Ok(None)),
        polled => polled,
    })
    .await
}

/// Reads what still comes from both ends and throws it away, until both have ended or failed. For
/// after a copy that was asked to end: a socket that is closed with unread bytes in it resets its
/// peer, which may then never see the clean end that was sent to it.
pub async fn farewell<CR: FlowRead, CW, SR: FlowRead, SW>(
    client: &mut End<CR, CW>,
    server: &mut End<SR, SW>,
) {
    tokio::join!(discard(&mut client.read), discard(&mut server.read));
}

async fn discard<R: FlowRead>(from: &mut R) {
    while let Ok(Some(chunk)) = from.read(DISCARDED_CHUNK).await {
        from.release(chunk.len());
    }
}

/// Bytes thrown away at a time.
const DISCARDED_CHUNK: usize = 64 * 1024;

/// A peer that closed both directions already has nothing left to finish.
fn ignore_not_connected(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected {
        Ok(())
    } else {
        Err(error)
    }
}
