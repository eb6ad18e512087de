//! RESP2: commands out, answers in.

use std::io;

/// Most elements of an answer's list.
const MAX_ELEMENTS: usize = 16;
/// How deep lists may be within lists.
const MAX_DEPTH: usize = 4;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// A simple or a bulk string; what is not UTF-8 is replaced.
    Text(String),
    /// An error of Redis'.
    Error(String),
    /// A number.
    Number(i64),
    /// A list.
    List(Vec<Self>),
    /// Nothing.
    Nil,
}

/// A command in the form of a list of bulk strings.
pub(crate) fn command(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        out.extend(format!("${}\r\n", part.len()).into_bytes());
        out.extend(*part);
        out.extend(b"\r\n");
    }
    out
}

/// The first answer in `bytes` and its length; `None` when it is not whole yet.
pub(crate) fn parse(bytes: &[u8]) -> io::Result<Option<(Reply, usize)>> {
    parse_at(bytes, 0, MAX_DEPTH)
}

fn parse_at(bytes: &[u8], from: usize, depth: usize) -> io::Result<Option<(Reply, usize)>> {
    let rest = bytes.get(from..).unwrap_or_default();
    let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
        return Ok(None);
    };
    let Some((kind, line)) = rest[..end].split_first() else {
        return Err(malformed());
    };
    let after = from + end + 2;
    let text = || String::from_utf8_lossy(line).into_owned();
    Ok(Some(match kind {
        b'+' => (Reply::Text(text()), after),
        b'-' => (Reply::Error(text()), after),
        b':' => (Reply::Number(number(line)?), after),
        b'$' => {
            let Ok(length) = usize::try_from(number(line)?) else {
                return Ok(Some((Reply::Nil, after)));
            };
            let end = after.checked_add(length).ok_or_else(malformed)?;
            let Some(content) = bytes.get(after..end) else {
                return Ok(None);
            };
            match bytes.get(end..end.saturating_add(2)) {
                None => return Ok(None),
                Some(b"\r\n") => {}
                Some(_) => return Err(malformed()),
            }
            let content = String::from_utf8_lossy(content).into_owned();
            (Reply::Text(content), end + 2)
        }
        b'*' => {
            let Ok(length) = usize::try_from(number(line)?) else {
                return Ok(Some((Reply::Nil, after)));
            };
            if length > MAX_ELEMENTS || depth == 0 {
                return Err(malformed());
            }
            let mut list = Vec::with_capacity(length);
            let mut at = after;
            for _ in 0..length {
                let Some((reply, next)) = parse_at(bytes, at, depth - 1)? else {
                    return Ok(None);
                };
                list.push(reply);
                at = next;
            }
            (Reply::List(list), at)
        }
        _ => return Err(malformed()),
    }))
}

fn number(line: &[u8]) -> io::Result<i64> {
    let text = std::str::from_utf8(line).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this is not Redis")
}
