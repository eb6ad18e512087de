//! What the server and the controllers beside it do to single resources: defaults of new objects,
//! graceful deletion, the content of a namespace, what a CustomResourceDefinition brings.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::failure::Failure;
use super::kinds::Kind;
use super::object::{remove, text};
use super::store::{Key, Object};
use super::world::World;
use super::writes::{Write, is_gone};

/// Cluster addresses of Services that name none.
const SERVICE_NETWORK: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 0);
const SERVICE_ADDRESSES: u32 = 1 << 16;
/// Time until a deleted namespace begins to lose its content: controllers take theirs, too.
const NAMESPACE_WAIT: Duration = Duration::from_millis(500);
/// Grace of a pod that names none, seconds.
const POD_GRACE: i64 = 30;

/// The writes that the server makes by itself.
const SERVER: Write<'static> = Write {
    version: "v1",
    manager: None,
    subresource: "",
    dry_run: false,
    raw: true,
};

/// What became of a deletion.
#[derive(Debug)]
pub(super) enum Deleted {
    /// It is gone.
    Gone(Object),
    /// It waits for finalizers, a kubelet, or its content.
    Pending(Object),
}

impl World {
    /// Adds what the server adds to a new object.
    pub(super) fn complete(
        &mut self,
        kind: &Kind,
        key: &Key,
        body: &mut Value,
    ) -> Result<(), Failure> {
        match (kind.group.as_str(), kind.plural.as_str()) {
            ("", "namespaces") => {
                body["metadata"]["labels"]["kubernetes.io/metadata.name"] = json!(key.1);
                body["spec"]["finalizers"] = json!(["kubernetes"]);
                default(&mut body["status"], "phase", json!("Active"));
            }
            ("", "pods") => {
                default(&mut body["status"], "phase", json!("Pending"));
                default(&mut body["spec"], "serviceAccountName", json!("default"));
                default(&mut body["spec"], "restartPolicy", json!("Always"));
            }
            ("", "services") => self.complete_service(&mut body["spec"]),
            ("", "secrets") => {
                default(body, "type", json!("Opaque"));
                fold_string_data(body)?;
            }
            ("apiextensions.k8s.io", "customresourcedefinitions") => {
                self.kinds.define(body)?;
                self.accept_definition(body);
            }
            _ => {}
        }
        Ok(())
    }

    /// What the controllers of a cluster do about a new object.
    pub(super) fn after_create(&mut self, kind: &Kind, key: &Key) {
        if !kind.is("", "namespaces") {
            return;
        }
        let account = json!({"metadata": {"name": "default"}});
        let root = json!({
            "metadata": {"name": "kube-root-ca.crt"},
            "data": {"ca.crt": self.root},
        });
        for (plural, body) in [("serviceaccounts", account), ("configmaps", root)] {
            if let Some(kind) = self.kinds.find("", plural).map(Arc::clone) {
                // Refused only when it is there already.
                let _there = self.create(&kind, Some(&key.1), body, SERVER);
            }
        }
    }

    /// Deletes an object, or marks it as being deleted.
    pub(super) fn delete(
        &mut self,
        kind: &Arc<Kind>,
        key: &Key,
        options: &Value,
    ) -> Result<Deleted, Failure> {
        let old = self.existing(kind, key)?;
        check_preconditions(kind, key, &old, options)?;
        if options["dryRun"].is_array() {
            return Ok(Deleted::Gone(old));
        }
        let grace = grace(kind, &old, options);
        let mut new = Value::clone(&old);
        if new["metadata"]["deletionTimestamp"].is_null() {
            new["metadata"]["deletionTimestamp"] = json!(self.timestamp());
        }
        new["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        if kind.is("", "namespaces") {
            new["status"]["phase"] = json!("Terminating");
        }
        if is_gone(&new) {
            self.drop_object(kind, key);
            return Ok(Deleted::Gone(old));
        }
        if kind.generation && old["metadata"]["deletionTimestamp"].is_null() {
            let generation = old["metadata"]["generation"].as_u64().unwrap_or(0);
            new["metadata"]["generation"] = json!(generation + 1);
        }
        let pending = if *old == new {
            old
        } else {
            self.store.put(&kind.resource(), key.clone(), new)
        };
        if kind.is("", "namespaces") {
            self.terminating
                .push((Instant::now() + NAMESPACE_WAIT, key.1.clone()));
        }
        Ok(Deleted::Pending(pending))
    }

    /// Removes an object for good, and what goes with it.
    pub(super) fn drop_object(&mut self, kind: &Arc<Kind>, key: &Key) {
        if self.store.remove(&kind.resource(), key).is_none() {
            return;
        }
        if kind.is("apiextensions.k8s.io", "customresourcedefinitions") {
            self.drop_definition(&key.1);
        }
        if kind.namespaced {
            self.finish_namespace(&key.0);
        }
    }

    fn drop_definition(&mut self, name: &str) {
        let Some((plural, group)) = name.split_once('.') else {
            return;
        };
        let Some(kind) = self.kinds.find(group, plural).map(Arc::clone) else {
            return;
        };
        for key in self.store.keys(&kind.resource(), None) {
            self.drop_object(&kind, &key);
        }
        self.kinds.undefine(group, plural);
    }

