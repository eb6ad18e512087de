//! Rules of a route.

use agent_model::gateway::{
    BackendRef, HttpMatch, HttpRule, L4Rule, NamedMatch, PathMatch, Persistence, Retry,
    SessionPersistence, Timeouts, ValueMatch, WeightedTarget,
};
use proto::gateway as wire;

use super::super::fields::invalid;
use super::filter::{decode_filter, encode_filter};
use super::{
    decode_target, encode_target, limit, milliseconds, needed, optional, parts, text_of, value,
};
use crate::Error;

/// Most attempts a retry may ask for: each holds the request in memory once more.
const MAX_ATTEMPTS: u32 = 100;

pub(super) fn decode_http_rule(message: &wire::HttpRule) -> Result<HttpRule, Error> {
    let persistence = message.session_persistence.as_ref();
    Ok(HttpRule {
        name: optional("rule name", &message.name)?,
        matches: parts("matches", &message.matches, decode_match)?,
        filters: parts("filters", &message.filters, decode_filter)?,
        timeouts: Timeouts {
            request: limit(message.request_timeout_ms),
            backend_request: limit(message.backend_request_timeout_ms),
        },
        retry: message.retry.as_ref().map(decode_retry).transpose()?,
        session_persistence: persistence.map(decode_persistence).transpose()?,
        backends: parts("backends", &message.backends, decode_backend_ref)?,
    })
}

pub(super) fn encode_http_rule(rule: &HttpRule) -> wire::HttpRule {
    wire::HttpRule {
        name: text_of(rule.name.as_ref()),
        matches: rule.matches.iter().map(encode_match).collect(),
        filters: rule.filters.iter().map(encode_filter).collect(),
        request_timeout_ms: milliseconds(rule.timeouts.request),
        backend_request_timeout_ms: milliseconds(rule.timeouts.backend_request),
        retry: rule.retry.as_ref().map(encode_retry),
        session_persistence: rule.session_persistence.as_ref().map(encode_persistence),
        backends: rule.backends.iter().map(encode_backend_ref).collect(),
    }
}

pub(super) fn decode_l4_rule(message: &wire::L4Rule) -> Result<L4Rule, Error> {
    Ok(L4Rule {
        name: optional("rule name", &message.name)?,
        backends: parts("backends", &message.backends, |backend| {
            Ok(WeightedTarget {
                weight: backend.weight,
                target: decode_target(backend.target.as_ref())?,
            })
        })?,
    })
}

pub(super) fn encode_l4_rule(rule: &L4Rule) -> wire::L4Rule {
    let backend = |backend: &WeightedTarget| wire::WeightedTarget {
        weight: backend.weight,
        target: Some(encode_target(&backend.target)),
    };
    wire::L4Rule {
        name: text_of(rule.name.as_ref()),
        backends: rule.backends.iter().map(backend).collect(),
    }
}

fn decode_match(message: &wire::HttpMatch) -> Result<HttpMatch, Error> {
    use wire::http_match::Path;
    let path = match message.path.as_ref().ok_or(Error::Missing("path"))? {
        Path::Exact(path) => PathMatch::Exact(needed("path", path)?),
        Path::Prefix(path) => PathMatch::Prefix(needed("path", path)?),
        Path::Regex(path) => PathMatch::Regex(needed("path", path)?),
    };
    Ok(HttpMatch {
        path,
        method: optional("method", &message.method)?,
        headers: parts("headers", &message.headers, decode_named)?,
        query: parts("query", &message.query, decode_named)?,
    })
}

fn encode_match(matches: &HttpMatch) -> wire::HttpMatch {
    use wire::http_match::Path;
    let path = match &matches.path {
        PathMatch::Exact(path) => Path::Exact(path.to_string()),
        PathMatch::Prefix(path) => Path::Prefix(path.to_string()),
        PathMatch::Regex(path) => Path::Regex(path.to_string()),
    };
    wire::HttpMatch {
        path: Some(path),
        method: text_of(matches.method.as_ref()),
        headers: matches.headers.iter().map(encode_named).collect(),
        query: matches.query.iter().map(encode_named).collect(),
    }
}

