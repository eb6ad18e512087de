//! What a gateway is told: listeners, routes and backends. Our own messages, so unknown enums and
//! missing parts mean another release: the resource is refused and the last good one stays.

mod access;
mod authentication;
mod backend;
mod filter;
mod listener;
mod matcher;
mod route;
mod rule;
#[cfg(test)]
mod tests;
mod traffic;

pub use access::policy_name;
pub(crate) use access::{decode_access, encode_access};
pub(crate) use authentication::{decode_authentication, encode_authentication};
pub use backend::backend_name;
pub(crate) use backend::{decode_backend, encode_backend};
pub(crate) use listener::{decode_gateway, encode_gateway};
pub use route::route_name;
pub(crate) use route::{decode_route, encode_route};
pub(crate) use traffic::{decode_traffic, encode_traffic};

use std::sync::Arc;
use std::time::Duration;

use agent_model::NamespacedHostname;
use agent_model::gateway::{BackendProtocol, GatewayKey, Target};
use proto::gateway as wire;

use super::fields::{MAX_STRING, invalid, known, port, required, text};
use crate::Error;

/// Longest certificate chain, key or bundle of roots, in bytes of PEM.
const MAX_PEM: usize = 1024 * 1024;
/// Longest text of a matcher or header value, in bytes.
const MAX_VALUE: usize = 8 * 1024;
/// Most elements of any list in a route.
const MAX_PARTS: usize = 1024;

/// Converts each element of a list that people write.
fn parts<T, U>(
    field: &'static str,
    values: &[T],
    convert: impl Fn(&T) -> Result<U, Error>,
) -> Result<Vec<U>, Error> {
    if values.len() > MAX_PARTS {
        return Err(Error::TooLarge {
            field,
            found: values.len(),
            limit: MAX_PARTS,
        });
    }
    values.iter().map(convert).collect()
}

/// `namespace/name` of a gateway.
fn gateway_key(value: &str) -> Result<GatewayKey, Error> {
    let (namespace, name) = value
        .split_once('/')
        .ok_or_else(|| invalid("gateway", "not namespace/name"))?;
    Ok(GatewayKey {
        namespace: required("gateway namespace", namespace)?,
        name: required("gateway name", name)?,
    })
}

fn decode_service(message: Option<&wire::Service>) -> Result<NamespacedHostname, Error> {
    let message = message.ok_or(Error::Missing("service"))?;
    Ok(NamespacedHostname {
        namespace: required("service namespace", &message.namespace)?,
        hostname: required("service hostname", &message.hostname)?,
    })
}

fn encode_service(service: &NamespacedHostname) -> wire::Service {
    wire::Service {
        namespace: service.namespace.to_string(),
        hostname: service.hostname.to_string(),
    }
}

fn decode_target(message: Option<&wire::Target>) -> Result<Target, Error> {
    use wire::target::Target as Wire;
    let target = message.and_then(|message| message.target.as_ref());
    match target.ok_or(Error::Missing("target"))? {
        Wire::Service(message) => Ok(Target::Service {
            service: decode_service(message.service.as_ref())?,
            port: port("target port", message.port)?,
            protocol: known("protocol", message.protocol, |protocol| match protocol {
                wire::BackendProtocol::BackendHttp => Some(BackendProtocol::Http),
                wire::BackendProtocol::BackendH2c => Some(BackendProtocol::H2c),
                wire::BackendProtocol::Unspecified => None,
            })?,
        }),
        Wire::Invalid(why) => Ok(Target::Invalid(shared("invalid target", why, MAX_STRING)?)),
    }
}

fn encode_target(target: &Target) -> wire::Target {
    use wire::target::Target as Wire;
    let target = match target {
        Target::Service {
            service,
            port,
            protocol,
        } => Wire::Service(wire::ServiceTarget {
            service: Some(encode_service(service)),
            port: u32::from(*port),
            protocol: match protocol {
                BackendProtocol::Http => wire::BackendProtocol::BackendHttp,
                BackendProtocol::H2c => wire::BackendProtocol::BackendH2c,
            }
            .into(),
        }),
        Target::Invalid(why) => Wire::Invalid(why.to_string()),
    };
    wire::Target {
        target: Some(target),
    }
}

/// A string without control characters.
fn shared(field: &'static str, value: &str, limit: usize) -> Result<Arc<str>, Error> {
    text(field, value, limit).map(Arc::from)
}

/// A string of matchers, paths and header values, without control characters.
fn value(field: &'static str, content: &str) -> Result<Arc<str>, Error> {
    shared(field, content, MAX_VALUE)
}

/// A string that must be there.
fn needed(field: &'static str, content: &str) -> Result<Arc<str>, Error> {
    if content.is_empty() {
        return Err(Error::Missing(field));
    }
    value(field, content)
}

/// A string, or nothing where it is empty.
fn optional(field: &'static str, content: &str) -> Result<Option<Arc<str>>, Error> {
    (!content.is_empty())
        .then(|| value(field, content))
        .transpose()
}

fn text_of(value: Option<&Arc<str>>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// A time limit in milliseconds; 0 is none.
fn limit(milliseconds: u64) -> Option<Duration> {
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
}

/// A time in milliseconds, rounded up so that a short one does not become none.
fn milliseconds(duration: Option<Duration>) -> u64 {
    duration.map_or(0, |duration| {
        let whole = duration.as_nanos().div_ceil(1_000_000);
        u64::try_from(whole).unwrap_or(u64::MAX)
    })
}

/// PEM text.
fn pem(field: &'static str, content: &str) -> Result<Arc<str>, Error> {
    if content.is_empty() {
        return Err(Error::Missing(field));
    }
    if content.len() > MAX_PEM {
        return Err(Error::TooLarge {
            field,
            found: content.len(),
            limit: MAX_PEM,
        });
    }
    Ok(content.into())
}
