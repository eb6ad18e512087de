//! Where one request ends and the next begins, so that nobody can see it differently.
//!
//! The HTTP/1.1 parser follows RFC 9112 and is lenient where that is: a lone line feed ends a line,
//! a length beside chunks is passed over. Servers disagree about exactly these, which is what
//! request smuggling is made of, and a proxy cannot know who stands behind it. [`Framing`] reads a
//! client's bytes before the parser does and stops at the first that could mean two things. It
//! keeps no body and copies nothing but a line that comes in pieces.

#[cfg(test)]
mod tests;

use http::header::{HeaderValue, UPGRADE};
use http::{HeaderMap, Version};

/// Longest line, in bytes; the parser's own limit of a whole head is below it.
const MAX_LINE: usize = 128 * 1024;
/// Most hexadecimal digits of a chunk's size: no body needs more than 2^60 bytes.
const MAX_SIZE_DIGITS: usize = 15;
/// The only protocol a connection may change to.
const WEBSOCKET: &[u8] = b"websocket";

/// Why bytes could mean two things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// A line feed without its carriage return (RFC 9112, 2.2).
    #[error("a line ends with a lone line feed")]
    BareLineFeed,
    /// A header line that goes on (RFC 9112, 5.2).
    #[error("a header is folded over lines")]
    Folded,
    /// A header line without a colon, or with a space before it (RFC 9112, 5.1).
    #[error("a header line without a proper name")]
    NoName,
    /// `Content-Length` and `Transfer-Encoding` (RFC 9112, 6.1), or one of them twice.
    #[error("the length of the body is said twice")]
    TwoLengths,
    /// Not a plain decimal number.
    #[error("Content-Length is not a number")]
    BadLength,
    /// A transfer coding other than `chunked` alone.
    #[error("a transfer coding other than chunked")]
    BadCoding,
    /// A chunk's size that is not hexadecimal, or does not fit its data.
    #[error("a chunk is not framed properly")]
    BadChunk,
    /// A line nobody would read to its end.
    #[error("a line is too long")]
    TooLong,
}

/// The first byte that must not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// Its place in the bytes that were given.
    pub at: usize,
    /// True when it is in the head of a request.
    pub in_head: bool,
    /// What is wrong with it.
    pub why: Ambiguous,
}

/// Follows the bytes of one client's HTTP/1.1 connection.
#[derive(Debug, Default)]
pub struct Framing {
    state: State,
    head: Head,
    /// A line of which the end has not come.
    line: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// Bytes of a body that are to come.
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    /// Another protocol.
    Left,
}

/// What the lines of a head said so far.
#[derive(Debug, Default, Clone, Copy)]
struct Head {
    has_begun: bool,
    length: Option<u64>,
    is_chunked: bool,
    leaves: bool,
}

