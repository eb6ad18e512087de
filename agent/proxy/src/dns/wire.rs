//! The wire format (RFC 1035, RFC 6891), as far as it is read and written here.

use std::net::IpAddr;

use super::Answer;

const HEADER: usize = 12;
/// RFC 1035 section 2.3.4, length bytes included.
const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;
/// What a client takes over UDP that does not say otherwise.
const MIN_DATAGRAM: usize = 512;
/// What a client may ask for over UDP; it is the pod's own loopback.
const MAX_DATAGRAM: usize = 4096;

const IS_REPLY: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;
const CHECKING_DISABLED: u16 = 0x0010;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const OPT: u16 = 41;
const INTERNET: u16 = 1;
/// A pointer to the name of the question.
const QUESTION_NAME: u16 = 0xc000 | HEADER as u16;

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Record type A.
    Ipv4,
    /// Record type AAAA.
    Ipv6,
}

impl Family {
    /// Whether the address is of this family.
    pub fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::Ipv4)
    }
}

/// How the question came: it limits the size of the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One message a datagram: 512 bytes, or what the client says it takes, at most 4096.
    Udp,
    /// Messages of up to 65,535 bytes.
    Tcp,
}

/// A standard query for the addresses of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query<'a> {
    /// The name in lower case, without the last dot; never empty.
    pub name: String,
    /// Addresses asked for.
    pub family: Family,
    id: u16,
    flags: u16,
    /// As it came, to be repeated in the reply.
    question: &'a [u8],
    options: Option<Options>,
}

/// What of an OPT record matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Options {
    /// Largest datagram the client takes.
    size: u16,
    /// The DNSSEC OK bit, which is repeated.
    flags: u16,
}

impl<'a> Query<'a> {
    /// Reads a message; `None` for everything that is not exactly one question of class IN for A or
    /// AAAA with a plain host name (letters, digits, `-`, `_`), and at most an OPT record of version
    /// 0 with it. Never fails: what is not read is somebody else's to judge.
    pub fn read(message: &'a [u8]) -> Option<Self> {
        let header = Header::read(message)?;
        let is_query = header.flags & (IS_REPLY | OPCODE | TRUNCATED) == 0;
        let [questions, answers, authorities, additional] = header.counts;
        if !is_query || (questions, answers, authorities) != (1, 0, 0) || additional > 1 {
            return None;
        }
        let (name, after_name) = read_name(message)?;
        let family = match word(message, after_name)? {
            A => Family::Ipv4,
            AAAA => Family::Ipv6,
            _ => return None,
        };
        if word(message, after_name + 2)? != INTERNET {
            return None;
        }
        let end = after_name + 4;
        let rest = message.get(end..)?;
        let options = match additional {
            0 if rest.is_empty() => None,
            1 => Some(Options::read(rest)?),
            _ => return None,
        };
        Some(Self {
            name,
            family,
            id: header.id,
            flags: header.flags,
            question: message.get(HEADER..end)?,
            options,
        })
    }

    /// The reply to it; `None` when the question is for another to answer. Addresses that do not fit
    /// are left out, and the reply says so, upon which clients ask again over TCP.
    pub fn reply(&self, answer: &Answer, transport: Transport) -> Option<Vec<u8>> {
        let Answer::Known {
            alias,
            addresses,
            ttl,
        } = answer
        else {
            return None;
        };
        let options = self.options.map(Options::repeated);
        let limit = self.limit(transport) - options.map_or(0, |record| record.len());
        let mut message = vec![0; HEADER];
        message.extend_from_slice(self.question);
        let mut owner = QUESTION_NAME;
        let mut records = 0u16;
        if let Some(alias) = alias {
            owner = put_alias(&mut message, alias, *ttl)?;
            records += 1;
        }
        let wanted = addresses
            .iter()
            .filter(|address| self.family.has(**address));
        let mut is_cut = false;
        for address in wanted {
            let before = message.len();
            put_address(&mut message, owner, *address, *ttl);
            if message.len() > limit {
                message.truncate(before);
                is_cut = true;
                break;
            }
            records += 1;
        }
        message.extend(options.into_iter().flatten());
        let kept = self.flags & (RECURSION_DESIRED | CHECKING_DISABLED);
        let cut = if is_cut { TRUNCATED } else { 0 };
        let flags = IS_REPLY | AUTHORITATIVE | RECURSION_AVAILABLE | kept | cut;
        let counts = [1, records, 0, u16::from(options.is_some())];
        let header = Header {
            id: self.id,
            flags,
            counts,
        };
        message[..HEADER].copy_from_slice(&header.bytes());
        Some(message)
    }

    fn limit(&self, transport: Transport) -> usize {
        match transport {
            Transport::Tcp => usize::from(u16::MAX),
            Transport::Udp => self.options.map_or(MIN_DATAGRAM, |options| {
                usize::from(options.size).clamp(MIN_DATAGRAM, MAX_DATAGRAM)
            }),
        }
    }
}

