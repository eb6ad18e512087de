//! Pods that left the mesh and live on. What they had open was carried by the agent and still is:
//! a label must not break a connection. Nothing new is accepted for them.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use agent_net::NetnsCookie;
use agent_net::drain::Drain;
use agent_net::tasks::spawn_local;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::pod::Pod;

/// A pod that has left, on one worker.
pub(crate) struct Left {
    pod: Arc<Pod>,
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

/// The pods that have left, on one worker, for as long as they have connections from before.
#[derive(Default)]
pub(crate) struct LeftPods(RefCell<Vec<Left>>);

impl LeftPods {
    /// Keeps a pod that left until its connections have ended by themselves. When it is cut before,
    /// they have `deadline` to end.
    pub(crate) fn keep(self: &Rc<Self>, pod: Arc<Pod>, drain: Drain, deadline: Duration) {
        let (cut, is_cut) = oneshot::channel();
        let kept = Rc::downgrade(self);
        let gone = Arc::clone(&pod);
        let task = spawn_local(async move {
            wait(drain, is_cut, deadline).await;
            forget(&kept, &gone);
        });
        self.0.borrow_mut().push(Left { pod, cut, task });
    }

    /// The pods, newest last.
    pub(crate) fn pods(&self) -> Vec<Arc<Pod>> {
        let left = self.0.borrow();
        left.iter().map(|left| Arc::clone(&left.pod)).collect()
    }

    /// The pods of this namespace, no longer kept.
    pub(crate) fn take(&self, pod: NetnsCookie) -> Vec<Left> {
        let mut left = self.0.borrow_mut();
        left.extract_if(.., |left| left.pod.cookie() == pod)
            .collect()
    }

    /// All of them, no longer kept.
    pub(crate) fn take_all(&self) -> Vec<Left> {
        self.0.take()
    }
}

async fn wait(mut drain: Drain, is_cut: oneshot::Receiver<()>, deadline: Duration) {
    tokio::select! {
        () = drain.finished() => return,
        _ = is_cut => {}
    }
    drain.drain(deadline).await;
}

fn forget(kept: &Weak<LeftPods>, gone: &Arc<Pod>) {
    if let Some(kept) = kept.upgrade() {
        let mut left = kept.0.borrow_mut();
        left.retain(|left| !Arc::ptr_eq(&left.pod, gone));
    }
}
