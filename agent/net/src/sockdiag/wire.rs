//! The messages: numbers and layouts of `linux/netlink.h`, `linux/sock_diag.h` and
//! `linux/inet_diag.h`. Everything is in the machine's byte order but addresses and ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Connection;

/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
/// `SOCK_DESTROY`
const DESTROY: u16 = 21;

/// Length of a `nlmsghdr`.
const HEADER: usize = 16;
/// Length of an `inet_diag_req_v2` behind it.
const REQUEST: usize = 56;
/// Length of the part of an `inet_diag_msg` that has all we read.
const ANSWER: usize = 72;

/// States of a TCP socket (`net/tcp_states.h`).
mod state {
    pub(super) const ESTABLISHED: u8 = 1;
    pub(super) const SYN_SENT: u8 = 2;
    pub(super) const SYN_RECV: u8 = 3;
    pub(super) const FIN_WAIT1: u8 = 4;
    pub(super) const FIN_WAIT2: u8 = 5;
    pub(super) const CLOSE_WAIT: u8 = 8;
    pub(super) const LISTEN: u8 = 10;
    pub(super) const NEW_SYN_RECV: u8 = 12;
}

/// What is asked for. The states not named here carry no more bytes.
const ASKED: u32 = 1 << state::ESTABLISHED
    | 1 << state::SYN_SENT
    | 1 << state::SYN_RECV
    | 1 << state::FIN_WAIT1
    | 1 << state::FIN_WAIT2
    | 1 << state::CLOSE_WAIT
    | 1 << state::LISTEN
    | 1 << state::NEW_SYN_RECV;

/// A message of the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// One socket of a list.
    Socket(Entry),
    /// The end of a list.
    Done,
    /// The request was obeyed.
    Acknowledged,
    /// The request failed with that error number.
    Failed(i32),
    /// Not what the layouts say; nothing after it can be read.
    Malformed,
}

/// One socket of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Somebody listens on that port.
    Listener(u16),
    /// Bytes can go.
    Connection(Connection),
    /// The application has let go of it: what is left is the kernel's farewell.
    Over,
}

/// Asks for all sockets of a family.
pub(super) fn list_request(family: u8) -> [u8; HEADER + REQUEST] {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    request(BY_FAMILY, flags, family, ASKED)
}

/// Asks to end a connection.
pub(super) fn destroy_request(connection: &Connection) -> [u8; HEADER + REQUEST] {
    let family = match connection.local {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut bytes = request(DESTROY, flags, family as u8, u32::MAX);
    let id = &mut bytes[HEADER + 8..];
    id[0..2].copy_from_slice(&connection.local.port().to_be_bytes());
    id[2..4].copy_from_slice(&connection.remote.port().to_be_bytes());
    id[4..20].copy_from_slice(&address_bytes(connection.local.ip()));
    id[20..36].copy_from_slice(&address_bytes(connection.remote.ip()));
    id[36..40].copy_from_slice(&connection.interface.to_ne_bytes());
    id[40..44].copy_from_slice(&(connection.cookie as u32).to_ne_bytes());
    id[44..48].copy_from_slice(&((connection.cookie >> 32) as u32).to_ne_bytes());
    bytes
}

fn request(kind: u16, flags: u16, family: u8, states: u32) -> [u8; HEADER + REQUEST] {
    let mut bytes = [0; HEADER + REQUEST];
    bytes[0..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    bytes[HEADER] = family;
    bytes[HEADER + 1] = libc::IPPROTO_TCP as u8;
    bytes[HEADER + 4..HEADER + 8].copy_from_slice(&states.to_ne_bytes());
    bytes
}

/// An IPv4 address takes the first of the four words.
fn address_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The messages of one read.
pub(super) struct Messages<'a>(&'a [u8]);

impl<'a> Messages<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl Iterator for Messages<'_> {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        if self.0.is_empty() {
            return None;
        }
        let length = array(self.0, 0).map(u32::from_ne_bytes);
        let kind = array(self.0, 4).map(u16::from_ne_bytes);
        let length = length.map_or(0, |length| length as usize);
        let (Some(kind), Some(payload)) = (kind, self.0.get(HEADER..length)) else {
            self.0 = &[];
            return Some(Message::Malformed);
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message(kind, payload).unwrap_or(Message::Malformed))
    }
}

/// `None` when the payload is too short.
fn message(kind: u16, payload: &[u8]) -> Option<Message> {
    Some(match i32::from(kind) {
        libc::NLMSG_DONE => Message::Done,
        libc::NLMSG_ERROR => match i32::from_ne_bytes(array(payload, 0)?) {
            0 => Message::Acknowledged,
            number => Message::Failed(number.saturating_neg()),
        },
        _ if kind == BY_FAMILY => Message::Socket(entry(payload)?),
        _ => return None,
    })
}

