//! TCP sockets and listeners with the options every leg of the agent uses.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::Netns;

/// Time one `connect` may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Idle time before the first keepalive probe.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Time between keepalive probes.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Probes without an answer before the connection is dead.
pub const KEEPALIVE_PROBES: u32 = 3;
/// Time unacknowledged data may wait before the connection is dead (`TCP_USER_TIMEOUT`).
pub const USER_TIMEOUT: Duration = Duration::from_secs(60);
/// Pending connections of a listener.
pub const BACKLOG: i32 = 4096;

/// Makes a dual-stack listener on `port` (0: any) inside `netns`; IPv4-only where the namespace
/// has no IPv6. `SO_REUSEADDR` always, so that an application can bind the port of connections
/// the agent accepted for it; `SO_REUSEPORT` never, so that no pod process can join.
pub fn listen(netns: &Netns, port: u16) -> io::Result<std::net::TcpListener> {
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    netns.run(|| listen_on(any))?
}

/// The same on `address`, in the current namespace: `[::]` serves IPv4 too, and is `0.0.0.0` on a
/// kernel without IPv6. The listener does not block.
pub fn listen_on(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    bind_listener(address).or_else(|error| match without_ipv6(address, &error) {
        Some(address) => bind_listener(address),
        None => Err(error),
    })
}

/// What to listen on in place of `[::]`, when that failed because there is no IPv6.
fn without_ipv6(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let is_absent = matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    );
    let is_any = address.is_ipv6() && address.ip().is_unspecified();
    (is_any && is_absent).then(|| (Ipv4Addr::UNSPECIFIED, address.port()).into())
}

fn bind_listener(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Sets the options of every leg: no Nagle delay, keepalive, user timeout.
pub fn set_leg_options(socket: impl AsFd) -> io::Result<()> {
    let socket = socket.as_fd();
    let options = SockRef::from(&socket);
    options.set_tcp_nodelay(true)?;
    options.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    setsockopt(
        &socket,
        sockopt::TcpUserTimeout,
        &(USER_TIMEOUT.as_millis() as u32),
    )?;
    Ok(())
}

/// Connects from inside `netns` to `address`. `prepare` sees the socket before it connects (to
/// exempt it from capture); the socket is plain TCP, never MPTCP. Fails with `TimedOut` after
/// [`CONNECT_TIMEOUT`].
pub async fn connect(
    netns: &Netns,
    address: SocketAddr,
    prepare: impl FnOnce(&TcpSocket) -> io::Result<()>,
) -> io::Result<TcpStream> {
    let socket = netns.run(|| {
        if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }
    })??;
    set_leg_options(&socket)?;
    prepare(&socket)?;
    match tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(address)).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// The address with an IPv4-mapped IPv6 address turned into the IPv4 address it stands for.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_ipv6_any_address_is_one_of_ipv4() {
        let instead = |address: &str, code| {
            let error = io::Error::from_raw_os_error(code);
            without_ipv6(address.parse().unwrap(), &error)
        };
        let any = "0.0.0.0:15012".parse().ok();
        assert_eq!(instead("[::]:15012", libc::EAFNOSUPPORT), any);
        assert_eq!(instead("[::]:15012", libc::EADDRNOTAVAIL), any);
        assert_eq!(instead("[::]:15012", libc::EADDRINUSE), None);
        assert_eq!(instead("[fd00::1]:15012", libc::EAFNOSUPPORT), None);
        assert_eq!(instead("0.0.0.0:15012", libc::EADDRNOTAVAIL), None);
    }

    #[test]
    fn both_families_reach_a_listener_on_any_address() {
        let listener = listen_on("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        for client in ["127.0.0.1", "::1"] {
            let to = SocketAddr::new(client.parse().unwrap(), port);
            std::net::TcpStream::connect(to).unwrap();
        }
        let taken = listen_on(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
        let kind = taken.map_err(|error| error.kind());
        assert_eq!(kind.err(), Some(io::ErrorKind::AddrInUse));
    }
}
