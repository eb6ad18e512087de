//! Brings the roots to where something of the cluster reads them: the leader of several replicas
//! writes, after every change and again and again, so that what others change is put right.

use std::future::Future;
use std::time::Duration;

use agent_identity::TrustBundle;
use agent_net::backoff::Backoff;
use agent_net::drain;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

/// Between two looks when the API server refuses.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A place that has the roots.
pub(crate) trait Place: Send + 'static {
    /// For the log.
    const NAME: &'static str;
    /// Time between two looks.
    const EVERY: Duration;

    /// Writes the bundle where it is missing or another; how often that was. Stops short when the
    /// turn is over.
    fn put_right(
        &self,
        bundle: &TrustBundle,
        turn: &Turn,
    ) -> impl Future<Output = Result<usize, String>> + Send;
}

/// Whose turn it is, and to write what.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    pub(crate) bundle: watch::Receiver<TrustBundle>,
    /// Of several replicas one writes.
    pub(crate) leads: watch::Receiver<bool>,
}

impl Turn {
    /// True when what is left to write is wrong in another way now, or somebody else's.
    pub(super) fn is_over(&self) -> bool {
        self.bundle.has_changed().unwrap_or(false) || !*self.leads.borrow()
    }
}

/// Keeps a place right until the drain begins.
pub(crate) async fn publish<P: Place>(place: P, mut turn: Turn, mut drain: drain::Watcher) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut failing = None;
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(next) => {}
            Ok(()) = turn.bundle.changed() => {}
            Ok(()) = turn.leads.changed() => {}
            () = drain.signalled() => return,
        }
        next = Instant::now() + P::EVERY;
        if !*turn.leads.borrow() {
            continue;
        }
        let bundle = turn.bundle.borrow_and_update().clone();
        let written = tokio::select! {
            written = place.put_right(&bundle, &turn) => written,
            () = drain.signalled() => return,
        };
        let wait = match &written {
            Ok(0) => P::EVERY,
            Ok(written) => {
                info!(target: "trust", place = P::NAME, written, "roots written");
                P::EVERY
            }
            Err(error) => {
                if failing.as_ref() != Some(error) {
                    warn!(target: "trust", place = P::NAME, error, "roots cannot be written");
                }
                backoff.next(rand::random())
            }
        };
        failing = written.err();
        if failing.is_none() {
            backoff.reset();
        }
        next = Instant::now() + wait;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::SystemTime;

    use agent_identity::Authority;
    use tokio::time::sleep;

    use super::*;

    /// Notes when it was written, and fails as often as it is told.
    #[derive(Clone, Default)]
    struct Notes(Arc<Mutex<(Vec<Duration>, usize)>>);

    impl Place for (Instant, Notes) {
        const NAME: &'static str = "notes";
        const EVERY: Duration = Duration::from_secs(100);

        async fn put_right(&self, _: &TrustBundle, turn: &Turn) -> Result<usize, String> {
            assert!(!turn.is_over());
            let mut notes = self.1.0.lock().unwrap();
            notes.0.push(self.0.elapsed());
            match notes.1.checked_sub(1) {
                Some(left) => {
                    notes.1 = left;
                    Err("refused".to_owned())
                }
                None => Ok(1),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_leader_writes_at_every_change_and_again_after_a_failure() {
        let bundle = || {
            let made = Authority::in_memory("cluster.local", SystemTime::now());
            made.unwrap().bundle()
        };
        let (roots, watched) = watch::channel(bundle());
        let (lead, leads) = watch::channel(false);
        let notes = Notes::default();
        let (drain, watcher) = drain::channel();
        let turn = Turn {
            bundle: watched,
            leads,
        };
        let place = (Instant::now(), notes.clone());
        let running = tokio::spawn(publish(place, turn, watcher));
        let seconds = |notes: &Notes| -> Vec<u64> {
            let notes = notes.0.lock().unwrap();
            notes.0.iter().map(Duration::as_secs).collect()
        };
        sleep(Duration::from_secs(150)).await;
        assert!(seconds(&notes).is_empty(), "another one leads");
        notes.0.lock().unwrap().1 = 1;
        lead.send_replace(true);
        sleep(Duration::from_secs(60)).await;
        roots.send_replace(bundle());
        sleep(Duration::from_secs(90)).await;
        let written = seconds(&notes);
        assert_eq!(written.len(), 3, "{written:?}");
        assert!(written[0] == 150 && written[1] <= 152, "{written:?}");
        assert_eq!(written[2], 210, "the roots changed");
        sleep(Duration::from_secs(15)).await;
        assert_eq!(seconds(&notes)[3], 310, "somebody else may have written");
        lead.send_replace(false);
        sleep(Duration::from_secs(500)).await;
        assert_eq!(seconds(&notes).len(), 4, "it leads no longer");
        assert!(drain.drain(Duration::from_secs(1)).await);
        running.await.unwrap();
    }
}
