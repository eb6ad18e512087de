//! The objects of a large cluster, as an API server holds them.

use anyhow::Result;
use serde_json::{Value, json};

use super::Settings;
use crate::apiserver::ApiServer;

/// Services of one namespace; its pods are spread over them.
const SERVICES: usize = 10;
/// Most endpoints that a cluster puts into one slice.
const SLICE: usize = 100;
/// The control plane's namespace, where the lease and the issuer are kept.
pub(super) const SYSTEM: &str = "culvert-system";

/// Nodes, namespaces, services with their endpoints, policies and pods.
pub(super) fn fill(server: &ApiServer, settings: &Settings) -> Result<()> {
    server.put_value(json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM},
    }))?;
    for node in 0..settings.agents {
        let zone = format!("zone-{}", node % 3);
        server.put_value(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": node_name(node), "labels": {
                "topology.kubernetes.io/region": "region-1",
                "topology.kubernetes.io/zone": zone,
            }},
        }))?;
    }
    for namespace in 0..settings.workloads.div_ceil(settings.per_namespace) {
        fill_namespace(server, settings, namespace)?;
    }
    for index in 0..settings.workloads {
        server.put_value(pod(settings, index, "v1"))?;
    }
    Ok(())
}

/// Change `number`: the version label of a pod of its own.
pub(super) fn change(server: &ApiServer, settings: &Settings, number: u32) -> Result<()> {
    // A step without common factor with any round number of pods: all over the cluster.
    let index = number as usize * 7919 % settings.workloads;
    server.put_value(pod(settings, index, &revision(number)))?;
    Ok(())
}

/// By which a change is recognised at the other end.
pub(super) fn revision(number: u32) -> String {
    format!("change-{number}")
}

pub(super) fn node_name(index: usize) -> String {
    format!("node-{index}")
}

fn fill_namespace(server: &ApiServer, settings: &Settings, namespace: usize) -> Result<()> {
    let name = format!("team-{namespace}");
    server.put_value(json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"culvert.dev/mesh": "enabled"}},
    }))?;
    for service in 0..SERVICES {
        let number = namespace * SERVICES + service;
        server.put_value(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("app-{service}"), "namespace": name},
            "spec": {
                "clusterIP": format!("10.{}.{}.{}", 96 + number / 65_536, number / 256 % 256, number % 256),
                "selector": {"app": format!("app-{service}")},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
            },
        }))?;
        put_slices(server, settings, namespace, service)?;
        server.put_value(json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": format!("app-{service}"), "namespace": name},
        }))?;
    }
    server.put_value(json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "own-team", "namespace": name},
        "spec": {
            "selector": {"matchLabels": {"app": "app-0"}}, "action": "ALLOW",
            "rules": [{"from": [{"source": {"namespaces": [name]}}]}],
        },
    }))?;
    Ok(())
}

/// The endpoints of a service, as the controller of a cluster writes them.
fn put_slices(
    server: &ApiServer,
    settings: &Settings,
    namespace: usize,
    service: usize,
) -> Result<()> {
    let first = namespace * settings.per_namespace;
    let last = (first + settings.per_namespace).min(settings.workloads);
    let of_service = (first..last).filter(|index| index % SERVICES == service);
    let of_service: Vec<usize> = of_service.collect();
    for (number, indexes) in of_service.chunks(SLICE).enumerate() {
        let endpoints = indexes.iter().map(|index| {
            json!({
                "addresses": [address(*index)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": node_name(index % settings.agents),
                "targetRef": {
                    "kind": "Pod", "namespace": format!("team-{namespace}"), "name": pod_name(*index),
                },
            })
        });
        server.put_value(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("app-{service}-{number}"), "namespace": format!("team-{namespace}"),
                "labels": {"kubernetes.io/service-name": format!("app-{service}")},
            },
            "addressType": "IPv4",
            "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }))?;
    }
    Ok(())
}

/// Of a pod.
fn address(index: usize) -> String {
    let address = 0x0b00_0000 + u32::try_from(index).unwrap_or_default();
    std::net::Ipv4Addr::from(address).to_string()
}

/// The hash of the pod's template.
fn template(index: usize) -> String {
    format!("{:08x}", index % SERVICES * 2_654_435)
}

fn pod_name(index: usize) -> String {
    format!("app-{}-{}-{index:06}", index % SERVICES, template(index))
}

fn pod(settings: &Settings, index: usize, revision: &str) -> Value {
    let namespace = format!("team-{}", index / settings.per_namespace);
    let app = format!("app-{}", index % SERVICES);
    let hash = template(index);
    let address = address(index);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": pod_name(index), "namespace": namespace,
            "labels": {"app": app, "version": revision, "pod-template-hash": hash},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true,
                "name": format!("{app}-{hash}"), "uid": "0",
            }],
        },
        "spec": {
            "nodeName": node_name(index % settings.agents),
            "serviceAccountName": app, "serviceAccount": app,
            "containers": [{
                "name": "main", "image": "registry.example/team/app:1",
                "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
            }],
        },
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [
                {"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"},
                {"type": "ContainersReady", "status": "True"}, {"type": "PodScheduled", "status": "True"},
            ],
        },
    })
}
