//! The four kinds of patches.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::{Value, json};
use tests::apiserver::ApiServer;

use crate::{client, code, dynamic, object, pod};

async fn start() -> (ApiServer, Client) {
    let server = ApiServer::start().unwrap();
    let client = client(&server).await;
    (server, client)
}

fn merge(value: Value) -> Patch<Value> {
    Patch::Merge(value)
}

#[tokio::test]
async fn a_merge_patch_sets_and_removes() {
    let (server, client) = start().await;
    server
        .put("{apiVersion: v1, kind: ConfigMap, metadata: {name: one}, data: {a: '1', b: '2'}}")
        .unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let params = PatchParams::default();
    let patch = merge(json!({"data": {"a": null, "c": "3"}}));
    let stored = maps.patch("one", &params, &patch).await.unwrap();
    let data: Vec<_> = stored.data.as_ref().unwrap().keys().collect();
    assert_eq!(data, ["b", "c"]);
    let empty = merge(json!({"metadata": {"annotations": {}, "labels": null}}));
    let same = maps.patch("one", &params, &empty).await.unwrap();
    assert_eq!(
        same.metadata.resource_version,
        stored.metadata.resource_version
    );
    let old = merge(json!({"metadata": {"resourceVersion": "1"}, "data": {"d": "4"}}));
    assert_eq!(
        code(maps.patch("one", &params, &old).await),
        (409, "Conflict".to_owned())
    );
    assert_eq!(code(maps.patch("two", &params, &patch).await).0, 404);
}

#[tokio::test]
async fn a_json_patch_tests_before_it_changes() {
    let (server, client) = start().await;
    server
        .put("{apiVersion: v1, kind: ConfigMap, metadata: {name: one}, data: {a: '1'}}")
        .unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let patch = |expected: &str| {
        Patch::Json::<()>(
            serde_json::from_value(json!([
                {"op": "test", "path": "/data/a", "value": expected},
                {"op": "replace", "path": "/data/a", "value": "2"},
            ]))
            .unwrap(),
        )
    };
    let params = PatchParams::default();
    maps.patch("one", &params, &patch("1")).await.unwrap();
    let refused = maps.patch("one", &params, &patch("1")).await;
    assert_eq!(code(refused), (422, "Invalid".to_owned()));
}

#[tokio::test]
async fn a_strategic_patch_merges_lists_by_their_keys() {
    let (server, client) = start().await;
    server
        .put_value(json!({
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"namespace": "mesh", "name": "agent"},
            "spec": {"template": {"spec": {"containers": [
                {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]},
                {"name": "b", "image": "b:1"},
            ]}}},
        }))
        .unwrap();
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), "mesh");
    let patch = json!({"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}],
        "containers": [
            {"name": "a", "env": [{"name": "Y", "value": "2"}]},
            {"name": "b", "$patch": "delete"},
            {"name": "c", "image": "c:1"},
        ],
    }}}});
    sets.patch("agent", &PatchParams::default(), &Patch::Strategic(&patch))
        .await
        .unwrap();
    let stored = server.get("daemonsets.apps", "mesh", "agent").unwrap();
    assert_eq!(
        stored["spec"]["template"]["spec"]["containers"],
        json!([
            {"name": "c", "image": "c:1"},
            {"name": "a", "image": "a:1", "env": [
                {"name": "X", "value": "1"},
                {"name": "Y", "value": "2"},
            ]},
        ])
    );
    assert_eq!(stored["metadata"]["generation"], 2);
    let policies = dynamic(
        &client,
        "mesh",
        "security.istio.io/v1",
        "AuthorizationPolicy",
    );
    let policy = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "p"},
    });
    policies
        .create(&PostParams::default(), &object(policy))
        .await
        .unwrap();
    let custom = policies
        .patch("p", &PatchParams::default(), &Patch::Strategic(&patch))
        .await;
    assert_eq!(
        code(custom).0,
        415,
        "custom resources have no strategic patches"
    );
}

fn lease(holder: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "leader"},
        "spec": {"holderIdentity": holder},
    })
}

