//! What Gateways of our classes run on: for each a ServiceAccount, a Deployment and a Service, made and
//! put right by the leader (GEP-1762), and the classes themselves where there are none.
//!
//! Level-triggered: what should be there is worked out anew after every change, what differs from what
//! was applied is applied, and all of it again every minute, so that what somebody else changed of it
//! does not last. Applied as one of several field managers: fields that are not ours (the replicas of an
//! autoscaler, annotations of a cloud) stay. What is deleted goes with its Gateway, which owns it, and
//! an object of that name that the Gateway does not own is left alone.

mod manifests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use agent_model::gateway::GatewayKey;
use agent_net::drain;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::collection::Collection;
use crate::rounds::{Cue, Rounds};
use crate::source::Kind;
use crate::source::gateway_api::CLASSES;
pub(crate) use manifests::{Image, Template};
use manifests::{Made, Part, class, of};

/// Who writes, as `managedFields` shows it.
const MANAGER: &str = "culvert-control";
/// Changes are gathered this long.
const GATHER: Duration = Duration::from_millis(200);
/// Between two writes: at most 25 a second, with the read before each.
const PACE: Duration = Duration::from_millis(40);
/// What somebody else may have changed is applied again after so long.
const RESYNC: Duration = Duration::from_secs(60);
/// Until what could not be done is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// One request.
const REQUEST: Duration = Duration::from_secs(10);

/// Makes it.
pub(crate) struct Infrastructure {
    pub(crate) client: Client,
    pub(crate) collection: Arc<RwLock<Collection>>,
    /// Where this program's own pod is, if it is in one.
    pub(crate) namespace: String,
    /// What gateways run; that of this program's own pod where nothing else is said.
    pub(crate) image: Option<Image>,
    pub(crate) template: Template,
}

/// What was done, since this replica leads.
#[derive(Default)]
struct Memory {
    applied: BTreeMap<(GatewayKey, Part), Made>,
    /// Why something is not there; said once.
    failing: BTreeMap<(GatewayKey, Part), String>,
    since: Option<Instant>,
}

impl Infrastructure {
    /// Goes on until the drain begins.
    pub(crate) async fn run(mut self, mut cue: Cue, drain: drain::Watcher) {
        let mut memory = Memory::default();
        let mut rounds = Rounds::until(drain);
        while rounds.is_due(&mut cue).await {
            rounds.run(self.round(&mut cue, &mut memory)).await;
        }
    }

    /// Applies what differs. Returns when to look again at the latest.
    async fn round(&mut self, cue: &mut Cue, memory: &mut Memory) -> Duration {
        sleep(GATHER).await;
        cue.told.mark_unchanged();
        if !cue.is_ours() {
            // Another one writes, and what it writes is not known here.
            *memory = Memory::default();
            return RESYNC;
        }
        let Some(image) = self.image().await else {
            return RESYNC;
        };
        let now = Instant::now();
        if memory.since.is_none_or(|since| now - since >= RESYNC) {
            memory.applied.clear();
            memory.since = Some(now);
            self.make_classes().await;
        }
        let wanted = self.wanted(&image);
        memory.forget(&wanted);
        let mut is_done = true;
        for (key, made) in wanted {
            if !cue.is_ours() {
                return RETRY;
            }
            if memory.applied.get(&key) == Some(&made) {
                continue;
            }
            match self.apply(&made).await {
                Ok(()) => memory.succeeded(key, made),
                Err(problem) => {
                    is_done = false;
                    memory.failed(key, problem);
                }
            }
            sleep(PACE).await;
        }
        if is_done { RESYNC } else { RETRY }
    }

    /// What gateways run. Without any, nothing is made.
    async fn image(&mut self) -> Option<Image> {
        if self.image.is_none() {
            let name = std::env::var("HOSTNAME").unwrap_or_default();
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
            let pod = match in_time(api.get_opt(&name)).await {
                Ok(pod) => pod,
                Err(problem) => {
                    debug!(target: "gateways", name, problem, "own pod not read");
                    None
                }
            };
            let containers = pod.and_then(|pod| pod.spec).map(|spec| spec.containers);
            self.image = containers.iter().flatten().find_map(Image::of);
        }
        self.image.clone()
    }

