//! What the rules ask of a namespace.

use std::cell::OnceCell;
use std::sync::Arc;

use agent_model::Wanted;

use super::pods::{Pods, Seen, has};
use crate::collection::Inventory;
use crate::source::kubernetes::{Labels, Pod};
use crate::source::{Kind, ObjectRef};
use crate::translate::enrolment::{self, Decision};
use crate::translate::{Objects, Scope, workload};

/// Names in one message.
const MAX_NAMED: usize = 3;

/// One namespace.
pub(crate) struct View<'a> {
    pub(crate) inventory: &'a Inventory,
    pub(crate) scope: Scope<'a>,
    by_label: OnceCell<Pods<'a>>,
}

impl<'a> View<'a> {
    pub(crate) fn new(inventory: &'a Inventory, namespace: &'a str) -> Self {
        Self {
            inventory,
            scope: inventory.scope(namespace),
            by_label: OnceCell::new(),
        }
    }

    /// Of each of the namespaces `names`.
    pub(crate) fn all(inventory: &'a Inventory, names: &'a [Arc<str>]) -> Vec<Self> {
        let views = names.iter().map(|name| Self::new(inventory, name));
        views.collect()
    }

    pub(crate) fn objects(&self) -> &'a Objects {
        self.scope.objects
    }

    pub(crate) fn object(&self, kind: Kind, name: &str) -> ObjectRef {
        ObjectRef::new(kind, self.scope.name, name)
    }

    /// Pods that are not over.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &'a Arc<Pod>> + use<'a> {
        let pods = self.scope.objects.pods.values();
        pods.filter(|pod| !pod.is_terminal())
    }

    /// The same by their labels; made when it is asked for first.
    pub(crate) fn by_label(&self) -> &Pods<'a> {
        self.by_label.get_or_init(|| Pods::new(self.seen()))
    }

    fn seen(&self) -> Vec<Seen<'a>> {
        let seen = self.pods().map(|pod| {
            let is_wanted = self.decision(pod).wanted == Wanted::Enrol;
            Seen {
                pod,
                is_wanted,
                is_meshed: is_wanted || Self::is_meshed_elsewhere(pod),
            }
        });
        seen.collect()
    }

    pub(crate) fn decision(&self, pod: &Pod) -> Decision {
        enrolment::decide(&self.scope, pod)
    }

    /// Whether it has an identity to show: by us, by another mesh of the kind, or by itself.
    pub(crate) fn is_meshed(&self, pod: &Pod) -> bool {
        self.decision(pod).wanted == Wanted::Enrol || Self::is_meshed_elsewhere(pod)
    }

    /// Whether it has one whatever is decided here.
    pub(super) fn is_meshed_elsewhere(pod: &Pod) -> bool {
        workload::speaks_for_itself(&pod.metadata.labels) || Self::is_captured(pod)
    }

    /// Whether its node has said so.
    pub(crate) fn is_captured(pod: &Pod) -> bool {
        let mark = pod.metadata.annotations.get(workload::REDIRECTION);
        mark.is_some_and(|mark| mark == "enabled")
    }

    /// True when a pod that is not here is nowhere.
    pub(crate) fn knows_pods(&self) -> bool {
        let objects = self.objects();
        let has_any = !objects.pods.is_empty() || !objects.workload_entries.is_empty();
        self.inventory.is_whole() || has_any
    }

    /// True when a service account that is not here is nowhere.
    pub(crate) fn knows_accounts(&self) -> bool {
        self.inventory.is_whole() || !self.objects().service_accounts.is_empty()
    }

    /// False only for what is surely not there.
    pub(crate) fn may_exist(&self) -> bool {
        !self.inventory.is_whole() || self.scope.namespace.is_some()
    }

    /// False only for what is surely not there; every namespace has `default`.
    pub(crate) fn may_have_account(&self, name: &str) -> bool {
        name == "default"
            || !self.knows_accounts()
            || self.objects().service_accounts.contains_key(name)
    }

    /// True when something here has the labels, pod or entry.
    pub(crate) fn has_any(&self, wanted: &Labels) -> bool {
        let mut entries = self.objects().workload_entries.values();
        let has_pod = match self.by_label.get() {
            Some(pods) => pods.with(wanted).next().is_some(),
            // Not worth sorting them all for one question.
            None => self.pods().any(|pod| has(&pod.metadata.labels, wanted)),
        };
        has_pod || entries.any(|entry| has(&entry.labels(), wanted))
    }
}

/// The first few of them, and how many more.
pub(super) fn named(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(MAX_NAMED).map(String::as_str).collect();
    match names.len().saturating_sub(MAX_NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
