//! Who set which field: `metadata.managedFields`.
//!
//! A set of fields is a set of paths to leaves: scalars, and whatever is replaced as a whole. An
//! item of a keyed list is a leaf too: who lists it owns that it is there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::lists::{Merge, Shape, item_key};

/// One step of a path, written as in `fieldsV1`: `f:NAME`, `k:{KEYS}` or `v:VALUE`.
pub(super) type Step = String;
pub(super) type Path = Vec<Step>;
pub(super) type Fields = BTreeSet<Path>;

/// Paths that nobody owns: the server sets them, or they name the object.
const UNOWNED: [&str; 10] = [
    "f:name",
    "f:namespace",
    "f:uid",
    "f:resourceVersion",
    "f:generation",
    "f:creationTimestamp",
    "f:deletionTimestamp",
    "f:deletionGracePeriodSeconds",
    "f:managedFields",
    "f:selfLink",
];

/// Every leaf of an object with its value.
pub(super) fn leaves(shape: Shape<'_>, object: &Value) -> BTreeMap<Path, Value> {
    let mut found = BTreeMap::new();
    collect(shape, object, &mut Vec::new(), &mut found);
    found.retain(|path, _| {
        let metadata = path.first().is_some_and(|step| step == "f:metadata");
        !(metadata
            && path
                .get(1)
                .is_some_and(|step| UNOWNED.contains(&step.as_str())))
    });
    found.remove(&vec!["f:metadata".to_owned()]);
    found
}

fn collect(shape: Shape<'_>, value: &Value, path: &mut Path, found: &mut BTreeMap<Path, Value>) {
    match (shape.merge(value), value) {
        (Merge::Fields, Value::Object(fields)) if !fields.is_empty() => {
            for (name, value) in fields {
                path.push(format!("f:{name}"));
                collect(shape.field(name), value, path, found);
                path.pop();
            }
        }
        (Merge::Keyed(keys), Value::Array(items)) if !items.is_empty() => {
            for item in items {
                let key = item_key(&keys, item);
                path.push(format!("k:{key}"));
                found.insert(path.clone(), Value::Null);
                collect(shape.item(), item, path, found);
                path.pop();
            }
        }
        (Merge::Set, Value::Array(items)) if !items.is_empty() => {
            for item in items {
                path.push(format!("v:{item}"));
                found.insert(path.clone(), Value::Null);
                path.pop();
            }
        }
        _ => {
            found.insert(path.clone(), value.clone());
        }
    }
}

/// One manager's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) manager: String,
    /// `Apply` or `Update`.
    pub(super) operation: String,
    pub(super) subresource: String,
    pub(super) fields: Fields,
    api_version: String,
    time: String,
}

/// All entries of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Managers(Vec<Entry>);

/// Who writes, how, through which subresource.
#[derive(Debug, Clone, Copy)]
pub(super) struct Author<'a> {
    pub(super) manager: &'a str,
    pub(super) operation: &'a str,
    pub(super) subresource: &'a str,
    pub(super) api_version: &'a str,
    pub(super) time: &'a str,
}

impl Entry {
    pub(super) fn is_of(&self, author: Author<'_>) -> bool {
        self.manager == author.manager
            && self.operation == author.operation
            && self.subresource == author.subresource
    }
}

impl Managers {
    pub(super) fn of(object: &Value) -> Self {
        let entries = object["metadata"]["managedFields"].as_array();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let read = |entry: &Value| Entry {
            manager: text(&entry["manager"]),
            operation: text(&entry["operation"]),
            subresource: text(&entry["subresource"]),
            api_version: text(&entry["apiVersion"]),
            time: text(&entry["time"]),
            fields: decode(&entry["fieldsV1"]),
        };
        Self(entries.into_iter().flatten().map(read).collect())
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.0
    }

    pub(super) fn of_author(&self, author: Author<'_>) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.is_of(author))
    }

    /// A change without apply: what changed now belongs to the author, what went to nobody.
    pub(super) fn changed(
        &mut self,
        author: Author<'_>,
        old: &BTreeMap<Path, Value>,
        new: &BTreeMap<Path, Value>,
    ) {
        let set: Fields = new
            .iter()
            .filter(|(path, value)| old.get(*path) != Some(value))
            .map(|(path, _)| path.clone())
            .collect();
        let gone: Vec<&Path> = old.keys().filter(|path| !new.contains_key(*path)).collect();
        if set.is_empty() && gone.is_empty() {
            return;
        }
        for entry in &mut self.0 {
            entry.fields.retain(|path| {
                !gone.contains(&path)
                    && (entry.operation == author.operation
                        && entry.manager == author.manager
                        && entry.subresource == author.subresource
                        || !set.contains(path))
            });
        }
        if !set.is_empty() {
            let mut fields = self
                .of_author(author)
                .map(|entry| entry.fields.clone())
                .unwrap_or_default();
            fields.extend(set);
            self.own(author, fields);
        }
        self.0.retain(|entry| !entry.fields.is_empty());
    }

    /// The author owns exactly these fields.
    pub(super) fn own(&mut self, author: Author<'_>, fields: Fields) {
        let time = match self.of_author(author) {
            Some(entry) if entry.fields == fields => entry.time.clone(),
            _ => author.time.to_owned(),
        };
        self.0.retain(|entry| !entry.is_of(author));
        if !fields.is_empty() {
            self.0.push(Entry {
                manager: author.manager.to_owned(),
                operation: author.operation.to_owned(),
                subresource: author.subresource.to_owned(),
                api_version: author.api_version.to_owned(),
                time,
                fields,
            });
        }
    }

    /// Takes fields from everybody but the author.
    pub(super) fn take(&mut self, author: Author<'_>, fields: &Fields) {
        for entry in self.0.iter_mut().filter(|entry| !entry.is_of(author)) {
            entry.fields.retain(|path| !fields.contains(path));
        }
        self.0.retain(|entry| !entry.fields.is_empty());
    }

    /// Writes `metadata.managedFields`.
    pub(super) fn write(&self, object: &mut Value) {
        let entries: Vec<Value> = self.0.iter().map(Entry::encode).collect();
        if entries.is_empty() {
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("managedFields");
            }
        } else {
            object["metadata"]["managedFields"] = Value::Array(entries);
        }
    }
}

impl Entry {
    fn encode(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": encode(&self.fields),
        });
        if !self.subresource.is_empty() {
            entry["subresource"] = json!(self.subresource);
        }
        entry
    }
}

fn encode(fields: &Fields) -> Value {
    let mut root = Value::Object(Map::new());
    for path in fields {
        let mut place = &mut root;
        for step in path {
            place = &mut place[step.as_str()];
            if place.is_null() {
                *place = Value::Object(Map::new());
            }
        }
        if path.last().is_some_and(|step| step.starts_with("k:")) {
            place["."] = json!({});
        }
    }
    root
}

fn decode(fields: &Value) -> Fields {
    let mut found = Fields::new();
    walk(fields, &mut Vec::new(), &mut found);
    found
}

fn walk(fields: &Value, path: &mut Path, found: &mut Fields) {
    let Some(steps) = fields.as_object() else {
        return;
    };
    if steps.is_empty() && !path.is_empty() {
        found.insert(path.clone());
    }
    for (step, inside) in steps {
        if step == "." {
            found.insert(path.clone());
            continue;
        }
        path.push(step.clone());
        walk(inside, path, found);
        path.pop();
    }
}
