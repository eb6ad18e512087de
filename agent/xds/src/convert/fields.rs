//! Checks of single fields.

use std::net::IpAddr;
use std::sync::Arc;

use crate::Error;

/// Longest host name or Kubernetes name, in bytes (RFC 1035 section 2.3.4).
pub(crate) const MAX_NAME: usize = 253;
/// Longest uid, identity, or string a policy compares with, in bytes.
pub(crate) const MAX_STRING: usize = 2048;
/// Most elements of any list in a workload or service, and of each list in a policy.
pub(crate) const MAX_LIST: usize = 10_000;

/// A string of at most `limit` bytes without control characters, which would corrupt logs.
pub(crate) fn text<'a>(
    field: &'static str,
    value: &'a str,
    limit: usize,
) -> Result<&'a str, Error> {
    if value.len() > limit {
        return Err(Error::TooLarge {
            field,
            found: value.len(),
            limit,
        });
    }
    if value.chars().any(char::is_control) {
        return Err(invalid(field, "control character"));
    }
    Ok(value)
}

/// A name; may be empty.
pub(crate) fn name(field: &'static str, value: &str) -> Result<Arc<str>, Error> {
    text(field, value, MAX_NAME).map(Arc::from)
}

/// A name that must be there.
pub(crate) fn required(field: &'static str, value: &str) -> Result<Arc<str>, Error> {
    if value.is_empty() {
        return Err(Error::Missing(field));
    }
    name(field, value)
}

/// A name with a default for the empty one.
pub(crate) fn name_or(field: &'static str, value: &str, default: &str) -> Result<Arc<str>, Error> {
    name(field, if value.is_empty() { default } else { value })
}

/// Converts each element of a bounded list.
pub(crate) fn list<T, U>(
    field: &'static str,
    values: &[T],
    convert: impl Fn(&T) -> Result<U, Error>,
) -> Result<Vec<U>, Error> {
    bounded(field, values.len())?;
    values.iter().map(convert).collect()
}

/// Refuses lists that are too long.
pub(crate) fn bounded(field: &'static str, found: usize) -> Result<(), Error> {
    if found > MAX_LIST {
        return Err(Error::TooLarge {
            field,
            found,
            limit: MAX_LIST,
        });
    }
    Ok(())
}

/// 4 or 16 bytes in network order. IPv4 in IPv6 form becomes IPv4, the one form that lookups use.
pub(crate) fn address(field: &'static str, bytes: &[u8]) -> Result<IpAddr, Error> {
    let ip = if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        IpAddr::from(v4)
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        IpAddr::from(v6)
    } else {
        return Err(invalid(
            field,
            format!("an address has 4 or 16 bytes, not {}", bytes.len()),
        ));
    };
    Ok(ip.to_canonical())
}

/// The bytes of an address.
pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// A port or 0.
pub(crate) fn port_or_zero(field: &'static str, value: u32) -> Result<u16, Error> {
    u16::try_from(value).map_err(|_| invalid(field, format!("{value} is not a port")))
}

/// A port.
pub(crate) fn port(field: &'static str, value: u32) -> Result<u16, Error> {
    match port_or_zero(field, value)? {
        0 => Err(invalid(field, "0 is not a port")),
        port => Ok(port),
    }
}

/// An enum value, by the table of what it means.
pub(crate) fn known<W: TryFrom<i32>, M>(
    field: &'static str,
    value: i32,
    meaning: impl FnOnce(W) -> Option<M>,
) -> Result<M, Error> {
    W::try_from(value)
        .ok()
        .and_then(meaning)
        .ok_or_else(|| Error::UnknownEnum(format!("{field} {value}")))
}

pub(crate) fn invalid(field: &'static str, why: impl Into<String>) -> Error {
    Error::Invalid {
        field,
        why: why.into(),
    }
}
