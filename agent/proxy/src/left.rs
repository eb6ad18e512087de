//! Pods that left the mesh and live on. What they had open was carried by the agent and still is:
//! a label must not break a connection. Nothing new is accepted for them.

use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use agent_net::NetnsCookie;
use agent_net::drain::Drain;
use agent_net::tasks::spawn_local;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::mesh::Worker;
use crate::pod::Pod;

/// A pod that has left, on one worker.
pub(crate) struct Left {
    pub(crate) pod: Arc<Pod>,
    /// Ends its connections when it is dropped.
    cut: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Left {
    /// Ends what the pod still has and waits until it is gone, or its time is over.
    pub(crate) async fn end(self) {
        drop(self.cut);
        let _ = self.task.await;
    }
}

impl Worker {
    /// Keeps a pod that left until its connections have ended by themselves. When it is cut before,
    /// they have `deadline` to end.
    pub(crate) fn keep_left(self: &Rc<Self>, pod: Arc<Pod>, drain: Drain, deadline: Duration) {
        let (cut, is_cut) = oneshot::channel();
        let worker = Rc::downgrade(self);
        let gone = Arc::clone(&pod);
        let task = spawn_local(async move {
            wait(drain, is_cut, deadline).await;
            forget(&worker, &gone);
        });
        self.left.borrow_mut().push(Left { pod, cut, task });
    }

    /// The pods of this namespace that have left, no longer kept.
    pub(crate) fn take_left(&self, pod: NetnsCookie) -> Vec<Left> {
        let mut left = self.left.borrow_mut();
        left.extract_if(.., |left| left.pod.cookie() == pod)
            .collect()
    }
}

async fn wait(mut drain: Drain, is_cut: oneshot::Receiver<()>, deadline: Duration) {
    tokio::select! {
        () = drain.finished() => return,
        _ = is_cut => {}
    }
    drain.drain(deadline).await;
}

fn forget(worker: &Weak<Worker>, gone: &Arc<Pod>) {
    if let Some(worker) = worker.upgrade() {
        let mut left = worker.left.borrow_mut();
        left.retain(|left| !Arc::ptr_eq(&left.pod, gone));
    }
}
