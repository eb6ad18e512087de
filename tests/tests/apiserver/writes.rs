//! Creating, replacing, deleting.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};
use tests::apiserver::ApiServer;

use crate::{client, code, dynamic, object, pod};

async fn until_gone<K>(api: &Api<K>, name: &str)
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let gone = async {
        while api.get_opt(name).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone)
        .await
        .expect("gone soon");
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"a": "1"}})).unwrap()
}

#[tokio::test]
async fn creating_names_and_dates_an_object_and_refuses_a_second_one() {
    let server = ApiServer::start().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "default");
    let params = PostParams::default();
    let made = maps.create(&params, &config_map("one")).await.unwrap();
    assert!(made.metadata.uid.is_some_and(|uid| uid.len() == 36));
    assert!(made.metadata.creation_timestamp.is_some());
    assert_eq!(made.metadata.namespace.as_deref(), Some("default"));
    let again = maps.create(&params, &config_map("one")).await;
    assert_eq!(code(again), (409, "AlreadyExists".to_owned()));

    let mut generated = config_map("");
    generated.metadata.generate_name = Some("some-".to_owned());
    let first = maps.create(&params, &generated).await.unwrap();
    let second = maps.create(&params, &generated).await.unwrap();
    let name = first.metadata.name.unwrap();
    assert!(name.starts_with("some-") && name.len() == 10, "{name}");
    assert_ne!(Some(name), second.metadata.name);
}

#[tokio::test]
async fn an_object_needs_its_namespace() {
    let server = ApiServer::start().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "nowhere");
    let refused = maps
        .create(&PostParams::default(), &config_map("one"))
        .await;
    assert_eq!(code(refused), (404, "NotFound".to_owned()));
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let server = ApiServer::start().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "default");
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    maps.create(&params, &config_map("one")).await.unwrap();
    assert_eq!(maps.get_opt("one").await.unwrap(), None);
}

#[tokio::test]
async fn replacing_needs_the_newest_version() {
    let server = ApiServer::start().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "default");
    let params = PostParams::default();
    let first = maps.create(&params, &config_map("one")).await.unwrap();
    let mut next = first.clone();
    next.data = Some([("a".to_owned(), "2".to_owned())].into());
    let stored = maps.replace("one", &params, &next).await.unwrap();
    assert_ne!(
        stored.metadata.resource_version,
        first.metadata.resource_version
    );
    let late = maps.replace("one", &params, &next).await;
    assert_eq!(code(late), (409, "Conflict".to_owned()));
    let same = maps.replace("one", &params, &stored).await.unwrap();
    assert_eq!(
        same.metadata.resource_version, stored.metadata.resource_version,
        "nothing changed, no new version"
    );
}

async fn policies(server: &ApiServer) -> Api<DynamicObject> {
    let client = client(server).await;
    dynamic(
        &client,
        "default",
        "security.istio.io/v1",
        "AuthorizationPolicy",
    )
}

/// An AuthorizationPolicy called `deny`.
fn policy(spec: Value) -> DynamicObject {
    object(json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "deny"},
        "spec": spec,
    }))
}

#[tokio::test]
async fn custom_resources_are_never_replaced_blindly() {
    let server = ApiServer::start().unwrap();
    let policies = policies(&server).await;
    let policy = policy(json!({}));
    let params = PostParams::default();
    policies.create(&params, &policy).await.unwrap();
    let blind = policies.replace("deny", &params, &policy).await;
    assert_eq!(code(blind), (422, "Invalid".to_owned()));
}

