//! Reading: discovery, lists, paging, selectors, versions.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{ListParams, VersionMatch};
use kube::core::PartialObjectMeta;
use kube::discovery::Discovery;
use kube::{Api, ResourceExt};
use serde_json::json;
use tests::apiserver::ApiServer;

use crate::{client, code, dynamic, pod};

fn put_maps(server: &ApiServer, names: &[&str]) {
    for name in names {
        server
            .put(&format!(
                "{{apiVersion: v1, kind: ConfigMap, metadata: {{namespace: shop, name: {name}}}}}"
            ))
            .unwrap();
    }
}

fn names(items: &[ConfigMap]) -> Vec<String> {
    items.iter().map(ResourceExt::name_any).collect()
}

#[tokio::test]
async fn discovery_names_what_is_served() {
    let server = ApiServer::start().unwrap();
    let client = client(&server).await;
    let version = client.apiserver_version().await.unwrap();
    assert_eq!(
        (version.major.as_str(), version.minor.as_str()),
        ("1", "33")
    );
    let discovery = Discovery::new(client).run().await.unwrap();
    let security = discovery.get("security.istio.io").unwrap();
    assert_eq!(security.preferred_version(), Some("v1"));
    let (policy, abilities) = security.recommended_kind("AuthorizationPolicy").unwrap();
    assert_eq!(policy.plural, "authorizationpolicies");
    assert!(abilities.supports_operation("watch"));
    assert!(discovery.get("").unwrap().recommended_kind("Pod").is_some());
}

#[tokio::test]
async fn pages_show_one_version() {
    let server = ApiServer::start().unwrap();
    put_maps(&server, &["a", "b", "c", "d", "e"]);
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "shop");
    let params = ListParams::default()
        .limit(2)
        .fields("metadata.name!=kube-root-ca.crt");
    let first = maps.list(&params).await.unwrap();
    assert_eq!(names(&first.items), ["a", "b"]);
    server
        .remove("{apiVersion: v1, kind: ConfigMap, metadata: {namespace: shop, name: d}}")
        .unwrap();
    put_maps(&server, &["bb", "f"]);
    let next = params
        .clone()
        .continue_token(first.metadata.continue_.as_deref().unwrap());
    let second = maps.list(&next).await.unwrap();
    assert_eq!(
        names(&second.items),
        ["c", "d"],
        "as it was at the first page"
    );
    assert_eq!(
        second.metadata.resource_version,
        first.metadata.resource_version
    );
    server.compact();
    let next = params
        .clone()
        .continue_token(second.metadata.continue_.as_deref().unwrap());
    assert_eq!(code(maps.list(&next).await), (410, "Expired".to_owned()));
    assert_eq!(code(maps.list(&params.continue_token("?")).await).0, 400);
}

#[tokio::test]
async fn a_list_can_be_asked_for_at_a_version() {
    let server = ApiServer::start().unwrap();
    put_maps(&server, &["a"]);
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "shop");
    let params = ListParams::default()
        .labels("!none")
        .fields("metadata.name!=kube-root-ca.crt");
    let before = maps
        .list(&params)
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    put_maps(&server, &["b"]);
    let exact = params.clone().at(&before).matching(VersionMatch::Exact);
    assert_eq!(names(&maps.list(&exact).await.unwrap().items), ["a"]);
    let newer = params
        .clone()
        .at(&before)
        .matching(VersionMatch::NotOlderThan);
    assert_eq!(names(&maps.list(&newer).await.unwrap().items), ["a", "b"]);
    let any = params.clone().match_any();
    assert_eq!(names(&maps.list(&any).await.unwrap().items), ["a", "b"]);
    let future = params.at("99999999").matching(VersionMatch::NotOlderThan);
    assert_eq!(code(maps.list(&future).await), (504, "Timeout".to_owned()));
}

#[tokio::test]
async fn fields_and_labels_select() {
    let server = ApiServer::start().unwrap();
    for (name, node) in [("a", "node-1"), ("b", "node-2"), ("c", "node-1")] {
        server.put_value(pod("shop", name, node)).unwrap();
    }
    let pods: Api<Pod> = Api::all(client(&server).await);
    let list = async |params: ListParams| -> Vec<String> {
        let found = pods.list(&params).await.unwrap();
        found.items.iter().map(ResourceExt::name_any).collect()
    };
    let fields = |text: &str| ListParams::default().fields(text);
    let labels = |text: &str| ListParams::default().labels(text);
    assert_eq!(list(fields("spec.nodeName=node-1")).await, ["a", "c"]);
    assert_eq!(
        list(fields("spec.nodeName==node-1,metadata.name!=a")).await,
        ["c"]
    );
    assert_eq!(list(fields("status.phase!=Running")).await, [""; 0]);
    assert_eq!(list(fields("metadata.namespace=shop")).await.len(), 3);
    assert_eq!(list(labels("app in (a, b)")).await, ["a", "b"]);
    assert_eq!(list(labels("app notin (a,b)")).await, ["c"]);
    assert_eq!(list(labels("app,app!=a")).await, ["b", "c"]);
    assert_eq!(list(labels("!app")).await, [""; 0]);
    let unknown = pods.list(&fields("spec.color=red")).await;
    assert_eq!(code(unknown), (400, "BadRequest".to_owned()));
    assert_eq!(code(pods.list(&labels("a b")).await).0, 400);
}

#[tokio::test]
async fn metadata_alone_can_be_asked_for() {
    let server = ApiServer::start().unwrap();
    server.put_value(pod("shop", "web", "node-1")).unwrap();
    let pods: Api<Pod> = Api::namespaced(client(&server).await, "shop");
    let list = pods.list_metadata(&ListParams::default()).await.unwrap();
    let only: &PartialObjectMeta<Pod> = &list.items[0];
    assert_eq!(only.metadata.labels.as_ref().unwrap()["app"], "web");
    let one = serde_json::to_value(pods.get_metadata("web").await.unwrap()).unwrap();
    assert_eq!(one["kind"], "PartialObjectMetadata");
    assert_eq!(one.get("spec"), None);
}

#[tokio::test]
async fn every_served_version_shows_the_same_object() {
    let server = ApiServer::start().unwrap();
    server
        .put_value(json!({
            "apiVersion": "security.istio.io/v1beta1",
            "kind": "PeerAuthentication",
            "metadata": {"namespace": "shop", "name": "default"},
            "spec": {"mtls": {"mode": "STRICT"}},
        }))
        .unwrap();
    let client = client(&server).await;
    for version in ["security.istio.io/v1", "security.istio.io/v1beta1"] {
        let found = dynamic(&client, "shop", version, "PeerAuthentication")
            .get("default")
            .await
            .unwrap();
        assert_eq!(found.types.unwrap().api_version, version);
        assert_eq!(found.data["spec"]["mtls"]["mode"], "STRICT");
    }
    let other = dynamic(
        &client,
        "shop",
        "security.istio.io/v2",
        "PeerAuthentication",
    );
    assert_eq!(code(other.get("default").await).0, 404);
}
