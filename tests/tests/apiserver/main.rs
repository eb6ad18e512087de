//! The API server fixture through the real client of Kubernetes: `kube`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test program: what these end is the test"
)]

mod access;
mod faults;
mod patches;
mod reads;
mod slices;
mod tokens;
mod watches;
mod writes;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, Config};
use serde_json::Value;
use tests::apiserver::ApiServer;

/// A client that knows nothing but the kubeconfig.
async fn client(server: &ApiServer) -> Client {
    client_of(server.kubeconfig()).await
}

async fn client_of(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    // By itself it tries again for minutes.
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

fn dynamic(client: &Client, namespace: &str, api_version: &str, kind: &str) -> Api<DynamicObject> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Api::namespaced_with(client.clone(), namespace, &resource)
}

fn object(value: Value) -> DynamicObject {
    serde_json::from_value(value).unwrap()
}

/// The status code of a refusal.
fn code<T: std::fmt::Debug>(outcome: Result<T, kube::Error>) -> (u16, String) {
    match outcome {
        Err(kube::Error::Api(status)) => (status.code, status.reason.clone()),
        other => panic!("not a refusal of the API: {other:?}"),
    }
}

/// A pod that runs on a node, as scheduler and kubelet leave it.
fn pod(namespace: &str, name: &str, node: &str) -> Value {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "main", "image": "main:1"}],
        },
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
    })
}
