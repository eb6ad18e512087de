//! What the HTTP library needs of the runtime: tasks on this thread, timers.

use std::future::Future;

use agent_net::tasks::spawn_local;
use hyper::rt::Executor;

/// Starts tasks on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F> Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

pub(crate) use hyper_util::rt::TokioTimer as LocalTimer;
