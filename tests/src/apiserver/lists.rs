//! Which lists are merged item by item, and by what: server-side apply and strategic merge patches
//! need to know.
//!
//! For built-in resources the API documents it field by field; the table below has those that
//! occur in what Culvert reads and installs. A CustomResourceDefinition says it in its schema
//! (`x-kubernetes-list-type`); without a word of it a list is replaced as a whole.

use serde_json::Value;

use super::kinds::Kind;

/// How a list, or a map, takes part in a merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Merge {
    /// Replaced as a whole.
    Whole,
    /// A list without order whose items are scalars.
    Set,
    /// Items are told apart by these fields.
    Keyed(Vec<String>),
    /// A map, field by field.
    Fields,
}

/// The shape of an object, followed from its root.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape<'a> {
    custom: bool,
    schema: Option<&'a Value>,
    field: &'a str,
    parent: &'a str,
}

impl<'a> Shape<'a> {
    pub(super) fn of(kind: &'a Kind) -> Self {
        Self {
            custom: kind.custom.is_some(),
            schema: kind.custom.as_ref(),
            field: "",
            parent: "",
        }
    }

    pub(super) fn field(self, name: &'a str) -> Self {
        let schema = self.schema.and_then(|schema| {
            let properties = schema.get("properties")?;
            properties
                .get(name)
                .or_else(|| schema.get("additionalProperties"))
        });
        // Metadata has the same shape everywhere.
        let metadata = self.field.is_empty() && name == "metadata";
        Self {
            custom: self.custom && !metadata,
            schema: if metadata { None } else { schema },
            field: name,
            parent: self.field,
        }
    }

    /// The shape of a list's items.
    pub(super) fn item(self) -> Self {
        let schema = self.schema.and_then(|schema| schema.get("items"));
        Self { schema, ..self }
    }

    pub(super) fn merge(self, value: &Value) -> Merge {
        match value {
            Value::Object(_) if self.is_whole_map() => Merge::Whole,
            Value::Object(_) => Merge::Fields,
            Value::Array(_) if self.custom => self.custom_list(),
            Value::Array(_) => self.built_in_list(),
            _ => Merge::Whole,
        }
    }

    fn is_whole_map(self) -> bool {
        if self.custom {
            return self
                .schema
                .is_some_and(|schema| schema["x-kubernetes-map-type"] == "atomic");
        }
        matches!(self.field, "selector" | "nodeSelector" | "labelSelector")
    }

    fn custom_list(self) -> Merge {
        let Some(schema) = self.schema else {
            return Merge::Whole;
        };
        match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => Merge::Set,
            Some("map") => {
                let keys = schema["x-kubernetes-list-map-keys"].as_array();
                let keys = keys.into_iter().flatten();
                Merge::Keyed(
                    keys.filter_map(|key| key.as_str().map(str::to_owned))
                        .collect(),
                )
            }
            _ => Merge::Whole,
        }
    }

    fn built_in_list(self) -> Merge {
        let keys: &[&str] = match (self.parent, self.field) {
            (_, "finalizers" | "podCIDRs") => return Merge::Set,
            (_, "ownerReferences") => &["uid"],
            ("containers" | "initContainers" | "ephemeralContainers", "ports") => {
                &["containerPort", "protocol"]
            }
            ("spec", "ports") => &["port", "protocol"],
            (
                _,
                "containers"
                | "initContainers"
                | "ephemeralContainers"
                | "volumes"
                | "env"
                | "imagePullSecrets"
                | "webhooks"
                | "secrets"
                | "resourceClaims",
            ) => &["name"],
            (_, "volumeMounts") => &["mountPath"],
            (_, "volumeDevices") => &["devicePath"],
            (_, "hostAliases" | "podIPs" | "hostIPs") => &["ip"],
            (_, "topologySpreadConstraints") => &["topologyKey", "whenUnsatisfiable"],
            ("status", "conditions" | "addresses") => &["type"],
            _ => return Merge::Whole,
        };
        Merge::Keyed(keys.iter().map(|&key| key.to_owned()).collect())
    }
}

/// The values by which an item is known, with the one default that matters.
pub(super) fn item_key(keys: &[String], item: &Value) -> Value {
    let mut key = serde_json::Map::new();
    for name in keys {
        match &item[name.as_str()] {
            Value::Null if name == "protocol" => {
                key.insert(name.clone(), Value::from("TCP"));
            }
            Value::Null => {}
            value => {
                key.insert(name.clone(), value.clone());
            }
        }
    }
    Value::Object(key)
}
