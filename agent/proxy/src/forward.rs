//! Forwarding: the copy loop, cut short by what ends a connection from outside.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use agent_net::copy::{self, Counters, End};
use agent_net::flow::{FlowRead, FlowWrite, TcpReader, TcpWriter, split};
use agent_telemetry::Record;
use tokio::net::TcpStream;
use tokio::time::{Instant, interval_at};

use crate::refusal::Refusal;

/// How often the bytes of a running connection reach the metrics. A scrape is rarely more frequent.
const PROGRESS: Duration = Duration::from_secs(5);

/// Copies between the ends until both have finished. When `cut` completes first, both ends are
/// reset and its refusal is the outcome. The record hears of the bytes while they flow.
pub(crate) async fn until_cut<CR, CW, SR, SW>(
    mut client: End<CR, CW>,
    mut server: End<SR, SW>,
    counters: &Counters,
    record: &mut Record,
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
    let cut = {
        let mut cut = pin!(cut);
        let mut copy = pin!(copy::bidirectional(&mut client, &mut server, counters));
        let mut progress = interval_at(Instant::now() + PROGRESS, PROGRESS);
        loop {
            tokio::select! {
                biased;
                refusal = &mut cut => break refusal,
                result = &mut copy => return result.map_err(Refusal::from),
                _ = progress.tick() => {
                    record.transferred(counters.forward.get(), counters.backward.get());
                }
            }
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
