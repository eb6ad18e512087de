//! The certificate by which the API server knows the webhook: the mesh's roots, in the webhook's
//! configuration. The configuration itself is installed; where there is none, nothing is done.

use std::time::Duration;

use agent_identity::TrustBundle;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::trust::{Place, Turn};

/// Name of the configuration.
const NAME: &str = "culvert-validation";
/// One request.
const REQUEST: Duration = Duration::from_secs(10);

/// The webhook's configuration.
pub(crate) struct Registration {
    pub(crate) client: kube::Client,
}

impl Place for Registration {
    const NAME: &'static str = "ValidatingWebhookConfiguration";
    const EVERY: Duration = Duration::from_secs(15);

    async fn put_right(&self, bundle: &TrustBundle, _: &Turn) -> Result<usize, String> {
        let bundle = STANDARD.encode(bundle.pem());
        let resource = ApiResource {
            group: "admissionregistration.k8s.io".to_owned(),
            version: "v1".to_owned(),
            api_version: "admissionregistration.k8s.io/v1".to_owned(),
            kind: "ValidatingWebhookConfiguration".to_owned(),
            plural: "validatingwebhookconfigurations".to_owned(),
        };
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let found = timeout(REQUEST, api.get_opt(NAME)).await;
        let found = found.map_err(|_| "no answer in time".to_owned())?;
        let Some(found) = found.map_err(|error| error.to_string())? else {
            return Ok(0);
        };
        let patch = wrong(&found.data["webhooks"], &bundle);
        if patch.is_empty() {
            return Ok(0);
        }
        let patch =
            serde_json::from_value(Value::Array(patch)).map_err(|error| error.to_string())?;
        let patch = Patch::Json::<()>(patch);
        let params = PatchParams {
            field_manager: Some("culvert".to_owned()),
            ..PatchParams::default()
        };
        let written = timeout(REQUEST, api.patch(NAME, &params, &patch)).await;
        let written = written.map_err(|_| "no answer in time".to_owned())?;
        written.map(|_| 1).map_err(|error| error.to_string())
    }
}

/// The patch (RFC 6902) that gives each webhook the bundle. Somebody who has put another webhook
/// in its place meanwhile is noticed. Pure.
fn wrong(webhooks: &Value, bundle: &str) -> Vec<Value> {
    let webhooks = webhooks.as_array().into_iter().flatten().enumerate();
    let wrong = webhooks.filter(|(_, webhook)| webhook["clientConfig"]["caBundle"] != bundle);
    wrong
        .flat_map(|(index, webhook)| {
            let config = format!("/webhooks/{index}/clientConfig/caBundle");
            [
                json!({"op": "test", "path": format!("/webhooks/{index}/name"), "value": webhook["name"]}),
                json!({"op": "add", "path": config, "value": bundle}),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_written() {
        let webhooks = json!([
            {"name": "a", "clientConfig": {"caBundle": "new", "service": {"name": "s"}}},
            {"name": "b", "clientConfig": {"service": {"name": "s"}}},
        ]);
        let patch = wrong(&webhooks, "new");
        let paths: Vec<&str> = patch
            .iter()
            .filter_map(|step| step["path"].as_str())
            .collect();
        assert_eq!(
            paths,
            ["/webhooks/1/name", "/webhooks/1/clientConfig/caBundle"]
        );
        assert_eq!(wrong(&json!(null), "new"), Vec::<Value>::new());
    }
}