fn decode_named(message: &wire::NamedMatch) -> Result<NamedMatch, Error> {
    use wire::named_match::Value;
    let content = message.value.as_ref();
    Ok(NamedMatch {
        name: needed("match name", &message.name)?,
        value: match content.ok_or(Error::Missing("match value"))? {
            Value::Exact(content) => ValueMatch::Exact(value("match value", content)?),
            Value::Regex(content) => ValueMatch::Regex(value("match value", content)?),
        },
    })
}

fn encode_named(named: &NamedMatch) -> wire::NamedMatch {
    use wire::named_match::Value;
    wire::NamedMatch {
        name: named.name.to_string(),
        value: Some(match &named.value {
            ValueMatch::Exact(value) => Value::Exact(value.to_string()),
            ValueMatch::Regex(value) => Value::Regex(value.to_string()),
        }),
    }
}

fn decode_retry(message: &wire::Retry) -> Result<Retry, Error> {
    Ok(Retry {
        codes: parts("retry codes", &message.codes, |code| status(*code))?,
        attempts: attempts(message.attempts)?,
        backoff: limit(message.backoff_ms),
    })
}

/// Attempts of a retry.
pub(super) fn attempts(attempts: u32) -> Result<u32, Error> {
    if attempts > MAX_ATTEMPTS {
        return Err(Error::TooLarge {
            field: "retry attempts",
            found: attempts as usize,
            limit: MAX_ATTEMPTS as usize,
        });
    }
    Ok(attempts)
}

fn encode_retry(retry: &Retry) -> wire::Retry {
    wire::Retry {
        codes: retry.codes.iter().map(|code| u32::from(*code)).collect(),
        attempts: retry.attempts,
        backoff_ms: milliseconds(retry.backoff),
    }
}

/// An HTTP status code.
pub(super) fn status(code: u32) -> Result<u16, Error> {
    match u16::try_from(code) {
        Ok(code @ 100..=599) => Ok(code),
        _ => Err(invalid("status", format!("{code} is not a status code"))),
    }
}

pub(super) fn decode_persistence(
    message: &wire::SessionPersistence,
) -> Result<SessionPersistence, Error> {
    use wire::session_persistence::Kind;
    let kind = message.kind.as_ref();
    Ok(SessionPersistence {
        name: needed("session name", &message.name)?,
        kind: match kind.ok_or(Error::Missing("session kind"))? {
            Kind::Cookie(cookie) => Persistence::Cookie {
                permanent: cookie.permanent,
            },
            Kind::Header(_) => Persistence::Header,
        },
        absolute_timeout: limit(message.absolute_timeout_ms),
        idle_timeout: limit(message.idle_timeout_ms),
    })
}

pub(super) fn encode_persistence(persistence: &SessionPersistence) -> wire::SessionPersistence {
    use wire::session_persistence::{Cookie, Header, Kind};
    wire::SessionPersistence {
        name: persistence.name.to_string(),
        kind: Some(match persistence.kind {
            Persistence::Cookie { permanent } => Kind::Cookie(Cookie { permanent }),
            Persistence::Header => Kind::Header(Header {}),
        }),
        absolute_timeout_ms: milliseconds(persistence.absolute_timeout),
        idle_timeout_ms: milliseconds(persistence.idle_timeout),
    }
}

fn decode_backend_ref(message: &wire::BackendRef) -> Result<BackendRef, Error> {
    Ok(BackendRef {
        weight: message.weight,
        target: decode_target(message.target.as_ref())?,
        filters: parts("backend filters", &message.filters, decode_filter)?,
    })
}

fn encode_backend_ref(backend: &BackendRef) -> wire::BackendRef {
    wire::BackendRef {
        weight: backend.weight,
        target: Some(encode_target(&backend.target)),
        filters: backend.filters.iter().map(encode_filter).collect(),
    }
}
