//! The part of kustomize that our manifests use: `resources` in order, then JSON patches. Anything
//! else in a kustomization is an error rather than left out; a test compares with kubectl's own.

use serde::Deserialize;
use serde_json::Value;

use super::InstallError;
use super::files::Files;
use super::patch::{self, Operation};

/// Kustomizations that may lie below one another.
const MAX_DEPTH: usize = 8;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kustomization {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    patches: Vec<Patch>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    target: Target,
    /// YAML list of RFC 6902 operations.
    patch: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    kind: String,
    name: String,
}

impl Target {
    fn is(&self, object: &Value) -> bool {
        object["kind"] == self.kind.as_str() && object["metadata"]["name"] == self.name.as_str()
    }
}

/// The objects of the kustomization in `directory` (`""` is the top).
pub(super) fn build(files: Files, directory: &str) -> Result<Vec<Value>, InstallError> {
    build_at(files, directory, 0)
}

fn build_at(files: Files, directory: &str, depth: usize) -> Result<Vec<Value>, InstallError> {
    let file = join(directory, "kustomization.yaml");
    if depth > MAX_DEPTH {
        return Err(embedded(&file, &"kustomizations name each other"));
    }
    let kustomization: Kustomization =
        serde_saphyr::from_str(find(files, &file)?).map_err(|error| embedded(&file, &error))?;
    let mut objects = Vec::new();
    for resource in &kustomization.resources {
        let path = join(directory, resource);
        if path.ends_with(".yaml") {
            objects.extend(documents(files, &path)?);
        } else {
            objects.extend(build_at(files, &path, depth + 1)?);
        }
    }
    for patch in &kustomization.patches {
        let operations: Vec<Operation> =
            serde_saphyr::from_str(&patch.patch).map_err(|error| embedded(&file, &error))?;
        let mut targets = objects.iter_mut().filter(|object| patch.target.is(object));
        let (Some(target), None) = (targets.next(), targets.next()) else {
            let target = &patch.target;
            let problem = format!("a patch is for one {} {}", target.kind, target.name);
            return Err(embedded(&file, &problem));
        };
        for operation in operations {
            patch::apply(target, operation).map_err(|problem| embedded(&file, &problem))?;
        }
    }
    Ok(objects)
}

/// The objects of one file.
fn documents(files: Files, path: &str) -> Result<Vec<Value>, InstallError> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(find(files, path)?).map_err(|error| embedded(path, &error))?;
    Ok(documents)
}

fn find(files: Files, path: &str) -> Result<&'static str, InstallError> {
    let found = files.iter().find(|(known, _)| *known == path);
    let (_, text) = found.ok_or_else(|| embedded(path, &"it is missing"))?;
    Ok(text)
}

/// `relative` as seen from `directory`, with `..` resolved.
fn join(directory: &str, relative: &str) -> String {
    let mut parts: Vec<&str> = directory
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

fn embedded(file: &str, problem: &dyn std::fmt::Display) -> InstallError {
    InstallError::Embedded {
        file: file.to_owned(),
        problem: problem.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_resolved() {
        assert_eq!(join("overlays/kind", "../../base"), "base");
        assert_eq!(join("", "base"), "base");
        assert_eq!(join("base", "./control.yaml"), "base/control.yaml");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        const HEAD: &str = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n";
        let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
        let build_of = |rest: &str| {
            let text = leak(format!("{HEAD}{rest}"));
            let files = vec![
                ("kustomization.yaml", text),
                ("a.yaml", "kind: A\nmetadata: {name: a}\n"),
            ];
            build(Box::leak(files.into_boxed_slice()), "")
        };
        assert_eq!(build_of("resources: [a.yaml]\n").unwrap().len(), 1);
        for wrong in [
            "namePrefix: x\n",
            "resources: [b.yaml]\n",
            "resources: [.]\n",
            "resources: [a.yaml]\npatches: [{target: {kind: B, name: a}, patch: '[]'}]\n",
            "resources: [a.yaml]\npatches: [{target: {kind: A, name: a}, patch: '[{op: remove, path: /x}]'}]\n",
        ] {
            assert!(build_of(wrong).is_err(), "{wrong}");
        }
    }
}
