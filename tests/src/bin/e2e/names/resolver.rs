//! A name server in a pod, which can be told to misbehave, and the questions it is asked.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::Pod;

pub(super) const DNS: u16 = 53;
pub(super) const SOON: Duration = Duration::from_secs(5);
const HEADER: usize = 12;

/// What the server does with a question over UDP. Over TCP it answers, and at length when it said
/// that there is more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Answer,
    /// Under another id.
    Forge,
    /// Not at all.
    Ignore,
    /// SERVFAIL.
    Fail,
    /// NXDOMAIN.
    Deny,
    /// Says that there is more than fits.
    Truncate,
    /// With a name that points to itself.
    Loop,
}

impl Mode {
    const ALL: [Self; 7] = [
        Self::Answer,
        Self::Forge,
        Self::Ignore,
        Self::Fail,
        Self::Deny,
        Self::Truncate,
        Self::Loop,
    ];
}

/// A server in a pod, with the same answer to everything; it ends when dropped.
pub(super) struct Resolver {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    addresses: [IpAddr; 2],
    asked: AtomicUsize,
    mode: AtomicU8,
    is_over: AtomicBool,
}

impl Resolver {
    pub(super) fn start(pod: &Pod, addresses: [IpAddr; 2]) -> Result<Self> {
        let resolver = Self {
            shared: Arc::new(Shared {
                addresses,
                asked: AtomicUsize::new(0),
                mode: AtomicU8::new(0),
                is_over: AtomicBool::new(false),
            }),
            threads: Mutex::default(),
        };
        for at in pod.sockets(DNS) {
            let (udp, tcp) = pod
                .place()
                .within(|| std::io::Result::Ok((UdpSocket::bind(at)?, TcpListener::bind(at)?)))??;
            udp.set_read_timeout(Some(Duration::from_millis(100)))?;
            tcp.set_nonblocking(true)?;
            let shared = Arc::clone(&resolver.shared);
            let over_udp = std::thread::spawn(move || shared.over_udp(&udp));
            let shared = Arc::clone(&resolver.shared);
            let over_tcp = std::thread::spawn(move || shared.over_tcp(&tcp));
            resolver.threads().extend([over_udp, over_tcp]);
        }
        Ok(resolver)
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, mode: Mode) {
        self.shared.mode.store(mode as u8, Ordering::Relaxed);
    }

    pub(super) fn forget(&self) {
        self.shared.asked.store(0, Ordering::Relaxed);
    }

    pub(super) fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::Relaxed)
    }

    /// Ends its threads, and with them its sockets in the pod.
    pub(super) fn stop(&self) -> Result<()> {
        self.shared.is_over.store(true, Ordering::Relaxed);
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

impl Shared {
    fn mode(&self) -> Mode {
        let mode = usize::from(self.mode.load(Ordering::Relaxed));
        Mode::ALL.get(mode).copied().unwrap_or(Mode::Answer)
    }

    fn over_udp(&self, socket: &UdpSocket) {
        let mut buffer = [0; 1500];
        while !self.is_over.load(Ordering::Relaxed) {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            self.asked.fetch_add(1, Ordering::Relaxed);
            let mode = self.mode();
            if mode != Mode::Ignore {
                let _ = socket.send_to(&self.reply(&buffer[..length], mode), from);
            }
        }
    }

    fn over_tcp(&self, listener: &TcpListener) {
        while !self.is_over.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            let _ = stream.set_nonblocking(false);
            let _ = stream.set_read_timeout(Some(SOON));
            while let Ok(Some(question)) = read_framed(&mut stream) {
                let reply = match self.mode() {
                    Mode::Truncate => self.long_reply(&question),
                    _ => self.reply(&question, Mode::Answer),
                };
                let _ = stream.write_all(&framed(&reply));
            }
        }
    }

    /// The question with an address after it, or as the mode has it.
    fn reply(&self, question: &[u8], mode: Mode) -> Vec<u8> {
        let mut reply = question.to_vec();
        // Without what came after the question.
        let end = reply.iter().skip(HEADER).position(|byte| *byte == 0);
        let end = end.map_or(reply.len(), |at| HEADER + at + 5);
        reply.truncate(end);
        let (flags, answers) = match mode {
            Mode::Fail => ([0x81, 0x82], 0),
            Mode::Deny => ([0x81, 0x83], 0),
            Mode::Truncate => ([0x83, 0x80], 0),
            Mode::Answer | Mode::Forge | Mode::Ignore | Mode::Loop => ([0x81, 0x80], 1),
        };
        reply[2..4].copy_from_slice(&flags);
        reply[4..HEADER].copy_from_slice(&[0, 1, 0, answers, 0, 0, 0, 0]);
        if answers > 0 {
            self.put_address(&mut reply);
        }
        match mode {
            Mode::Forge => reply[0] ^= 0xff,
            // The owner of the record is where the record begins.
            Mode::Loop => reply[end + 1] = end as u8,
            _ => {}
        }
        reply
    }

    /// Nearly as long as a message can be.
    fn long_reply(&self, question: &[u8]) -> Vec<u8> {
        let mut reply = self.reply(question, Mode::Answer);
        let mut records = 1u16;
        while reply.len() < 65_500 {
            self.put_address(&mut reply);
            records += 1;
        }
        reply[6..8].copy_from_slice(&records.to_be_bytes());
        reply
    }

    fn put_address(&self, reply: &mut Vec<u8>) {
        let end = reply.iter().skip(HEADER).position(|byte| *byte == 0);
        let kind = end.and_then(|at| reply.get(HEADER + at + 2)).copied();
        let is_ipv6 = kind == Some(28);
        reply.extend([0xc0, 12, 0, if is_ipv6 { 28 } else { 1 }, 0, 1, 0, 0, 0, 60]);
        match self.addresses[usize::from(is_ipv6)] {
            IpAddr::V4(ip) => {
                reply.extend([0, 4]);
                reply.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                reply.extend([0, 16]);
                reply.extend(ip.octets());
            }
        }
    }
}

pub(super) fn question(name: &str, kind: u16) -> Vec<u8> {
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
pub(super) fn address(question: &[u8], reply: &[u8]) -> Result<IpAddr> {
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

pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = (message.len() as u16).to_be_bytes().to_vec();
    bytes.extend(message);
    bytes
}

pub(super) fn read_framed(stream: &mut TcpStream) -> Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(Some(message))
}
