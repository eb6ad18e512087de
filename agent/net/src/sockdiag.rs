//! The TCP connections of a network namespace, as the kernel lists and ends them over
//! `NETLINK_SOCK_DIAG` (sock_diag(7)). Needs CAP_NET_ADMIN and, to end one,
//! `CONFIG_INET_DIAG_DESTROY`.
//!
//! Every call opens its netlink socket inside the namespace and closes it again, because an open
//! one keeps a deleted namespace alive.

mod wire;

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{NetlinkAddr, connect};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Netns;
use wire::{Entry, Message, Messages};

/// Time the kernel may take for one answer.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// Bytes read at a time; the kernel fills what it is given, up to 32 KiB.
const READ_SIZE: usize = 32 << 10;

/// The address families, each of which is asked for by itself. That of IPv6 has the v4-mapped
/// connections too.
const FAMILIES: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];

/// One TCP connection of a namespace, at one of its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The kernel's number for the socket (`SO_COOKIE`), never used twice.
    pub cookie: u64,
    /// This end. IPv4 is never mapped.
    pub local: SocketAddr,
    /// The other end. IPv4 is never mapped.
    pub remote: SocketAddr,
    /// The interface the socket is bound to, 0 for none.
    pub interface: u32,
}

/// What a namespace has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sockets {
    /// Connections over which bytes can still go one way or the other: also such as nobody has
    /// accepted yet, or whose one half is closed.
    pub connections: Vec<Connection>,
    /// Ports somebody listens on, whatever the address.
    pub listening: BTreeSet<u16>,
}

/// Lists the namespace's TCP sockets. Fails with `QuotaExceeded` when there are more than `limit`
/// connections. Takes milliseconds: the kernel walks the connections of all namespaces.
pub fn list(netns: &Netns, limit: usize) -> io::Result<Sockets> {
    let mut socket = open(netns)?;
    let mut sockets = Sockets::default();
    for family in FAMILIES {
        socket.write_all(&wire::list_request(family))?;
        read_list(&mut socket, limit, &mut sockets)?;
    }
    Ok(sockets)
}

/// Ends a connection of the namespace: the application gets ECONNABORTED, its peer a reset. False
/// when the connection, by its cookie, is gone.
pub fn destroy(netns: &Netns, connection: &Connection) -> io::Result<bool> {
    let mut socket = open(netns)?;
    socket.write_all(&wire::destroy_request(connection))?;
    let mut buffer = vec![0; READ_SIZE];
    let length = socket.read(&mut buffer)?;
    match Messages::new(&buffer[..length]).next() {
        Some(Message::Acknowledged) => Ok(true),
        Some(Message::Failed(libc::ENOENT)) => Ok(false),
        Some(Message::Failed(number)) => Err(io::Error::from_raw_os_error(number)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn open(netns: &Netns) -> io::Result<Socket> {
    let socket = netns.run(|| {
        Socket::new(
            Domain::from(libc::AF_NETLINK),
            Type::DGRAM,
            Some(Protocol::from(libc::NETLINK_SOCK_DIAG)),
        )
    })??;
    // Only the kernel's answers: a pod's own processes can write to netlink sockets too.
    connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    socket.set_read_timeout(Some(ANSWER_TIME))?;
    Ok(socket)
}

/// Reads one family's answer to its end.
fn read_list(socket: &mut Socket, limit: usize, sockets: &mut Sockets) -> io::Result<()> {
    let mut buffer = vec![0; READ_SIZE];
    loop {
        let length = socket.read(&mut buffer)?;
        for message in Messages::new(&buffer[..length]) {
            match message {
                Message::Socket(Entry::Listener(port)) => {
                    sockets.listening.insert(port);
                }
                Message::Socket(Entry::Connection(connection)) => {
                    if sockets.connections.len() == limit {
                        return Err(io::ErrorKind::QuotaExceeded.into());
                    }
                    sockets.connections.push(connection);
                }
                Message::Socket(Entry::Over) => {}
                Message::Done => return Ok(()),
                Message::Failed(number) => return Err(io::Error::from_raw_os_error(number)),
                Message::Acknowledged | Message::Malformed => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
    }
}
