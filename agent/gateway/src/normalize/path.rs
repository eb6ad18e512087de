//! The normal form of paths (RFC 3986, 6.2.2): escapes of unreserved characters resolved, others
//! in upper case, dot segments resolved, repeated slashes merged.

use std::borrow::Cow;

use super::Malformed;

/// What is done where servers disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathRules {
    /// `//` becomes `/`. Default true.
    pub merge_slashes: bool,
    /// What becomes of `%2f` and `%5c`. Default refused.
    pub escaped_slashes: EscapedSlashes,
}

impl Default for PathRules {
    fn default() -> Self {
        Self {
            merge_slashes: true,
            escaped_slashes: EscapedSlashes::Refuse,
        }
    }
}

/// What becomes of `%2f` and `%5c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// The request is refused.
    Refuse,
    /// They stay. Policies see them as part of a segment; a backend that decodes them first may
    /// not.
    Keep,
}

/// The normal form of a path (without its query); borrowed when it has that form already.
pub fn path(raw: &str, rules: PathRules) -> Result<Cow<'_, str>, Malformed> {
    if !raw.starts_with('/') {
        return Err(Malformed::NotAPath);
    }
    if is_plain(raw.as_bytes(), rules) {
        return Ok(Cow::Borrowed(raw));
    }
    let decoded = unescape(raw, rules)?;
    resolve(&decoded, rules).map(Cow::Owned)
}

/// What a policy says of paths in the form that paths are compared in: `/grüße` is
/// `/gr%C3%BC%C3%9Fe` in every request. What has no such form stays as it is.
pub fn pattern(written: &str) -> String {
    let rules = PathRules {
        escaped_slashes: EscapedSlashes::Keep,
        ..PathRules::default()
    };
    unescape(written, rules).unwrap_or_else(|_| written.to_owned())
}

/// True when nothing in the path could need a change: one pass, no look-back beyond a byte.
fn is_plain(raw: &[u8], rules: PathRules) -> bool {
    let mut last = 0;
    for &byte in raw {
        let suspect = match byte {
            b'.' => last == b'/',
            b'/' => last == b'/' && rules.merge_slashes,
            _ => !stays(byte),
        };
        if suspect {
            return false;
        }
        last = byte;
    }
    true
}

/// Bytes that may stand in a path as they are and mean nothing special here: unreserved,
/// sub-delims, `:`, `@` and `/` (RFC 3986, 3.3), without `;`, which some servers cut segments at.
fn stays(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'_'
                | b'.'
                | b'~'
                | b'/'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b'='
                | b':'
                | b'@'
        )
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~')
}

/// Resolves the escapes of unreserved characters, writes the others in upper case and escapes what
/// has to be.
fn unescape(raw: &str, rules: PathRules) -> Result<String, Malformed> {
    let mut out = String::with_capacity(raw.len() + 8);
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut digit = || {
                    let digit = char::from(bytes.next()?).to_digit(16)?;
                    u8::try_from(digit).ok()
                };
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err(Malformed::Escape);
                };
                push_escaped(&mut out, high << 4 | low, rules)?;
            }
            b'\\' => return Err(Malformed::Separator),
            b';' => out.push(';'),
            byte if stays(byte) => out.push(char::from(byte)),
            byte if byte.is_ascii_control() => return Err(Malformed::Escape),
            byte => escape(&mut out, byte),
        }
    }
    Ok(out)
}

fn push_escaped(out: &mut String, byte: u8, rules: PathRules) -> Result<(), Malformed> {
    if byte.is_ascii_control() {
        return Err(Malformed::Escape);
    }
    if matches!(byte, b'/' | b'\\') && rules.escaped_slashes == EscapedSlashes::Refuse {
        return Err(Malformed::Separator);
    }
    if is_unreserved(byte) {
        out.push(char::from(byte));
    } else {
        escape(out, byte);
    }
    Ok(())
}

fn escape(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// Resolves `.` and `..` and merges slashes. A closing slash stays, and a dot segment at the end
/// leaves one.
fn resolve(path: &str, rules: PathRules) -> Result<String, Malformed> {
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        if hides_dots(segment) {
            return Err(Malformed::Traversal);
        }
        match segment {
            "." | ".." => {
                if segment == ".." {
                    let parent = out.rfind('/').ok_or(Malformed::Traversal)?;
                    out.truncate(parent);
                }
                if is_last {
                    out.push('/');
                }
            }
            "" if rules.merge_slashes => {
                if is_last {
                    out.push('/');
                }
            }
            segment => {
                out.push('/');
                out.push_str(segment);
            }
        }
    }
    Ok(out)
}

/// `..;x` is `..` to servers that cut path parameters off, and a name to others; the same goes for
/// dots beside an escaped slash.
fn hides_dots(segment: &str) -> bool {
    let cut = segment.split(';').next().unwrap_or_default();
    let with_parameters = cut.len() < segment.len() && matches!(cut, "." | "..");
    let mut parts = segment.split("%2F").flat_map(|part| part.split("%5C"));
    let escaped = segment.contains("%2F") || segment.contains("%5C");
    with_parameters
        || escaped && parts.any(|part| matches!(part.split(';').next(), Some("." | "..")))
}