impl Framing {
    /// Takes the next bytes of the connection.
    ///
    /// # Errors
    ///
    /// Where they stop having one meaning. Nothing may be taken afterwards.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            at += match self.state {
                State::Left => return Ok(()),
                State::Body(left) => self.skip(left, rest.len(), State::Body, State::Head),
                State::ChunkData(left) => {
                    self.skip(left, rest.len(), State::ChunkData, State::ChunkEnd)
                }
                State::Head | State::ChunkSize | State::ChunkEnd | State::Trailers => {
                    let in_head = self.state == State::Head;
                    self.take_line(rest).map_err(|(offset, why)| Stop {
                        at: at + offset,
                        in_head,
                        why,
                    })?
                }
            };
        }
        Ok(())
    }

    fn skip(&mut self, left: u64, have: usize, on: fn(u64) -> State, then: State) -> usize {
        let have = have as u64;
        self.state = match left > have {
            true => on(left - have),
            false => then,
        };
        left.min(have) as usize
    }

    /// Takes a line, or the piece of one that is there; says how many bytes those were.
    fn take_line(&mut self, rest: &[u8]) -> Result<usize, (usize, Ambiguous)> {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            if self.line.len() + rest.len() > MAX_LINE {
                return Err((0, Ambiguous::TooLong));
            }
            self.line.extend_from_slice(rest);
            return Ok(rest.len());
        };
        let judged = if self.line.is_empty() {
            self.judge(&rest[..end])
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(&rest[..end]);
            self.judge(&line)
        };
        judged.map_err(|why| (end, why))?;
        Ok(end + 1)
    }

    /// A whole line without its line feed.
    fn judge(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        let line = line.strip_suffix(b"\r").ok_or(Ambiguous::BareLineFeed)?;
        match self.state {
            State::Head => return self.head_line(line),
            State::ChunkSize => {
                self.state = match chunk_size(line)? {
                    0 => State::Trailers,
                    size => State::ChunkData(size),
                };
            }
            State::ChunkEnd if line.is_empty() => self.state = State::ChunkSize,
            State::Trailers if line.is_empty() => self.state = State::Head,
            State::Trailers => {
                name(line)?;
            }
            _ => return Err(Ambiguous::BadChunk),
        }
        Ok(())
    }

    fn head_line(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        match (self.head.has_begun, line.is_empty()) {
            // Empty lines before a request mean nothing (RFC 9112, 2.2).
            (false, true) => Ok(()),
            (false, false) => {
                self.head.has_begun = true;
                Ok(())
            }
            (true, true) => {
                self.state = std::mem::take(&mut self.head).body();
                Ok(())
            }
            (true, false) => self.head.field(line),
        }
    }
}

impl Head {
    fn field(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        let name = name(line)?;
        let value = line[name.len() + 1..].trim_ascii();
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.is_chunked || self.length.is_some() {
                    return Err(Ambiguous::TwoLengths);
                }
                self.length = Some(decimal(value)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.is_chunked || self.length.is_some() {
                    return Err(Ambiguous::TwoLengths);
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Ambiguous::BadCoding);
                }
                self.is_chunked = true;
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.leaves |= is_websocket(value),
            _ => {}
        }
        Ok(())
    }

    fn body(self) -> State {
        match (self.leaves, self.is_chunked, self.length) {
            (true, ..) => State::Left,
            (false, true, _) => State::ChunkSize,
            (false, false, None | Some(0)) => State::Head,
            (false, false, Some(length)) => State::Body(length),
        }
    }
}

/// True when [`Framing`] stops looking after this request: whatever is answered, no other request
/// may be read from its connection.
pub fn leaves_http(version: Version, headers: &HeaderMap) -> bool {
    let asked = |value: &HeaderValue| is_websocket(value.as_bytes());
    version < Version::HTTP_2 && headers.get_all(UPGRADE).iter().any(asked)
}

fn is_websocket(value: &[u8]) -> bool {
    let mut protocols = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    protocols.any(|protocol| protocol.eq_ignore_ascii_case(WEBSOCKET))
}

/// The name that a header line begins with.
fn name(line: &[u8]) -> Result<&[u8], Ambiguous> {
    if let Some(b' ' | b'\t') = line.first() {
        return Err(Ambiguous::Folded);
    }
    let end = line.iter().position(|byte| *byte == b':');
    match end.map(|end| &line[..end]) {
        None | Some([] | [.., b' ' | b'\t']) => Err(Ambiguous::NoName),
        Some(name) => Ok(name),
    }
}

fn decimal(value: &[u8]) -> Result<u64, Ambiguous> {
    let digits = std::str::from_utf8(value).map_err(|_| Ambiguous::BadLength)?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Ambiguous::BadLength);
    }
    digits.parse().map_err(|_| Ambiguous::BadLength)
}

/// The size that a chunk's first line tells; extensions are passed over (RFC 9112, 7.1.1).
fn chunk_size(line: &[u8]) -> Result<u64, Ambiguous> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    if digits.is_empty() || digits.len() > MAX_SIZE_DIGITS || line.contains(&b'\r') {
        return Err(Ambiguous::BadChunk);
    }
    digits.iter().try_fold(0, |size, digit| {
        let value = char::from(*digit).to_digit(16).ok_or(Ambiguous::BadChunk)?;
        Ok(size << 4 | u64::from(value))
    })
}
