//! The requests.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::decide::Verdict;
use super::events::Notice;
use super::merge::merged;
use crate::gateway;
use crate::source::kube::resources;
use crate::source::{Kind, ObjectRef};

/// Who writes, as `managedFields` shows it.
const MANAGER: &str = "culvert";
/// One request.
const REQUEST: Duration = Duration::from_secs(10);
/// Times that a write is begun again because somebody else was faster.
const TRIES: usize = 4;

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is there, or the object is gone.
    Done,
    /// The object is newer than what was reviewed.
    Stale,
}

/// Writes to a cluster.
pub(super) struct Writer {
    client: kube::Client,
    /// The version in which each kind was found.
    versions: BTreeMap<Kind, usize>,
    instance: String,
}

/// An object as it is now.
struct Present {
    api: Api<DynamicObject>,
    api_version: String,
    object: DynamicObject,
}

impl Writer {
    pub(super) fn new(client: kube::Client) -> Self {
        Self {
            client,
            versions: BTreeMap::new(),
            instance: instance(),
        }
    }

    /// Puts conditions (or what else the status of a kind has) among those that are there. A whole
    /// list is written, as the definitions of Istio and those of routes know no other way, so it is written over the version that was read: what another
    /// controller says meanwhile is never lost.
    pub(super) async fn conditions(
        &mut self,
        object: &ObjectRef,
        verdict: &Verdict,
    ) -> Result<Outcome, String> {
        for _ in 0..TRIES {
            let Some(present) = self.read(object).await? else {
                return Ok(Outcome::Done);
            };
            let metadata = &present.object.metadata;
            let generation = metadata.generation.unwrap_or_default();
            if verdict
                .generation
                .is_some_and(|reviewed| reviewed < generation)
            {
                return Ok(Outcome::Stale);
            }
            let observed = verdict.generation.unwrap_or(generation);
            let Some(status) = status(&present.object.data["status"], verdict, observed) else {
                return Ok(Outcome::Done);
            };
            let patch = json!({
                "metadata": {"resourceVersion": metadata.resource_version},
                "status": status,
            });
            let patch = Patch::Merge(patch);
            let params = PatchParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PatchParams::default()
            };
            let writing = present
                .api
                .patch_subresource("status", &object.name, &params, &patch);
            match in_time(writing).await? {
                Ok(_) => return Ok(Outcome::Done),
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Outcome::Done),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Err("somebody else keeps writing it".to_owned())
    }

    /// Makes an event, unless it is there.
    pub(super) async fn event(&mut self, notice: &Notice) -> Result<(), String> {
        let Some(present) = self.read(&notice.object).await? else {
            return Ok(());
        };
        let uid = present.object.metadata.uid.unwrap_or_default();
        let event = notice.event(&present.api_version, &uid, &self.instance, now());
        let event: DynamicObject =
            serde_json::from_value(event).map_err(|error| error.to_string())?;
        let resource = ApiResource {
            group: "events.k8s.io".to_owned(),
            version: "v1".to_owned(),
            api_version: "events.k8s.io/v1".to_owned(),
            kind: "Event".to_owned(),
            plural: "events".to_owned(),
        };
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), notice.namespace(), &resource);
        match in_time(api.create(&PostParams::default(), &event)).await? {
            Ok(_) => Ok(()),
            // It was said before.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(kube::Error::Api(status)) if status.message.contains("being terminated") => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The object, in the version that the cluster has of its kind; `None` when it is gone.
    async fn read(&mut self, object: &ObjectRef) -> Result<Option<Present>, String> {
        let resources = resources(object.kind);
        let known = self.versions.get(&object.kind).copied();
        let order = known.into_iter().chain(0..resources.len());
        let mut asked = Vec::new();
        for index in order {
            let Some(resource) = resources.get(index).filter(|_| !asked.contains(&index)) else {
                continue;
            };
            asked.push(index);
            let client = self.client.clone();
            let api: Api<DynamicObject> = match &*object.namespace {
                "" => Api::all_with(client, resource),
                namespace => Api::namespaced_with(client, namespace, resource),
            };
            let found = in_time(api.get_opt(&object.name)).await?;
            if let Some(found) = found.map_err(|error| error.to_string())? {
                self.versions.insert(object.kind, index);
                return Ok(Some(Present {
                    api,
                    api_version: resource.api_version.clone(),
                    object: found,
                }));
            }
        }
        Ok(None)
    }
}

/// The fields of the status that are to be written; `None` when they are there.
fn status(current: &Value, verdict: &Verdict, generation: i64) -> Option<Value> {
    if let Some(status) = &verdict.status {
        return gateway::patch(current, status, generation, now());
    }
    let list = current["conditions"].as_array();
    let list = list.map_or(&[][..], Vec::as_slice);
    let conditions = merged(list, &verdict.conditions, generation, now())?;
    Some(json!({ "conditions": conditions }))
}

async fn in_time<T>(request: impl Future<Output = T>) -> Result<T, String> {
    let answer = timeout(REQUEST, request).await;
    answer.map_err(|_| "no answer in time".to_owned())
}

fn now() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The pod's name where there is one.
fn instance() -> String {
    let pod = std::env::var("HOSTNAME").unwrap_or_default();
    if pod.is_empty() {
        "culvert-control".to_owned()
    } else {
        pod
    }
}
