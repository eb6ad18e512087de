//! Translation seen from outside: manifests in, model out.

mod differential;
mod entries;
mod policies;
mod waypoints;
mod workloads;

use agent_model::{ServiceMembership, Workload};
use serde_json::Value;

use super::{Endpoints, Mesh, Translated};
use crate::collection::Collection;
use crate::source::Batch;
use crate::source::file::{self, read_text};
use crate::source::kube::KubeSource;
use crate::source::kube::tests::api::FakeApi;

pub(crate) fn mesh() -> Mesh {
    Mesh {
        trust_domain: "cluster.local".into(),
        cluster_id: "c1".into(),
        root_namespace: "culvert-system".into(),
        endpoints: Endpoints::Derived,
        waits_for_capture: false,
    }
}

/// A collection of the objects of a manifest, all of which must be valid, and the same whether
/// they come from a folder or from a cluster's watches.
pub(crate) fn collection(manifest: &str) -> Collection {
    let collection = from_folder(manifest);
    let of_cluster = from_cluster(manifest);
    let namespaces = collection.namespaces().chain(of_cluster.namespaces());
    for namespace in namespaces {
        assert_eq!(
            collection.translated(namespace),
            of_cluster.translated(namespace),
            "{namespace} of {manifest}"
        );
    }
    collection
}

/// As [`collection`], from a folder only.
fn from_folder(manifest: &str) -> Collection {
    filled(read_text(manifest), manifest)
}

fn from_cluster(manifest: &str) -> Collection {
    let api = FakeApi::new();
    file::read_values(manifest)
        .into_iter()
        .for_each(|object| api.put(object));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let batch = runtime.block_on(async {
        let (sender, mut batches) = tokio::sync::mpsc::channel(1);
        let (_drain, watcher) = agent_net::drain::channel();
        tokio::spawn(KubeSource::new(api.client()).run(sender, watcher));
        batches.recv().await.unwrap()
    });
    filled(batch, manifest)
}

fn filled(batch: Batch, manifest: &str) -> Collection {
    assert_eq!(batch.problems, [], "{manifest}");
    let mut collection = Collection::new(mesh());
    batch
        .events
        .into_iter()
        .for_each(|event| collection.apply(event));
    collection.settle();
    collection
}

/// What a namespace becomes, as JSON without empty fields and without what every workload here
/// has in common.
fn show(collection: &Collection, namespace: &str) -> String {
    let nothing = Translated::default();
    let translated = collection.translated(namespace).unwrap_or(&nothing);
    let mut value = serde_json::json!({
        "workloads": translated.workloads.iter().map(workload).collect::<Vec<_>>(),
        "services": translated.services,
        "policies": translated.policies,
        "notes": translated.notes.iter().map(|note| {
            format!("{:?} {}: {}", note.severity, note.object, note.message)
        }).collect::<Vec<_>>(),
    });
    strip(&mut value);
    serde_json::to_string_pretty(&value).unwrap()
}

/// JSON has no keys but text.
fn workload(workload: &Workload) -> Value {
    let services = workload.services.iter().map(|(key, ports)| {
        let ports = ports
            .iter()
            .map(|port| format!("{} -> {}", port.service_port, port.target_port));
        (key.to_string(), ports.collect::<Value>())
    });
    let services: Value = services.collect();
    let mut value = serde_json::to_value(Workload {
        services: ServiceMembership::new(),
        ..workload.clone()
    })
    .unwrap();
    value["services"] = services;
    value
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(strip);
            fields.retain(|key, value| !is_empty(value) && !is_common(key, value));
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Number(_) => false,
    }
}

fn is_common(key: &str, value: &Value) -> bool {
    matches!(
        (key, value.as_str(), value.as_u64()),
        ("trustDomain", Some("cluster.local"), _)
            | ("clusterId", Some("c1"), _)
            | ("workloadType", Some("pod"), _)
            | ("networkMode", Some("Standard"), _)
            | ("capacity", _, Some(1))
            | ("canonicalRevision", Some("latest"), _)
            | ("visibility", Some("public"), _)
    )
}
