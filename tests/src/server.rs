//! Small TCP servers that run in a pod and remember who called.

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use xxhash_rust::xxh64::Xxh64;

use crate::place::Place;
use crate::traffic::{close_with_reset, pattern};

/// What a server does with a connection.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Sends back what it gets; after the client's FIN it sends its own.
    Echo,
    /// Speaks first, then echoes.
    Greet(&'static [u8]),
    /// Reads to the end, then answers with the xxh64 of everything as 16 hexadecimal digits.
    Hash,
    /// Sends this many bytes of [`pattern`], then FIN.
    Send(u64),
    /// Reads one byte, then resets.
    Reset,
    /// Accepts and never reads.
    Stall,
}

/// A running server; stops when dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    listener: TcpListener,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    behaviour: Behaviour,
    stopping: AtomicBool,
    received: AtomicU64,
    peers: Mutex<Vec<SocketAddr>>,
    open: Mutex<Vec<TcpStream>>,
}

impl Server {
    /// Listens on a port of both families in a place.
    pub fn start(place: &Place, port: u16, behaviour: Behaviour) -> Result<Self> {
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        Self::start_at(place, address, behaviour)
    }

    /// Listens on one address in a place.
    pub fn start_at(place: &Place, address: SocketAddr, behaviour: Behaviour) -> Result<Self> {
        let listener = place
            .within(|| listen(address))?
            .with_context(|| format!("listening on {address} in {}", place.name()))?;
        let shared = Arc::new(Shared {
            behaviour,
            stopping: AtomicBool::new(false),
            received: AtomicU64::new(0),
            peers: Mutex::default(),
            open: Mutex::default(),
        });
        let accepting = {
            let (listener, shared) = (listener.try_clone()?, Arc::clone(&shared));
            thread::spawn(move || accept_all(&listener, &shared))
        };
        Ok(Self {
            shared,
            listener,
            accepting: Some(accepting),
        })
    }

    /// The client addresses it saw, in order, IPv4 ones as such.
    pub fn peers(&self) -> Vec<SocketAddr> {
        lock(&self.shared.peers).clone()
    }

    /// How many connections it accepted.
    pub fn accepted(&self) -> usize {
        lock(&self.shared.peers).len()
    }

    /// Bytes it has read.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// The last accepted connection, to do something else with it.
    pub fn last(&self) -> Option<TcpStream> {
        lock(&self.shared.open).last()?.try_clone().ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ =
            nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        for stream in lock(&self.shared.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(TcpListener::from(OwnedFd::from(socket)))
}

fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.stopping.load(Ordering::SeqCst) {
        let Ok((stream, peer)) = listener.accept() else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        lock(&shared.peers).push(peer);
        // A copy would keep a reset from being sent.
        let copy = match shared.behaviour {
            Behaviour::Reset => None,
            _ => remember(&stream, shared),
        };
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            // What a client does to its connection is the client's business to check.
            let _ = serve(stream, &shared);
            if let Some(copy) = copy {
                // The remembered copy must not keep it open.
                let _ = copy.shutdown(Shutdown::Both);
            }
        });
    }
}

/// Keeps a copy for [`Server::last`] and gives another one.
fn remember(stream: &TcpStream, shared: &Shared) -> Option<TcpStream> {
    let mut open = lock(&shared.open);
    open.retain(|stream| stream.peer_addr().is_ok());
    open.push(stream.try_clone().ok()?);
    stream.try_clone().ok()
}

fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    match &shared.behaviour {
        Behaviour::Echo => echo(&mut stream, shared),
        Behaviour::Greet(greeting) => {
            stream.write_all(greeting)?;
            echo(&mut stream, shared)
        }
        Behaviour::Hash => hash(&mut stream, shared),
        Behaviour::Send(bytes) => {
            send_pattern(&mut stream, *bytes)?;
            stream.shutdown(Shutdown::Write)?;
            io::copy(&mut stream, &mut io::sink()).map(drop)
        }
        Behaviour::Reset => {
            stream.read_exact(&mut [0])?;
            close_with_reset(stream)
        }
        Behaviour::Stall => {
            while !shared.stopping.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        }
    }
}

fn echo(stream: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        shared.received.fetch_add(read as u64, Ordering::Relaxed);
        stream.write_all(&buffer[..read])?;
    }
}

fn hash(stream: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    let mut hasher = Xxh64::new(0);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        shared.received.fetch_add(read as u64, Ordering::Relaxed);
        hasher.update(&buffer[..read]);
    }
    // The client has sent its FIN: this answer travels on a half-closed connection.
    stream.write_all(format!("{:016x}", hasher.digest()).as_bytes())
}

fn send_pattern(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let block = pattern();
    let mut left = bytes;
    while left > 0 {
        let now = left.min(block.len() as u64) as usize;
        stream.write_all(&block[..now])?;
        left -= now as u64;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
