//! Names over DNS: what the mesh owns is answered on the node, the rest by who was asked.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::manifests::ServiceSpec;
use tests::{Cluster, Pod, PodSpec};

use crate::scene::{MESHED, OUTSIDE, PORT, Scene};
use crate::{Case, shared};

pub(crate) const CASES: &[Case] = &[shared(
    "names: F-96 the mesh's are answered on the node, others by the server that was asked",
    answered,
)];

const DNS: u16 = 53;
const OWN_NAME: &str = "server.app.svc.cluster.local";
const OTHER_NAME: &str = "www.example.com";
/// What the server answers to everything.
const OF_SERVER: [&str; 2] = ["192.0.2.53", "2001:db8::53"];
const SOON: Duration = Duration::from_secs(3);
/// In which a reply that is none must not arrive.
const A_WHILE: Duration = Duration::from_millis(500);

fn answered(cluster: &Cluster) -> Result<()> {
    let scene = Scene::permissive(cluster)?;
    let resolver = cluster.pod(&PodSpec::new(OUTSIDE, "resolver").on(2).outside())?;
    let spec = ServiceSpec::new(MESHED, "server", PORT).port(80, &PORT.to_string());
    let service = cluster.service(&spec)?;
    let server = Resolver::start(&resolver)?;
    let vips = [IpAddr::from(service.v4), IpAddr::from(service.v6)];
    cluster.settle()?;
    play(cluster, &scene, &resolver, &server, vips)?;
    server.stop()
}

fn play(
    cluster: &Cluster,
    scene: &Scene,
    resolver: &Pod,
    server: &Resolver,
    vips: [IpAddr; 2],
) -> Result<()> {
    let of_server = OF_SERVER.map(|ip| ip.parse::<IpAddr>());
    let of_server = [of_server[0].clone()?, of_server[1].clone()?];
    let agent = cluster.node(1)?.agent()?;
    for to in resolver.sockets(DNS) {
        for is_connected in [false, true] {
            let what = || format!("asking {to}, connected: {is_connected}");
            let ask = |pod: &Pod, name: &str| udp(pod, to, is_connected, name).with_context(what);
            server.forget();
            ensure!(ask(&scene.client, OWN_NAME)? == vips, "{}", what());
            ensure!(server.asked() == 0, "{}: the server was asked", what());
            ensure!(ask(&scene.client, OTHER_NAME)? == of_server, "{}", what());
            ensure!(server.asked() == 2, "{}: once for each type", what());
            // Nobody answers for a pod outside the mesh.
            ensure!(ask(&scene.outsider, OWN_NAME)? == of_server, "{}", what());
        }
        for (name, expected) in [(OWN_NAME, vips), (OTHER_NAME, of_server)] {
            let told = tcp(&scene.client, to, name).with_context(|| format!("{to}, {name}"))?;
            ensure!(told == expected, "{to}, {name} over TCP: {told:?}");
        }
        libc(&scene.client, to.ip(), vips)?;

        // A forged reply is none, nor is silence; the next question is answered.
        for fault in [&server.forges, &server.is_silent] {
            fault.store(true, Ordering::Relaxed);
            let failed = udp_within(A_WHILE, &scene.client, to, false, OTHER_NAME);
            fault.store(false, Ordering::Relaxed);
            ensure!(failed.is_err(), "{to}: an answer from nowhere: {failed:?}");
            ensure!(udp(&scene.client, to, false, OTHER_NAME)? == of_server);
        }
    }
    let to = resolver.sockets(DNS)[0];
    cluster.control()?.kill9()?;
    ensure!(
        udp(&scene.client, to, true, OWN_NAME)? == vips,
        "in an outage"
    );
    cluster.control()?.start()?;
    agent.kill9()?;
    for to in resolver.sockets(DNS) {
        let told = udp(&scene.client, to, false, OWN_NAME).context("without an agent")?;
        ensure!(told == of_server, "without an agent the server answers");
    }
    agent.start_ready()?;
    cluster.settle()?;
    for to in resolver.sockets(DNS) {
        let told = udp(&scene.client, to, false, OWN_NAME).context("with the next agent")?;
        ensure!(told == vips, "the next agent answers: {told:?}");
    }
    let metrics = agent.metrics()?;
    let count = metrics.sum("culvert_dns_questions_total", &["outcome=\"answered\""]);
    ensure!(count >= 4.0, "{count} questions were counted");
    Ok(())
}

/// glibc's resolver, with search domains.
fn libc(pod: &Pod, server: IpAddr, vips: [IpAddr; 2]) -> Result<()> {
    let script = format!(
        "file=$(mktemp) && trap 'umount /etc/resolv.conf; rm $file' EXIT && \
         printf 'nameserver {server}\\nsearch app.svc.cluster.local svc.cluster.local\\n\
         options ndots:5 timeout:2 attempts:2\\n' > $file && \
         mount --bind $file /etc/resolv.conf && getent -s hosts:dns ahosts server.app"
    );
    let told = pod.place().check(&["sh", "-c", &script])?;
    for vip in vips {
        ensure!(
            told.lines()
                .any(|line| line.starts_with(&format!("{vip} "))),
            "getent by {server}: {told}"
        );
    }
    Ok(())
}

/// Asks for both families over UDP, each on a socket of its own.
fn udp(pod: &Pod, to: SocketAddr, is_connected: bool, name: &str) -> Result<[IpAddr; 2]> {
    udp_within(SOON, pod, to, is_connected, name)
}

