//! `traceparent` and `tracestate` (W3C Trace Context, level 1).

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Caller, SpanId, TraceId, only, parse, push_hex};

static PARENT: HeaderName = HeaderName::from_static("traceparent");
static STATE: HeaderName = HeaderName::from_static("tracestate");
/// `00-` trace `-` span `-` flags.
const LENGTH: usize = 55;

pub(super) fn read(headers: &HeaderMap) -> Option<Caller> {
    let value = only(headers, PARENT.as_str())?;
    // The form has lower-case digits only.
    if value.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let mut parts = value.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let [version] = parse_byte(version)?;
    // Later versions may have more after the same beginning; 0xff is none.
    let is_whole = version != 0 || value.len() == LENGTH;
    if version == 0xff || !is_whole {
        return None;
    }
    let [flags] = parse_byte(flags)?;
    Some(Caller {
        ids: Some((parse(trace)?, parse(span)?)),
        sampled: Some(flags & 1 == 1),
    })
}

/// What is not a context goes no further.
pub(super) fn remove(headers: &mut HeaderMap) {
    headers.remove(&PARENT);
    headers.remove(&STATE);
}

pub(super) fn write(headers: &mut HeaderMap, id: &TraceId, span: &SpanId, sampled: bool) {
    let mut value = String::with_capacity(LENGTH);
    value.push_str("00-");
    push_hex(&mut value, id);
    value.push('-');
    push_hex(&mut value, span);
    value.push_str(if sampled { "-01" } else { "-00" });
    // Digits and dashes are a value.
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(&PARENT, value);
    }
}

pub(super) fn state(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(&STATE)
}

fn parse_byte(digits: &str) -> Option<[u8; 1]> {
    match digits {
        "00" => Some([0]),
        _ => parse(digits),
    }
}
