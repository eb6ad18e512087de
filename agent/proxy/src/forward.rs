//! Forwarding: the copy loop, cut short by what ends a connection from outside.

use std::future::Future;

use agent_net::copy::{self, Counters, End};
use agent_net::flow::{FlowRead, FlowWrite, TcpReader, TcpWriter, split};
use tokio::net::TcpStream;

use crate::refusal::Refusal;

/// Copies between the ends until both have finished. When `cut` completes first, both ends are
/// reset and its refusal is the outcome.
pub(crate) async fn until_cut<CR, CW, SR, SW>(
    mut client: End<CR, CW>,
    mut server: End<SR, SW>,
    counters: &Counters,
    cut: impl Future<Output = Refusal>,
) -> Result<(), Refusal>
where
    CR: FlowRead,
    CW: FlowWrite,
    SR: FlowRead,
    SW: FlowWrite,
{
    // The cut is looked at first: a flow that is always ready uses up what the runtime lets a task
    // do in one turn, and then nothing after it would be ready.
    let cut = tokio::select! {
        biased;
        refusal = cut => refusal,
        result = copy::bidirectional(&mut client, &mut server, counters) => {
            return result.map_err(Refusal::from);
        }
    };
    copy::abort(&mut client, &mut server);
    Err(cut)
}

/// A TCP socket as an end of the copy loop.
pub(crate) fn tcp_end(stream: TcpStream) -> End<TcpReader, TcpWriter> {
    let (read, write) = split(stream);
    End { read, write }
}
