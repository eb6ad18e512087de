//! What the control plane wants of this node's pods, and what follows from it. Pure: time is an
//! argument.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use agent_model::{NodeWishes, PodInfo, PodProgress, PodReport, Wanted, WantedPod};
use agent_net::backoff::Backoff;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::PodStatus;

/// First and longest wait before a pod is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// A pod must be unwanted for this long before it leaves: its peers learn of it first, and labels
/// that flap cost nothing.
const LEAVE_GRACE: Duration = Duration::from_millis(500);
/// Until a pod that could not leave is tried again.
const LEAVE_RETRY: Duration = Duration::from_secs(5);

/// What the control plane wants, as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// The control plane is heard: what it wants now is known.
    pub current: bool,
    /// What it wanted last; `None` when nothing has been heard since the start.
    pub node: Option<Arc<NodeWishes>>,
    /// Namespaces that are in the mesh, as this agent or one before it has heard last.
    pub meshed: Option<Arc<BTreeSet<String>>>,
}

/// How enrolment follows the control plane.
#[derive(Debug)]
pub struct Follow {
    /// What is wanted. Without it the runtime alone says what is enrolled.
    pub wishes: Option<watch::Receiver<Wishes>>,
    /// What became of the pods; `None` until there is something to say.
    pub reports: watch::Sender<Option<Vec<PodReport>>>,
}

/// What to do about a runtime's call for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    /// Capture the pod.
    Enrol,
    /// Say yes and do nothing, for that reason.
    Pass(String),
    /// Not known yet.
    Wait,
}

impl Wishes {
    /// What a runtime's call for a pod comes to. A pod that the control plane does not know yet
    /// waits: it was bound to this node before the call, so it will come. While the control plane
    /// is not heard, only pods of the mesh's namespaces wait.
    pub(crate) fn call(&self, pod: &PodInfo) -> Call {
        let known = self.node.iter().flat_map(|node| &node.pods);
        match known.into_iter().find(|wanted| wanted.is(pod)) {
            Some(wanted) => match wanted.wanted {
                Wanted::Enrol => Call::Enrol,
                Wanted::Leave => Call::Pass(wanted.reason.clone()),
            },
            None if self.current => Call::Wait,
            None if self.is_outside(&pod.namespace) => {
                Call::Pass("its namespace is not meshed".to_owned())
            }
            None => Call::Wait,
        }
    }

    /// True when the namespace is known not to be of the mesh, by its labels or its pods'.
    pub(crate) fn is_outside(&self, namespace: &str) -> bool {
        let meshed = self.meshed.as_ref();
        meshed.is_some_and(|meshed| !meshed.contains(namespace))
    }
}

/// What has to be done for the pods to be as they are wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Wanted and not enrolled.
    pub(crate) find: Vec<WantedPod>,
    /// Enrolled and not wanted: their containers.
    pub(crate) leave: Vec<String>,
}

/// Compares. An enrolled pod that the control plane does not know stays: the runtime says when it
/// is over. One without an address has no sandbox yet: the runtime will name it.
pub(crate) fn plan(wishes: &NodeWishes, enrolled: &[PodInfo]) -> Plan {
    let mut plan = Plan::default();
    for pod in &wishes.pods {
        let mut same = enrolled.iter().filter(|info| pod.is(info));
        match pod.wanted {
            Wanted::Enrol if same.next().is_none() && !pod.ips.is_empty() => {
                plan.find.push(pod.clone());
            }
            Wanted::Enrol => {}
            Wanted::Leave => plan
                .leave
                .extend(same.map(|info| info.container_id.clone())),
        }
    }
    plan
}

/// What was tried and when it is tried again.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    tries: BTreeMap<Key, Try>,
    /// Containers that are not wanted, and when they are to leave.
    unwanted: BTreeMap<String, Instant>,
}

/// Namespace, name, UID.
type Key = (String, String, String);

#[derive(Debug)]
struct Try {
    backoff: Backoff,
    next: Instant,
    error: String,
}

impl Attempts {
    /// The part of a plan whose time has come. What is no longer in the plan is forgotten.
    pub(crate) fn due(&mut self, plan: Plan, now: Instant) -> Plan {
        let wanted: BTreeSet<Key> = plan.find.iter().map(key).collect();
        self.tries.retain(|key, _| wanted.contains(key));
        self.unwanted.retain(|id, _| plan.leave.contains(id));
        let is_due = |pod: &WantedPod| self.tries.get(&key(pod)).is_none_or(|t| t.next <= now);
        let find = plan.find.into_iter().filter(is_due).collect();
        let mut leave = plan.leave;
        leave.retain(|container| {
            let due = self.unwanted.entry(container.clone());
            *due.or_insert(now + LEAVE_GRACE) <= now
        });
        Plan { find, leave }
    }

    /// Notes a failure; true when it is not the one that the last try came to.
    pub(crate) fn failed(
        &mut self,
        pod: &WantedPod,
        error: String,
        now: Instant,
        random: f64,
    ) -> bool {
        let entry = self.tries.entry(key(pod)).or_insert_with(|| Try {
            backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
            next: now,
            error: String::new(),
        });
        entry.next = now + entry.backoff.next(random);
        let is_news = entry.error != error;
        entry.error = error;
        is_news
    }

    /// Notes that a container could not leave; it is tried again a while later.
    pub(crate) fn stays(&mut self, container: &str, now: Instant) {
        self.unwanted
            .insert(container.to_owned(), now + LEAVE_RETRY);
    }

    /// When something is due next, if anything is.
    pub(crate) fn next(&self) -> Option<Instant> {
        let tries = self.tries.values().map(|entry| entry.next);
        tries.chain(self.unwanted.values().copied()).min()
    }

    fn error(&self, pod: &WantedPod) -> Option<&str> {
        self.tries.get(&key(pod)).map(|entry| &*entry.error)
    }
}

fn key(pod: &WantedPod) -> Key {
    (pod.namespace.clone(), pod.name.clone(), pod.uid.clone())
}

/// What the control plane is told: of every pod that is captured, and of every one that should be.
pub(crate) fn report(
    wishes: Option<&NodeWishes>,
    statuses: &[PodStatus],
    attempts: &Attempts,
) -> Vec<PodReport> {
    let wanted = || wishes.into_iter().flat_map(|wishes| &wishes.pods);
    let mut reports: Vec<PodReport> = statuses
        .iter()
        .map(|status| {
            let known = wanted().find(|pod| pod.is(&status.info));
            let uid = known.map_or(&status.info.uid, |pod| &pod.uid);
            PodReport {
                uid: uid.clone(),
                namespace: status.info.namespace.clone(),
                name: status.info.name.clone(),
                state: if status.verified {
                    PodProgress::Verified
                } else {
                    PodProgress::Enrolled
                },
                detail: status.detail.clone().unwrap_or_default(),
            }
        })
        .collect();
    let missing = wanted().filter(|pod| {
        let is_captured = statuses.iter().any(|status| pod.is(&status.info));
        pod.wanted == Wanted::Enrol && !is_captured
    });
    reports.extend(missing.map(|pod| {
        let error = attempts.error(pod);
        PodReport {
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            state: match error {
                Some(_) => PodProgress::Failed,
                None => PodProgress::Pending,
            },
            detail: error.unwrap_or_default().to_owned(),
        }
    }));
    reports.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
    reports
}

#[cfg(test)]
mod tests;
