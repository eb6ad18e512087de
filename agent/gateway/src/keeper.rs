//! The thread beside the workers: it looks after endpoints, so that no request has to.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use agent_state::Reader;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

use crate::upstream::Groups;

/// How often endpoints are looked at; the grain of ejections.
const TICK: Duration = Duration::from_millis(250);

/// The thread; it ends when this is dropped.
pub(crate) struct Keeper {
    end: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Keeper {
    pub(crate) fn start(groups: Arc<Groups>, state: Reader) -> io::Result<Self> {
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = thread::Builder::new()
            .name("gateway-keeper".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = ended => {}
                        () = keep(&groups, &state) => {}
                    }
                });
            })?;
        Ok(Self {
            end: Some(end),
            thread: Some(thread),
        })
    }
}

async fn keep(groups: &Groups, state: &Reader) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        groups.tick(&state.load(), Instant::now());
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
