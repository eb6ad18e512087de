//! The pods of one worker: their listeners and sockets from the first to the last.

use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use agent_net::NetnsCookie;
use agent_net::drain::{self, Drain, Watcher};
use agent_net::tasks::spawn_local;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::{Listeners, REMOVAL_DEADLINE};
use crate::local::LocalPod;
use crate::mesh::Worker;
use crate::names::{Names, serve};
use crate::pod::Pod;
use crate::{accept, inbound, outbound, passthrough};

impl Worker {
    /// Accepts connections of a pod and to it.
    pub(super) fn add(self: &Rc<Self>, pod: Arc<Pod>, listeners: Listeners) {
        let (drain, removal) = drain::channel();
        let (accepting, leaving) = drain::channel();
        self.accepting.borrow_mut().insert(pod.cookie(), accepting);
        self.pods
            .borrow_mut()
            .insert(pod.cookie(), (Arc::clone(&pod), drain));
        let local = LocalPod::new(Rc::clone(self), pod, removal);
        let Listeners {
            outbound,
            inbound,
            hbone,
        } = listeners;
        self.accept(&local, outbound, &leaving, "outbound", outbound::handle);
        self.accept(&local, inbound, &leaving, "inbound", passthrough::handle);
        self.accept(&local, hbone, &leaving, "hbone", inbound::handle);
    }

    /// Serves name sockets of a pod, unless it is gone or leaving.
    pub(super) fn serve_names(self: &Rc<Self>, pod: NetnsCookie, names: Names) {
        let removal = self.pods.borrow().get(&pod).and_then(|(pod, removal)| {
            let removal = removal.watcher()?;
            Some((Arc::clone(pod), removal))
        });
        let accepting = self.accepting.borrow();
        let leaving = accepting.get(&pod).and_then(Drain::watcher);
        let (Some((pod, removal)), Some(leaving)) = (removal, leaving) else {
            return;
        };
        let local = LocalPod::new(Rc::clone(self), pod, removal);
        let turns = serve::turns();
        for socket in names.sockets {
            let (local, turns) = (local.clone(), Arc::clone(&turns));
            let ends = [
                self.draining.clone(),
                leaving.clone(),
                names.closing.clone(),
            ];
            spawn_local(serve::serve(local, socket, turns, ends));
        }
    }

    fn accept<F>(
        &self,
        pod: &LocalPod,
        listener: StdListener,
        leaving: &Watcher,
        purpose: &'static str,
        handle: fn(LocalPod, accept::Accepted) -> F,
    ) where
        F: Future<Output = ()> + 'static,
    {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                let draining = self.draining.clone();
                spawn_local(accept::run(
                    pod.clone(),
                    listener,
                    draining,
                    leaving.clone(),
                    purpose,
                    handle,
                ));
            }
            Err(error) => {
                tracing::error!(pod = %pod.pod.info().name, purpose, %error, "cannot serve listener");
            }
        }
    }

    /// Takes the last connections of a pod and closes its listeners; those it has live on.
    pub(super) async fn leave(self: Rc<Self>, pod: NetnsCookie) {
        let accepting = self.accepting.borrow_mut().remove(&pod);
        let served = self.pods.borrow_mut().remove(&pod);
        let (Some((pod, drain)), Some(accepting)) = (served, accepting) else {
            return;
        };
        self.left.keep(Arc::clone(&pod), drain, REMOVAL_DEADLINE);
        if !accepting.drain(REMOVAL_DEADLINE).await {
            tracing::error!(pod = %pod.info().name, "listeners of a pod that left linger");
        }
    }

    /// Ends every task of the pod and with them every socket this worker has in its namespace.
    pub(super) async fn remove(self: Rc<Self>, pod: NetnsCookie) {
        for left in self.left.take(pod) {
            left.end().await;
        }
        self.accepting.borrow_mut().remove(&pod);
        let Some((pod, drain)) = self.pods.borrow_mut().remove(&pod) else {
            self.tunnels.drop_source(pod);
            return;
        };
        self.tunnels.drop_source(pod.cookie());
        let ended = async {
            drain.drain(REMOVAL_DEADLINE).await;
            // The tunnels' sockets are in the pod's namespace too.
            while self.tunnels.serves(pod.cookie()) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(REMOVAL_DEADLINE, ended).await.is_err() {
            tracing::error!(pod = %pod.info().name, "connections of a removed pod linger");
        }
    }
}
