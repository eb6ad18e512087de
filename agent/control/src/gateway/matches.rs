//! What rules match.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use agent_model::gateway::{HttpMatch, NamedMatch, PathMatch, ValueMatch};
use agent_policy::pattern::{self, UnusablePattern};

use crate::source::Kind;
use crate::source::gateway_api::{self as api, GrpcMethod, MatchSpec, MethodSpec};

/// Translates a match of an HTTPRoute or GRPCRoute. What is not known is an error: a match that
/// was left out would match more, not less.
pub(super) fn translate(kind: Kind, spec: &MatchSpec) -> Result<HttpMatch, String> {
    let mut found = HttpMatch {
        headers: named(&spec.headers, true)?,
        query: named(&spec.query_params, false)?,
        ..HttpMatch::default()
    };
    match &spec.method {
        None => {}
        Some(MethodSpec::Http(method)) if kind == Kind::HTTPRoute => {
            found.method = Some(method.as_str().into());
        }
        Some(MethodSpec::Grpc(method)) if kind == Kind::GRPCRoute => {
            found.path = grpc_path(method)?;
        }
        Some(_) => return Err("method: of another kind of route".to_owned()),
    }
    if let Some(path) = &spec.path {
        found.path = path_match(path)?;
    }
    Ok(found)
}

fn path_match(path: &api::PathSpec) -> Result<PathMatch, String> {
    let value = path.value.as_deref().unwrap_or("/");
    match path.kind.as_str() {
        "" | "PathPrefix" if value.starts_with('/') => Ok(PathMatch::Prefix(value.into())),
        "Exact" if value.starts_with('/') => Ok(PathMatch::Exact(value.into())),
        "RegularExpression" => Ok(PathMatch::Regex(checked(value)?)),
        "" | "PathPrefix" | "Exact" => Err(format!("path {value:?} does not begin with '/'")),
        kind => Err(format!("path.type {kind:?} is not supported")),
    }
}

fn grpc_path(method: &GrpcMethod) -> Result<PathMatch, String> {
    let (service, name) = (method.service.as_str(), method.method.as_str());
    match (method.kind.as_str(), service, name) {
        (_, "", "") => Err("method: neither service nor method".to_owned()),
        ("" | "Exact", service, "") => Ok(PathMatch::Prefix(format!("/{service}").into())),
        ("" | "Exact", "", name) => {
            checked(&format!("/[^/]+/{}", escaped(name))).map(PathMatch::Regex)
        }
        ("" | "Exact", service, name) => Ok(PathMatch::Exact(format!("/{service}/{name}").into())),
        ("RegularExpression", service, name) => {
            // Each by itself first: a stray parenthesis would be something else in the whole.
            let any = |pattern: &str| match pattern {
                "" => Ok("[^/]+".to_owned()),
                pattern => checked(pattern).map(|pattern| format!("(?:{pattern})")),
            };
            checked(&format!("/{}/{}", any(service)?, any(name)?)).map(PathMatch::Regex)
        }
        (kind, ..) => Err(format!("method.type {kind:?} is not supported")),
    }
}

/// AND. Of several entries for one name the first counts; names of headers are lower case.
fn named(specs: &[api::ValueMatch], is_header: bool) -> Result<Vec<NamedMatch>, String> {
    let mut found: Vec<NamedMatch> = Vec::with_capacity(specs.len());
    for spec in specs {
        let name: Arc<str> = if is_header {
            spec.name.to_ascii_lowercase().into()
        } else {
            spec.name.as_str().into()
        };
        if name.is_empty() {
            return Err("a match without a name".to_owned());
        }
        let value = match spec.kind.as_str() {
            "" | "Exact" => ValueMatch::Exact(spec.value.as_str().into()),
            "RegularExpression" => ValueMatch::Regex(checked(&spec.value)?),
            kind => return Err(format!("type {kind:?} of {name:?} is not supported")),
        };
        if found.iter().all(|of| of.name != name) {
            found.push(NamedMatch { name, value });
        }
    }
    Ok(found)
}

/// A regular expression that a gateway takes.
fn checked(pattern: &str) -> Result<Arc<str>, String> {
    verdict(pattern).map_err(|unusable| format!("{}: {unusable}", excerpt(pattern)))?;
    Ok(pattern.into())
}

/// Verdicts that are remembered.
const MAX_KNOWN: usize = 4096;

/// What [`pattern::whole`] says of a pattern. Every route is translated anew after each change, and
/// to compile all their patterns again would take longer than all the rest.
fn verdict(text: &str) -> Result<(), UnusablePattern> {
    type Known = HashMap<Arc<str>, Result<(), UnusablePattern>>;
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    if text.len() > pattern::MAX_PATTERN_BYTES {
        return Err(UnusablePattern::TooLong(text.len()));
    }
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(verdict) = known().get(text) {
        return verdict.clone();
    }
    let verdict = pattern::whole(text).map(drop);
    let mut known = known();
    if known.len() >= MAX_KNOWN {
        known.clear();
    }
    known.insert(text.into(), verdict.clone());
    verdict
}

/// As much of a pattern as a message has room for.
fn excerpt(pattern: &str) -> String {
    const MOST: usize = 64;
    match pattern.floor_char_boundary(MOST) {
        end if end < pattern.len() => format!("{:?}...", &pattern[..end]),
        _ => format!("{pattern:?}"),
    }
}

fn escaped(text: &str) -> String {
    regex_syntax::escape(text)
}