    fn wanted(&self, image: &Image) -> BTreeMap<(GatewayKey, Part), Made> {
        let (resolved, network) = {
            let collection = self.collection.read();
            let collection = collection.unwrap_or_else(PoisonError::into_inner);
            let resolved = Arc::clone(collection.gateways());
            (resolved, collection.network().to_owned())
        };
        let deployments = resolved.deployments.iter();
        let made = deployments.flat_map(|deployment| {
            let parts = of(deployment, &self.template, image, &network).into_iter();
            parts.map(|made| ((deployment.gateway.clone(), made.part), made))
        });
        made.collect()
    }

    async fn apply(&self, made: &Made) -> Result<(), String> {
        let resource = made.part.resource();
        let client = self.client.clone();
        let api: Api<DynamicObject> = Api::namespaced_with(client, &made.namespace, &resource);
        let present = in_time(api.get_opt(&made.name)).await?;
        let owners = present.map(|present| present.metadata.owner_references);
        if let Some(owners) = owners {
            let mut owners = owners.into_iter().flatten();
            let is_owned = owners.any(|owner| owner.uid == made.owner);
            if !is_owned && made.part == Part::Account {
                // Somebody has prepared it, with what the gateway may do elsewhere.
                return Ok(());
            }
            if !is_owned {
                return Err("there is one of this name that the Gateway does not own".to_owned());
            }
        }
        let how = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&made.object);
        in_time(api.patch(&made.name, &how, &patch)).await.map(drop)
    }

    /// Makes the classes that are not there, where the kind is served. One that is there is
    /// somebody's, and stays as it is.
    async fn make_classes(&self) {
        let missing: Vec<&str> = {
            let collection = self.collection.read();
            let collection = collection.unwrap_or_else(PoisonError::into_inner);
            let is_missing = |name: &&str| !collection.has_gateway_class(name);
            CLASSES.into_iter().filter(is_missing).collect()
        };
        let resources = crate::source::kube::resources(Kind::GatewayClass);
        let Some(resource) = resources.first() else {
            return;
        };
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), resource);
        for name in missing {
            let class = match serde_json::from_value(class(name)) {
                Ok(class) => class,
                Err(error) => {
                    warn!(target: "gateways", name, %error, "class not made");
                    continue;
                }
            };
            match timeout(REQUEST, api.create(&PostParams::default(), &class)).await {
                Ok(Ok(_)) => info!(target: "gateways", name, "GatewayClass made"),
                // The Gateway API is not installed, or the class is there meanwhile.
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {}
                Ok(Err(error)) => {
                    debug!(target: "gateways", name, %error, "class not made");
                }
                Err(_) => debug!(target: "gateways", name, "class not made: no answer in time"),
            }
        }
    }
}

impl Memory {
    /// Forgets what is of Gateways that are no more; it goes with them.
    fn forget(&mut self, wanted: &BTreeMap<(GatewayKey, Part), Made>) {
        self.applied.retain(|key, _| wanted.contains_key(key));
        self.failing.retain(|key, _| wanted.contains_key(key));
    }

    fn succeeded(&mut self, key: (GatewayKey, Part), made: Made) {
        if self.failing.remove(&key).is_some() {
            info!(target: "gateways", gateway = %key.0, part = ?key.1, "applied after all");
        }
        self.applied.insert(key, made);
    }

    fn failed(&mut self, key: (GatewayKey, Part), problem: String) {
        self.applied.remove(&key);
        if self.failing.get(&key) != Some(&problem) {
            warn!(target: "gateways", gateway = %key.0, part = ?key.1, problem, "not applied");
            self.failing.insert(key, problem);
        }
    }
}

async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    let answer = timeout(REQUEST, request).await;
    let answer = answer.map_err(|_| "no answer in time".to_owned())?;
    answer.map_err(|error| error.to_string())
}

impl Part {
    fn resource(self) -> ApiResource {
        let (group, kind, plural) = match self {
            Self::Account => ("", "ServiceAccount", "serviceaccounts"),
            Self::Service => ("", "Service", "services"),
            Self::Deployment => ("apps", "Deployment", "deployments"),
        };
        let api_version = match group {
            "" => "v1".to_owned(),
            group => format!("{group}/v1"),
        };
        ApiResource {
            group: group.to_owned(),
            version: "v1".to_owned(),
            api_version,
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        }
    }
}