fn entry(payload: &[u8]) -> Option<Entry> {
    let payload = payload.get(..ANSWER)?;
    let (family, state) = (payload[0], payload[1]);
    let id = &payload[4..52];
    let local = address(family, array(id, 0)?, array(id, 4)?)?;
    let remote = address(family, array(id, 2)?, array(id, 20)?)?;
    let inode = u32::from_ne_bytes(array(payload, 68)?);
    let word = |at| array(id, at).map(u32::from_ne_bytes).map(u64::from);
    Some(match state {
        state::LISTEN => Entry::Listener(local.port()),
        state::FIN_WAIT1 | state::FIN_WAIT2 if inode == 0 => Entry::Over,
        _ => Entry::Connection(Connection {
            cookie: word(40)? | word(44)? << 32,
            local,
            remote,
            interface: u32::from_ne_bytes(array(id, 36)?),
        }),
    })
}

fn address(family: u8, port: [u8; 2], bytes: [u8; 16]) -> Option<SocketAddr> {
    let ip = match i32::from(family) {
        libc::AF_INET => Ipv4Addr::from(array::<4>(&bytes, 0)?).into(),
        libc::AF_INET6 => IpAddr::from(Ipv6Addr::from(bytes)).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(port)))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Connection {
        Connection {
            cookie: 0x0102_0304_0506_0708,
            local: "10.0.0.1:80".parse().unwrap(),
            remote: "10.0.0.2:40000".parse().unwrap(),
            interface: 3,
        }
    }

    /// A listed socket, made of the id of a request.
    fn listed(connection: &Connection, family: i32, state: u8, inode: u32) -> Vec<u8> {
        let request = destroy_request(connection);
        let mut payload = vec![0; ANSWER];
        payload[0] = family as u8;
        payload[1] = state;
        payload[4..52].copy_from_slice(&request[HEADER + 8..]);
        payload[68..72].copy_from_slice(&inode.to_ne_bytes());
        framed(BY_FAMILY, &payload)
    }

    fn framed(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + payload.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(payload);
        bytes
    }

    fn read(bytes: &[u8]) -> Vec<Message> {
        Messages::new(bytes).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let v6 = Connection {
            local: "[fd00::1]:80".parse().unwrap(),
            remote: "[fd00::2]:40000".parse().unwrap(),
            ..connection()
        };
        for (connection, family) in [(connection(), libc::AF_INET), (v6, libc::AF_INET6)] {
            let mut bytes = listed(&connection, family, state::ESTABLISHED, 7);
            bytes.extend(listed(&connection, family, state::LISTEN, 7));
            bytes.extend(framed(libc::NLMSG_DONE as u16, &[0; 4]));
            let expected = [
                Message::Socket(Entry::Connection(connection)),
                Message::Socket(Entry::Listener(80)),
                Message::Done,
            ];
            assert_eq!(read(&bytes), expected);
        }
    }

    #[test]
    fn a_mapped_address_is_the_one_it_stands_for() {
        let mapped = Connection {
            local: "[::ffff:10.0.0.1]:80".parse().unwrap(),
            remote: "[::ffff:10.0.0.2]:40000".parse().unwrap(),
            ..connection()
        };
        let bytes = listed(&mapped, libc::AF_INET6, state::ESTABLISHED, 7);
        let expected = Message::Socket(Entry::Connection(connection()));
        assert_eq!(read(&bytes), [expected]);
    }

    /// A socket in a queue of those to accept has no inode either, but no half of it is closed.
    #[test]
    fn half_closed_and_let_go_is_over() {
        let entry = |state, inode| {
            let bytes = listed(&connection(), libc::AF_INET, state, inode);
            read(&bytes).remove(0)
        };
        let open = Message::Socket(Entry::Connection(connection()));
        assert_eq!(
            entry(state::FIN_WAIT2, 0),
            Message::Socket(Entry::Over),
            "let go"
        );
        assert_eq!(entry(state::FIN_WAIT2, 7), open, "half-closed");
        assert_eq!(entry(state::ESTABLISHED, 0), open, "not accepted yet");
        assert_eq!(entry(state::NEW_SYN_RECV, 0), open, "not answered yet");
    }

    #[test]
    fn answers_to_a_request() {
        let error = |number: i32| framed(libc::NLMSG_ERROR as u16, &number.to_ne_bytes());
        assert_eq!(read(&error(0)), [Message::Acknowledged]);
        assert_eq!(read(&error(-libc::ENOENT)), [Message::Failed(libc::ENOENT)]);
    }

    #[test]
    fn what_cannot_be_read_ends_the_reading() {
        let whole = listed(&connection(), libc::AF_INET, state::ESTABLISHED, 7);
        for length in 1..whole.len() {
            assert_eq!(read(&whole[..length]), [Message::Malformed], "{length}");
        }
        assert_eq!(read(&framed(BY_FAMILY, &[0; 20])), [Message::Malformed]);
        assert_eq!(read(&framed(99, &[])), [Message::Malformed]);
        assert_eq!(
            read(&listed(&connection(), 77, state::ESTABLISHED, 7)),
            [Message::Malformed]
        );
    }
}
