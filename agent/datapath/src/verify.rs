//! Proof from the data path that a pod is captured: not what was written is asked, but what
//! happens.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use agent_model::{HBONE_PORT, OUTBOUND_PORT};
use agent_net::{NetnsCookie, OriginalDst, socket::canonical};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::address::to_kernel_ip;
use crate::bpffs::Pins;
use crate::datapath::Datapath;
use crate::error::DatapathError;
use crate::pods::{EnrolledPod, Steered};
use crate::steering as links;
use crate::sys::{self, LookupContext};

/// Addresses kept for documentation (RFC 5737, RFC 3849): nobody answers there.
const NOWHERE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NOWHERE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// Port of the probe (discard).
const PROBE_PORT: u16 = 9;

/// Time a probe may take; it does not leave the namespace.
const PROBE_TIME: Duration = Duration::from_secs(1);
/// Time an address may stay tentative (duplicate address detection, RFC 4862).
const TENTATIVE_TIME: Duration = Duration::from_secs(4);

/// The node's hooks are attached and the pod is one of theirs.
pub(crate) fn node(datapath: &Datapath, cookie: NetnsCookie) -> Result<(), DatapathError> {
    if !datapath.attached() {
        return unverified("the node's hooks are not attached");
    }
    let pod = datapath.tables.pods.get(&cookie.0);
    if pod
        .map_err(DatapathError::kernel("read the maps"))?
        .is_none()
    {
        return unverified("its connects are not captured");
    }
    Ok(())
}

/// The program that is attached in the pod's namespace selects the pod's listeners.
pub(crate) fn steering(
    pins: &Pins,
    cookie: NetnsCookie,
    steered: &Steered,
) -> Result<(), DatapathError> {
    let program = links::program(&pins.pod(cookie.0), steered.inode)?;
    for own in &steered.own {
        let stranger = nowhere(*own);
        for (remote, port, listener, name) in [
            (stranger, HBONE_PORT, steered.hbone, "HBONE"),
            (stranger, 1, steered.inbound, "inbound"),
            (*own, OUTBOUND_PORT, steered.outbound, "outbound"),
        ] {
            let packet = packet(remote, SocketAddr::new(*own, port));
            let answer = sys::run_lookup(program.as_fd(), &packet)
                .map_err(DatapathError::kernel("run sk_lookup"))?;
            if answer != (true, listener) {
                return unverified(&format!("connections do not reach the {name} listener"));
            }
        }
    }
    Ok(())
}

/// A connect to nowhere, of every family the pod has, arrives at the outbound listener with its
/// destination known.
pub(crate) fn capture(
    datapath: &Datapath,
    pod: &EnrolledPod,
    own: &[IpAddr],
) -> Result<(), DatapathError> {
    for own in own {
        let destination = SocketAddr::new(nowhere(*own), PROBE_PORT);
        let probe = pod
            .netns
            .run(|| probe(destination))
            .and_then(|result| result)
            .map_err(DatapathError::kernel("connect a probe in the pod"))?;
        let shown = probe.peer_addr().ok().map(canonical);
        let listener = SocketAddr::new(*own, OUTBOUND_PORT);
        let arrived = arrived(datapath, pod, &probe, listener);
        // A reset, so that neither end lingers.
        let _ = SockRef::from(&probe).set_linger(Some(Duration::ZERO));
        if arrived? != Some(destination) || shown != Some(destination) {
            return unverified("a captured connect lost its destination");
        }
    }
    Ok(())
}

/// Waits for the probe at the outbound listener and returns where the kernel says it was going.
fn arrived(
    datapath: &Datapath,
    pod: &EnrolledPod,
    probe: &TcpStream,
    listener: SocketAddr,
) -> Result<Option<SocketAddr>, DatapathError> {
    let failed = DatapathError::kernel("accept the probe");
    let client = probe
        .local_addr()
        .map_err(DatapathError::kernel("name the probe"))?;
    match accept_from(&pod.outbound, canonical(client)) {
        Ok(accepted) => {
            let reached = accepted.local_addr().ok().map(canonical);
            if reached != Some(listener) {
                return unverified("a captured connect reached another address");
            }
            // Asked while both ends live: the kernel forgets with the socket.
            Ok(datapath.original_dst(pod.netns.cookie(), canonical(client)))
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            unverified("a captured connect did not reach the outbound listener")
        }
        Err(error) => Err(failed(error)),
    }
}

/// Connects to nowhere as an application would. An address of the pod that is still tentative is
/// waited for.
fn probe(destination: SocketAddr) -> io::Result<TcpStream> {
    let deadline = Instant::now() + TENTATIVE_TIME;
    loop {
        let socket = Socket::new(
            Domain::for_address(destination),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        match socket.connect_timeout(&destination.into(), PROBE_TIME) {
            Ok(()) => return Ok(socket.into()),
            Err(error)
                if error.kind() == io::ErrorKind::AddrNotAvailable && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Accepts until the connection from `client` comes. Connections of others, which an application
/// may make while its pod is enrolled anew, end in a reset: before they were refused.
fn accept_from(listener: &TcpListener, client: SocketAddr) -> io::Result<TcpStream> {
    let deadline = Instant::now() + PROBE_TIME;
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                if canonical(peer) == client {
                    return Ok(stream);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                wait_readable(listener.as_fd(), left)?;
            }
            Err(error) => return Err(error),
        }
    }
}

fn wait_readable(descriptor: BorrowedFd<'_>, time: Duration) -> io::Result<()> {
    let milliseconds = u16::try_from(time.as_millis()).unwrap_or(u16::MAX).max(1);
    let mut waited = [PollFd::new(descriptor, PollFlags::POLLIN)];
    poll(&mut waited, PollTimeout::from(milliseconds))?;
    Ok(())
}

fn nowhere(own: IpAddr) -> IpAddr {
    match own {
        IpAddr::V4(_) => NOWHERE_V4.into(),
        IpAddr::V6(_) => NOWHERE_V6.into(),
    }
}

/// A SYN from some port of `remote` to `local`.
fn packet(remote: IpAddr, local: SocketAddr) -> LookupContext {
    let (remote_words, local_words) = (to_kernel_ip(remote), to_kernel_ip(local.ip()));
    let mut context = LookupContext {
        protocol: libc::IPPROTO_TCP as u32,
        remote_port: 40_000u16.to_be(),
        local_port: u32::from(local.port()),
        ..LookupContext::default()
    };
    if local.is_ipv4() {
        context.family = libc::AF_INET as u32;
        context.remote_ip4 = remote_words[3];
        context.local_ip4 = local_words[3];
    } else {
        context.family = libc::AF_INET6 as u32;
        context.remote_ip6 = remote_words;
        context.local_ip6 = local_words;
    }
    context
}

fn unverified<T>(what: &str) -> Result<T, DatapathError> {
    Err(DatapathError::Unverified(what.to_owned()))
}