#[tokio::test]
async fn status_and_the_rest_change_apart() {
    let server = ApiServer::start().unwrap();
    let policies = policies(&server).await;
    let params = PostParams::default();
    let mut policy = policy(json!({"action": "DENY"}));
    policy.data["status"] = json!({"observed": "early"});
    let made = policies.create(&params, &policy).await.unwrap();
    assert!(made.data.get("status").is_none(), "status is not created");
    assert_eq!(made.metadata.generation, Some(1));

    let mut both = made.clone();
    both.data["status"] = json!({"observed": "yes"});
    both.data["spec"] = json!({"action": "ALLOW"});
    both.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    let stored = policies
        .replace_status("deny", &params, &both)
        .await
        .unwrap();
    assert_eq!(stored.data["status"]["observed"], "yes");
    assert_eq!(stored.data["spec"]["action"], "DENY");
    assert_eq!(stored.metadata.labels, None);
    assert_eq!(stored.metadata.generation, Some(1));

    let mut next = stored.clone();
    next.data["spec"] = json!({"action": "ALLOW"});
    next.data["status"] = json!({"observed": "no"});
    let stored = policies.replace("deny", &params, &next).await.unwrap();
    assert_eq!(stored.data["status"]["observed"], "yes");
    assert_eq!(stored.data["spec"]["action"], "ALLOW");
    assert_eq!(stored.metadata.generation, Some(2));
}

#[tokio::test]
async fn annotations_go_through_the_status_of_a_pod() {
    let server = ApiServer::start().unwrap();
    server.put_value(pod("default", "web", "node-1")).unwrap();
    let pods: Api<Pod> = Api::namespaced(client(&server).await, "default");
    let mut web = pods.get("web").await.unwrap();
    web.metadata.annotations = Some([("culvert.dev/status".to_owned(), "{}".to_owned())].into());
    web.spec.as_mut().unwrap().node_name = Some("node-2".to_owned());
    let stored = pods
        .replace_status("web", &PostParams::default(), &web)
        .await
        .unwrap();
    assert_eq!(stored.metadata.annotations.unwrap().len(), 1);
    assert_eq!(stored.spec.unwrap().node_name.as_deref(), Some("node-1"));
}

#[tokio::test]
async fn deleting_checks_preconditions_and_waits_for_finalizers() {
    let server = ApiServer::start().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "default");
    let mut kept = config_map("kept");
    kept.metadata.finalizers = Some(vec!["test/hold".to_owned()]);
    let params = PostParams::default();
    maps.create(&params, &kept).await.unwrap();

    let wrong = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some("another".to_owned()),
            ..Preconditions::default()
        }),
        ..DeleteParams::default()
    };
    assert_eq!(code(maps.delete("kept", &wrong).await).0, 409);
    let pending = maps.delete("kept", &DeleteParams::default()).await.unwrap();
    let mut pending = pending.left().expect("the object, for it is still there");
    assert!(pending.metadata.deletion_timestamp.is_some());
    pending.metadata.finalizers = None;
    maps.replace("kept", &params, &pending).await.unwrap();
    assert_eq!(code(maps.get("kept").await).0, 404);

    maps.create(&params, &config_map("plain")).await.unwrap();
    let gone = maps
        .delete("plain", &DeleteParams::default())
        .await
        .unwrap();
    assert!(gone.right().is_some_and(|status| status.is_success()));
    let twice = maps.delete("plain", &DeleteParams::default()).await;
    assert_eq!(code(twice), (404, "NotFound".to_owned()));
}

#[tokio::test]
async fn a_pod_on_a_node_goes_when_its_kubelet_says_so() {
    let server = ApiServer::start().unwrap();
    server.put_value(pod("default", "web", "node-1")).unwrap();
    let pods: Api<Pod> = Api::namespaced(client(&server).await, "default");
    pods.delete("web", &DeleteParams::default()).await.unwrap();
    let marked = pods.get("web").await.unwrap();
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(30));
    pods.delete("web", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    assert_eq!(pods.get_opt("web").await.unwrap(), None);
}

