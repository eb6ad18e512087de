//! Who may do what: the rules of `rbac.authorization.k8s.io`, for callers with a service
//! account's token. There is nothing else that allows something to them.

use serde_json::Value;

use super::failure::Failure;
use super::kinds::resource_name;
use super::object::text;
use super::path::ResourcePath;
use super::store::Store;
use super::tokens::Caller;

/// What somebody wants to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) verb: &'a str,
    pub(super) path: &'a ResourcePath,
    /// The object's name, from the path or from a field selector that names one.
    pub(super) name: Option<&'a str>,
}

/// Refuses what no rule allows.
pub(super) fn check(store: &Store, caller: &Caller, attempt: Attempt<'_>) -> Result<(), Failure> {
    let Caller::Account(namespace, account) = caller else {
        return Ok(());
    };
    if allows(store, namespace, account, attempt) {
        return Ok(());
    }
    let path = attempt.path;
    let place = match &path.namespace {
        Some(namespace) => format!("in the namespace \"{namespace}\""),
        None => "at the cluster scope".to_owned(),
    };
    let resource = resource_of(path);
    let message = format!(
        "{} \"{}\" is forbidden: User \"system:serviceaccount:{namespace}:{account}\" cannot {} \
         resource \"{resource}\" in API group \"{}\" {place}",
        resource_name(&path.group, &path.plural),
        attempt.name.unwrap_or_default(),
        attempt.verb,
        path.group,
    );
    Err(Failure::new(403, "Forbidden", message))
}

/// Whether some rule that is bound to the service account allows it.
pub(super) fn allows(store: &Store, namespace: &str, account: &str, attempt: Attempt<'_>) -> bool {
    let everywhere = bindings(store, "clusterrolebindings", None);
    let here = attempt
        .path
        .namespace
        .as_deref()
        .map(|inside| bindings(store, "rolebindings", Some(inside)))
        .unwrap_or_default();
    everywhere
        .into_iter()
        .chain(here)
        .filter(|binding| is_bound(binding, namespace, account))
        .filter_map(|binding| role(store, binding))
        .flat_map(|role| role["rules"].as_array().into_iter().flatten())
        .any(|rule| covers(rule, attempt))
}

fn bindings<'a>(store: &'a Store, plural: &str, namespace: Option<&str>) -> Vec<&'a Value> {
    let resource = format!("{plural}.rbac.authorization.k8s.io");
    let keys = store.keys(&resource, namespace);
    keys.iter()
        .filter_map(|key| store.get(&resource, key))
        .map(AsRef::as_ref)
        .collect()
}

fn is_bound(binding: &Value, namespace: &str, account: &str) -> bool {
    let subjects = binding["subjects"].as_array().into_iter().flatten();
    let user = format!("system:serviceaccount:{namespace}:{account}");
    let group = format!("system:serviceaccounts:{namespace}");
    let everybody = ["system:authenticated", "system:serviceaccounts"];
    subjects.into_iter().any(|subject| {
        let name = text(subject, "/name");
        match text(subject, "/kind") {
            "ServiceAccount" => name == account && subject["namespace"] == namespace,
            "User" => name == user,
            "Group" => name == group || everybody.contains(&name),
            _ => false,
        }
    })
}

fn role<'a>(store: &'a Store, binding: &Value) -> Option<&'a Value> {
    let name = text(binding, "/roleRef/name").to_owned();
    let (resource, namespace) = match text(binding, "/roleRef/kind") {
        "ClusterRole" => ("clusterroles", ""),
        _ => ("roles", text(binding, "/metadata/namespace")),
    };
    let resource = format!("{resource}.rbac.authorization.k8s.io");
    store
        .get(&resource, &(namespace.to_owned(), name))
        .map(AsRef::as_ref)
}

fn covers(rule: &Value, attempt: Attempt<'_>) -> bool {
    let path = attempt.path;
    let has = |field: &str, wanted: &str| {
        let listed = rule[field].as_array().into_iter().flatten();
        listed
            .into_iter()
            .any(|word| *word == wanted || *word == "*")
    };
    let resource = resource_of(path);
    let any_subresource = path
        .subresource
        .as_ref()
        .is_some_and(|subresource| has("resources", &format!("*/{subresource}")));
    let names = rule["resourceNames"].as_array();
    has("verbs", attempt.verb)
        && has("apiGroups", &path.group)
        && (has("resources", &resource) || any_subresource)
        && names.is_none_or(|names| {
            names.is_empty()
                || attempt
                    .name
                    .is_some_and(|name| names.iter().any(|one| one == name))
        })
}

fn resource_of(path: &ResourcePath) -> String {
    match &path.subresource {
        Some(subresource) => format!("{}/{subresource}", path.plural),
        None => path.plural.clone(),
    }
}
