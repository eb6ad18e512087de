//! Forwarding: the copy loop, cut short by what ends a connection from outside.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use agent_model::Reason;
use agent_net::copy::{self, CopyError, Counters, End, Ending};
use agent_net::flow::{FlowRead, FlowWrite, TcpReader, TcpWriter, split};
use agent_telemetry::Record;
use tokio::net::TcpStream;
use tokio::time::{Instant, interval_at, timeout_at};

use crate::refusal::Refusal;

/// How often the bytes of a running connection reach the metrics. A scrape is rarely more frequent.
const PROGRESS: Duration = Duration::from_secs(5);

/// Time the server has, once its client's direction was ended, to answer and to end its own.
const ANSWER_TIME: Duration = Duration::from_millis(250);
/// Time a flow may take to end cleanly, from the moment it is drained. Its worker waits longer.
pub(crate) const CLEAN_END: Duration = Duration::from_millis(700);

/// Copies between the ends until both have finished. When `cut` completes first its refusal is the
/// outcome, and both ends are reset; but a flow that is cut because the agent's drain is over, or
/// because its pod was put behind a waypoint since, ends cleanly: what had arrived is delivered, both ends see FIN or END_STREAM, and only what does
/// not come to its end in [`CLEAN_END`] is reset. The record hears of the bytes while they flow.
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
    let ending = Ending::default();
    // The cut is looked at first: a flow that is always ready uses up what the runtime lets a task
    // do in one turn, and then nothing after it would be ready.
    let (refusal, copied_until) = {
        let mut cut = pin!(cut);
        let mut copy = pin!(copy::bidirectional(
            &mut client,
            &mut server,
            counters,
            &ending
        ));
        let mut progress = interval_at(Instant::now() + PROGRESS, PROGRESS);
        let refusal = loop {
            tokio::select! {
                biased;
                refusal = &mut cut => break refusal,
                result = &mut copy => return result.map_err(Refusal::from),
                _ = progress.tick() => {
                    record.transferred(counters.forward.get(), counters.backward.get());
                }
            }
        };
        let last = Instant::now() + CLEAN_END;
        let ends_cleanly = matches!(refusal.reason, Reason::Drained | Reason::WaypointBypassed);
        let copied = ends_cleanly && end(copy, &ending, last).await;
        (refusal, copied.then_some(last))
    };
    match copied_until {
        // Both have been told the end. Who has not said its own by then has had its bytes.
        Some(last) => {
            let _ = timeout_at(last, copy::farewell(&mut client, &mut server)).await;
        }
        None => copy::abort(&mut client, &mut server),
    }
    Err(refusal)
}

/// Lets a running copy come to a clean end: first the client's direction, then, when the server
/// had time to answer, the other. False when it did not end by itself before `last`.
async fn end(
    mut copy: Pin<&mut impl Future<Output = Result<(), CopyError>>>,
    ending: &Ending,
    last: Instant,
) -> bool {
    ending.end_forward();
    let answered = timeout_at(Instant::now() + ANSWER_TIME, copy.as_mut()).await;
    let copied = match answered {
        Ok(copied) => copied,
        Err(_) => {
            ending.end_backward();
            match timeout_at(last, copy).await {
                Ok(copied) => copied,
                Err(_) => return false,
            }
        }
    };
    copied.is_ok()
}

/// A TCP socket as an end of the copy loop.
pub(crate) fn tcp_end(stream: TcpStream) -> End<TcpReader, TcpWriter> {
    let (read, write) = split(stream);
    End { read, write }
}
