//! The roots in a ConfigMap of every namespace, where agents mount them and applications may read
//! them. Created in new namespaces, put right where somebody changes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use agent_identity::TrustBundle;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::publish::{Place, Turn};
use crate::collection::Collection;

/// Name of the ConfigMap.
pub(crate) const NAME: &str = "culvert-ca-root-cert";
/// Key of the bundle in it.
pub(crate) const KEY: &str = "root-cert.pem";
/// Who writes, as `managedFields` shows it.
const MANAGER: &str = "culvert-control";
/// Between two writes: a cluster of a thousand namespaces takes under a minute and a half.
const TERMS: Duration = Duration::from_millis(80);
/// One request.
const REQUEST: Duration = Duration::from_secs(15);
/// ConfigMaps listed at a time.
const PAGE: u32 = 500;

/// Writes the ConfigMaps.
pub(crate) struct ConfigMaps {
    pub(crate) client: kube::Client,
    pub(crate) collection: Arc<RwLock<Collection>>,
    /// The one namespace it is written to; `None`: to every one.
    pub(crate) only: Option<Arc<str>>,
}

impl Place for ConfigMaps {
    const NAME: &'static str = "ConfigMaps";
    const EVERY: Duration = Duration::from_secs(5);

    async fn put_right(&self, bundle: &TrustBundle, turn: &Turn) -> Result<usize, String> {
        let present = self.present().await?;
        let namespaces: BTreeSet<Arc<str>> = {
            let collection = self.collection.read();
            let collection = collection.unwrap_or_else(PoisonError::into_inner);
            let is_meant = |name: &Arc<str>| self.only.as_ref().is_none_or(|only| only == name);
            collection.live_namespaces().filter(is_meant).collect()
        };
        let mut written = 0;
        for namespace in wrong(&namespaces, &present, bundle.pem()) {
            if turn.is_over() {
                break;
            }
            match self.write(&namespace, bundle).await {
                Ok(()) => written += 1,
                // It goes or is gone; its ConfigMap goes with it.
                Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                    debug!(target: "trust", %namespace, %status, "trust bundle not written");
                }
                Err(error) => return Err(error.to_string()),
            }
            sleep(TERMS).await;
        }
        Ok(written)
    }
}

impl ConfigMaps {
    /// The bundle in each namespace that has a ConfigMap.
    async fn present(&self) -> Result<BTreeMap<String, String>, String> {
        let api: Api<ConfigMap> = Api::all(self.client.clone());
        let by_name = format!("metadata.name={NAME}");
        let mut params = ListParams::default().fields(&by_name).limit(PAGE);
        let mut present = BTreeMap::new();
        loop {
            let page = timeout(REQUEST, api.list(&params)).await;
            let page = page.map_err(|_| "no answer in time".to_owned())?;
            let page = page.map_err(|error| error.to_string())?;
            for map in page.items {
                let bundle = map.data.and_then(|mut data| data.remove(KEY));
                let namespace = map.metadata.namespace.unwrap_or_default();
                present.insert(namespace, bundle.unwrap_or_default());
            }
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => params = params.continue_token(&token),
                _ => return Ok(present),
            }
        }
    }

    async fn write(&self, namespace: &str, bundle: &TrustBundle) -> Result<(), kube::Error> {
        let map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": NAME,
                "namespace": namespace,
                "labels": {"app.kubernetes.io/name": "culvert"},
            },
            "data": {KEY: bundle.pem()},
        });
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let how = PatchParams::apply(MANAGER).force();
        api.patch(NAME, &how, &Patch::Apply(map)).await.map(drop)
    }
}

/// The namespaces whose bundle is missing or another. Pure.
fn wrong(
    namespaces: &BTreeSet<Arc<str>>,
    present: &BTreeMap<String, String>,
    bundle: &str,
) -> Vec<Arc<str>> {
    let wrong = namespaces
        .iter()
        .filter(|namespace| present.get(&***namespace).map(String::as_str) != Some(bundle));
    wrong.cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_without_the_very_bundle_gets_it() {
        let namespaces = ["fresh", "right", "stale"].map(Arc::from).into();
        let present = [("right", "new"), ("stale", "old"), ("gone", "old")];
        let present = present.map(|(namespace, text)| (namespace.to_owned(), text.to_owned()));
        let wrong = wrong(&namespaces, &present.into(), "new");
        assert_eq!(wrong, ["fresh", "stale"].map(Arc::from));
    }
}
