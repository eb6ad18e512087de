//! What a request's path and query ask for.

use std::collections::BTreeMap;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// `/healthz`, `/livez`, `/readyz`.
    Health,
    /// `/version`.
    Version,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/GROUP`.
    Group(String),
    /// `/api/v1` or `/apis/GROUP/VERSION`.
    GroupVersion(String, String),
    /// `/openapi/v3`, or one document of it.
    OpenApi(Option<String>),
    /// A collection, an object or a subresource.
    Resource(ResourcePath),
    /// `/fixture/WORDS`: controls of the fixture itself.
    Fixture(Vec<String>),
    /// Anything else.
    Unknown,
}

/// A collection, an object, or a subresource of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ResourcePath {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) namespace: Option<String>,
    pub(super) plural: String,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

impl Target {
    pub(super) fn parse(path: &str) -> Self {
        let words: Vec<String> = path
            .split('/')
            .filter(|word| !word.is_empty())
            .map(decode)
            .collect();
        let borrowed: Vec<&str> = words.iter().map(String::as_str).collect();
        match borrowed.as_slice() {
            ["healthz" | "livez" | "readyz", ..] => Self::Health,
            ["version"] => Self::Version,
            ["api"] => Self::CoreVersions,
            ["apis"] => Self::Groups,
            ["apis", group] => Self::Group((*group).to_owned()),
            ["api", version] => Self::GroupVersion(String::new(), (*version).to_owned()),
            ["apis", group, version] => {
                Self::GroupVersion((*group).to_owned(), (*version).to_owned())
            }
            ["openapi", "v3"] => Self::OpenApi(None),
            ["openapi", "v3", rest @ ..] => Self::OpenApi(Some(rest.join("/"))),
            ["api", version, rest @ ..] => resource("", version, rest),
            ["apis", group, version, rest @ ..] => resource(group, version, rest),
            ["fixture", ..] => Self::Fixture(words[1..].to_vec()),
            _ => Self::Unknown,
        }
    }
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Target {
    let owned = |word: &&str| Some((*word).to_owned());
    let mut path = ResourcePath {
        group: group.to_owned(),
        version: version.to_owned(),
        ..ResourcePath::default()
    };
    let words = match rest {
        // Subresources of a namespace, not collections in one.
        ["namespaces", _, "status" | "finalize"] if group.is_empty() => rest,
        ["namespaces", namespace, inside @ ..] if !inside.is_empty() => {
            path.namespace = owned(namespace);
            inside
        }
        _ => rest,
    };
    match words {
        [plural] => path.plural = (*plural).to_owned(),
        [plural, name] => {
            path.plural = (*plural).to_owned();
            path.name = owned(name);
        }
        [plural, name, subresource] => {
            path.plural = (*plural).to_owned();
            path.name = owned(name);
            path.subresource = owned(subresource);
        }
        _ => return Target::Unknown,
    }
    Target::Resource(path)
}

fn decode(word: &str) -> String {
    // A plus sign means itself in a path.
    let word = word.replace('+', "%2B");
    form_urlencoded::parse(word.as_bytes())
        .next()
        .map_or_else(String::new, |(name, _)| name.into_owned())
}

/// The parameters of a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self(pairs.into_owned().collect())
    }

    /// The value, none when absent or empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.0
            .get(name)
            .is_some_and(|value| matches!(value.as_str(), "true" | "1" | ""))
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }
}
