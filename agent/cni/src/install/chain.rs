//! A network configuration with our plugin at the end of its chain, or without it: pure functions
//! of text. Other people own the file: their fields, values and order stay.

use super::json::Json;
use crate::{MAX_CONFIG, SUPPORTED_VERSIONS};

/// Type of our plugin, which is the name of its program.
pub(super) const PLUGIN: &str = "culvert-cni";

/// The form of a file, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// `.conflist`: a chain of plugins.
    List,
    /// `.conf` or `.json`: one plugin.
    Single,
}

/// Our entry in a chain. Fields an administrator adds to it stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The agent's socket, as the host sees it.
    pub(super) agent_socket: String,
    /// The agent's list of meshed namespaces, as the host sees it.
    pub(super) meshed_namespaces: String,
    /// Namespaces that never wait for the agent.
    pub(super) exclude_namespaces: Vec<String>,
}

/// Why a file is not one that a chain can be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is not the JSON it should be (yet): a runtime does not take it either.
    #[error("it is no network configuration: {0}")]
    Invalid(String),
    /// It is in order, but speaks a version of CNI that our plugin does not.
    #[error("its cniVersion is {0:?}; culvert-cni speaks 0.3.1, 0.4.0, 1.0.0 and 1.1.0")]
    Version(String),
}

/// The text with our entry last and once; `None` when it is so already.
pub(super) fn chained(text: &str, form: Form, entry: &Entry) -> Result<Option<String>, Unusable> {
    let before = parse(text, form)?;
    let version = before.get("cniVersion").and_then(Json::text);
    let version = version.unwrap_or_default();
    if !SUPPORTED_VERSIONS.contains(&version) {
        return Err(Unusable::Version(version.to_owned()));
    }
    let mut after = match form {
        Form::List => before.clone(),
        Form::Single => listed(before.clone()),
    };
    if let Some(Json::List(plugins)) = after.get_mut("plugins") {
        let old = plugins.iter().position(is_ours);
        let mut ours = old.map_or(Json::Fields(Vec::new()), |at| plugins[at].clone());
        plugins.retain(|plugin| !is_ours(plugin));
        entry.write(&mut ours);
        plugins.push(ours);
    }
    Ok((after != before).then(|| print(&after)))
}

/// The text without our entry; `None` when it has none. A chain of our plugin alone stays.
pub(super) fn unchained(text: &str, form: Form) -> Result<Option<String>, Unusable> {
    let mut json = parse(text, form)?;
    let Some(Json::List(plugins)) = json.get_mut("plugins") else {
        return Ok(None);
    };
    let before = plugins.len();
    plugins.retain(|plugin| !is_ours(plugin));
    let changed = plugins.len() < before && !plugins.is_empty();
    Ok(changed.then(|| print(&json)))
}

impl Entry {
    fn write(&self, plugin: &mut Json) {
        plugin.set("type", PLUGIN.into());
        plugin.set("agentSocket", self.agent_socket.as_str().into());
        plugin.set("meshedNamespaces", self.meshed_namespaces.as_str().into());
        let mut excluded = match plugin.get("excludeNamespaces") {
            Some(Json::List(names)) => names.clone(),
            _ => Vec::new(),
        };
        for name in &self.exclude_namespaces {
            let name = Json::from(name.as_str());
            if !excluded.contains(&name) {
                excluded.push(name);
            }
        }
        if !excluded.is_empty() {
            plugin.set("excludeNamespaces", Json::List(excluded));
        }
    }
}

/// Reads a file as a runtime does: one that it would not take is none.
fn parse(text: &str, form: Form) -> Result<Json, Unusable> {
    let invalid = |why: &str| Unusable::Invalid(why.to_owned());
    if text.len() > MAX_CONFIG {
        return Err(invalid("it is too long"));
    }
    let json: Json = serde_json::from_str(text).map_err(|error| invalid(&error.to_string()))?;
    let filled = |value: &Json, field: &str| {
        let text = value.get(field).and_then(Json::text);
        text.is_some_and(|text| !text.is_empty())
    };
    if !filled(&json, "name") {
        return Err(invalid("it has no name"));
    }
    match form {
        Form::Single if !filled(&json, "type") => Err(invalid("it has no type")),
        Form::Single => Ok(json),
        Form::List => match json.get("plugins") {
            Some(Json::List(plugins)) if plugins.is_empty() => Err(invalid("it has no plugins")),
            Some(Json::List(plugins)) if plugins.iter().all(|one| filled(one, "type")) => Ok(json),
            Some(Json::List(_)) => Err(invalid("one of its plugins has no type")),
            _ => Err(invalid("it has no list of plugins")),
        },
    }
}

/// A list of the one plugin, with the name and version of the network moved up.
fn listed(single: Json) -> Json {
    let Json::Fields(fields) = single else {
        return single;
    };
    let (mut network, plugin): (Vec<_>, Vec<_>) = fields
        .into_iter()
        .partition(|(name, _)| name == "cniVersion" || name == "name");
    network.push(("plugins".to_owned(), Json::List(vec![Json::Fields(plugin)])));
    Json::Fields(network)
}

fn is_ours(plugin: &Json) -> bool {
    plugin.get("type").and_then(Json::text) == Some(PLUGIN)
}

fn print(json: &Json) -> String {
    // Values that were read can be written.
    let mut text = serde_json::to_string_pretty(json).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests;
