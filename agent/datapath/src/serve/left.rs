//! Pods that left the mesh and live on. What they have open goes on for as long as they live: when
//! a runtime ends one, its connections must not hold its namespace.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use agent_model::PodInfo;
use agent_net::{Netns, NetnsCookie};

use crate::found::is_found;
use crate::upkeep::is_gone;

/// Pods remembered. Each comes with a `Del` that nobody told us of; connections of those that are
/// forgotten end by themselves, a while later.
const LIMIT: usize = 4096;

/// The pods that have left, oldest first.
#[derive(Debug, Default)]
pub(super) struct LeftPods(Mutex<VecDeque<(PodInfo, NetnsCookie)>>);

impl LeftPods {
    /// Remembers one.
    pub(super) fn keep(&self, pod: PodInfo, cookie: NetnsCookie) {
        let mut left = self.lock();
        left.retain(|(_, other)| *other != cookie);
        if left.len() >= LIMIT {
            left.pop_front();
        }
        left.push_back((pod, cookie));
    }

    /// The namespaces of the pods that a runtime's call means, remembered no longer.
    pub(super) fn take(&self, called: &PodInfo) -> Vec<NetnsCookie> {
        let namespace = Netns::open(Path::new(&called.netns)).map(|netns| netns.cookie());
        let namespace = namespace.ok();
        let mut left = self.lock();
        let (taken, kept) = left
            .drain(..)
            .partition(|(pod, cookie)| is_same(pod, *cookie, called, namespace));
        *left = kept;
        let taken: VecDeque<(PodInfo, NetnsCookie)> = taken;
        taken.into_iter().map(|(_, cookie)| cookie).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(PodInfo, NetnsCookie)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By its container; where no runtime had named one, by its name and UID, and unless it lives on in
/// another namespace than the one that is called.
fn is_same(
    pod: &PodInfo,
    cookie: NetnsCookie,
    called: &PodInfo,
    namespace: Option<NetnsCookie>,
) -> bool {
    let same_uid = pod.uid.is_empty() || called.uid.is_empty() || pod.uid == called.uid;
    let same_name = pod.name == called.name && pod.namespace == called.namespace;
    let same_namespace = || match namespace {
        Some(namespace) => namespace == cookie,
        None => is_gone(Path::new(&pod.netns), cookie),
    };
    pod.container_id == called.container_id
        || (is_found(pod) && same_name && same_uid && same_namespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(container: &str, name: &str, uid: &str) -> PodInfo {
        PodInfo {
            container_id: container.into(),
            uid: uid.into(),
            name: name.into(),
            namespace: "shop".into(),
            netns: "/run/netns/web".into(),
            ips: vec![],
        }
    }

    #[test]
    fn a_call_means_its_container_or_the_pod_that_was_found() {
        let left = LeftPods::default();
        left.keep(pod("c1", "web", "u1"), NetnsCookie(1));
        left.keep(pod("pod:u2", "web", "u2"), NetnsCookie(2));
        left.keep(pod("pod:u2", "web", "u2"), NetnsCookie(2));
        assert_eq!(left.take(&pod("c9", "web", "u9")), []);
        assert_eq!(left.take(&pod("c9", "web", "u2")), [NetnsCookie(2)]);
        assert_eq!(left.take(&pod("c9", "web", "u2")), []);
        assert_eq!(left.take(&pod("c1", "", "")), [NetnsCookie(1)]);
    }

    #[test]
    fn a_call_for_an_earlier_sandbox_leaves_the_one_that_lives() {
        let own = "/proc/thread-self/ns/net";
        let Ok(netns) = Netns::open(Path::new(own)) else {
            return;
        };
        let cookie = netns.cookie();
        let left = LeftPods::default();
        let lives = PodInfo {
            netns: own.into(),
            ..pod("pod:u1", "web", "u1")
        };
        left.keep(lives.clone(), cookie);
        for earlier in ["", "/run/netns/web"] {
            let called = PodInfo {
                netns: earlier.into(),
                ..pod("c1", "web", "u1")
            };
            assert_eq!(left.take(&called), [], "{earlier:?}");
        }
        let called = PodInfo {
            container_id: "c2".into(),
            ..lives
        };
        assert_eq!(left.take(&called), [cookie]);
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let left = LeftPods::default();
        for number in 0..=LIMIT as u64 {
            left.keep(pod(&number.to_string(), "web", "u"), NetnsCookie(number));
        }
        assert_eq!(left.take(&pod("0", "", "")), []);
        assert_eq!(left.take(&pod("1", "", "")), [NetnsCookie(1)]);
    }
}
