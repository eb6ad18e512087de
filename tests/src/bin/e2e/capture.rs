//! What of a pod's TCP is captured, and what it looks like from both ends.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tests::server::{Behaviour, Server};
use tests::traffic::{self, Outcome, attempt, echo_on, must_refuse, must_serve};
use tests::{Cluster, Pod, PodSpec};

use crate::scene::{MESHED, PORT, Scene};
use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[
    shared(
        "capture: T-ESC-2 every TCP call in every family",
        every_call,
    ),
    shared(
        "capture: a new pod is captured from its first connect",
        first_connect,
    ),
    shared("capture: a pod talking to itself is left alone", to_itself),
    shared("capture: both ends on one node", one_node),
    shared("capture: T-ESC-5 agent ports lead nowhere", agent_ports),
];

const LIMIT: Duration = Duration::from_secs(5);

/// A way to open a connection and send the first bytes.
type Call = fn(SocketAddr, &[u8]) -> io::Result<TcpStream>;

const CALLS: &[(&str, Call)] = &[
    ("connect", plain_connect),
    ("non-blocking connect", nonblocking_connect),
    ("sendto with MSG_FASTOPEN", fast_open),
    ("MPTCP connect", multipath_connect),
];

/// Under STRICT only captured connections are served, so every answer proves a capture.
fn every_call(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    for to in targets(&scene.server) {
        for (name, call) in CALLS {
            let before = server.accepted();
            let seen = scene
                .client
                .within(|| exchange(*call, to))?
                .with_context(|| format!("{name} to {to}"))?;
            let asked = SocketAddr::new(to.ip().to_canonical(), to.port());
            ensure!(
                seen.peer == asked,
                "{name} to {to}: getpeername says {}",
                seen.peer
            );
            let own = own_ip(&scene.client, asked.ip());
            ensure!(
                seen.local.ip() == own,
                "{name}: getsockname says {}",
                seen.local
            );
            let peers = server.peers();
            ensure!(
                peers.len() == before + 1,
                "{name} to {to}: {} accepts",
                peers.len() - before
            );
            ensure!(
                peers.last().is_some_and(|peer| peer.ip() == own),
                "{name} to {to}: the server saw {:?} instead of {own}",
                peers.last()
            );
            let refused = scene.outsider.within(|| exchange(*call, to))?;
            ensure!(
                refused.is_err(),
                "{name} to {to} from outside passed STRICT"
            );
        }
    }
    Ok(())
}

/// What a client sees of its own connection.
struct Seen {
    local: SocketAddr,
    peer: SocketAddr,
}

fn exchange(call: Call, to: SocketAddr) -> io::Result<Seen> {
    const TEXT: &[u8] = b"captured?";
    let mut stream = call(to, TEXT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut answer = [0; TEXT.len()];
    stream.read_exact(&mut answer)?;
    if answer != TEXT {
        return Err(io::Error::new(ErrorKind::InvalidData, "another echo"));
    }
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    Ok(Seen {
        local: canonical(stream.local_addr()?),
        peer: canonical(stream.peer_addr()?),
    })
}

fn plain_connect(to: SocketAddr, first: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.write_all(first)?;
    Ok(stream)
}

fn nonblocking_connect(to: SocketAddr, first: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.write_all(first)?;
    Ok(stream)
}

fn fast_open(to: SocketAddr, first: &[u8]) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    let sent = socket.send_to_with_flags(first, &SockAddr::from(to), nix::libc::MSG_FASTOPEN)?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(&first[sent..])?;
    Ok(stream)
}

fn multipath_connect(to: SocketAddr, first: &[u8]) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::MPTCP))?;
    socket.connect(&to.into())?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(first)?;
    Ok(stream)
}

/// The server by IPv4, by IPv6, and by IPv4 through an IPv6 socket.
fn targets(server: &Pod) -> [SocketAddr; 3] {
    let addresses = server.addresses();
    [
        SocketAddrV4::new(addresses.v4, PORT).into(),
        SocketAddrV6::new(addresses.v6, PORT, 0, 0).into(),
        SocketAddrV6::new(addresses.v4.to_ipv6_mapped(), PORT, 0, 0).into(),
    ]
}

fn own_ip(pod: &Pod, like: IpAddr) -> IpAddr {
    let addresses = pod.addresses();
    match like {
        IpAddr::V4(_) => addresses.v4.into(),
        IpAddr::V6(_) => addresses.v6.into(),
    }
}

/// Nothing is awaited between ADD and connect: ADD has returned, so the pod is captured.
fn first_connect(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let _server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    for to in scene.server.sockets(PORT) {
        let late = cluster.pod(&PodSpec::new(MESHED, "late"))?;
        must_serve(&late, to)?;
    }
    Ok(())
}

fn to_itself(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let agent = cluster.node(2)?.agent()?;
    let opened = || -> Result<f64> {
        Ok(agent
            .metrics()?
            .sum("istio_tcp_connections_opened_total", &[]))
    };
    let before = opened()?;
    let mut to: Vec<SocketAddr> = scene.server.sockets(PORT).into();
    to.push((Ipv4Addr::LOCALHOST, PORT).into());
    to.push((std::net::Ipv6Addr::LOCALHOST, PORT).into());
    for to in to {
        must_serve(&scene.server, to)?;
        let peer = server.peers().pop().context("nothing was accepted")?;
        ensure!(peer.ip() == to.ip(), "{to}: the server saw {peer}");
    }
    ensure!(
        opened()? == before,
        "the agent saw a pod's talk with itself"
    );
    Ok(())
}

/// Without the kernel path for one node, both pods on it are tunnelled as any others.
fn one_node(cluster: &Cluster) -> Result<()> {
    let scene = Scene::strict(cluster)?;
    let neighbour = cluster.pod(&PodSpec::new(MESHED, "neighbour").on(2))?;
    cluster.settle()?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    for (index, to) in scene.server.sockets(PORT).into_iter().enumerate() {
        must_serve(&neighbour, to)?;
        let peer = server.peers().pop().context("nothing was accepted")?;
        ensure!(
            peer.ip() == neighbour.ips()[index],
            "{to}: the server saw {peer}"
        );
    }
    Ok(())
}

/// Whatever a pod dials of the agent's, nothing is relayed and nothing hangs.
fn agent_ports(cluster: &Cluster) -> Result<()> {
    const QUICK: Duration = Duration::from_secs(5);
    let scene = Scene::permissive(cluster)?;
    let server = Server::start(&scene.server, PORT, Behaviour::Echo)?;
    let agent: IpAddr = tests::topology::pod_range(1, 2).v4.into();
    let mut targets = Vec::new();
    for port in [15000, 15001, 15006, 15008, 15053, 15080] {
        for ip in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
            scene.client.ips()[0],
            scene.client.ips()[1],
            scene.server.ips()[0],
            scene.server.ips()[1],
            agent,
        ] {
            targets.push(SocketAddr::new(ip, port));
        }
    }
    for to in targets {
        let start = Instant::now();
        match attempt(&scene.client, to, QUICK)? {
            Outcome::Refused(..) => {}
            other => bail!("{to}: {other:?} after {:?}", start.elapsed()),
        }
    }
    ensure!(
        server.accepted() == 0,
        "something was relayed to the application"
    );
    // And the agent still works.
    must_serve(&scene.client, scene.server.sockets(PORT)[0])?;
    let mut open = scene.client.connect(scene.server.sockets(PORT)[1], LIMIT)?;
    echo_on(&mut open, b"still here")?;
    must_refuse(&scene.client, scene.client.sockets(traffic::UNUSED_PORT)[0])
}
