//! What tests can do to the server.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tests::apiserver::{ApiServer, Options, Refusal};

use crate::{client, code};

#[tokio::test]
async fn requests_are_refused_as_often_as_asked_and_counted() {
    let server = ApiServer::start().unwrap();
    let client = client(&server).await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let nodes: Api<Node> = Api::all(client);
    let params = ListParams::default();
    server.refuse(Refusal::new(500, 2).verb("list").resource("configmaps"));
    nodes.list(&params).await.unwrap();
    maps.get_opt("none").await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            code(maps.list(&params).await),
            (500, "InternalError".to_owned())
        );
    }
    maps.list(&params).await.unwrap();
    assert_eq!(server.count("list", "configmaps"), 3);
    assert_eq!(server.count("list", "nodes"), 1);
    assert_eq!(server.count("get", "configmaps"), 1);
}

#[tokio::test]
async fn slow_requests_end_when_the_fault_does() {
    let server = ApiServer::start().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "default");
    server.set_latency(Duration::from_millis(300));
    let start = Instant::now();
    maps.list(&ListParams::default()).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300));
    server.set_latency(Duration::from_secs(3600));
    let list = tokio::spawn(async move { maps.list(&ListParams::default()).await });
    while server.count("list", "configmaps") < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!list.is_finished());
    server.clear_faults();
    list.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_comes_back_at_its_port_with_its_objects() {
    let server = ApiServer::start().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "default");
    let map = serde_json::from_value(json!({"metadata": {"name": "one"}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    server.down().unwrap();
    assert!(std::net::TcpStream::connect(server.address()).is_err());
    assert!(maps.get("one").await.is_err());
    server.up().unwrap();
    maps.get("one").await.unwrap();
}

async fn post(client: &Client, path: &str, body: &str) -> Result<Value, kube::Error> {
    let request = http::Request::post(path)
        .body(body.as_bytes().to_vec())
        .unwrap();
    client.request(request).await
}

#[tokio::test]
async fn the_controls_of_the_program_do_the_same() {
    let server = ApiServer::start_with(&Options {
        tls: false,
        ..Options::default()
    })
    .unwrap();
    let client = client(&server).await;
    let pod = crate::pod("shop", "web", "node-1").to_string();
    post(&client, "/fixture/put", &pod).await.unwrap();
    assert_eq!(
        server.names("pods"),
        [("shop".to_owned(), "web".to_owned())]
    );
    let path = "/fixture/pod-token?namespace=shop&pod=web&audience=culvert&seconds=600";
    let token = post(&client, path, "").await.unwrap();
    assert!(token["token"].is_string());
    post(&client, "/fixture/refuse?code=503&times=1&verb=get", "")
        .await
        .unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    assert_eq!(code(maps.get("one").await).0, 503);
    assert_eq!(code(maps.get("one").await).0, 404);
    let request = http::Request::get("/fixture/counts")
        .body(Vec::new())
        .unwrap();
    let counts: Value = client.request(request).await.unwrap();
    assert_eq!(counts["get configmaps"], 2);
    post(&client, "/fixture/remove", &pod).await.unwrap();
    assert!(server.names("pods").is_empty());
    let before = server.version();
    post(&client, "/fixture/compact", "").await.unwrap();
    assert!(server.version() > before);
    assert_eq!(code(post(&client, "/fixture/dance", "").await).0, 404);
}
