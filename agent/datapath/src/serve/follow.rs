//! Keeps the pods of the node as the control plane wants them: those that run already are found and
//! enrolled, those that are not wanted leave.

use std::sync::Arc;
use std::time::Duration;

use agent_model::{NodeWishes, PodInfo};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Desk, Enroller, UPKEEP};
use crate::wishes::{Attempts, Follow, plan, report};

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(50);

/// Keeps the pods as they are wanted, and says what became of them. Never ends by itself.
pub(super) async fn follow<E: Enroller>(desk: Arc<Desk<E>>, follow: Follow) {
    let Follow {
        mut wishes,
        reports,
    } = follow;
    let mut attempts = Attempts::default();
    loop {
        let node = match &mut wishes {
            Some(wishes) => wishes.borrow_and_update().node.clone(),
            None => None,
        };
        if let Some(node) = &node {
            let is_old = || {
                let wishes = wishes.as_ref();
                wishes.is_some_and(|wishes| wishes.has_changed().unwrap_or(false))
            };
            desk.reconcile(node, &mut attempts, is_old).await;
        }
        // Before the first word of the control plane there is only half a report.
        if wishes.is_none() || node.is_some() {
            let statuses = desk.blocking(|e| Ok(e.statuses())).await;
            let now = report(node.as_deref(), &statuses.unwrap_or_default(), &attempts);
            reports.send_if_modified(|reports| {
                let differs = reports.as_ref() != Some(&now);
                *reports = Some(now);
                differs
            });
        }
        let upkeep = Instant::now() + UPKEEP;
        let next = attempts.next().map_or(upkeep, |next| next.min(upkeep));
        let changed = async {
            let changed = match &mut wishes {
                Some(wishes) => wishes.changed().await.is_ok(),
                None => false,
            };
            if !changed {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = changed => {}
            () = desk.worked.notified() => {}
            () = sleep_until(next) => {}
        }
        sleep(PAUSE).await;
    }
}

/// Uniform in `0.0..1.0`, from the clock: good enough to keep retries of nodes apart.
fn jitter() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0.5, |now| f64::from(now.subsec_nanos()) / 1e9)
}

impl<E: Enroller> Desk<E> {
    /// One round: those that are not wanted leave, those that are and are not there are looked
    /// for. Each is tried for itself. Stops early when `is_old` says that something else is wanted
    /// by now.
    async fn reconcile(
        &self,
        wishes: &NodeWishes,
        attempts: &mut Attempts,
        is_old: impl Fn() -> bool,
    ) {
        let enrolled = self.enroller.enrolled();
        let due = attempts.due(plan(wishes, &enrolled), Instant::now());
        let is_due = |pod: &PodInfo| due.leave.contains(&pod.container_id);
        for pod in enrolled.into_iter().filter(is_due) {
            let container = pod.container_id.clone();
            let _turn = self.turn.lock().await;
            match self.leave(pod).await {
                Ok(()) => tracing::info!(container, "has left the mesh"),
                Err(error) => {
                    tracing::warn!(container, error, "cannot leave the mesh");
                    attempts.stays(&container, Instant::now());
                }
            }
        }
        if due.find.is_empty() {
            return;
        }
        let pods = due.find.clone();
        let located = self.blocking(move |e| Ok(e.locate(&pods))).await;
        for (pod, located) in due.find.into_iter().zip(located.unwrap_or_default()) {
            if is_old() {
                return;
            }
            let _turn = self.turn.lock().await;
            // A runtime's call may have been faster.
            if self.enroller.enrolled().iter().any(|info| pod.is(info)) {
                continue;
            }
            let result = match located {
                Ok(info) => self.add(info).await,
                Err(error) => Err(error.to_string()),
            };
            let (namespace, name) = (&pod.namespace, &pod.name);
            match result {
                Ok(()) => tracing::info!(namespace, name, "a running pod was enrolled"),
                Err(error) => {
                    // Tries that end the same way again and again fill no log.
                    if attempts.failed(&pod, error.clone(), Instant::now(), jitter()) {
                        tracing::warn!(namespace, name, error, "not enrolled");
                    }
                }
            }
        }
    }

    async fn leave(&self, pod: PodInfo) -> Result<(), String> {
        let container = pod.container_id.clone();
        let left = self.blocking(move |e| e.leave(&container)).await?;
        if let Some(cookie) = left {
            self.left.keep(pod, cookie);
            let sink = Arc::clone(&self.sink);
            let leaving = tokio::task::spawn_blocking(move || sink.leave(cookie));
            leaving.await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}
