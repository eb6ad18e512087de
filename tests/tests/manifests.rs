//! The manifests in `deploy/kubernetes`, as an API server sees them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Namespace, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What `kubectl apply -k` takes, below `deploy/kubernetes`.
const FORMS: [&str; 7] = [
    "",
    "istio-crds",
    "gateway-classes",
    "overlays/kind",
    "overlays/single-node",
    "overlays/hardened",
    "overlays/beside-istio",
];

/// The API server refuses an object of `kubectl apply` that has a field it does not know.
#[test]
fn every_manifest_has_only_fields_that_the_api_knows() {
    for form in FORMS {
        let objects = objects(&folder().join(form)).unwrap();
        assert!(!objects.is_empty(), "{form}");
        for object in objects {
            let unknown = unknown_fields(&object).unwrap();
            let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
            assert!(unknown.is_empty(), "{form}: {kind} {name}: {unknown:?}");
        }
    }
}

#[test]
fn a_field_that_nobody_knows_is_found() {
    let mut objects = objects(&folder()).unwrap().into_iter();
    let mut agent = objects
        .find(|object| object["kind"] == "DaemonSet")
        .unwrap();
    let container = "/spec/template/spec/containers/0";
    agent.pointer_mut(container).unwrap()["readinesProbe"] = json!({ "periodSeconds": 2 });
    let unknown = unknown_fields(&agent).unwrap();
    assert_eq!(unknown, [format!("{container}/readinesProbe")]);
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes")
}

/// The objects of a folder with a `kustomization.yaml`: its resources, and what it patches in them.
fn objects(folder: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(folder.join("kustomization.yaml"))?;
    let kustomization: Value = serde_saphyr::from_str(&text)?;
    let mut objects = Vec::new();
    for resource in list(&kustomization["resources"]) {
        let path = folder.join(resource.as_str().context("not a path")?);
        if path.is_dir() {
            objects.extend(self::objects(&path)?);
        } else {
            let text = fs::read_to_string(&path)?;
            objects.extend(serde_saphyr::from_multiple::<Value>(&text)?);
        }
    }
    for patch in list(&kustomization["patches"]) {
        let target = &patch["target"];
        let mut found = objects.iter_mut();
        let found = found.find(|object| {
            object["kind"] == target["kind"] && object["metadata"]["name"] == target["name"]
        });
        let operations = patch["patch"].as_str().context("no patch")?;
        let operations: Value = serde_saphyr::from_str(operations)?;
        let operations: json_patch::Patch = serde_json::from_value(operations)?;
        json_patch::patch(found.context("nothing to patch")?, &operations)?;
    }
    Ok(objects)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The fields of an object that its type does not have, or has with another meaning.
fn unknown_fields(object: &Value) -> Result<Vec<String>> {
    let read = match object["kind"].as_str().unwrap_or_default() {
        "Namespace" => read::<Namespace>(object),
        "Service" => read::<Service>(object),
        "ServiceAccount" => read::<ServiceAccount>(object),
        "Deployment" => read::<Deployment>(object),
        "DaemonSet" => read::<DaemonSet>(object),
        "PodDisruptionBudget" => read::<PodDisruptionBudget>(object),
        "NetworkPolicy" => read::<NetworkPolicy>(object),
        "ClusterRole" => read::<ClusterRole>(object),
        "ClusterRoleBinding" => read::<ClusterRoleBinding>(object),
        "Role" => read::<Role>(object),
        "RoleBinding" => read::<RoleBinding>(object),
        "ValidatingWebhookConfiguration" => read::<ValidatingWebhookConfiguration>(object),
        "CustomResourceDefinition" => read::<CustomResourceDefinition>(object),
        // The Gateway API's own; its definitions are not here.
        "GatewayClass" => return Ok(Vec::new()),
        other => bail!("nobody knows the fields of {other}"),
    };
    let mut unknown = Vec::new();
    compare("", object, &read?, &mut unknown);
    Ok(unknown)
}

/// Through its type and back: what the type does not have is lost on the way.
fn read<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value> {
    let typed: T = serde_json::from_value(object.clone())?;
    Ok(serde_json::to_value(typed)?)
}

fn compare(path: &str, written: &Value, read: &Value, unknown: &mut Vec<String>) {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => {
            for (name, value) in written {
                let read = read.get(name).unwrap_or(&Value::Null);
                compare(&format!("{path}/{name}"), value, read, unknown);
            }
        }
        (Value::Array(written), Value::Array(read)) if written.len() == read.len() => {
            for (index, (written, read)) in written.iter().zip(read).enumerate() {
                compare(&format!("{path}/{index}"), written, read, unknown);
            }
        }
        // An empty list need not be written.
        (Value::Array(written), Value::Null) if written.is_empty() => {}
        // A bound of a definition is read as a number that may have a fraction.
        (Value::Number(written), Value::Number(read)) if written.as_f64() == read.as_f64() => {}
        (written, read) if written == read => {}
        _ => unknown.push(path.to_owned()),
    }
}
