//! Patches that need nothing but the object: merge, JSON and strategic merge.

use serde_json::{Map, Value};

use super::failure::Failure;
use super::lists::{Merge, Shape, item_key};

/// RFC 6902.
pub(super) fn json(object: &mut Value, patch: Value) -> Result<(), Failure> {
    let patch: json_patch::Patch = serde_json::from_value(patch)
        .map_err(|error| Failure::bad_request(format!("error decoding patch: {error}")))?;
    json_patch::patch(object, &patch)
        .map_err(|error| Failure::invalid(format!("the server rejected our request: {error}")))
}

/// RFC 7386.
pub(super) fn merge(object: &mut Value, patch: &Value) {
    json_patch::merge(object, patch);
}

/// Like a merge patch, but lists with a merge key are merged item by item, and the directives
/// `$patch`, `$retainKeys`, `$deleteFromPrimitiveList/` and `$setElementOrder/` are understood.
pub(super) fn strategic(shape: Shape<'_>, object: &mut Value, patch: &Value) {
    let Some(patch_fields) = patch.as_object() else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    if patch.get("$patch").is_some_and(|word| word == "replace") {
        *object = without_directives(patch);
        return;
    }
    if let Some(keep) = patch.get("$retainKeys").and_then(Value::as_array)
        && let Some(fields) = object.as_object_mut()
    {
        fields.retain(|name, _| keep.iter().any(|kept| kept == name));
    }
    for (name, value) in patch_fields {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(items), Some(gone)) = (object[list].as_array_mut(), value.as_array()) {
                items.retain(|item| !gone.contains(item));
            }
        } else if !name.starts_with('$') {
            field(shape.field(name), object, name, value);
        }
    }
    for (name, order) in patch_fields {
        if let (Some(list), Some(order)) =
            (name.strip_prefix("$setElementOrder/"), order.as_array())
        {
            reorder(shape.field(list), &mut object[list], order);
        }
    }
}

fn field(shape: Shape<'_>, object: &mut Value, name: &str, value: &Value) {
    let removed = value.is_null() || value.get("$patch").is_some_and(|word| word == "delete");
    if removed {
        if let Some(fields) = object.as_object_mut() {
            fields.remove(name);
        }
        return;
    }
    match (shape.merge(value), value) {
        // Strategic merges go into every map, also those that apply replaces as a whole.
        (_, Value::Object(_)) => strategic(shape, &mut object[name], value),
        (Merge::Keyed(keys), Value::Array(items)) => {
            list(shape, &keys, &mut object[name], items);
        }
        (Merge::Set, Value::Array(items)) => {
            if !object[name].is_array() {
                object[name] = Value::Array(Vec::new());
            }
            if let Some(present) = object[name].as_array_mut() {
                for item in items {
                    if !present.contains(item) {
                        present.push(item.clone());
                    }
                }
            }
        }
        _ => object[name] = value.clone(),
    }
}

/// Strategic merges know items by the first key only.
fn list(shape: Shape<'_>, keys: &[String], target: &mut Value, items: &[Value]) {
    let keys = keys.get(..1).unwrap_or_default();
    if !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let Some(present) = target.as_array_mut() else {
        return;
    };
    if items.iter().any(|item| {
        is_directive(item, "replace") && item.as_object().is_some_and(|item| item.len() == 1)
    }) {
        present.clear();
    }
    for item in items {
        let key = item_key(keys, item);
        let known = present
            .iter()
            .position(|other| item_key(keys, other) == key);
        match known {
            Some(index) if is_directive(item, "delete") => {
                present.remove(index);
            }
            Some(index) => strategic(shape.item(), &mut present[index], item),
            None if item.get("$patch").is_some() => {}
            None => present.push(without_directives(item)),
        }
    }
}

fn is_directive(item: &Value, word: &str) -> bool {
    item.get("$patch").is_some_and(|found| found == word)
}

fn reorder(shape: Shape<'_>, target: &mut Value, order: &[Value]) {
    let keys = match shape.merge(target) {
        Merge::Keyed(keys) => keys.into_iter().take(1).collect(),
        _ => Vec::new(),
    };
    let Some(items) = target.as_array_mut() else {
        return;
    };
    let identity = |item: &Value| {
        if keys.is_empty() {
            item.clone()
        } else {
            item_key(&keys, item)
        }
    };
    let order: Vec<Value> = order.iter().map(identity).collect();
    // Items that the patch does not name keep their place at the end.
    items.sort_by_key(|item| {
        let wanted = identity(item);
        order
            .iter()
            .position(|one| *one == wanted)
            .unwrap_or(order.len())
    });
}

fn without_directives(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .filter(|(name, _)| !name.starts_with('$'))
                .map(|(name, value)| (name.clone(), without_directives(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(without_directives).collect()),
        other => other.clone(),
    }
}
