//! Questions and replies on the wire (RFC 1035), as far as a lookup needs them.

use std::net::IpAddr;
use std::time::Duration;

use super::LookupError;

const HEADER: usize = 12;
/// RFC 1035 section 2.3.4: without the length bytes of the first label and the root.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;
/// Addresses taken from one reply.
const MAX_ADDRESSES: usize = 64;

const IS_REPLY: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const CODE: u16 = 0x000f;
const NO_SUCH_NAME: u16 = 3;
const INTERNET: u16 = 1;

/// Record types of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    A = 1,
    Aaaa = 28,
}

/// Addresses and how long they last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ttl: Duration,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// Addresses; none when the name has others only.
    Told(Told),
    /// There is no such name.
    NoSuchName,
    /// There is more to say than fits.
    Truncated,
    /// The server cannot say; its code.
    Failed(u16),
    /// Not the reply to the question, or not one that can be read.
    Other,
}

/// Whether it can be asked for.
pub(super) fn is_name(host: &str) -> bool {
    let is_label = |label: &str| {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        !label.is_empty() && label.len() <= MAX_LABEL && label.bytes().all(is_plain)
    };
    host.len() <= MAX_NAME && host.split('.').all(is_label)
}

/// The question for one type of address of a host for which [`is_name`] holds.
pub(super) fn question(id: u16, host: &str, kind: Kind) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + host.len() + 6);
    for word in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    for label in host.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    for word in [kind as u16, INTERNET] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    message
}

/// Reads what came back on a socket that is connected to the server. Every address in the answer
/// counts, whichever name of a chain of aliases it stands under: who sent it could say any.
pub(super) fn read(question: &[u8], message: &[u8]) -> Reply {
    read_whole(question, message).unwrap_or(Reply::Other)
}

/// The addresses a reply to that question gives; for tests with foreign bytes.
pub fn read_addresses(question: &[u8], message: &[u8]) -> Result<Vec<IpAddr>, LookupError> {
    match read(question, message) {
        Reply::Told(told) => Ok(told.addresses),
        Reply::NoSuchName => Err(LookupError::NotFound),
        other => Err(LookupError::Unanswered(format!("{other:?}"))),
    }
}

fn read_whole(question: &[u8], message: &[u8]) -> Option<Reply> {
    let (id, flags) = (word(message, 0)?, word(message, 2)?);
    let is_reply = flags & (IS_REPLY | OPCODE) == IS_REPLY && id == word(question, 0)?;
    let answers_start = question.len();
    let asked = question.get(HEADER..)?;
    let is_same = word(message, 4)? == 1
        && message
            .get(HEADER..answers_start)
            .is_some_and(|echo| echo.eq_ignore_ascii_case(asked));
    let code = flags & CODE;
    if is_reply && code != 0 && code != NO_SUCH_NAME {
        // Servers that fail need not repeat the question.
        return Some(Reply::Failed(code));
    }
    if !is_reply || !is_same {
        return Some(Reply::Other);
    }
    if flags & TRUNCATED != 0 {
        return Some(Reply::Truncated);
    }
    if code == NO_SUCH_NAME {
        return Some(Reply::NoSuchName);
    }
    let kind = word(question, answers_start.checked_sub(4)?)?;
    addresses(message, answers_start, word(message, 6)?, kind).map(Reply::Told)
}

fn addresses(message: &[u8], mut at: usize, records: u16, wanted: u16) -> Option<Told> {
    let mut told = Told {
        addresses: Vec::new(),
        ttl: Duration::MAX,
    };
    for _ in 0..records {
        at = after_name(message, at)?;
        let (kind, class) = (word(message, at)?, word(message, at + 2)?);
        let (high, low) = (word(message, at + 4)?, word(message, at + 6)?);
        let ttl = Duration::from_secs(u64::from(high) << 16 | u64::from(low));
        let start = at + 10;
        at = start + usize::from(word(message, at + 8)?);
        let data = message.get(start..at)?;
        if class != INTERNET {
            continue;
        }
        // Aliases on the way last no longer than they say either.
        told.ttl = told.ttl.min(ttl);
        if kind == wanted && told.addresses.len() < MAX_ADDRESSES {
            told.addresses.push(address(data)?);
        }
    }
    Some(told)
}

fn address(data: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(data) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(data).ok().map(IpAddr::from)
}

/// Where a name ends. A pointer ends it, and where it points to does not matter here.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        match length {
            0 => return Some(at),
            1..=MAX_LABEL => at += length,
            0xc0.. => return Some(at + 1),
            _ => return None,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}
