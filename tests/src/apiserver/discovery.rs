//! Discovery documents: what clients ask to learn which resources there are.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::failure::Failure;
use super::kinds::{Kind, Kinds};

/// The version whose behaviour the fixture follows.
pub(super) fn version() -> Value {
    json!({
        "major": "1",
        "minor": "33",
        "gitVersion": "v1.33.0",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "2025-04-23T00:00:00Z",
        "goVersion": "none: a test fixture",
        "compiler": "none",
        "platform": "linux/amd64",
    })
}

pub(super) fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

pub(super) fn groups(kinds: &Kinds) -> Value {
    let groups: Vec<Value> = by_group(kinds)
        .into_iter()
        .map(|(name, versions)| describe(&name, &versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

pub(super) fn group(kinds: &Kinds, name: &str) -> Result<Value, Failure> {
    let groups = by_group(kinds);
    let versions = groups.get(name).ok_or_else(Failure::no_such_path)?;
    let mut group = describe(name, versions);
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    Ok(group)
}

pub(super) fn resources(kinds: &Kinds, group: &str, version: &str) -> Result<Value, Failure> {
    let mut resources: Vec<Value> = served(kinds, group, version)
        .flat_map(|kind| kind.describe())
        .collect();
    resources.extend(questions(group, version));
    if resources.is_empty() {
        return Err(Failure::no_such_path());
    }
    Ok(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version(group, version),
        "resources": resources,
    }))
}

/// Which OpenAPI documents there are.
pub(super) fn openapi(kinds: &Kinds) -> Value {
    let mut paths = json!({});
    let mut add = |path: String| {
        paths[&path] = json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash=fixture")});
    };
    add("api/v1".to_owned());
    for (group, versions) in by_group(kinds) {
        for version in versions {
            add(format!("apis/{group}/{version}"));
        }
    }
    json!({"paths": paths})
}

/// One OpenAPI document: paths and the parameters of patches, which is how a client learns that
/// dry runs and field validation are known. No schemas.
pub(super) fn openapi_document(kinds: &Kinds, path: &str) -> Result<Value, Failure> {
    let words: Vec<&str> = path.split('/').collect();
    let (group, version) = match words.as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return Err(Failure::no_such_path()),
    };
    let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
    let mut paths = json!({});
    for kind in served(kinds, group, version) {
        let inside = if kind.namespaced {
            "namespaces/{namespace}/"
        } else {
            ""
        };
        let address = format!("/{path}/{inside}{}/{{name}}", kind.plural);
        paths[address] = json!({"patch": {
            "parameters": [parameter("dryRun"), parameter("fieldValidation")],
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": "patch",
            "x-kubernetes-group-version-kind": {
                "group": group,
                "version": version,
                "kind": kind.kind,
            },
        }});
    }
    Ok(json!({
        "openapi": "3.0.0",
        "info": {"title": "Culvert's API server fixture", "version": "v1.33.0"},
        "paths": paths,
        "components": {"schemas": {}},
    }))
}

fn served<'a>(
    kinds: &'a Kinds,
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'a Kind> {
    kinds
        .all()
        .iter()
        .map(AsRef::as_ref)
        .filter(move |kind: &&Kind| {
            kind.group == group && kind.versions.iter().any(|one| one == version)
        })
}

/// Groups but the core, with their versions, preferred ones first.
fn by_group(kinds: &Kinds) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for group in ["authentication.k8s.io", "authorization.k8s.io"] {
        groups.insert(group.to_owned(), vec!["v1".to_owned()]);
    }
    for kind in kinds.all().iter().filter(|kind| !kind.group.is_empty()) {
        let versions = groups.entry(kind.group.clone()).or_default();
        for version in &kind.versions {
            if !versions.contains(version) {
                versions.push(version.clone());
            }
        }
    }
    groups
}

fn describe(name: &str, versions: &[String]) -> Value {
    let entry = |version: &String| json!({"groupVersion": group_version(name, version), "version": version});
    json!({
        "name": name,
        "versions": versions.iter().map(entry).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(entry),
    })
}

/// Resources that are questions: they can only be created.
fn questions(group: &str, version: &str) -> Vec<Value> {
    let question = |name: &str, kind: &str, namespaced: bool| {
        json!({
            "name": name,
            "singularName": "",
            "namespaced": namespaced,
            "kind": kind,
            "verbs": ["create"],
        })
    };
    match (group, version) {
        ("authentication.k8s.io", "v1") => vec![question("tokenreviews", "TokenReview", false)],
        ("authorization.k8s.io", "v1") => vec![question(
            "selfsubjectaccessreviews",
            "SelfSubjectAccessReview",
            false,
        )],
        ("", "v1") => {
            let mut token = question("serviceaccounts/token", "TokenRequest", true);
            token["group"] = json!("authentication.k8s.io");
            token["version"] = json!("v1");
            vec![token]
        }
        _ => Vec::new(),
    }
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}
