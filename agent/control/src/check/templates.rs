//! Pods that manifests will make: of a Deployment's template and its kin. They count as pods when
//! a selector is asked whether it selects anything.

use serde_json::{Value, json};

use super::finding::Object as Named;
use crate::source::Object;
use crate::source::decode::{Decoded, decode};

/// Groups whose kinds an author expects to have an effect on a mesh.
const EXPECTED: [&str; 2] = [".istio.io", "gateway.networking.k8s.io"];

/// The pod that an object makes, called `deployment.NAME` or the like.
pub(super) fn pod_of(value: &Value) -> Option<Object> {
    let api_version = value.get("apiVersion")?.as_str()?;
    let kind = value.get("kind")?.as_str()?;
    let path = match (api_version, kind) {
        ("apps/v1", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch/v1", "Job") => "/spec/template",
        ("batch/v1", "CronJob") => "/spec/jobTemplate/spec/template",
        _ => return None,
    };
    let template = value.pointer(path)?;
    let metadata = value.get("metadata")?;
    let name = metadata.get("name")?.as_str()?;
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": format!("{}.{name}", kind.to_lowercase()),
            "namespace": metadata.get("namespace"),
            "labels": template.pointer("/metadata/labels"),
            "annotations": template.pointer("/metadata/annotations"),
        },
        "spec": template.get("spec"),
    });
    match decode(pod) {
        Ok(Decoded::Object(object)) => Some(object),
        _ => None,
    }
}

/// An object whose author believes that it is in force, as people call it.
pub(super) fn unread(value: &Value) -> Option<Named> {
    let api_version = value.get("apiVersion")?.as_str()?;
    let (group, _) = api_version.split_once('/')?;
    let is_expected = EXPECTED.iter().any(|end| group.ends_with(end));
    let metadata = value.get("metadata");
    let text = |field: &str| {
        let text = metadata.and_then(|metadata| metadata.get(field));
        text.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    is_expected.then(|| Named {
        kind: value["kind"].as_str().unwrap_or_default().to_owned(),
        namespace: text("namespace"),
        name: text("name"),
    })
}
