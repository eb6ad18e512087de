//! Whose questions are answered: every pod's where the node does it at all, but for those that are
//! left out by a flag of the node or by the control plane's word. That may change at any time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_model::{NodeWishes, PodInfo};
use agent_net::drain::{self, Watcher};

use super::serve;
use crate::mesh::Mesh;
use crate::pod::Pod;

/// What the control plane says of the node's pods; nothing before it was heard.
#[derive(Debug, Default)]
pub(crate) struct Choice(Mutex<Arc<NodeWishes>>);

/// A pod's name sockets and what ends their serving.
pub(crate) struct Names {
    pub(crate) sockets: Vec<serve::Socket>,
    pub(crate) closing: Watcher,
}

/// The control plane's word, which does not change while this is held.
pub(crate) struct Chosen<'a>(MutexGuard<'a, Arc<NodeWishes>>);

/// What is to be done about a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Open,
    Close,
    Nothing,
}

impl Choice {
    /// Takes the control plane's word.
    pub(crate) fn heed(&self, wishes: Arc<NodeWishes>) -> Chosen<'_> {
        let mut chosen = self.now();
        *chosen.0 = wishes;
        chosen
    }

    /// As it was heard last.
    pub(crate) fn now(&self) -> Chosen<'_> {
        Chosen(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Chosen<'_> {
    /// Does for a pod what is to be done now. Returns its name sockets when they are to be served
    /// from now on. Without them it asks its servers itself.
    pub(crate) fn follow(&self, mesh: &Mesh, pod: &Pod) -> Option<Names> {
        let mut serving = pod.names();
        match step(self.is_wanted(mesh, pod.info()), serving.is_some()) {
            Step::Nothing => None,
            Step::Close => {
                // First the kernel: what comes later has nobody who would read it.
                if let Err(error) = mesh.kernel.leave_names(pod.cookie()) {
                    tracing::warn!(pod = %pod.info().name, %error, "names are still answered");
                    return None;
                }
                serving.take();
                None
            }
            Step::Open => match serve::open(pod, &*mesh.kernel) {
                Ok(sockets) => {
                    let (end, closing) = drain::channel();
                    *serving = Some(end);
                    Some(Names { sockets, closing })
                }
                Err(error) => {
                    tracing::warn!(pod = %pod.info().name, %error, "names are not answered");
                    None
                }
            },
        }
    }

    fn is_wanted(&self, mesh: &Mesh, pod: &PodInfo) -> bool {
        let names = mesh.config.names.as_ref();
        let by_node = names.is_some_and(|names| !names.except.contains(&pod.namespace));
        by_node && !is_left_out(&self.0, pod)
    }
}

fn step(is_wanted: bool, is_served: bool) -> Step {
    match (is_wanted, is_served) {
        (true, false) => Step::Open,
        (false, true) => Step::Close,
        (true, true) | (false, false) => Step::Nothing,
    }
}

/// The control plane says so; of a pod that it does not know it says nothing.
fn is_left_out(wishes: &NodeWishes, pod: &PodInfo) -> bool {
    let mut pods = wishes.pods.iter();
    pods.any(|wanted| !wanted.dns_capture && wanted.is(pod))
}

#[cfg(test)]
mod tests {
    use agent_model::{Wanted, WantedPod};

    use super::*;

    #[test]
    fn only_the_pod_that_is_named_is_left_out() {
        let pod = |name: &str, uid: &str| PodInfo {
            container_id: name.into(),
            uid: uid.into(),
            name: name.into(),
            namespace: "shop".into(),
            netns: "/proc/1/ns/net".into(),
            ips: Vec::new(),
        };
        let wanted = |name: &str, dns_capture| WantedPod {
            uid: "1".into(),
            namespace: "shop".into(),
            name: name.into(),
            ips: Vec::new(),
            wanted: Wanted::Enrol,
            reason: String::new(),
            dns_capture,
        };
        let wishes = NodeWishes {
            pods: vec![wanted("a", false), wanted("b", true)],
            ..NodeWishes::default()
        };
        assert!(is_left_out(&wishes, &pod("a", "1")));
        assert!(!is_left_out(&wishes, &pod("a", "2")), "another of the name");
        assert!(!is_left_out(&wishes, &pod("b", "1")));
        assert!(!is_left_out(&wishes, &pod("c", "1")));
        assert!(!is_left_out(&NodeWishes::default(), &pod("a", "1")));
    }

    #[test]
    fn what_is_as_it_should_be_is_left_alone() {
        assert_eq!(step(true, false), Step::Open);
        assert_eq!(step(false, true), Step::Close);
        assert_eq!(step(true, true), Step::Nothing);
        assert_eq!(step(false, false), Step::Nothing);
    }
}
