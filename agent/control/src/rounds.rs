//! What the leader of several replicas does about the whole state, over and over: after every change,
//! and again and again, so that what others change is put right.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use agent_net::drain;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::source::Problem;

/// What is wrong now; sent anew after every change of the collection.
pub(crate) type Told = watch::Receiver<Arc<[Problem]>>;

/// What calls for a round before its time.
pub(crate) struct Cue {
    pub(crate) told: Told,
    /// Of several replicas one writes.
    pub(crate) leads: watch::Receiver<bool>,
}

impl Cue {
    /// True while this replica writes; to be asked before each write.
    pub(crate) fn is_ours(&self) -> bool {
        *self.leads.borrow()
    }
}

/// When rounds are due. Whether this replica leads is for each round to ask, as one that does not
/// may have something to forget.
pub(crate) struct Rounds {
    drain: drain::Watcher,
    next: Instant,
}

impl Rounds {
    /// The first round is due at once.
    pub(crate) fn until(drain: drain::Watcher) -> Self {
        Self {
            drain,
            next: Instant::now(),
        }
    }

    /// Waits for the next round; false when there is none, as the drain began.
    pub(crate) async fn is_due(&mut self, cue: &mut Cue) -> bool {
        tokio::select! {
            biased;
            () = self.drain.signalled() => false,
            changed = cue.told.changed() => changed.is_ok(),
            Ok(()) = cue.leads.changed() => true,
            () = sleep_until(self.next) => true,
        }
    }

    /// Runs one, which says how long it may be until the next. A drain breaks it off.
    pub(crate) async fn run(&mut self, round: impl Future<Output = Duration>) {
        tokio::select! {
            biased;
            () = self.drain.signalled() => {}
            wait = round => self.next = Instant::now() + wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_round_comes_in_its_time_and_when_there_is_cause() {
        let (told, watched) = watch::channel(Arc::from([]));
        let (lead, leads) = watch::channel(false);
        let (drain, watcher) = drain::channel();
        let mut cue = Cue {
            told: watched,
            leads,
        };
        let running = tokio::spawn(async move {
            let (begun, mut seen) = (Instant::now(), Vec::new());
            let mut rounds = Rounds::until(watcher);
            while rounds.is_due(&mut cue).await {
                seen.push((begun.elapsed().as_secs(), cue.is_ours()));
                rounds.run(async { Duration::from_secs(60) }).await;
            }
            seen
        });
        sleep(Duration::from_secs(30)).await;
        told.send_replace(Arc::from([]));
        sleep(Duration::from_secs(10)).await;
        lead.send_replace(true);
        sleep(Duration::from_secs(70)).await;
        drop(told);
        let seen = running.await.unwrap();
        assert_eq!(seen, [(0, false), (30, false), (40, true), (100, true)]);
        drop(drain);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_breaks_off_the_round_under_way() {
        let (_told, watched) = watch::channel(Arc::from([]));
        let (_lead, leads) = watch::channel(true);
        let (drain, watcher) = drain::channel();
        let mut cue = Cue {
            told: watched,
            leads,
        };
        let running = tokio::spawn(async move {
            let mut rounds = Rounds::until(watcher);
            while rounds.is_due(&mut cue).await {
                rounds.run(std::future::pending()).await;
            }
        });
        sleep(Duration::from_secs(1)).await;
        assert!(!running.is_finished());
        drain.drain(Duration::from_secs(5)).await;
        running.await.unwrap();
    }
}
