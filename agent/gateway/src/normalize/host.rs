//! The normal form of hosts.

use std::borrow::Cow;

use super::Malformed;

/// A host without its port, in lower case and without a closing dot, and the port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host<'a> {
    /// Name or address; an IPv6 address keeps its brackets.
    pub name: Cow<'a, str>,
    /// Port, when one was written.
    pub port: Option<u16>,
}

/// The longest DNS name.
const LONGEST: usize = 253;

/// Reads how a request names its host, which HTTP/1.0 need not do: then `raw` is empty, and so is the name.
pub fn named_host(raw: &str) -> Result<Host<'_>, Malformed> {
    match raw {
        "" => Ok(Host {
            name: Cow::Borrowed(""),
            port: None,
        }),
        raw => host(raw),
    }
}

/// Reads a Host header or an authority. Borrows when it is in its normal form already.
pub fn host(raw: &str) -> Result<Host<'_>, Malformed> {
    let (name, port) = split(raw)?;
    let name = name.strip_suffix('.').unwrap_or(name);
    if !is_name(name) {
        return Err(Malformed::BadHost);
    }
    let name = match name.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    };
    Ok(Host { name, port })
}

fn split(raw: &str) -> Result<(&str, Option<u16>), Malformed> {
    let colon = match raw.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']').ok_or(Malformed::BadHost)? + 2;
            match raw.as_bytes().get(end) {
                None => return Ok((raw, None)),
                Some(b':') => end,
                Some(_) => return Err(Malformed::BadHost),
            }
        }
        None => match raw.find(':') {
            None => return Ok((raw, None)),
            Some(colon) => colon,
        },
    };
    let digits = &raw[colon + 1..];
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Malformed::BadHost);
    }
    let port = digits.parse().map_err(|_| Malformed::BadHost)?;
    Ok((&raw[..colon], Some(port)))
}

/// Letters, digits, `-`, `_` and dots between them, or an IPv6 address in brackets.
fn is_name(name: &str) -> bool {
    if let Some(address) = name.strip_prefix('[') {
        let address = address.strip_suffix(']').unwrap_or_default();
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=LONGEST).contains(&name.len())
        && name.bytes().all(good)
        && !name.starts_with('.')
        && !name.ends_with('.')
        && !name.contains("..")
}
