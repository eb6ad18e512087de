//! A pod's name sockets. One for each server the pod asks, in the pod's own namespace.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use agent_net::drain::Watcher;
use agent_net::socket::canonical;
use agent_net::tasks::spawn_local;
use agent_net::{NAME_SERVERS, NamePlace};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use crate::dns::{Outcome, Query, Transport, is_reply, resolve};
use crate::local::LocalPod;
use crate::mesh::Kernel;
use crate::pod::Pod;

/// Longest question that is taken; resolvers send a few hundred bytes.
const MAX_QUESTION: usize = 4096;
/// Questions of one pod that wait for their server at a time, each with a socket. More are lost,
/// as they are on a network that is too busy, and asked again.
const UNDER_WAY: usize = 256;
/// Questions taken before others get their turn.
const BURST: usize = 64;
/// How long a server may take. Resolvers have asked again, or given up, by then.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest datagram.
const MAX_DATAGRAM: usize = 65_535;

/// A name socket and which it is.
pub(crate) type Socket = (NamePlace, StdSocket);

/// Makes a pod's name sockets and has the kernel send queries there. Each is bound to the pod's own
/// address of its family, which is where its replies are to come from.
pub(crate) fn open(pod: &Pod, kernel: &dyn Kernel) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for is_ipv4 in [true, false] {
        let mut ips = pod.info().ips.iter().map(IpAddr::to_canonical);
        let Some(ip) = ips.find(|ip| ip.is_ipv4() == is_ipv4) else {
            continue;
        };
        for slot in 0..NAME_SERVERS {
            let socket = pod.netns().run(|| StdSocket::bind((ip, 0)))??;
            socket.set_nonblocking(true)?;
            sockets.push((NamePlace { slot, is_ipv4 }, socket));
        }
    }
    // Those of a family that comes later must not lack the ones before.
    for (place, socket) in &sockets {
        kernel.serve_names(pod.cookie(), *place, socket.as_fd())?;
    }
    Ok(sockets)
}

/// Serves one socket until the pod is removed or leaves, the agent drains, or the pod's names are no
/// longer answered. What has arrived or is under way then still gets its reply.
pub(crate) async fn serve(
    pod: LocalPod,
    (place, socket): Socket,
    turns: Arc<Semaphore>,
    [mut draining, mut leaving, mut closing]: [Watcher; 3],
) {
    let socket = match UdpSocket::from_std(socket) {
        Ok(socket) => Rc::new(socket),
        Err(error) => {
            tracing::error!(pod = %pod.pod.info().name, %error, "cannot serve a name socket");
            return;
        }
    };
    let served = Served {
        pod,
        place,
        socket,
        turns,
    };
    loop {
        let is_over = tokio::select! {
            biased;
            _ = served.pod.ended() => return,
            () = draining.signalled() => true,
            () = leaving.signalled() => true,
            () = closing.signalled() => true,
            ready = served.socket.readable() => ready.is_err(),
        };
        match served.take_all() {
            Ok(()) => {}
            // Of a datagram sent before, to a client that is gone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => {
                tracing::warn!(pod = %served.pod.pod.info().name, %error, "name socket");
                sleep(Duration::from_millis(100)).await;
            }
        }
        if is_over {
            return;
        }
    }
}

/// A socket that is served.
struct Served {
    pod: LocalPod,
    place: NamePlace,
    socket: Rc<UdpSocket>,
    turns: Arc<Semaphore>,
}

impl Served {
    /// Takes every question that is there.
    fn take_all(&self) -> io::Result<()> {
        // One for all pods of the thread: a question is done with when it is taken.
        thread_local! {
            static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_QUESTION]);
        }
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..BURST {
                let (length, client) = match self.socket.try_recv_from(buffer) {
                    Ok(received) => received,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                };
                // Nobody else's business: the socket can be reached from outside too.
                if self.pod.owns(client.ip().to_canonical()) {
                    let Self {
                        pod,
                        place,
                        socket,
                        turns,
                    } = self;
                    take(pod, *place, socket, turns, &buffer[..length], client);
                }
            }
            Ok(())
        })
    }
}

