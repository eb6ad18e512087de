//! EndpointSlices that follow Services and Pods.

use std::time::Duration;

use serde_json::json;
use tests::apiserver::{ApiServer, Options};

use crate::pod;

const SLICES: &str = "endpointslices.discovery.k8s.io";

#[test]
fn slices_follow_services_and_pods() {
    let server = ApiServer::start_with(&Options {
        endpoint_slices: true,
        ..Options::default()
    })
    .unwrap();
    let settle = || server.wait_told(Duration::from_secs(20)).unwrap();
    server
        .put_value(json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/zone": "a"}},
        }))
        .unwrap();
    let mut web = pod("shop", "web", "node-1");
    web["spec"]["containers"][0]["ports"] = json!([{"name": "http", "containerPort": 8080}]);
    server.put_value(web.clone()).unwrap();
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {
            "selector": {"app": "web"},
            "ports": [{"name": "p", "port": 80, "targetPort": "http"}],
        },
    });
    server.put_value(service).unwrap();
    settle();
    let slice = server.get(SLICES, "shop", "web-ipv4-0").unwrap();
    assert_eq!(
        slice["ports"],
        json!([{"name": "p", "port": 8080, "protocol": "TCP"}])
    );
    let endpoint = &slice["endpoints"][0];
    assert_eq!(endpoint["addresses"], json!(["10.0.0.1"]));
    assert_eq!(endpoint["conditions"]["ready"], false);
    assert_eq!(endpoint["zone"], "a");

    web["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    server.put_value(web.clone()).unwrap();
    settle();
    let slice = server.get(SLICES, "shop", "web-ipv4-0").unwrap();
    assert_eq!(slice["endpoints"][0]["conditions"]["ready"], true);

    server.remove(&web.to_string()).unwrap();
    settle();
    assert!(server.names(SLICES).is_empty());
}
