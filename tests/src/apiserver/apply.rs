//! Server-side apply: what a manager wants is merged into what is there, and what it no longer
//! wants goes, unless somebody else wants it too.

use serde_json::{Value, json};

use super::failure::Failure;
use super::fields::{Author, Fields, Managers, Path, leaves};
use super::kinds::Kind;
use super::lists::{Merge, Shape, item_key};

/// The object after an apply to `live` (null where there is none yet), with its managers.
pub(super) fn apply(
    kind: &Kind,
    live: &Value,
    wanted: &Value,
    author: Author<'_>,
    force: bool,
) -> Result<Value, Failure> {
    let shape = Shape::of(kind);
    let mut managers = Managers::of(live);
    let present = leaves(shape, live);
    let wants = leaves(shape, wanted);
    let disputed = |path: &Path, value: &Value| {
        let other = managers
            .entries()
            .iter()
            .find(|entry| !entry.is_of(author) && entry.fields.contains(path))?;
        (present.get(path) != Some(value)).then(|| (path.clone(), other.manager.clone()))
    };
    let conflicts: Vec<(Path, String)> = wants
        .iter()
        .filter_map(|(path, value)| disputed(path, value))
        .collect();
    if !conflicts.is_empty() && !force {
        return Err(refused(&conflicts));
    }
    let mut result = live.clone();
    merge(shape, &mut result, wanted);
    let owned: Fields = wants.keys().cloned().collect();
    let before = managers
        .of_author(author)
        .map(|entry| entry.fields.clone())
        .unwrap_or_default();
    for path in before.iter().rev().filter(|path| !owned.contains(*path)) {
        let shared = managers
            .entries()
            .iter()
            .any(|entry| !entry.is_of(author) && entry.fields.iter().any(|f| f.starts_with(path)));
        let wanted_inside = owned.iter().any(|other| other.starts_with(path));
        if !shared && !wanted_inside {
            remove(shape, &mut result, path);
        }
    }
    let lost: Fields = conflicts.into_iter().map(|(path, _)| path).collect();
    managers.take(author, &lost);
    managers.own(author, owned);
    managers.write(&mut result);
    Ok(result)
}

fn refused(conflicts: &[(Path, String)]) -> Failure {
    let causes = conflicts.iter().map(|(path, manager)| {
        json!({
            "reason": "FieldManagerConflict",
            "message": format!("conflict with \"{manager}\""),
            "field": spell(path),
        })
    });
    let named: Vec<String> = conflicts
        .iter()
        .map(|(path, manager)| format!("conflict with \"{manager}\": {}", spell(path)))
        .collect();
    let message = format!(
        "Apply failed with {} conflict{}: {}",
        named.len(),
        if named.len() == 1 { "" } else { "s" },
        named.join(", ")
    );
    Failure::new(409, "Conflict", message).with_causes(causes.collect())
}

fn spell(path: &Path) -> String {
    let mut text = String::new();
    for step in path {
        if let Some(name) = step.strip_prefix("f:") {
            text.push('.');
            text.push_str(name);
        } else {
            text.push('[');
            text.push_str(&step[2..]);
            text.push(']');
        }
    }
    text
}

fn merge(shape: Shape<'_>, target: &mut Value, wanted: &Value) {
    match (shape.merge(wanted), wanted) {
        (Merge::Fields, Value::Object(fields)) => {
            if !target.is_object() {
                *target = json!({});
            }
            for (name, value) in fields {
                merge(shape.field(name), &mut target[name.as_str()], value);
            }
        }
        (Merge::Keyed(keys), Value::Array(items)) => {
            if !target.is_array() {
                *target = json!([]);
            }
            let Some(present) = target.as_array_mut() else {
                return;
            };
            for item in items {
                let key = item_key(&keys, item);
                match present.iter_mut().find(|one| item_key(&keys, one) == key) {
                    Some(known) => merge(shape.item(), known, item),
                    None => present.push(item.clone()),
                }
            }
        }
        (Merge::Set, Value::Array(items)) => {
            if !target.is_array() {
                *target = json!([]);
            }
            let Some(present) = target.as_array_mut() else {
                return;
            };
            for item in items {
                if !present.contains(item) {
                    present.push(item.clone());
                }
            }
        }
        _ => *target = wanted.clone(),
    }
}

/// Removes what the path leads to, and maps that become empty by it.
fn remove(shape: Shape<'_>, value: &mut Value, path: &[String]) {
    let Some((step, rest)) = path.split_first() else {
        return;
    };
    if let Some(name) = step.strip_prefix("f:") {
        let Some(fields) = value.as_object_mut() else {
            return;
        };
        if let (Some(inside), false) = (fields.get_mut(name), rest.is_empty()) {
            remove(shape.field(name), inside, rest);
            let empty = inside.as_object().is_some_and(serde_json::Map::is_empty)
                || inside.as_array().is_some_and(Vec::is_empty);
            if !empty {
                return;
            }
        }
        fields.remove(name);
        return;
    }
    let merge = shape.merge(value);
    let Some(items) = value.as_array_mut() else {
        return;
    };
    let matches = |item: &Value| match &merge {
        Merge::Keyed(keys) => *step == format!("k:{}", item_key(keys, item)),
        _ => *step == format!("v:{item}"),
    };
    if rest.is_empty() {
        items.retain(|item| !matches(item));
    } else if let Some(item) = items.iter_mut().find(|item| matches(item)) {
        remove(shape.item(), item, rest);
    }
}
