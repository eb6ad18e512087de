//! RBAC, for service accounts.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tests::apiserver::ApiServer;

use crate::{client_of, code, pod};

const RULES: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: mesh}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [pods/status], verbs: [patch]}
- {apiGroups: [""], resources: [configmaps], resourceNames: [trust], verbs: [get, list, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: mesh}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: maker, namespace: mesh}
rules:
- {apiGroups: [""], resources: [configmaps], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: maker, namespace: mesh}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: maker}
subjects: [{kind: ServiceAccount, name: reader, namespace: mesh}]
"#;

async fn reader() -> (ApiServer, Client) {
    let server = ApiServer::start().unwrap();
    server.put(RULES).unwrap();
    let life = Duration::from_secs(600);
    let kubeconfig = server.account_kubeconfig("mesh", "reader", life).unwrap();
    let client = client_of(&kubeconfig).await;
    (server, client)
}

fn trust(namespace: &str) -> ConfigMap {
    let map = json!({"metadata": {"name": "trust", "namespace": namespace}});
    serde_json::from_value(map).unwrap()
}

#[tokio::test]
async fn what_a_rule_names_is_allowed_and_nothing_else() {
    let (server, client) = reader().await;
    server.put_value(pod("shop", "web", "node-1")).unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    assert_eq!(
        pods.list(&ListParams::default()).await.unwrap().items.len(),
        1
    );
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"a": "b"}}}));
    let params = PatchParams::default();
    pods.patch_status("web", &params, &patch).await.unwrap();
    let refused = pods.patch("web", &params, &patch).await;
    assert_eq!(code(refused), (403, "Forbidden".to_owned()));
    assert_eq!(code(pods.delete("web", &Default::default()).await).0, 403);
}

#[tokio::test]
async fn names_and_namespaces_limit_what_a_rule_allows() {
    let (_server, client) = reader().await;
    let params = PostParams::default();
    let here: Api<ConfigMap> = Api::namespaced(client.clone(), "mesh");
    let elsewhere: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    here.create(&params, &trust("mesh")).await.unwrap();
    let refused = elsewhere.create(&params, &trust("default")).await;
    assert_eq!(code(refused).0, 403);
    here.get("trust").await.unwrap();
    assert_eq!(code(here.get("kube-root-ca.crt").await).0, 403);
    let all: Api<ConfigMap> = Api::all(client);
    assert_eq!(code(all.list(&ListParams::default()).await).0, 403);
    let named = ListParams::default().fields("metadata.name=trust");
    assert_eq!(all.list(&named).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn to_apply_what_is_not_there_needs_to_create() {
    let (_server, client) = reader().await;
    let apply = async |namespace: &str| {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let patch = Patch::Apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "trust"},
        }));
        maps.patch("trust", &PatchParams::apply("test"), &patch)
            .await
    };
    apply("mesh").await.unwrap();
    assert_eq!(code(apply("default").await).0, 403);
}

#[tokio::test]
async fn callers_may_ask_what_they_may_do() {
    let (_server, client) = reader().await;
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client);
    for (verb, allowed) in [("watch", true), ("delete", false)] {
        let review = serde_json::from_value(json!({
            "metadata": {},
            "spec": {"resourceAttributes": {"verb": verb, "resource": "pods"}},
        }))
        .unwrap();
        let answer = reviews
            .create(&PostParams::default(), &review)
            .await
            .unwrap();
        assert_eq!(answer.status.unwrap().allowed, allowed, "{verb}");
    }
}