#[tokio::test]
async fn a_namespace_goes_with_its_content() {
    let server = ApiServer::start().unwrap();
    let client = client(&server).await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let params = PostParams::default();
    let shop = serde_json::from_value(json!({"metadata": {"name": "shop"}})).unwrap();
    let shop: Namespace = namespaces.create(&params, &shop).await.unwrap();
    let labels = shop.metadata.labels.unwrap();
    assert_eq!(labels["kubernetes.io/metadata.name"], "shop");
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "shop");
    accounts.get("default").await.unwrap();

    server.put_value(pod("shop", "web", "node-1")).unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "shop");
    maps.create(&params, &config_map("one")).await.unwrap();
    namespaces
        .delete("shop", &DeleteParams::default())
        .await
        .unwrap();
    let late = maps.create(&params, &config_map("late")).await;
    assert_eq!(code(late), (403, "Forbidden".to_owned()));
    until_gone(&maps, "one").await;

    let pods: Api<Pod> = Api::namespaced(client, "shop");
    pods.delete("web", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    until_gone(&namespaces, "shop").await;
}

#[tokio::test]
async fn a_selection_is_deleted_at_once() {
    let server = ApiServer::start().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "default");
    for (name, color) in [("a", "red"), ("b", "red"), ("c", "blue")] {
        let mut map = config_map(name);
        map.metadata.labels = Some([("color".to_owned(), color.to_owned())].into());
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    maps.delete_collection(
        &DeleteParams::default(),
        &ListParams::default().labels("color=red"),
    )
    .await
    .unwrap();
    let left = maps
        .list_metadata(&ListParams::default().labels("color"))
        .await
        .unwrap();
    let left: Vec<_> = left
        .items
        .into_iter()
        .filter_map(|map| map.metadata.name)
        .collect();
    assert_eq!(left, ["c"]);
}

#[tokio::test]
async fn a_service_without_an_address_gets_one() {
    let server = ApiServer::start().unwrap();
    let services: Api<Service> = Api::namespaced(client(&server).await, "default");
    let make = |name: &str| -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}},
        }))
        .unwrap()
    };
    let mut addresses = Vec::new();
    for name in ["one", "two"] {
        let made = services
            .create(&PostParams::default(), &make(name))
            .await
            .unwrap();
        addresses.push(made.spec.unwrap().cluster_ip.unwrap());
    }
    assert_eq!(addresses, ["10.96.0.10", "10.96.0.11"]);
}

#[tokio::test]
async fn a_definition_brings_a_resource_and_takes_it_away() {
    let server = ApiServer::start().unwrap();
    let client = client(&server).await;
    let widgets = dynamic(&client, "default", "test.dev/v1", "Widget");
    assert_eq!(code(widgets.list(&ListParams::default()).await).0, 404);
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.test.dev"},
        "spec": {
            "group": "test.dev",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true}],
        },
    });
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
    ));
    let definitions: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let made = definitions
        .create(&PostParams::default(), &object(definition))
        .await
        .unwrap();
    assert_eq!(made.data["status"]["conditions"][1]["type"], "Established");
    let found =
        kube::discovery::pinned_kind(&client, &GroupVersionKind::gvk("test.dev", "v1", "Widget"))
            .await
            .unwrap();
    assert_eq!(found.0.plural, "widgets");
    assert!(
        widgets
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    definitions
        .delete("widgets.test.dev", &DeleteParams::default())
        .await
        .unwrap();
    assert_eq!(code(widgets.list(&ListParams::default()).await).0, 404);
}

#[test]
fn a_namespace_that_is_back_under_its_name_keeps_what_is_in_it() {
    let server = ApiServer::start().unwrap();
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    let content = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept, namespace: shop}\n";
    server.put(namespace).unwrap();
    server.remove(namespace).unwrap();
    server.put(content).unwrap();
    // Longer than a namespace takes to go.
    std::thread::sleep(Duration::from_secs(1));
    assert!(server.get("namespaces", "", "shop").is_some());
    assert!(server.get("configmaps", "shop", "kept").is_some());
}
