//! UDP sockets that know which of the host's addresses a datagram was sent to, so that the answer
//! can come from there.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Bytes of the longest datagram.
pub const LONGEST_DATAGRAM: usize = 65535;
/// Bytes the kernel may hold of datagrams that nobody has read yet (capped by `net.core.rmem_max`).
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// A socket that serves clients. One task reads it.
#[derive(Debug)]
pub struct ServingSocket(UdpSocket);

/// A datagram that has come: its bytes are in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// How many.
    pub len: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// The address of this host that it was sent to.
    pub to: IpAddr,
}

/// Binds a socket; `[::]` takes IPv4 too. It does not block.
pub fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM.nonblocking(),
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    // Less than asked for is no fault.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

impl ServingSocket {
    /// Takes a socket that [`bind`] made. Needs a runtime.
    pub fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket).map(Self)
    }

    /// The next datagram. Safe to drop before it completes.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<Arrived> {
        loop {
            self.0.readable().await?;
            let tried = self
                .0
                .try_io(Interest::READABLE, || receive(&self.0, buffer));
            match tried {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    /// Sends a datagram to a client from one of the host's addresses; `WouldBlock` when the kernel
    /// has no room for it.
    pub fn send(&self, datagram: &[u8], to: SocketAddr, from: IpAddr) -> io::Result<()> {
        let is_ipv6 = self.0.local_addr()?.is_ipv6();
        send(&self.0, is_ipv6, datagram, to, from)
    }
}

fn receive(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<Arrived> {
    let mut space = nix::cmsg_space!(libc::in6_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::empty(),
    )?;
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let to = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(IpAddr::V4(u32::from_be(info.ipi_addr.s_addr).into()))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(IpAddr::V6(info.ipi6_addr.s6_addr.into()))
        }
        _ => None,
    });
    let from = message.address.as_ref().and_then(address);
    Ok(Arrived {
        len: message.bytes,
        from: from.ok_or_else(|| invalid("a datagram of nobody"))?,
        to: to.ok_or_else(|| invalid("a datagram to nobody"))?,
    })
}

fn send(
    socket: &impl AsRawFd,
    is_ipv6: bool,
    datagram: &[u8],
    to: SocketAddr,
    from: IpAddr,
) -> io::Result<()> {
    let slices = [IoSlice::new(datagram)];
    let to = SockaddrStorage::from(to);
    let fd = socket.as_raw_fd();
    let flags = MsgFlags::empty();
    let sent = match from {
        IpAddr::V4(from) if !is_ipv6 => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from(from).to_be(),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(fd, &slices, &control, flags, Some(&to))
        }
        from => {
            let from = match from {
                IpAddr::V4(from) => from.to_ipv6_mapped(),
                IpAddr::V6(from) => from,
            };
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: from.octets(),
                },
                ipi6_ifindex: 0,
            };
            let control = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(fd, &slices, &control, flags, Some(&to))
        }
    };
    sent?;
    Ok(())
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage
        .as_sockaddr_in()
        .map(|address| SocketAddr::V4(SocketAddrV4::from(*address)));
    v4.or_else(|| {
        let address = storage.as_sockaddr_in6()?;
        Some(SocketAddr::V6(SocketAddrV6::from(*address)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn exchange(bound: &str, client: &str, asked: &str) -> SocketAddr {
        let socket = bind(bound.parse().unwrap()).unwrap();
        let port = socket.local_addr().unwrap().port();
        let socket = ServingSocket::new(socket).unwrap();
        let client = UdpSocket::bind((client.parse::<IpAddr>().unwrap(), 0))
            .await
            .unwrap();
        let asked = SocketAddr::new(asked.parse().unwrap(), port);
        client.send_to(b"ask", asked).await.unwrap();
        let mut buffer = [0; 16];
        let arrived = socket.receive(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..arrived.len], b"ask");
        assert_eq!(arrived.to.to_canonical(), asked.ip());
        socket.send(b"answer", arrived.from, arrived.to).unwrap();
        let (len, from) = client.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..len], b"answer");
        assert_eq!(from.port(), port);
        from
    }

    #[tokio::test]
    async fn the_answer_comes_from_the_address_that_was_asked() {
        for (bound, client, asked) in [
            ("0.0.0.0:0", "127.0.0.1", "127.0.0.3"),
            ("[::]:0", "127.0.0.1", "127.0.0.3"),
            ("[::]:0", "::1", "::1"),
            ("127.0.0.4:0", "127.0.0.1", "127.0.0.4"),
        ] {
            let from = exchange(bound, client, asked).await;
            assert_eq!(from.ip().to_string(), asked, "{bound}");
        }
    }
}