fn udp_within(
    limit: Duration,
    pod: &Pod,
    to: SocketAddr,
    is_connected: bool,
    name: &str,
) -> Result<[IpAddr; 2]> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => "0.0.0.0:0".parse()?,
        SocketAddr::V6(_) => "[::]:0".parse()?,
    };
    let ask = |kind: u16| -> Result<IpAddr> {
        let socket = pod.place().within(|| {
            let socket = UdpSocket::bind(any)?;
            if is_connected {
                socket.connect(to)?;
            }
            std::io::Result::Ok(socket)
        })??;
        socket.set_read_timeout(Some(limit))?;
        let question = question(name, kind);
        let mut buffer = [0; 1500];
        let length = if is_connected {
            ensure!(socket.peer_addr()? == to, "peer is {}", socket.peer_addr()?);
            socket.send(&question)?;
            socket.recv(&mut buffer)?
        } else {
            socket.send_to(&question, to)?;
            let (length, from) = socket.recv_from(&mut buffer)?;
            ensure!(from == to, "the reply is from {from}");
            length
        };
        address(&question, &buffer[..length])
    };
    Ok([ask(1)?, ask(28)?])
}

/// Asks for both families over one TCP connection.
fn tcp(pod: &Pod, to: SocketAddr, name: &str) -> Result<[IpAddr; 2]> {
    let mut stream = pod.connect(to, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut ask = |kind: u16| -> Result<IpAddr> {
        let question = question(name, kind);
        stream.write_all(&framed(&question))?;
        let reply = read_framed(&mut stream)?.context("no reply")?;
        address(&question, &reply)
    };
    Ok([ask(1)?, ask(28)?])
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed) as u16;
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// The one address of a reply.
fn address(question: &[u8], reply: &[u8]) -> Result<IpAddr> {
    ensure!(reply.get(..2) == question.get(..2), "another id: {reply:?}");
    let data = reply
        .get(question.len() + 12..)
        .with_context(|| format!("no answer in {reply:?}"))?;
    match data.len() {
        4 => Ok(<[u8; 4]>::try_from(data)?.into()),
        16 => Ok(<[u8; 16]>::try_from(data)?.into()),
        _ => Err(anyhow!("not one address: {reply:?}")),
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = (message.len() as u16).to_be_bytes().to_vec();
    bytes.extend(message);
    bytes
}

fn read_framed(stream: &mut TcpStream) -> Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(Some(message))
}

/// A server in a pod, with the same answer to everything.
struct Resolver {
    asked: Arc<AtomicUsize>,
    is_silent: Arc<AtomicBool>,
    forges: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Resolver {
    fn start(pod: &Pod) -> Result<Self> {
        let resolver = Self {
            asked: Arc::default(),
            is_silent: Arc::default(),
            forges: Arc::default(),
            is_over: Arc::default(),
            threads: Mutex::default(),
        };
        for at in pod.sockets(DNS) {
            let (udp, tcp) = pod
                .place()
                .within(|| std::io::Result::Ok((UdpSocket::bind(at)?, TcpListener::bind(at)?)))??;
            udp.set_read_timeout(Some(Duration::from_millis(100)))?;
            tcp.set_nonblocking(true)?;
            let (asked, is_silent) = (resolver.asked.clone(), resolver.is_silent.clone());
            let (forges, is_over) = (resolver.forges.clone(), resolver.is_over.clone());
            let over_udp = std::thread::spawn(move || {
                let mut buffer = [0; 1500];
                while !is_over.load(Ordering::Relaxed) {
                    let Ok((length, from)) = udp.recv_from(&mut buffer) else {
                        continue;
                    };
                    asked.fetch_add(1, Ordering::Relaxed);
                    let mut reply = reply(&buffer[..length]);
                    if forges.load(Ordering::Relaxed) {
                        reply[0] ^= 0xff;
                    }
                    if !is_silent.load(Ordering::Relaxed) {
                        let _ = udp.send_to(&reply, from);
                    }
                }
            });
            let is_over = resolver.is_over.clone();
            let over_tcp = std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let Ok((mut stream, _)) = tcp.accept() else {
                        std::thread::sleep(Duration::from_millis(10));
                        continue;
                    };
                    let _ = stream.set_nonblocking(false);
                    let _ = stream.set_read_timeout(Some(SOON));
                    while let Ok(Some(question)) = read_framed(&mut stream) {
                        let _ = stream.write_all(&framed(&reply(&question)));
                    }
                }
            });
            let mut threads = resolver.threads();
            threads.extend([over_udp, over_tcp]);
        }
        Ok(resolver)
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self) {
        self.asked.store(0, Ordering::Relaxed);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Ends its threads, and with them its sockets in the pod.
    fn stop(&self) -> Result<()> {
        self.is_over.store(true, Ordering::Relaxed);
        let until = Instant::now() + 2 * SOON;
        for thread in self.threads().drain(..) {
            let _ = thread.join();
        }
        ensure!(Instant::now() < until, "the server's threads linger");
        Ok(())
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// The question with an address after it.
fn reply(question: &[u8]) -> Vec<u8> {
    let mut reply = question.to_vec();
    // Without what came after the question.
    let end = reply.iter().skip(12).position(|byte| *byte == 0);
    let end = end.map_or(reply.len(), |at| 12 + at + 5).min(reply.len());
    reply.truncate(end);
    let is_ipv6 = reply.get(end - 3) == Some(&28);
    reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    reply.extend([0xc0, 12, 0, if is_ipv6 { 28 } else { 1 }, 0, 1, 0, 0, 0, 60]);
    match OF_SERVER[usize::from(is_ipv6)].parse() {
        Ok(IpAddr::V4(ip)) => {
            reply.extend([0, 4]);
            reply.extend(ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            reply.extend([0, 16]);
            reply.extend(ip.octets());
        }
        Err(_) => {}
    }
    reply
}