    /// What the controller of namespaces does from time to time.
    pub(super) fn empty_namespaces(&mut self, now: Instant) {
        let (due, later) = self.terminating.drain(..).partition(|(at, _)| *at <= now);
        self.terminating = later;
        let due: Vec<(Instant, String)> = due;
        for (_, namespace) in due {
            // One that is here again under the same name is another.
            if self.is_terminating(&namespace) {
                self.empty_namespace(&namespace);
            }
        }
    }

    fn is_terminating(&self, namespace: &str) -> bool {
        let key = (String::new(), namespace.to_owned());
        let found = self.store.get("namespaces", &key);
        found.is_some_and(|object| !object["metadata"]["deletionTimestamp"].is_null())
    }

    /// Deletes everything in a namespace, and the namespace when nothing waits for something.
    pub(super) fn empty_namespace(&mut self, namespace: &str) {
        let kinds: Vec<Arc<Kind>> = self.kinds.all().to_vec();
        for kind in kinds.iter().filter(|kind| kind.namespaced) {
            for key in self.store.keys(&kind.resource(), Some(namespace)) {
                // Gone already with something else.
                let _missing = self.delete(kind, &key, &json!({}));
            }
        }
        self.finish_namespace(namespace);
    }

    /// Removes a terminating namespace when nothing is left in it.
    fn finish_namespace(&mut self, namespace: &str) {
        let key = (String::new(), namespace.to_owned());
        let kinds = self.kinds.all().iter();
        let mut inside = kinds
            .filter(|kind| kind.namespaced)
            .flat_map(|kind| self.store.keys(&kind.resource(), Some(namespace)));
        if inside.next().is_none() && self.is_terminating(namespace) {
            drop(inside);
            self.store.remove("namespaces", &key);
        }
    }

    fn complete_service(&self, spec: &mut Value) {
        default(spec, "type", json!("ClusterIP"));
        if spec["type"] == "ExternalName" {
            return;
        }
        if text(spec, "/clusterIP").is_empty() {
            let given = spec["clusterIPs"][0].clone();
            spec["clusterIP"] = if given.is_string() {
                given
            } else {
                json!(self.free_address())
            };
        }
        let first = spec["clusterIP"].clone();
        default(spec, "clusterIPs", json!([first]));
        for port in spec["ports"].as_array_mut().into_iter().flatten() {
            default(port, "protocol", json!("TCP"));
            let number = port["port"].clone();
            default(port, "targetPort", number);
        }
    }

    fn free_address(&self) -> String {
        let used: Vec<String> = self
            .store
            .keys("services", None)
            .iter()
            .filter_map(|key| self.store.get("services", key))
            .map(|service| text(service, "/spec/clusterIP").to_owned())
            .collect();
        let address = |index| Ipv4Addr::from(u32::from(SERVICE_NETWORK) + index).to_string();
        (10..SERVICE_ADDRESSES)
            .map(address)
            .find(|address| !used.contains(address))
            .unwrap_or_default()
    }

    fn accept_definition(&self, body: &mut Value) {
        let time = self.timestamp();
        let condition = |kind: &str, reason: &str| {
            json!({
                "type": kind,
                "status": "True",
                "reason": reason,
                "message": "",
                "lastTransitionTime": time,
            })
        };
        let stored = body["spec"]["versions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|version| version["storage"] == true)
            .map(|version| version["name"].clone());
        body["status"] = json!({
            "acceptedNames": body["spec"]["names"],
            "storedVersions": [stored],
            "conditions": [
                condition("NamesAccepted", "NoConflicts"),
                condition("Established", "InitialNamesAccepted"),
            ],
        });
    }
}

/// Seconds between the mark and the end. A pod on a node waits for its kubelet.
fn grace(kind: &Kind, object: &Value, options: &Value) -> i64 {
    let phase = text(object, "/status/phase");
    let unbound = text(object, "/spec/nodeName").is_empty();
    if !kind.is("", "pods") || unbound || matches!(phase, "Succeeded" | "Failed") {
        return 0;
    }
    options["gracePeriodSeconds"]
        .as_i64()
        .or_else(|| object["spec"]["terminationGracePeriodSeconds"].as_i64())
        .unwrap_or(POD_GRACE)
}

fn check_preconditions(
    kind: &Kind,
    key: &Key,
    object: &Value,
    options: &Value,
) -> Result<(), Failure> {
    for (field, name) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
        let wanted = text(&options["preconditions"], &format!("/{field}"));
        let found = text(&object["metadata"], &format!("/{field}"));
        if !wanted.is_empty() && wanted != found {
            let why = format!(
                "Precondition failed: {name} in precondition: {wanted}, {name} in object meta: \
                 {found}"
            );
            return Err(Failure::conflict(&kind.resource(), &key.1, &why));
        }
    }
    Ok(())
}

fn default(object: &mut Value, field: &str, value: Value) {
    if object[field].is_null() {
        object[field] = value;
    }
}

/// `stringData` is a way to write `data`.
fn fold_string_data(body: &mut Value) -> Result<(), Failure> {
    use base64::Engine as _;
    let texts = body["stringData"].take();
    remove(body, "stringData");
    for (name, value) in texts.as_object().into_iter().flatten() {
        let text = value
            .as_str()
            .ok_or_else(|| Failure::bad_request("stringData holds texts"))?;
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        body["data"][name.as_str()] = json!(encoded);
    }
    Ok(())
}
