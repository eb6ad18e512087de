//! Pods that left the mesh and live on. What they have open goes on for as long as they live: when
//! a runtime ends one, its connections must not hold its namespace.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use agent_model::PodInfo;
use agent_net::NetnsCookie;

use crate::found::is_found;

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
        let mut left = self.lock();
        let (taken, kept) = left.drain(..).partition(|(pod, _)| is_same(pod, called));
        *left = kept;
        let taken: VecDeque<(PodInfo, NetnsCookie)> = taken;
        taken.into_iter().map(|(_, cookie)| cookie).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(PodInfo, NetnsCookie)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By its container, or by its name and UID where no runtime had named one.
fn is_same(pod: &PodInfo, called: &PodInfo) -> bool {
    let same_uid = pod.uid.is_empty() || called.uid.is_empty() || pod.uid == called.uid;
    let same_name = pod.name == called.name && pod.namespace == called.namespace;
    pod.container_id == called.container_id || (is_found(pod) && same_name && same_uid)
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
    fn the_oldest_is_forgotten_first() {
        let left = LeftPods::default();
        for number in 0..=LIMIT as u64 {
            left.keep(pod(&number.to_string(), "web", "u"), NetnsCookie(number));
        }
        assert_eq!(left.take(&pod("0", "", "")), []);
        assert_eq!(left.take(&pod("1", "", "")), [NetnsCookie(1)]);
    }
}
