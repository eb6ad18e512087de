//! Where a gateway listens.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use agent_net::datagram;
use socket2::{Domain, Protocol, Socket, Type};

/// What carries the bytes of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Transport {
    Tcp,
    Udp,
}

/// A port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Place {
    pub transport: Transport,
    pub port: u16,
}

impl Place {
    /// A port of TCP.
    pub fn tcp(port: u16) -> Self {
        Self {
            transport: Transport::Tcp,
            port,
        }
    }

    /// A port of UDP.
    pub fn udp(port: u16) -> Self {
        Self {
            transport: Transport::Udp,
            port,
        }
    }
}

impl fmt::Display for Place {
    /// `80`, or `53/udp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Tcp => write!(f, "{}", self.port),
            Transport::Udp => write!(f, "{}/udp", self.port),
        }
    }
}

/// A socket that a port is served by.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Door {
    Connections(TcpListener),
    Datagrams(UdpSocket),
}

/// Listens on an address. `SO_REUSEADDR` for TCP, so that a gateway can start where another one has
/// just stopped; an IPv6 address that is unspecified takes IPv4 too.
pub fn bind(ip: IpAddr, place: Place) -> io::Result<Door> {
    let address = SocketAddr::new(ip, place.port);
    match place.transport {
        Transport::Tcp => listen(address).map(Door::Connections),
        Transport::Udp => datagram::bind(address).map(Door::Datagrams),
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    /// Connections that wait to be accepted; the kernel caps it at `net.core.somaxconn`.
    const BACKLOG: i32 = 4096;
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
