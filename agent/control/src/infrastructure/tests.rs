use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment as Typed;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::gateway::Deployment;
use crate::source::gateway_api::Parameters;

fn template() -> Template {
    Template {
        control: "https://culvert-control.culvert-system.svc:15012".to_owned(),
        audience: "culvert".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        cluster_id: "Kubernetes".to_owned(),
    }
}

fn edge() -> Deployment {
    let one = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    Deployment {
        gateway: GatewayKey::new("shop", "edge"),
        uid: "5e7a".to_owned(),
        class: "culvert".to_owned(),
        is_waypoint: false,
        labels: one("team", "a"),
        annotations: one("cloud.example/kind", "internal"),
        parameters: Parameters::default(),
        addresses: vec!["192.0.2.1".to_owned()],
        ports: vec![(53, false), (53, true), (80, false)],
        tells_clients: false,
    }
}

fn made(of_gateway: &Deployment) -> BTreeMap<Part, Made> {
    let image = Image::named("culvert:1".to_owned());
    let made = of(of_gateway, &template(), &image, "net");
    made.into_iter().map(|made| (made.part, made)).collect()
}

/// An API server refuses fields that it does not know, and forgets nothing of these.
fn assert_known<T: DeserializeOwned + Serialize>(object: &Value) {
    let typed: T = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), *object);
}

#[test]
fn gateway_infrastructure() {
    let made = made(&edge());
    assert_known::<ServiceAccount>(&made[&Part::Account].object);
    assert_known::<Typed>(&made[&Part::Deployment].object);
    assert_known::<Service>(&made[&Part::Service].object);
    let pod = "/spec/template";
    for (part, within) in [
        (Part::Account, ""),
        (Part::Service, ""),
        (Part::Deployment, ""),
        (Part::Deployment, pod),
    ] {
        let object = &made[&part].object;
        let metadata = object.pointer(&format!("{within}/metadata")).unwrap();
        assert_eq!(metadata["labels"]["team"], "a", "{part:?}");
        assert_eq!(metadata["labels"][crate::gateway::GATEWAY_NAME], "edge");
        assert_eq!(metadata["annotations"]["cloud.example/kind"], "internal");
        if within.is_empty() {
            assert_eq!(metadata["ownerReferences"][0]["uid"], "5e7a");
        }
    }
}

#[test]
fn a_gateway_cannot_take_labels_that_are_not_its_own() {
    let mut edge = edge();
    let other = (crate::gateway::GATEWAY_NAME.to_owned(), "other".to_owned());
    edge.labels.extend([other]);
    let made = made(&edge);
    let labels = &made[&Part::Deployment].object["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels[crate::gateway::GATEWAY_NAME], "edge");
    assert_eq!(labels["culvert.dev/mesh"], "disabled");
}

#[test]
fn a_service_has_the_ports_of_the_listeners() {
    let made = made(&edge());
    let spec = &made[&Part::Service].object["spec"];
    assert_eq!(spec["type"], "LoadBalancer");
    assert_eq!(spec["loadBalancerIP"], "192.0.2.1");
    let ports: Vec<String> = spec["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| format!("{} {} {}", port["name"], port["port"], port["protocol"]))
        .collect();
    let expected = [
        r#""tcp-53" 53 "TCP""#,
        r#""udp-53" 53 "UDP""#,
        r#""tcp-80" 80 "TCP""#,
    ];
    assert_eq!(ports, expected);
    let waypoint = Deployment {
        is_waypoint: true,
        tells_clients: true,
        ..edge()
    };
    let made = self::made(&waypoint);
    let container = "/spec/template/spec/containers/0/args";
    let arguments = made[&Part::Deployment].object.pointer(container).unwrap();
    let arguments = arguments.as_array().unwrap();
    assert!(arguments.contains(&json!("--client-cert-header")));
    let spec = &made[&Part::Service].object["spec"];
    assert_eq!(spec["type"], "ClusterIP");
    assert_eq!(spec["loadBalancerIP"], Value::Null);
    let idle = Deployment {
        ports: Vec::new(),
        ..edge()
    };
    assert!(self::made(&idle).is_empty());
}

#[test]
fn parameters_change_what_is_made() {
    let said = |text: &str| Some(text.to_owned());
    let edge = Deployment {
        parameters: Parameters {
            replicas: Some(3),
            service_type: said("NodePort"),
            load_balancer_class: said("example.com/fast"),
            external_traffic_policy: said("Local"),
            cpu_request: said("1"),
            cpu_limit: said("2"),
            memory_request: said("128Mi"),
            memory_limit: said("2Gi"),
        },
        ..edge()
    };
    let made = made(&edge);
    let service = &made[&Part::Service].object;
    assert_known::<Service>(service);
    assert_eq!(service["spec"]["type"], "NodePort");
    assert_eq!(service["spec"]["externalTrafficPolicy"], "Local");
    // Those are a load balancer's.
    assert_eq!(service["spec"]["loadBalancerClass"], Value::Null);
    assert_eq!(service["spec"]["loadBalancerIP"], Value::Null);
    let deployment = &made[&Part::Deployment].object;
    assert_known::<Typed>(deployment);
    assert_eq!(deployment["spec"]["replicas"], 3);
    let resources = &deployment["spec"]["template"]["spec"]["containers"][0]["resources"];
    let expected = json!({
        "requests": {"cpu": "1", "memory": "128Mi"},
        "limits": {"cpu": "2", "memory": "2Gi"},
    });
    assert_eq!(*resources, expected);
}

#[test]
fn replicas_are_left_to_whoever_scales() {
    let made = made(&edge());
    let spec = &made[&Part::Deployment].object["spec"];
    assert_eq!(spec["replicas"], Value::Null);
    assert_eq!(spec["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], "edge");
    assert_eq!(pod["containers"][0]["image"], "culvert:1");
    let arguments = pod["containers"][0]["args"].as_array().unwrap();
    for argument in ["gateway", "--gateway=shop/edge", "--network=net"] {
        assert!(arguments.contains(&json!(argument)), "{argument}");
    }
}

#[test]
fn gateway_name_maximum_length() {
    let name = "x".repeat(253);
    let long = Deployment {
        gateway: GatewayKey::new("shop", &name),
        ..edge()
    };
    let made = made(&long);
    assert_eq!(made[&Part::Account].name, name);
    for part in [Part::Deployment, Part::Service] {
        assert!(made[&part].name.len() <= 63, "{part:?}");
    }
    let labels = &made[&Part::Service].object["metadata"]["labels"];
    let label = labels[crate::gateway::GATEWAY_NAME].as_str().unwrap();
    assert!(label.len() <= 63, "{label}");
}