#[tokio::test]
async fn apply_creates_merges_and_leaves_others_alone() {
    let (_server, client) = start().await;
    let leases: Api<Lease> = Api::namespaced(client, "default");
    let first = PatchParams::apply("first");
    let made = leases
        .patch("leader", &first, &Patch::Apply(lease("a")))
        .await
        .unwrap();
    let managed = &made.metadata.managed_fields.as_ref().unwrap()[0];
    assert_eq!(managed.manager.as_deref(), Some("first"));
    assert_eq!(managed.operation.as_deref(), Some("Apply"));
    assert_eq!(
        managed.fields_v1.as_ref().unwrap().0,
        json!({"f:spec": {"f:holderIdentity": {}}})
    );
    let again = leases
        .patch("leader", &first, &Patch::Apply(lease("a")))
        .await
        .unwrap();
    assert_eq!(
        again.metadata.resource_version,
        made.metadata.resource_version
    );

    let second = PatchParams::apply("second");
    let refused = leases
        .patch("leader", &second, &Patch::Apply(lease("b")))
        .await;
    match refused {
        Err(kube::Error::Api(status)) => {
            assert_eq!(status.code, 409);
            let wanted = "conflict with \"first\": .spec.holderIdentity";
            assert!(status.message.contains(wanted), "{}", status.message);
        }
        other => panic!("no conflict: {other:?}"),
    }
    let forced = leases
        .patch("leader", &second.clone().force(), &Patch::Apply(lease("b")))
        .await
        .unwrap();
    assert_eq!(forced.spec.unwrap().holder_identity.as_deref(), Some("b"));
    let managers = forced.metadata.managed_fields.unwrap();
    assert_eq!(managers.len(), 1, "the field has one owner: {managers:?}");
}

#[tokio::test]
async fn what_is_no_longer_applied_goes_unless_somebody_else_wants_it() {
    let (_server, client) = start().await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let map = |data: Value| {
        Patch::Apply(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "one", "labels": {"app": "x"}},
            "data": data,
        }))
    };
    let (first, second) = (PatchParams::apply("first"), PatchParams::apply("second"));
    maps.patch("one", &first, &map(json!({"a": "1", "b": "2"})))
        .await
        .unwrap();
    maps.patch("one", &second, &map(json!({"b": "2", "c": "3"})))
        .await
        .unwrap();
    let plain = merge(json!({"data": {"d": "4"}}));
    maps.patch("one", &PatchParams::default(), &plain)
        .await
        .unwrap();
    let stored = maps.patch("one", &first, &map(json!({}))).await.unwrap();
    let data: Vec<_> = stored.data.unwrap().into_keys().collect();
    assert_eq!(data, ["b", "c", "d"]);
}

#[tokio::test]
async fn status_conditions_of_two_managers_stand_side_by_side() {
    let (server, client) = start().await;
    server.put_value(pod("default", "web", "node-1")).unwrap();
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let patch = |kind: &str| {
        Patch::Apply(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web", "annotations": {format!("test/{kind}"): "yes"}},
            "status": {"conditions": [{"type": kind, "status": "True"}]},
        }))
    };
    for kind in ["Ready", "Meshed"] {
        let params = PatchParams::apply(kind);
        pods.patch_status("web", &params, &patch(kind))
            .await
            .unwrap();
    }
    let stored = pods.get("web").await.unwrap();
    assert_eq!(stored.metadata.annotations.unwrap().len(), 2);
    assert_eq!(stored.spec.unwrap().node_name.as_deref(), Some("node-1"));
    let conditions = stored.status.unwrap().conditions.unwrap();
    let kinds: Vec<_> = conditions.into_iter().map(|one| one.type_).collect();
    assert_eq!(kinds, ["Ready", "Meshed"]);
}

#[tokio::test]
async fn lists_of_custom_resources_merge_as_their_schema_says() {
    let (server, client) = start().await;
    let list = json!({
        "type": "array",
        "items": {"type": "object", "properties": {"type": {"type": "string"}}},
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    });
    server
        .put_value(json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "widgets.test.dev"},
            "spec": {
                "group": "test.dev",
                "scope": "Namespaced",
                "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [{
                    "name": "v1",
                    "served": true,
                    "storage": true,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                        "status": {"type": "object", "properties": {
                            "merged": list,
                            "whole": {"type": "array"},
                        }},
                    }}},
                }],
            },
        }))
        .unwrap();
    let widgets = dynamic(&client, "default", "test.dev/v1", "Widget");
    let widget = |status: Value| {
        object(json!({
            "apiVersion": "test.dev/v1",
            "kind": "Widget",
            "metadata": {"name": "w"},
            "status": status,
        }))
    };
    widgets
        .create(&PostParams::default(), &widget(json!({})))
        .await
        .unwrap();
    let mut stored: Option<DynamicObject> = None;
    for kind in ["A", "B"] {
        let item = json!([{"type": kind}]);
        let patch = Patch::Apply(widget(json!({"merged": item, "whole": item})));
        let params = PatchParams::apply(kind).force();
        stored = Some(widgets.patch_status("w", &params, &patch).await.unwrap());
    }
    let status = &stored.unwrap().data["status"];
    assert_eq!(status["merged"], json!([{"type": "A"}, {"type": "B"}]));
    assert_eq!(status["whole"], json!([{"type": "B"}]));
}
