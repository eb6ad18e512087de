//! Writes what nodes report into their pods' annotations. The replica that has a node's stream
//! writes for its pods. Level-triggered: what differs is written until it does not differ, at a
//! bounded rate, and nobody waits for it.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use agent_model::PodReport;
use agent_net::drain;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use super::marks::{difference, word};
use super::registry::AttachedNodes;
use crate::collection::{Placement, PodsOfNode};

/// Changes that follow each other this closely are written together.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Between two patches; at most 50 a second.
const PACE: Duration = Duration::from_millis(20);
/// Patches on the way at one time.
const IN_FLIGHT: usize = 8;
/// For one patch.
const PATCH_LIMIT: Duration = Duration::from_secs(10);
/// Until what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// What was written is expected to come back by the watch until then; and a detail that keeps
/// changing is written no more often.
const ECHO: Duration = Duration::from_secs(15);

/// Changes annotations of pods.
pub(crate) trait MarkPods: Send + Sync + 'static {
    /// Merges `annotations` into those of the pod with this UID. No error when there is none.
    fn mark(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        annotations: Value,
    ) -> impl Future<Output = Result<(), String>> + Send;
}

/// The pods of a cluster, by way of their status.
#[derive(Clone)]
pub(crate) struct ClusterPods(pub(crate) kube::Client);

impl fmt::Debug for ClusterPods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterPods")
    }
}

impl MarkPods for ClusterPods {
    async fn mark(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        annotations: Value,
    ) -> Result<(), String> {
        let resource = ApiResource::erase::<Pod>(&());
        let pods: Api<DynamicObject> = Api::namespaced_with(self.0.clone(), namespace, &resource);
        let mut metadata = json!({ "annotations": annotations });
        if !uid.is_empty() {
            // Another pod of this name is not meant; the API server compares.
            metadata["uid"] = json!(uid);
        }
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        let params = PatchParams::default();
        let patching = pods.patch_subresource("status", name, &params, &patch);
        match timeout(PATCH_LIMIT, patching).await {
            Err(_) => Err("no answer".to_owned()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
                debug!(namespace, name, "the pod is gone");
                Ok(())
            }
            Ok(Err(error)) => Err(error.to_string()),
        }
    }
}

/// The writer.
pub(crate) struct Annotator<M> {
    marks: Arc<M>,
    placement: watch::Receiver<Placement>,
    attached: AttachedNodes,
    /// What was compared last, by node.
    seen: BTreeMap<Arc<str>, Seen>,
    /// What was written a moment ago, by pod.
    written: BTreeMap<Key, Written>,
}

struct Seen {
    pods: Arc<PodsOfNode>,
    reports: Vec<PodReport>,
    /// Something is still to be written then.
    retry: Option<Instant>,
}

struct Written {
    at: Instant,
    patch: Value,
}

/// Namespace, name, UID.
type Key = (String, String, String);

/// A patch to be made.
struct Due {
    key: Key,
    patch: Value,
}

impl<M: MarkPods> Annotator<M> {
    pub(crate) fn new(
        marks: M,
        placement: watch::Receiver<Placement>,
        attached: AttachedNodes,
    ) -> Self {
        Self {
            marks: Arc::new(marks),
            placement,
            attached,
            seen: BTreeMap::new(),
            written: BTreeMap::new(),
        }
    }

    /// Writes until the drain begins.
    pub(crate) async fn run(mut self, mut drain: drain::Watcher) {
        let mut reports = self.attached.changes();
        loop {
            let next = tokio::select! {
                () = drain.signalled() => return,
                next = self.round() => next,
            };
            let retry = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let changed = tokio::select! {
                () = drain.signalled() => return,
                changed = self.placement.changed() => changed,
                changed = reports.changed() => changed,
                () = retry => Ok(()),
            };
            if changed.is_err() {
                return;
            }
            sleep(DEBOUNCE).await;
        }
    }

    /// Compares and writes; returns when something is to be tried again.
    async fn round(&mut self) -> Option<Instant> {
        let now = Instant::now();
        self.written
            .retain(|_, written| now.duration_since(written.at) < ECHO);
        let placement = self.placement.borrow_and_update().clone();
        let nodes = self.attached.nodes();
        self.seen.retain(|node, _| nodes.contains(node));
        for node in nodes {
            let Some(reports) = self.attached.reports_of(&node) else {
                continue;
            };
            let pods = placement.of_node(&node);
            let is_seen = self.seen.get(&node).is_some_and(|seen| {
                let is_due = seen.retry.is_some_and(|at| at <= now);
                Arc::ptr_eq(&seen.pods, &pods) && seen.reports == reports && !is_due
            });
            if is_seen {
                continue;
            }
            let (due, wait) = self.due(&pods, &reports, now);
            let is_done = self.write(due).await && !wait;
            let retry = (!is_done).then(|| Instant::now() + RETRY);
            let seen = Seen {
                pods,
                reports,
                retry,
            };
            self.seen.insert(node, seen);
        }
        self.seen.values().filter_map(|seen| seen.retry).min()
    }

    /// What differs, without what was written a moment ago, and whether something has to wait.
    fn due(&self, pods: &PodsOfNode, reports: &[PodReport], now: Instant) -> (Vec<Due>, bool) {
        let by_name: BTreeMap<(&str, &str), &PodReport> = reports
            .iter()
            .map(|report| ((&*report.namespace, &*report.name), report))
            .collect();
        let (mut due, mut wait) = (Vec::new(), false);
        for pod in pods.values().flat_map(|pods| pods.iter()) {
            let metadata = &pod.pod.metadata;
            let report = by_name.get(&(&*pod.namespace, &*metadata.name)).copied();
            let report = report.filter(|report| pod.pod.is_meant_by(report));
            let Some(patch) = difference(pod, report) else {
                continue;
            };
            let key = (
                pod.namespace.to_string(),
                metadata.name.clone(),
                metadata.uid.clone(),
            );
            let is_recent = self.written.get(&key).is_some_and(|written| {
                let is_same = written.patch == patch || word(&written.patch) == word(&patch);
                is_same && now.duration_since(written.at) < ECHO
            });
            if is_recent {
                wait = true;
            } else {
                due.push(Due { key, patch });
            }
        }
        (due, wait)
    }

    /// Makes the patches; false when one could not be made.
    async fn write(&mut self, due: Vec<Due>) -> bool {
        let mut on_the_way = JoinSet::new();
        let mut is_done = true;
        for Due { key, patch } in due {
            if on_the_way.len() >= IN_FLIGHT {
                is_done &= self.written(on_the_way.join_next().await);
            }
            let marks = Arc::clone(&self.marks);
            on_the_way.spawn(async move {
                let (namespace, name, uid) = &key;
                let result = marks.mark(namespace, name, uid, patch.clone()).await;
                (key, patch, result)
            });
            sleep(PACE).await;
        }
        while let Some(made) = on_the_way.join_next().await {
            is_done &= self.written(Some(made));
        }
        is_done
    }

    fn written(&mut self, made: Option<Made>) -> bool {
        match made {
            None => true,
            Some(Ok((key, patch, Ok(())))) => {
                let at = Instant::now();
                self.written.insert(key, Written { at, patch });
                true
            }
            Some(Ok(((namespace, name, _), _, Err(error)))) => {
                warn!(namespace, name, error, "annotations not written");
                false
            }
            Some(Err(error)) => {
                warn!(%error, "annotations not written");
                false
            }
        }
    }
}

/// A patch that was tried.
type Made = Result<(Key, Value, Result<(), String>), tokio::task::JoinError>;
