//! Traces: the caller's context is read from W3C headers or B3 (one header or several), and the
//! backend is given the request's own span as its parent, in the same forms. What is sampled is the
//! caller's decision; without one it is ours, by chance.

mod b3;
mod w3c;

use http::{HeaderMap, HeaderValue};

/// A trace's id.
pub type TraceId = [u8; 16];
/// A span's id.
pub type SpanId = [u8; 8];

/// A request that is recorded as a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The trace.
    pub id: TraceId,
    /// The request's span.
    pub span: SpanId,
    /// The caller's.
    pub parent: Option<SpanId>,
    /// The caller's `tracestate`.
    pub state: Option<HeaderValue>,
}

/// What a caller says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Caller {
    ids: Option<(TraceId, SpanId)>,
    /// Its decision, where it took one.
    sampled: Option<bool>,
}

/// Reads the caller's context, decides, and leaves in `headers` what the backend is to know. `share`
/// (0 to 1) of the requests without a decision are sampled; `random` is uniform over all of `u64`.
/// `None` for a request that is not recorded: the backend then sees the caller as it was.
pub(crate) fn begin(
    headers: &mut HeaderMap,
    share: f64,
    mut random: impl FnMut() -> u64,
) -> Option<Trace> {
    let of_w3c = w3c::read(headers);
    if of_w3c.is_none() {
        w3c::remove(headers);
    }
    let caller = of_w3c.or_else(|| b3::read(headers)).unwrap_or_default();
    let sampled = caller
        .sampled
        .unwrap_or_else(|| (random() as f64) < share * u64::MAX as f64);
    if !sampled && caller.ids.is_some() {
        return None;
    }
    let id = caller
        .ids
        .map_or_else(|| new_trace(&mut random), |(id, _)| id);
    let span = new_span(&mut random);
    w3c::write(headers, &id, &span, sampled);
    if !sampled {
        return None;
    }
    let parent = caller.ids.map(|(_, parent)| parent);
    b3::rewrite(headers, &id, &span, parent.as_ref());
    Some(Trace {
        id,
        span,
        parent,
        state: w3c::state(headers).cloned(),
    })
}

fn new_trace(random: &mut impl FnMut() -> u64) -> TraceId {
    let number = u128::from(random()) << 64 | u128::from(random());
    // All zeroes would be no id.
    number.max(1).to_be_bytes()
}

fn new_span(random: &mut impl FnMut() -> u64) -> SpanId {
    random().max(1).to_be_bytes()
}

/// The id that lower-case or upper-case hexadecimal digits stand for; all zeroes are none.
fn parse<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let digits = digits.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let mut id = [0; N];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    (id != [0; N]).then_some(id)
}

fn push_hex(out: &mut String, id: &[u8]) {
    for byte in id {
        for digit in [byte >> 4, byte & 15] {
            out.extend(char::from_digit(u32::from(digit), 16));
        }
    }
}

/// An id as it is written: lower-case hexadecimal digits.
pub fn hex(id: &[u8]) -> String {
    let mut out = String::with_capacity(id.len() * 2);
    push_hex(&mut out, id);
    out
}

/// The one value of a header; `None` when there is none, or more than one, or no text.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    match values.next() {
        None => first.to_str().ok(),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests;
