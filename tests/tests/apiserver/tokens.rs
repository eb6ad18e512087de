//! Service account tokens and who may come in.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReview, TokenReviewStatus};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;
use tests::apiserver::ApiServer;

use crate::{client, code, pod};

async fn review(client: &Client, token: &str, audience: &str) -> TokenReviewStatus {
    let reviews: Api<TokenReview> = Api::all(client.clone());
    let review = serde_json::from_value(json!({
        "metadata": {},
        "spec": {"token": token, "audiences": [audience]},
    }))
    .unwrap();
    let answer = reviews
        .create(&PostParams::default(), &review)
        .await
        .unwrap();
    answer.status.unwrap()
}

fn node(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}).to_string()
}

#[tokio::test]
async fn a_pod_bound_token_names_its_pod_and_node() {
    let server = ApiServer::start().unwrap();
    server.put(&node("node-1")).unwrap();
    let stored = server.put_value(pod("mesh", "agent-1", "node-1")).unwrap();
    let client = client(&server).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "mesh");
    let request: TokenRequest = serde_json::from_value(json!({
        "metadata": {},
        "spec": {
            "audiences": ["culvert"],
            "expirationSeconds": 600,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "agent-1"},
        },
    }))
    .unwrap();
    let answer = accounts
        .create_token_request("default", &PostParams::default(), &request)
        .await
        .unwrap();
    let token = answer.status.unwrap().token;
    assert_eq!(token.split('.').count(), 3);

    let status = review(&client, &token, "culvert").await;
    assert_eq!(status.authenticated, Some(true));
    assert_eq!(status.audiences, Some(vec!["culvert".to_owned()]));
    let user = status.user.unwrap();
    assert_eq!(
        user.username.as_deref(),
        Some("system:serviceaccount:mesh:default")
    );
    let extra = user.extra.unwrap();
    let only = |name: &str| extra[&format!("authentication.kubernetes.io/{name}")][0].clone();
    assert_eq!(only("pod-name"), "agent-1");
    assert_eq!(only("pod-uid"), stored["metadata"]["uid"].as_str().unwrap());
    assert_eq!(only("node-name"), "node-1");
}

#[tokio::test]
async fn a_token_holds_for_its_audience_its_time_and_its_pod() {
    let server = ApiServer::start().unwrap();
    server.put_value(pod("mesh", "agent-1", "node-1")).unwrap();
    let client = client(&server).await;
    let life = Duration::from_secs(3600);
    let token = server
        .pod_token("mesh", "agent-1", "culvert", life)
        .unwrap();
    assert_eq!(
        review(&client, &token, "culvert").await.authenticated,
        Some(true)
    );

    let other = review(&client, &token, "istio-ca").await;
    assert_eq!(other.authenticated, None);
    assert!(other.error.unwrap().contains("audience"));
    let forged = format!("{token}x");
    assert_eq!(
        review(&client, &forged, "culvert").await.authenticated,
        None
    );

    server.advance(life);
    let late = review(&client, &token, "culvert").await;
    assert!(late.error.unwrap().contains("expired"));

    let token = server
        .pod_token("mesh", "agent-1", "culvert", life)
        .unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "mesh");
    pods.delete("agent-1", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    server.put_value(pod("mesh", "agent-1", "node-1")).unwrap();
    let gone = review(&client, &token, "culvert").await;
    assert_eq!(
        gone.authenticated, None,
        "the pod of that name is another one"
    );
    assert!(gone.error.unwrap().contains("pod has been deleted"));
}

/// A client with another token than the kubeconfig's.
async fn with_token(server: &ApiServer, token: &str) -> Client {
    let mut kubeconfig = Kubeconfig::from_yaml(server.kubeconfig()).unwrap();
    for user in &mut kubeconfig.auth_infos {
        if let Some(info) = &mut user.auth_info {
            info.token = Some(token.to_owned().into());
        }
    }
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

#[tokio::test]
async fn only_tokens_for_the_server_itself_open_it() {
    let server = ApiServer::start().unwrap();
    server.put_value(pod("mesh", "agent-1", "node-1")).unwrap();
    let life = Duration::from_secs(600);
    let own = "https://kubernetes.default.svc.cluster.local";
    for (token, opens) in [
        (
            server.pod_token("mesh", "agent-1", own, life).unwrap(),
            true,
        ),
        (
            server
                .pod_token("mesh", "agent-1", "culvert", life)
                .unwrap(),
            false,
        ),
        ("guess".to_owned(), false),
    ] {
        let pods: Api<Pod> = Api::all(with_token(&server, &token).await);
        let list = pods.list(&ListParams::default()).await;
        // It is let in, and nothing allows it anything.
        assert_eq!(code(list).0, if opens { 403 } else { 401 });
    }
}
