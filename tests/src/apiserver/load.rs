//! Manifests put into the server as they are: the fixture speaks for kubelet, scheduler and
//! controllers, so status, uid and node are taken too.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::failure::Failure;
use super::kinds::Kind;
use super::object::{key, text};
use super::store::{Key, Object};
use super::world::World;
use super::writes::Write;

/// The documents of a YAML or JSON text; lists are taken apart.
pub(super) fn documents(yaml: &str) -> Result<Vec<Value>, Failure> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml)
        .map_err(|error| Failure::bad_request(format!("not YAML: {error}")))?;
    let mut found = Vec::new();
    for mut document in documents {
        match document["items"].take() {
            Value::Array(items) if text(&document, "/kind").ends_with("List") => {
                found.extend(items);
            }
            _ if document.is_null() => {}
            _ => found.push(document),
        }
    }
    for document in &mut found {
        if let Some(fields) = document.as_object_mut()
            && fields.get("items").is_some_and(Value::is_null)
        {
            fields.remove("items");
        }
    }
    Ok(found)
}

/// Creates or replaces an object; makes its namespace when it is missing.
pub(super) fn put(world: &mut World, manifest: Value) -> Result<Object, Failure> {
    let (kind, version, key) = identify(world, &manifest)?;
    if kind.namespaced {
        make_namespace(world, &key.0)?;
    }
    let write = Write {
        version: &version,
        manager: None,
        subresource: "",
        dry_run: false,
        raw: true,
    };
    let Some(old) = world.store.get(&kind.resource(), &key).map(Arc::clone) else {
        return world.create(&kind, Some(&key.0), manifest, write);
    };
    let mut new = manifest;
    // A manifest without a status says nothing about it.
    if new["status"].is_null() {
        match old.get("status") {
            Some(status) => new["status"] = status.clone(),
            None => super::object::remove(&mut new, "status"),
        }
    }
    // Nor does one without annotations: others write those.
    if new["metadata"]["annotations"].is_null()
        && let Some(annotations) = old["metadata"].get("annotations")
    {
        new["metadata"]["annotations"] = annotations.clone();
    }
    world.update(&kind, &key, new, write)
}

/// Puts the objects of one text and removes those that only the other names.
pub(super) fn replace(world: &mut World, old: &str, new: &str) -> Result<(), Failure> {
    let mut kept = Vec::new();
    for manifest in documents(new)? {
        kept.push(named(world, &manifest)?);
        put(world, manifest)?;
    }
    for manifest in documents(old)? {
        if !kept.contains(&named(world, &manifest)?) {
            remove(world, &manifest)?;
        }
    }
    Ok(())
}

fn named(world: &World, manifest: &Value) -> Result<(String, Key), Failure> {
    let (kind, _, key) = identify(world, manifest)?;
    Ok((kind.resource(), key))
}

/// Removes what a manifest names, at once; whether it was there.
pub(super) fn remove(world: &mut World, manifest: &Value) -> Result<bool, Failure> {
    let (kind, _, key) = identify(world, manifest)?;
    let there = world.store.get(&kind.resource(), &key).is_some();
    if kind.is("", "namespaces") && there {
        world.delete(&kind, &key, &json!({}))?;
        world.empty_namespace(&key.1);
    } else {
        world.drop_object(&kind, &key);
    }
    Ok(there)
}

/// A token as kubelet would project it into a pod.
pub(super) fn pod_token(
    world: &mut World,
    namespace: &str,
    pod: &str,
    audience: &str,
    life: Duration,
) -> Result<String, Failure> {
    let found = world
        .store
        .get("pods", &(namespace.to_owned(), pod.to_owned()))
        .ok_or_else(|| Failure::not_found("pods", pod))?;
    let account = text(found, "/spec/serviceAccountName").to_owned();
    let body = json!({"spec": {
        "audiences": [audience],
        "expirationSeconds": life.as_secs(),
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod},
    }});
    let now = world.now();
    let account = (namespace.to_owned(), account);
    let answer = world.tokens.request(&world.store, now, &account, &body)?;
    Ok(text(&answer, "/status/token").to_owned())
}

/// A token of a service account for the server itself.
pub(super) fn account_token(
    world: &mut World,
    namespace: &str,
    account: &str,
    life: Duration,
) -> Result<String, Failure> {
    let body = json!({"spec": {"expirationSeconds": life.as_secs()}});
    let now = world.now();
    let account = (namespace.to_owned(), account.to_owned());
    let answer = world.tokens.request(&world.store, now, &account, &body)?;
    Ok(text(&answer, "/status/token").to_owned())
}

fn identify(world: &World, manifest: &Value) -> Result<(Arc<Kind>, String, Key), Failure> {
    let (api_version, name) = (text(manifest, "/apiVersion"), text(manifest, "/kind"));
    let (kind, version) = world.kinds.find_kind(api_version, name).ok_or_else(|| {
        Failure::bad_request(format!(
            "no matches for kind \"{name}\" in version \"{api_version}\""
        ))
    })?;
    let namespace = text(manifest, "/metadata/namespace");
    let namespace = if namespace.is_empty() {
        "default"
    } else {
        namespace
    };
    let key = key(kind, Some(namespace), text(manifest, "/metadata/name"));
    Ok((Arc::clone(kind), version.to_owned(), key))
}

fn make_namespace(world: &mut World, name: &str) -> Result<(), Failure> {
    if world
        .store
        .get("namespaces", &(String::new(), name.to_owned()))
        .is_some()
    {
        return Ok(());
    }
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name},
    });
    put(world, namespace).map(|_| ())
}
