//! B3: `b3: TRACE-SPAN-SAMPLED-PARENT`, or `X-B3-...` one by one.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Caller, SpanId, TraceId, hex, only, parse};

static SINGLE: HeaderName = HeaderName::from_static("b3");
static TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
static SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
static PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
static SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
static FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

pub(super) fn read(headers: &HeaderMap) -> Option<Caller> {
    single(headers).or_else(|| several(headers))
}

fn single(headers: &HeaderMap) -> Option<Caller> {
    let value = only(headers, SINGLE.as_str())?;
    let mut parts = value.split('-');
    let (first, span) = (parts.next()?, parts.next());
    let Some(span) = span else {
        // Only a decision.
        return Some(Caller {
            ids: None,
            sampled: Some(decision(first)?),
        });
    };
    Some(Caller {
        ids: Some((trace(first)?, parse(span)?)),
        sampled: parts.next().and_then(decision),
    })
}

fn several(headers: &HeaderMap) -> Option<Caller> {
    let ids = only(headers, TRACE.as_str()).and_then(trace);
    let ids = ids.zip(only(headers, SPAN.as_str()).and_then(parse));
    let is_debug = only(headers, FLAGS.as_str()) == Some("1");
    let sampled = match is_debug {
        true => Some(true),
        false => only(headers, SAMPLED.as_str()).and_then(decision),
    };
    (ids.is_some() || sampled.is_some()).then_some(Caller { ids, sampled })
}

/// 16 bytes, or the last 8 of them.
fn trace(digits: &str) -> Option<TraceId> {
    if let Some(short) = parse::<8>(digits) {
        return Some(u128::from(u64::from_be_bytes(short)).to_be_bytes());
    }
    parse(digits)
}

/// `d` asks for it more loudly.
fn decision(word: &str) -> Option<bool> {
    match word {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// Writes a span that is sampled in the forms that the caller used.
pub(super) fn rewrite(
    headers: &mut HeaderMap,
    id: &TraceId,
    span: &SpanId,
    parent: Option<&SpanId>,
) {
    let has_several = [&TRACE, &SAMPLED, &FLAGS]
        .into_iter()
        .any(|name| headers.contains_key(name));
    let (trace, span, parent) = (hex(id), hex(span), parent.map(|id| hex(id)));
    if headers.contains_key(&SINGLE) {
        let parent = parent.as_ref().map(|parent| format!("-{parent}"));
        let value = format!("{trace}-{span}-1{}", parent.unwrap_or_default());
        set(headers, &SINGLE, value);
    }
    if has_several {
        headers.remove(&PARENT);
        if let Some(parent) = parent {
            set(headers, &PARENT, parent);
        }
        set(headers, &TRACE, trace);
        set(headers, &SPAN, span);
        if !headers.contains_key(&FLAGS) {
            set(headers, &SAMPLED, "1".to_owned());
        }
    }
}

fn set(headers: &mut HeaderMap, name: &HeaderName, value: String) {
    // Digits and dashes are a value.
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}
