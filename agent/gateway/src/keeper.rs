//! The thread beside the workers: it looks after endpoints, so that no request has to.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use agent_state::Reader;
use arc_swap::ArcSwap;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::mesh::Mesh;
use crate::plan::Plan;
use crate::upstream::{Checks, Dialer, Groups};

/// How often endpoints are looked at; the grain of ejections and of checks.
const TICK: Duration = Duration::from_millis(250);

/// The thread; it ends when this is dropped.
pub(crate) struct Keeper {
    end: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Keeper {
    pub(crate) fn start(
        groups: Arc<Groups>,
        state: Reader,
        plan: Arc<ArcSwap<Plan>>,
        mesh: Option<Mesh>,
        network: Arc<str>,
    ) -> io::Result<Self> {
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = thread::Builder::new()
            .name("gateway-keeper".to_owned())
            .spawn(move || {
                LocalSet::new().block_on(&runtime, async {
                    let checks = Checks::new(Dialer::new(mesh, state.clone(), network), plan);
                    tokio::select! {
                        _ = ended => {}
                        () = keep(&groups, &state, checks) => {}
                    }
                });
            })?;
        Ok(Self {
            end: Some(end),
            thread: Some(thread),
        })
    }
}

async fn keep(groups: &Groups, state: &Reader, mut checks: Checks) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (snapshot, now) = (state.load(), Instant::now());
        groups.tick(&snapshot, now);
        checks.run(groups, &snapshot, now);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.end.take());
        let thread = self.thread.take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the keeper of endpoints panicked");
        }
    }
}
