//! Header fields: what belongs to one connection only is taken off, twins are refused.

use std::collections::HashSet;

use http::HeaderMap;
use http::header::{
    CONNECTION, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};

use super::Malformed;

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Takes off what is for this connection only (RFC 9110, 7.6.1), with what `Connection` names.
/// `TE: trailers` stays, as gRPC needs it. Returns the protocol that an upgrade is asked to.
pub fn clean(headers: &mut HeaderMap) -> Result<Option<HeaderValue>, Malformed> {
    if has_twins(headers) {
        return Err(Malformed::Twins);
    }
    let mut upgrade = None;
    if headers.contains_key(CONNECTION) {
        upgrade = take_connection(headers);
    }
    headers.remove(UPGRADE);
    headers.remove(TRANSFER_ENCODING);
    headers.remove(&KEEP_ALIVE);
    headers.remove(&PROXY_CONNECTION);
    headers.remove(PROXY_AUTHENTICATE);
    headers.remove(PROXY_AUTHORIZATION);
    headers.remove(&HTTP2_SETTINGS);
    if let Some(wanted) = headers.get(TE) {
        if lists(wanted, "trailers") {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
    Ok(upgrade)
}

/// Takes off what a backend says of its own connection.
pub fn clean_response(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        take_connection(headers);
    }
    headers.remove(UPGRADE);
    headers.remove(TRANSFER_ENCODING);
    headers.remove(&KEEP_ALIVE);
    headers.remove(&PROXY_CONNECTION);
}

/// Takes off `Connection` and what it names. What routing and framing rest on cannot be named: a
/// client must not be able to make the gateway forget who it is.
fn take_connection(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let values: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    headers.remove(CONNECTION);
    let mut upgrade = None;
    for name in values.iter().flat_map(tokens) {
        if name.eq_ignore_ascii_case("upgrade") {
            upgrade = headers.get(UPGRADE).cloned();
        } else if name.eq_ignore_ascii_case("te") || name.eq_ignore_ascii_case("host") {
            // `TE` is looked at by itself.
        } else if let Ok(name) = HeaderName::from_bytes(name.as_bytes())
            && name != http::header::CONTENT_LENGTH
            && name != TRAILER
        {
            headers.remove(name);
        }
    }
    upgrade
}

fn lists(value: &HeaderValue, token: &str) -> bool {
    tokens(value).any(|found| {
        let name = found.split(';').next().unwrap_or_default();
        name.trim().eq_ignore_ascii_case(token)
    })
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let text = value.to_str().unwrap_or_default();
    text.split(',')
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// True when a name with `_` is there and the same name with `-` is too.
///
/// One look at each name: a head of HTTP/2 may hold thousands of them.
fn has_twins(headers: &HeaderMap) -> bool {
    if !headers.keys().any(is_odd) {
        return false;
    }
    let mut seen = HashSet::with_capacity(headers.keys_len());
    !headers.keys().all(|name| seen.insert(dashed(name)))
}

/// Takes off what some servers would take for one of `names` (`x_role` for `x-role`), which only
/// the gateway may say.
pub fn drop_shadows<'a>(headers: &mut HeaderMap, names: impl Iterator<Item = &'a HeaderName>) {
    if !headers.keys().any(is_odd) {
        return;
    }
    let said: HashSet<_> = names.map(dashed).collect();
    let odd = headers.keys().filter(|name| is_odd(name));
    let shadows: Vec<_> = odd
        .filter(|name| said.contains(&dashed(name)))
        .cloned()
        .collect();
    for shadow in shadows {
        headers.remove(shadow);
    }
}

fn is_odd(name: &HeaderName) -> bool {
    name.as_str().contains('_')
}

fn dashed(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}
