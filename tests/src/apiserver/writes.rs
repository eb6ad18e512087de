//! Creating and changing objects, by the rules that hold for every resource.

use std::sync::Arc;

use serde_json::{Value, json};

use super::failure::Failure;
use super::fields::{Author, Managers, leaves};
use super::kinds::Kind;
use super::lists::Shape;
use super::object::{key, remove, suffix, text, uid};
use super::store::{Key, Object};
use super::world::World;

/// How a request writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Write<'a> {
    /// Version of the API that the body is written in.
    pub(super) version: &'a str,
    /// Who writes; none where nobody is recorded.
    pub(super) manager: Option<&'a str>,
    /// `status`, or nothing.
    pub(super) subresource: &'a str,
    /// Nothing is stored.
    pub(super) dry_run: bool,
    /// Everything is taken as it is, status too: the fixture speaks for kubelet and controllers.
    pub(super) raw: bool,
}

/// Metadata that only the server sets.
const SERVERS_OWN: [&str; 6] = [
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "namespace",
];

impl World {
    /// Stores a new object.
    pub(super) fn create(
        &mut self,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        mut body: Value,
        write: Write<'_>,
    ) -> Result<Object, Failure> {
        strip_type(kind, &mut body, write)?;
        let resource = kind.resource();
        let key = self.name(kind, namespace, &mut body)?;
        self.check_namespace(kind, &key)?;
        if self.store.get(&resource, &key).is_some() {
            return Err(Failure::already_exists(&resource, &key.1));
        }
        if !text(&body, "/metadata/resourceVersion").is_empty() && !write.raw {
            return Err(Failure::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let given_uid = text(&body, "/metadata/uid").to_owned();
        let metadata = &mut body["metadata"];
        for field in SERVERS_OWN {
            remove(metadata, field);
        }
        if kind.namespaced {
            metadata["namespace"] = json!(key.0);
        }
        metadata["uid"] = json!(if write.raw && !given_uid.is_empty() {
            given_uid
        } else {
            uid()
        });
        metadata["creationTimestamp"] = json!(self.timestamp());
        if kind.generation {
            metadata["generation"] = json!(1);
        }
        // A kubelet registers its node together with the node's status.
        if kind.status && !write.raw && !kind.is("", "nodes") {
            remove(&mut body, "status");
        }
        self.complete(kind, &key, &mut body)?;
        normalise(kind, &mut body);
        self.record(kind, &json!({}), &mut body, write);
        if write.dry_run {
            return Ok(Arc::new(body));
        }
        let object = self.store.put(&resource, key.clone(), body);
        self.after_create(kind, &key);
        Ok(object)
    }

    /// Replaces an object, or its status.
    pub(super) fn update(
        &mut self,
        kind: &Arc<Kind>,
        key: &Key,
        mut body: Value,
        write: Write<'_>,
    ) -> Result<Object, Failure> {
        strip_type(kind, &mut body, write)?;
        let resource = kind.resource();
        let old = self.existing(kind, key)?;
        if text(&body, "/metadata/name") != key.1 {
            return Err(Failure::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                text(&body, "/metadata/name"),
                key.1
            )));
        }
        let uid = text(&body, "/metadata/uid");
        if !uid.is_empty() && uid != text(&old, "/metadata/uid") && !write.raw {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                text(&old, "/metadata/uid")
            );
            return Err(Failure::conflict(&resource, &key.1, &why));
        }
        let version = text(&body, "/metadata/resourceVersion");
        if version.is_empty() {
            if (kind.custom.is_some() || kind.plural == "leases") && !write.raw {
                return Err(Failure::invalid(format!(
                    "{resource} \"{}\" is invalid: metadata.resourceVersion: Invalid value: 0x0: \
                     must be specified for an update",
                    key.1
                )));
            }
        } else if version != text(&old, "/metadata/resourceVersion") && !write.raw {
            return Err(outdated(&resource, &key.1));
        }
        self.replace(kind, key, &old, body, write)
    }

    /// Stores what became of `old`; the same object when nothing did.
    pub(super) fn replace(
        &mut self,
        kind: &Arc<Kind>,
        key: &Key,
        old: &Object,
        mut new: Value,
        write: Write<'_>,
    ) -> Result<Object, Failure> {
        keep_servers_own(old, &mut new);
        if !write.raw {
            keep_other_part(kind, old, &mut new, write.subresource);
        }
        normalise(kind, &mut new);
        self.record(kind, old, &mut new, write);
        if is_same(old, &new) {
            return Ok(Arc::clone(old));
        }
        if kind.generation && spec_differs(old, &new) {
            let generation = old["metadata"]["generation"].as_u64().unwrap_or(0);
            new["metadata"]["generation"] = json!(generation + 1);
        }
        if kind.is("apiextensions.k8s.io", "customresourcedefinitions") && !write.dry_run {
            self.kinds.define(&new)?;
        }
        if write.dry_run {
            return Ok(Arc::new(new));
        }
        let object = self.store.put(&kind.resource(), key.clone(), new);
        if is_gone(&object) {
            self.drop_object(kind, key);
        }
        Ok(object)
    }

    /// The object's key; completes `generateName`.
    fn name(&self, kind: &Kind, namespace: Option<&str>, body: &mut Value) -> Result<Key, Failure> {
        let given = text(body, "/metadata/namespace");
        if let Some(namespace) = namespace
            && !given.is_empty()
            && given != namespace
        {
            return Err(Failure::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the \
                 request ({given} is not {namespace})"
            )));
        }
        if text(body, "/metadata/name").is_empty() {
            let prefix = text(body, "/metadata/generateName");
            if prefix.is_empty() {
                return Err(Failure::invalid(format!(
                    "{} \"\" is invalid: metadata.name: Required value: name or generateName is \
                     required",
                    kind.resource()
                )));
            }
            body["metadata"]["name"] = json!(format!("{prefix}{}", suffix()));
        }
        Ok(key(kind, namespace, text(body, "/metadata/name")))
    }

    fn check_namespace(&self, kind: &Kind, key: &Key) -> Result<(), Failure> {
        if !kind.namespaced {
            return Ok(());
        }
        let namespace = self
            .store
            .get("namespaces", &(String::new(), key.0.clone()))
            .ok_or_else(|| Failure::not_found("namespaces", &key.0))?;
        if namespace["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        let message = format!(
            "{} \"{}\" is forbidden: unable to create new content in namespace {} because it is \
             being terminated",
            kind.resource(),
            key.1,
            key.0
        );
        let cause = json!({
            "reason": "NamespaceTerminating",
            "message": format!("namespace {} is being terminated", key.0),
            "field": "metadata.namespace",
        });
        Err(Failure::new(403, "Forbidden", message).with_causes(vec![cause]))
    }

    /// Notes in `managedFields` who changed what; apply has done that itself.
    fn record(&self, kind: &Kind, old: &Value, new: &mut Value, write: Write<'_>) {
        let Some(manager) = write.manager else {
            return;
        };
        let shape = Shape::of(kind);
        let mut managers = Managers::of(old);
        let author = Author {
            manager,
            operation: "Update",
            subresource: write.subresource,
            api_version: &kind.api_version(write.version),
            time: &self.timestamp(),
        };
        managers.changed(author, &leaves(shape, old), &leaves(shape, new));
        // An empty entry is how a client asks to forget them.
        if new["metadata"]["managedFields"] == json!([{}]) {
            managers = Managers::default();
        }
        managers.write(new);
    }
}