/// Whether `reply` can be the reply to `query`, both with the same id: a reply of that opcode, to
/// the same question where it repeats one (servers that did not understand it need not).
pub fn is_reply(query: &[u8], reply: &[u8]) -> bool {
    let (Some(asked), Some(told)) = (Header::read(query), Header::read(reply)) else {
        return false;
    };
    if told.flags & IS_REPLY == 0 || told.id != asked.id || (told.flags ^ asked.flags) & OPCODE != 0
    {
        return false;
    }
    match (asked.counts[0], told.counts[0]) {
        (_, 0) => told.counts[1] == 0,
        (1, 1) => match question(query) {
            Some(question) => reply
                .get(HEADER..HEADER + question.len())
                .is_some_and(|other| other.eq_ignore_ascii_case(question)),
            // Nothing that could be compared.
            None => true,
        },
        (asked, told) => asked == told,
    }
}

/// The bytes of the first question.
fn question(message: &[u8]) -> Option<&[u8]> {
    let mut at = HEADER;
    loop {
        match usize::from(*message.get(at)?) {
            0 => return message.get(HEADER..at + 5),
            length @ 1..=MAX_LABEL => at += 1 + length,
            _ => return None,
        }
        if at > HEADER + MAX_NAME {
            return None;
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Header {
    id: u16,
    flags: u16,
    /// Questions, answers, authorities, additional records.
    counts: [u16; 4],
}

impl Header {
    fn read(message: &[u8]) -> Option<Self> {
        let mut words = [0; 6];
        for (index, place) in words.iter_mut().enumerate() {
            *place = word(message, 2 * index)?;
        }
        let [id, flags, counts @ ..] = words;
        Some(Self { id, flags, counts })
    }

    fn bytes(self) -> [u8; HEADER] {
        let [a, b, c, d] = self.counts;
        let mut bytes = [0; HEADER];
        for (place, word) in bytes
            .chunks_exact_mut(2)
            .zip([self.id, self.flags, a, b, c, d])
        {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

impl Options {
    /// An OPT record and nothing after it. Version 0 only; its options are not looked at.
    fn read(record: &[u8]) -> Option<Self> {
        let is_root = *record.first()? == 0;
        let (kind, size) = (word(record, 1)?, word(record, 3)?);
        let (version, flags, length) = (*record.get(6)?, word(record, 7)?, word(record, 9)?);
        let is_whole = record.len() == 11 + usize::from(length);
        (is_root && kind == OPT && version == 0 && is_whole).then_some(Self {
            size,
            flags: flags & 0x8000,
        })
    }

    /// The record of the reply.
    fn repeated(self) -> [u8; 11] {
        let mut record = [0; 11];
        record[1..3].copy_from_slice(&OPT.to_be_bytes());
        record[3..5].copy_from_slice(&(MAX_DATAGRAM as u16).to_be_bytes());
        record[7..9].copy_from_slice(&self.flags.to_be_bytes());
        record
    }
}

/// The name of the question in lower case, and where it ends. Pointers have no place in a first
/// name, and other bytes than those of host names are not for us.
fn read_name(message: &[u8]) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        if length > MAX_LABEL {
            return None;
        }
        let label = message.get(at..at + length)?;
        if !name.is_empty() {
            name.push('.');
        }
        for byte in label {
            let is_plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            if !is_plain {
                return None;
            }
            name.push(char::from(byte.to_ascii_lowercase()));
        }
        at += length;
        if at - HEADER >= MAX_NAME {
            return None;
        }
    }
    (!name.is_empty()).then_some((name, at))
}

/// Adds a CNAME of the question's name; returns the pointer to its target.
fn put_alias(message: &mut Vec<u8>, target: &str, ttl: u32) -> Option<u16> {
    let mut name = Vec::with_capacity(target.len() + 2);
    for label in target.split('.') {
        let length = u8::try_from(label.len()).ok()?;
        if length == 0 || usize::from(length) > MAX_LABEL {
            return None;
        }
        name.push(length);
        name.extend_from_slice(label.as_bytes());
    }
    name.push(0);
    put_record(message, QUESTION_NAME, CNAME, ttl, &name);
    let at = u16::try_from(message.len() - name.len()).ok()?;
    Some(0xc000 | at)
}

fn put_address(message: &mut Vec<u8>, owner: u16, address: IpAddr, ttl: u32) {
    match address {
        IpAddr::V4(ip) => put_record(message, owner, A, ttl, &ip.octets()),
        IpAddr::V6(ip) => put_record(message, owner, AAAA, ttl, &ip.octets()),
    }
}

fn put_record(message: &mut Vec<u8>, owner: u16, kind: u16, ttl: u32, data: &[u8]) {
    message.extend_from_slice(&owner.to_be_bytes());
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&INTERNET.to_be_bytes());
    message.extend_from_slice(&ttl.to_be_bytes());
    message.extend_from_slice(&(data.len() as u16).to_be_bytes());
    message.extend_from_slice(data);
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}