fn take(
    pod: &LocalPod,
    place: NamePlace,
    socket: &Rc<UdpSocket>,
    turns: &Arc<Semaphore>,
    question: &[u8],
    client: SocketAddr,
) {
    let counters = Arc::clone(&pod.worker.mesh.names);
    if let Some(reply) = answer(pod, question, Transport::Udp) {
        // A full buffer is the network's loss.
        let _ = socket.try_send_to(&reply, client);
        counters.count(Outcome::Answered);
        return;
    }
    let Ok(turn) = Arc::clone(turns).try_acquire_owned() else {
        counters.count(Outcome::Dropped);
        return;
    };
    let (pod, socket, question) = (pod.clone(), Rc::clone(socket), question.to_vec());
    spawn_local(async move {
        let forwarded = tokio::select! {
            _ = pod.ended() => Ok(false),
            forwarded = forward(&pod, place, &socket, question, client) => forwarded,
        };
        counters.count(match forwarded {
            Ok(true) => Outcome::Forwarded,
            Ok(false) => Outcome::Unanswered,
            Err(error) => {
                tracing::debug!(target: "names", pod = %pod.pod.info().name, %error, "not sent on");
                Outcome::Dropped
            }
        });
        drop(turn);
    });
}

/// The mesh's answer, if the name is the mesh's.
pub(super) fn answer(pod: &LocalPod, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let mesh = &pod.worker.mesh;
    let domain = &mesh.config.names.as_ref()?.domain;
    let query = Query::read(question)?;
    if !*mesh.synced.borrow() {
        return None;
    }
    let snapshot = mesh.state.load();
    let client = pod.pod.workload_in(&snapshot, &mesh.config.network)?;
    let turn = rand::random::<u32>() as usize;
    let answer = resolve(&snapshot, &client, &query, domain, turn);
    query.reply(&answer, transport)
}

/// Asks the server that the pod asked, under an id of our own from a port of our own, and brings
/// the first reply to this question back as it is, but for the id. True when one came in time.
async fn forward(
    pod: &LocalPod,
    place: NamePlace,
    socket: &UdpSocket,
    mut question: Vec<u8>,
    client: SocketAddr,
) -> io::Result<bool> {
    let kernel = &pod.worker.mesh.kernel;
    let server = kernel.name_server(pod.pod.cookie(), place);
    let server = server.ok_or(io::ErrorKind::NotFound)?;
    let Some(id) = question.first_chunk::<2>().copied() else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let upstream = dial(pod, SocketAddr::new(server, agent_net::NAME_PORT)).await?;
    question[..2].copy_from_slice(&rand::random::<[u8; 2]>());
    upstream.send(&question).await?;
    let deadline = Instant::now() + PATIENCE;
    let client = canonical(client);
    loop {
        match timeout_at(deadline, upstream.readable()).await {
            Ok(ready) => ready?,
            Err(_) => return Ok(false),
        }
        match receive(&upstream, &question, id) {
            Ok(Some(reply)) => {
                socket.send_to(&reply, client).await?;
                return Ok(true);
            }
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// A datagram that is there, when it is the reply, with the id of the client's question.
fn receive(upstream: &UdpSocket, question: &[u8], id: [u8; 2]) -> io::Result<Option<Vec<u8>>> {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_DATAGRAM]);
    }
    BUFFER.with_borrow_mut(|buffer| {
        let length = upstream.try_recv(buffer)?;
        if !is_reply(question, &buffer[..length]) {
            return Ok(None);
        }
        let mut reply = buffer[..length].to_vec();
        reply[..2].copy_from_slice(&id);
        Ok(Some(reply))
    })
}

/// A socket of the pod's namespace that is not captured, connected so that only the server's
/// datagrams arrive.
async fn dial(pod: &LocalPod, server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = pod.pod.netns().run(|| StdSocket::bind((any, 0)))??;
    socket.set_nonblocking(true)?;
    pod.worker.mesh.kernel.exempt(socket.as_fd())?;
    let socket = UdpSocket::from_std(socket)?;
    socket.connect(server).await?;
    Ok(socket)
}

/// The places of a pod for questions under way.
pub(crate) fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(UNDER_WAY))
}
