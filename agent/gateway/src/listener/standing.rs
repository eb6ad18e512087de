//! Connections that pass as bytes, while they pass: whatever is said of them later holds for them,
//! too. A change of plan has each judged again as if it began now, in the task that copies it.

use std::pin::pin;
use std::time::Duration;

use agent_model::Reason;
use agent_net::drain::Watcher;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until};

use super::relay::{Abort, relay};
use crate::passage::{Carried, Passage};
use crate::refusal::Refusal;
use crate::worker::Worker;

/// How long connections of a port that is closed may go on.
const FAREWELL: Duration = Duration::from_secs(30);
/// How long one may go on that would be served otherwise now: what is on its way arrives, and a
/// change that is taken back at once has ended nothing. Together with the way of the change it is
/// within 2 s.
const GRACE: Duration = Duration::from_secs(1);

/// How policies and routes would have a connection to something behind this waypoint.
#[derive(Debug)]
pub(super) struct Standing {
    /// Routes are for it: it is HTTP.
    pub(super) is_ruled: bool,
    /// Routes are for it if it is HTTP, which nobody says.
    pub(super) is_routed: bool,
    /// Why nothing but HTTP passes.
    pub(super) refused: Option<Refusal>,
    /// How long its first bytes are waited for, to see whether they are HTTP; `None` when nobody
    /// looks.
    pub(super) patience: Option<Duration>,
}

/// Why a connection that passes as bytes has to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// It would be refused, and ends at once.
    Denied(String),
    /// It would be served otherwise, and ends after [`GRACE`].
    Changed(&'static str),
}

impl End {
    /// What ends a connection that would be refused now. That there is no gateway any more does not:
    /// its ports drain.
    pub(super) fn denied(refusal: Refusal) -> Option<Self> {
        (refusal.reason != Reason::WaypointUnavailable).then_some(Self::Denied(refusal.detail))
    }
}

impl Standing {
    /// Why a connection has to end that began as bytes. One that `was_looked` into has begun with
    /// something else than HTTP, and may go on where others are looked into.
    pub(super) fn ends(self, was_looked: bool) -> Option<End> {
        if let Some(denied) = self.refused.and_then(End::denied) {
            return Some(denied);
        }
        if self.is_ruled {
            return Some(End::Changed("routes are for its requests now"));
        }
        (self.patience.is_some() && !was_looked)
            .then_some(End::Changed("its requests are looked into now"))
    }
}

/// Completes, with the reason, when a connection has to end. `judge` is asked now, whatever was
/// found before, after each change, and once more when the time of grace is over.
pub(super) async fn until_ended(
    worker: &Worker,
    judge: impl Fn() -> Option<End>,
) -> (Reason, String) {
    let mut changes = worker.changes();
    let mut deadline = None;
    loop {
        changes.mark_unchanged();
        let end = judge();
        let why = match end {
            None => "",
            Some(End::Denied(detail)) => return (Reason::PolicyChanged, detail),
            Some(End::Changed(why)) if deadline.is_some_and(|over| over <= Instant::now()) => {
                return (Reason::PolicyChanged, why.to_owned());
            }
            Some(End::Changed(why)) => why,
        };
        deadline = match why {
            "" => None,
            // Further changes win no time.
            _ => deadline.or_else(|| Some(Instant::now() + GRACE)),
        };
        let grace = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                // Nobody tells of changes any more: the gateway ends.
                std::future::pending::<()>().await;
            },
            () = grace => {}
        }
    }
}

/// The same, and when the drain of its port has lasted for long enough.
pub(super) async fn until_over(
    worker: &Worker,
    mut draining: Watcher,
    judge: impl Fn() -> Option<End>,
) -> (Reason, String) {
    let drained = async {
        draining.signalled().await;
        sleep(FAREWELL).await;
    };
    tokio::select! {
        ended = until_ended(worker, judge) => ended,
        () = drained => (Reason::Drained, String::new()),
    }
}

/// Carries the bytes of a tunnel's stream. One that has to end before its time leaves a line in the
/// access log.
pub(super) async fn pass<C, B>(
    worker: &Worker,
    mut passage: Passage,
    (client, backend): (C, B),
    judge: impl Fn() -> Option<End>,
) where
    C: AsyncRead + AsyncWrite + Abort + Unpin,
    B: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let carried = Carried::default();
    let over = pin!(until_ended(worker, judge));
    let (reason, detail) = relay(client, backend, Bytes::new(), &carried, over).await;
    match reason {
        Reason::Ok => {}
        Reason::PolicyChanged => {
            passage.refuse(Refusal::new(reason, detail));
            passage.end(&carried, std::time::Instant::now());
            worker.records.passage(&passage);
        }
        _ => tracing::trace!(client = %passage.client, %reason, detail, "connection ended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(is_ruled: bool, is_refused: bool, is_looked: bool) -> Standing {
        Standing {
            is_ruled,
            is_routed: false,
            refused: is_refused.then(|| Refusal::new(Reason::PolicyDenied, "no")),
            patience: is_looked.then_some(Duration::ZERO),
        }
    }

    #[test]
    fn bytes_pass_while_they_would_begin_as_bytes() {
        for was_looked in [false, true] {
            let ends = |ruled, refused, looked| standing(ruled, refused, looked).ends(was_looked);
            assert_eq!(ends(false, false, false), None);
            for others in [(false, false), (true, false), (false, true), (true, true)] {
                let denied = ends(others.0, true, others.1);
                assert_eq!(denied, Some(End::Denied("no".to_owned())));
            }
            for looked in [false, true] {
                assert!(matches!(ends(true, false, looked), Some(End::Changed(_))));
            }
            // Nobody knows the gateway any more.
            let mut closed = standing(false, true, false);
            closed.refused = Some(Refusal::new(Reason::WaypointUnavailable, "gone"));
            assert_eq!(closed.ends(was_looked), None);
            // What was found to be something else than HTTP still is.
            assert_eq!(ends(false, false, true).is_none(), was_looked);
        }
    }
}