/// The answer to a write that started from an older version.
pub(super) fn outdated(resource: &str, name: &str) -> Failure {
    Failure::conflict(
        resource,
        name,
        "the object has been modified; please apply your changes to the latest version and try \
         again",
    )
}

/// `kind` and `apiVersion` must fit the path; they are not stored.
pub(super) fn strip_type(kind: &Kind, body: &mut Value, write: Write<'_>) -> Result<(), Failure> {
    let api_version = kind.api_version(write.version);
    let Some(fields) = body.as_object_mut() else {
        return Err(Failure::bad_request("the object provided is not an object"));
    };
    let mut fits = |field: &str, wanted: &str| match fields.remove(field) {
        None => Ok(()),
        Some(found) if found == wanted => Ok(()),
        Some(found) => Err(Failure::bad_request(format!(
            "the {field} in the data ({}) does not match the expected {field} ({wanted})",
            found.as_str().unwrap_or_default()
        ))),
    };
    fits("kind", &kind.kind)?;
    fits("apiVersion", &api_version)?;
    if !body["metadata"].is_object() {
        body["metadata"] = json!({});
    }
    Ok(())
}

/// A deleted object goes with its last finalizer.
pub(super) fn is_gone(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let graceful = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
    !metadata["deletionTimestamp"].is_null()
        && !graceful
        && metadata["finalizers"].as_array().is_none_or(Vec::is_empty)
        // A namespace goes with its last content.
        && object["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty)
}

fn keep(old: &Value, new: &mut Value, field: &str) {
    match old.get(field) {
        Some(value) => new[field] = value.clone(),
        None => remove(new, field),
    }
}

fn keep_servers_own(old: &Value, new: &mut Value) {
    for field in SERVERS_OWN {
        keep(&old["metadata"], &mut new["metadata"], field);
    }
    keep(&old["metadata"], &mut new["metadata"], "resourceVersion");
    new["metadata"]["name"] = old["metadata"]["name"].clone();
}

/// The status changes through its subresource only, and nothing else does there. Built-in
/// resources let metadata through with a status, custom ones do not.
fn keep_other_part(kind: &Kind, old: &Value, new: &mut Value, subresource: &str) {
    if !kind.status {
        return;
    }
    if subresource != "status" {
        keep(old, new, "status");
        return;
    }
    let status = new.get("status").cloned();
    let managed = new["metadata"].get("managedFields").cloned();
    let metadata = new["metadata"].clone();
    *new = old.clone();
    match status {
        Some(status) => new["status"] = status,
        None => remove(new, "status"),
    }
    if kind.custom.is_none() {
        new["metadata"] = metadata;
    } else if let Some(managed) = managed {
        new["metadata"]["managedFields"] = managed;
    }
}

/// Typed fields that say nothing are not there: null everywhere in built-in resources and in
/// metadata, empty maps and lists in metadata.
fn normalise(kind: &Kind, object: &mut Value) {
    if kind.custom.is_none() {
        drop_nulls(object);
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|_, value| match value {
            Value::Null => false,
            Value::Object(fields) => !fields.is_empty(),
            Value::Array(items) => !items.is_empty(),
            _ => true,
        });
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, inside| !inside.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn is_same(old: &Value, new: &Value) -> bool {
    let part = |object: &Value, name: &str| {
        let mut value = object[name].clone();
        remove(&mut value, "resourceVersion");
        value
    };
    let rest = |object: &Value| {
        let mut object = object.clone();
        remove(&mut object, "metadata");
        object
    };
    part(old, "metadata") == part(new, "metadata") && rest(old) == rest(new)
}

fn spec_differs(old: &Value, new: &Value) -> bool {
    let rest = |object: &Value| {
        let mut object = object.clone();
        remove(&mut object, "metadata");
        remove(&mut object, "status");
        object
    };
    rest(old) != rest(new)
}
