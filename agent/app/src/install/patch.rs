//! JSON patches (RFC 6902): add, replace, remove.

use serde::Deserialize;
use serde_json::Value;

/// One operation.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Operation {
    /// Sets a member, or puts an element into a list (`-` is its end).
    Add { path: String, value: Value },
    /// Sets what is there already.
    Replace { path: String, value: Value },
    /// Takes away what is there.
    Remove { path: String },
}

/// Applies one operation; an error names the path.
pub(super) fn apply(document: &mut Value, operation: Operation) -> Result<(), String> {
    match operation {
        Operation::Add { path, value } => add(document, &path, value),
        Operation::Replace { path, value } => {
            *document.pointer_mut(&path).ok_or_else(|| missing(&path))? = value;
            Ok(())
        }
        Operation::Remove { path } => remove(document, &path),
    }
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let (parent, key) = parent(document, path)?;
    match parent {
        Value::Object(fields) => {
            fields.insert(key, value);
        }
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => match key.parse::<usize>() {
            Ok(index) if index <= items.len() => items.insert(index, value),
            _ => return Err(missing(path)),
        },
        _ => return Err(missing(path)),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str) -> Result<(), String> {
    let (parent, key) = parent(document, path)?;
    let removed = match parent {
        Value::Object(fields) => fields.remove(&key),
        Value::Array(items) => match key.parse::<usize>() {
            Ok(index) if index < items.len() => Some(items.remove(index)),
            _ => None,
        },
        _ => None,
    };
    removed.map(drop).ok_or_else(|| missing(path))
}

/// What holds the last part of the path, and that part unescaped (RFC 6901 section 4).
fn parent<'a>(document: &'a mut Value, path: &str) -> Result<(&'a mut Value, String), String> {
    let (parent, key) = path.rsplit_once('/').ok_or_else(|| missing(path))?;
    let key = key.replace("~1", "/").replace("~0", "~");
    let parent = document.pointer_mut(parent).ok_or_else(|| missing(path))?;
    Ok((parent, key))
}

fn missing(path: &str) -> String {
    format!("there is no {path}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(operations: Value) -> Result<Value, String> {
        let mut document = json!({"a": [1, 2], "b": {"c/d": 1}});
        let operations: Vec<Operation> =
            serde_json::from_value(operations).map_err(|error| error.to_string())?;
        for operation in operations {
            apply(&mut document, operation)?;
        }
        Ok(document)
    }

    #[test]
    fn operations_do_what_the_rfc_says() {
        let done = patched(json!([
            {"op": "add", "path": "/a/-", "value": 3},
            {"op": "add", "path": "/a/0", "value": 0},
            {"op": "remove", "path": "/a/1"},
            {"op": "replace", "path": "/b/c~1d", "value": 2},
            {"op": "add", "path": "/b/e~0f", "value": 3},
        ]));
        assert_eq!(
            done.unwrap(),
            json!({"a": [0, 2, 3], "b": {"c/d": 2, "e~f": 3}})
        );
        let whole = patched(json!([{"op": "remove", "path": "/b/c~1d"}]));
        assert_eq!(whole.unwrap(), json!({"a": [1, 2], "b": {}}));
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        for wrong in [
            json!([{"op": "replace", "path": "/x", "value": 1}]),
            json!([{"op": "remove", "path": "/a/2"}]),
            json!([{"op": "remove", "path": "/x"}]),
            json!([{"op": "add", "path": "/a/3", "value": 1}]),
            json!([{"op": "add", "path": "/x/y", "value": 1}]),
            json!([{"op": "add", "path": "", "value": 1}]),
            json!([{"op": "move", "path": "/a", "from": "/b"}]),
        ] {
            assert!(patched(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
