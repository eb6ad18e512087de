//! The controller of EndpointSlices: what a Service selects, as the endpoints that clients of the
//! API see. Only where a test wants it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::object::text;
use super::store::{Key, Object, Store};
use super::world::World;
use super::writes::Write;

const SLICES: &str = "endpointslices.discovery.k8s.io";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SERVICE: &str = "kubernetes.io/service-name";

/// Name of a slice and what it says.
type Wanted = BTreeMap<Key, Value>;

impl World {
    /// Makes the slices what Services and Pods say now.
    pub(super) fn sync_slices(&mut self) {
        let wanted = wanted(&self.store);
        let Some(kind) = self
            .kinds
            .find("discovery.k8s.io", "endpointslices")
            .map(Arc::clone)
        else {
            return;
        };
        for key in self.store.keys(SLICES, None) {
            let ours = self
                .store
                .get(SLICES, &key)
                .is_some_and(|slice| slice["metadata"]["labels"][MANAGED_BY] == MANAGER);
            if ours && !wanted.contains_key(&key) {
                self.drop_object(&kind, &key);
            }
        }
        let write = Write {
            version: "v1",
            manager: None,
            subresource: "",
            dry_run: false,
            raw: true,
        };
        for (key, slice) in wanted {
            // A namespace that is being deleted takes no slices any more.
            let _terminating = if self.store.get(SLICES, &key).is_some() {
                self.update(&kind, &key, slice, write)
            } else {
                self.create(&kind, Some(&key.0), slice, write)
            };
        }
    }
}

fn wanted(store: &Store) -> Wanted {
    let mut slices = Wanted::new();
    let pods: Vec<&Object> = objects(store, "pods").collect();
    for service in objects(store, "services") {
        let spec = &service["spec"];
        let selects = spec["selector"].as_object().is_some_and(|s| !s.is_empty());
        if !selects || spec["type"] == "ExternalName" {
            continue;
        }
        for family in families(spec) {
            let chosen = pods.iter().filter(|pod| is_selected(service, pod));
            add(store, service, family, chosen, &mut slices);
        }
    }
    slices
}

fn objects<'a>(store: &'a Store, resource: &'a str) -> impl Iterator<Item = &'a Object> {
    store
        .keys(resource, None)
        .into_iter()
        .filter_map(|key| store.get(resource, &key))
}

fn families(spec: &Value) -> Vec<&'static str> {
    let of = |text: &str| if text.contains(':') { "IPv6" } else { "IPv4" };
    if let Some(named) = spec["ipFamilies"].as_array() {
        let known = |family: &Value| match family.as_str() {
            Some("IPv6") => "IPv6",
            _ => "IPv4",
        };
        return named.iter().map(known).collect();
    }
    let addresses = spec["clusterIPs"].as_array().into_iter().flatten();
    let mut found: Vec<&str> = addresses
        .filter_map(|address| address.as_str().filter(|text| *text != "None"))
        .map(of)
        .collect();
    if found.is_empty() {
        found.push("IPv4");
    }
    found
}

fn is_selected(service: &Value, pod: &Value) -> bool {
    let labels = &pod["metadata"]["labels"];
    let phase = text(pod, "/status/phase");
    let selector = service["spec"]["selector"].as_object();
    service["metadata"]["namespace"] == pod["metadata"]["namespace"]
        && !matches!(phase, "Succeeded" | "Failed")
        && selector
            .into_iter()
            .flatten()
            .all(|(key, value)| labels[key.as_str()] == *value)
}

/// One slice for each set of port numbers that named ports come to.
fn add<'a>(
    store: &Store,
    service: &Value,
    family: &str,
    pods: impl Iterator<Item = &'a &'a Object>,
    slices: &mut Wanted,
) {
    let mut by_ports: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for pod in pods {
        let addresses = addresses(pod, family);
        if addresses.is_empty() {
            continue;
        }
        let ports = ports(&service["spec"], pod);
        by_ports
            .entry(ports.to_string())
            .or_insert_with(|| (ports, Vec::new()))
            .1
            .push(endpoint(store, service, pod, &addresses));
    }
    let name = text(service, "/metadata/name");
    let namespace = text(service, "/metadata/namespace");
    for (index, (ports, endpoints)) in by_ports.into_values().enumerate() {
        let slice = format!("{name}-{}-{index}", family.to_lowercase());
        let object = json!({
            "metadata": {
                "name": slice,
                "namespace": namespace,
                "labels": {SERVICE: name, MANAGED_BY: MANAGER},
                "ownerReferences": [{
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": name,
                    "uid": service["metadata"]["uid"],
                    "controller": true,
                    "blockOwnerDeletion": true,
                }],
            },
            "addressType": family,
            "endpoints": endpoints,
            "ports": ports,
        });
        slices.insert((namespace.to_owned(), slice), object);
    }
}

fn addresses<'a>(pod: &'a Value, family: &str) -> Vec<&'a str> {
    let listed = pod["status"]["podIPs"].as_array().into_iter().flatten();
    let mut found: Vec<&str> = listed.map(|ip| text(ip, "/ip")).collect();
    if found.is_empty() {
        found.push(text(pod, "/status/podIP"));
    }
    found.retain(|ip| !ip.is_empty() && ip.contains(':') == (family == "IPv6"));
    found
}

fn endpoint(store: &Store, service: &Value, pod: &Value, addresses: &[&str]) -> Value {
    let conditions = pod["status"]["conditions"].as_array();
    let serving = conditions
        .into_iter()
        .flatten()
        .any(|one| one["type"] == "Ready" && one["status"] == "True");
    let terminating = !pod["metadata"]["deletionTimestamp"].is_null();
    let always = service["spec"]["publishNotReadyAddresses"] == true;
    let node = text(pod, "/spec/nodeName");
    let mut endpoint = json!({
        "addresses": addresses,
        "conditions": {
            "ready": always || serving && !terminating,
            "serving": serving,
            "terminating": terminating,
        },
        "nodeName": node,
        "targetRef": {
            "kind": "Pod",
            "namespace": pod["metadata"]["namespace"],
            "name": pod["metadata"]["name"],
            "uid": pod["metadata"]["uid"],
        },
    });
    let zone = store
        .get("nodes", &(String::new(), node.to_owned()))
        .map(|node| node["metadata"]["labels"]["topology.kubernetes.io/zone"].clone());
    if let Some(zone @ Value::String(_)) = zone {
        endpoint["zone"] = zone;
    }
    endpoint
}

fn ports(spec: &Value, pod: &Value) -> Value {
    let listed = spec["ports"].as_array().into_iter().flatten();
    let known = listed.filter_map(|port| {
        let number = match &port["targetPort"] {
            Value::String(name) => named_port(pod, name)?,
            Value::Null => port["port"].clone(),
            number => number.clone(),
        };
        Some(json!({
            "name": port["name"].as_str().unwrap_or_default(),
            "port": number,
            "protocol": port["protocol"].as_str().unwrap_or("TCP"),
        }))
    });
    known.collect()
}

fn named_port(pod: &Value, name: &str) -> Option<Value> {
    let containers = pod["spec"]["containers"].as_array()?;
    let mut ports = containers
        .iter()
        .flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let found = ports.find(|port| port["name"] == name)?;
    Some(found["containerPort"].clone())
}
