//! TLS over TCP as HTTP/2 sees it, with the socket calls batched.
//!
//! HTTP/2 writes frame by frame and asks for a flush after each. Here a flush only marks data as
//! due: the task that drives the connection calls [`Flusher::poll_flush`] at the end of its turn,
//! so that the frames of many streams leave in few records and one `writev`. Reads go the other
//! way: one `recv` of up to 64 KiB into a block borrowed from the worker feeds TLS from memory.

use std::cell::RefCell;
use std::io::{self, BufRead, IoSlice, Read, Write};
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Size of the blocks that sockets are read into, in bytes.
const BLOCK: usize = 64 * 1024;
/// Blocks a worker keeps for reuse.
const SPARE_BLOCKS: usize = 16;
/// Small writes are collected up to one TLS record of plaintext, in bytes.
const STAGE: usize = 16 * 1024;
/// Encrypted bytes that may wait for the socket.
const ENCRYPTED_LIMIT: usize = 512 * 1024;
/// Plaintext bytes after which the socket is written without waiting for the end of the turn.
const WRITE_EARLY: usize = 128 * 1024;

/// What HTTP/2 reads from and writes to.
pub(crate) struct Transport {
    link: Rc<RefCell<Link>>,
}

/// The other handle of a [`Transport`], for the task that drives the connection.
pub(crate) struct Flusher {
    link: Rc<RefCell<Link>>,
}

struct Link {
    tcp: TcpStream,
    tls: Connection,
    received: Received,
    staged: Vec<u8>,
    /// Plaintext encrypted since the socket was last written.
    unwritten: usize,
    /// Flushes wait for the end of the turn.
    deferred: bool,
}

impl Transport {
    /// Takes a connection whose handshake is complete.
    pub(crate) fn new(tcp: TcpStream, mut tls: Connection) -> (Self, Flusher) {
        tls.set_buffer_limit(Some(ENCRYPTED_LIMIT));
        let link = Rc::new(RefCell::new(Link {
            tcp,
            tls,
            received: Received::default(),
            staged: Vec::new(),
            unwritten: 0,
            deferred: false,
        }));
        let flusher = Flusher {
            link: Rc::clone(&link),
        };
        (Self { link }, flusher)
    }
}

impl Flusher {
    /// From now on only [`Self::poll_flush`] flushes: to be called once its caller polls it after
    /// every poll of the connection.
    pub(crate) fn take_over(&self) {
        self.link.borrow_mut().deferred = true;
    }

    /// Encrypts what was collected and writes as much as the socket takes.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.borrow_mut().poll_flush(cx)
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.link.borrow_mut().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.link.borrow_mut().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut link = self.link.borrow_mut();
        let mut written = 0;
        for slice in slices.iter().filter(|slice| !slice.is_empty()) {
            match link.poll_write(cx, slice) {
                Poll::Ready(Ok(n)) => written += n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        if written > 0 || slices.iter().all(|slice| slice.is_empty()) {
            Poll::Ready(Ok(written))
        } else {
            Poll::Pending
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut link = self.link.borrow_mut();
        if link.deferred {
            return Poll::Ready(Ok(()));
        }
        link.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.borrow_mut().poll_shutdown(cx)
    }
}

impl Link {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            let ended = self.take_plaintext(buffer)?;
            if buffer.remaining() == 0 || ended {
                return Poll::Ready(Ok(()));
            }
            if self.received.is_empty() {
                if buffer.filled().len() > before {
                    return Poll::Ready(Ok(()));
                }
                if !ready!(self.received.poll_fill(&mut self.tcp, cx))? {
                    // TLS decides whether this end of the stream was announced.
                    self.tls.read_tls(&mut io::empty())?;
                    continue;
                }
            }
            self.decrypt(cx)?;
        }
    }

    /// Moves decrypted bytes to `buffer`; true at the end of the stream.
    fn take_plaintext(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<bool> {
        while buffer.remaining() > 0 {
            let n = match self.tls.reader().into_first_chunk() {
                Ok([]) => return Ok(true),
                Ok(chunk) => {
                    let n = chunk.len().min(buffer.remaining());
                    buffer.put_slice(&chunk[..n]);
                    n
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            self.tls.reader().consume(n);
        }
        Ok(false)
    }

    /// Gives received bytes to TLS until there is plaintext.
    fn decrypt(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.tls.wants_read() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        while !self.received.is_empty() && self.tls.wants_read() {
            self.tls.read_tls(&mut self.received)?;
            if let Err(error) = self.tls.process_new_packets() {
                // The alert that tells the peer why; the primary error is what counts.
                let _ = self.poll_write_tls(cx);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.staged.len() + bytes.len() <= STAGE {
            if self.staged.capacity() == 0 {
                self.staged = take_stage();
            }
            self.staged.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        self.poll_encrypt(cx, bytes)
    }

    /// Encrypts what is staged and then at least one of `bytes` (or none, when there are none).
    /// Waits for the socket when too much is encrypted and unsent.
    fn poll_encrypt(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let parts = [IoSlice::new(&self.staged), IoSlice::new(bytes)];
            let encrypted = self.tls.writer().write_vectored(&parts)?;
            let of_stage = encrypted.min(self.staged.len());
            self.staged.drain(..of_stage);
            self.unwritten += encrypted;
            let taken = encrypted - of_stage;
            if taken > 0 || self.staged.is_empty() && bytes.is_empty() {
                if self.unwritten >= WRITE_EARLY {
                    // Whether or not the socket takes it, the bytes are accepted.
                    let _ = self.poll_write_tls(cx)?;
                }
                return Poll::Ready(Ok(taken));
            }
            ready!(self.poll_write_tls(cx))?;
        }
    }

    /// Writes encrypted bytes until there are none or the socket takes no more.
    fn poll_write_tls(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unwritten = 0;
        while self.tls.wants_write() {
            let mut socket = Socket {
                tcp: &mut self.tcp,
                cx,
            };
            match self.tls.write_tls(&mut socket) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.staged.is_empty() {
            ready!(self.poll_encrypt(cx, &[]))?;
            give_back_stage(mem::take(&mut self.staged));
        }
        self.poll_write_tls(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_encrypt(cx, &[]))?;
        self.tls.send_close_notify();
        ready!(self.poll_write_tls(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// Bytes received and not yet given to TLS. Holds a block only while it holds bytes.
#[derive(Default)]
struct Received {
    block: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

impl Received {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Receives once; false at the end of the stream.
    fn poll_fill(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut block = self.block.take().unwrap_or_else(take_block);
        let mut buffer = ReadBuf::new(&mut block);
        let result = Pin::new(tcp).poll_read(cx, &mut buffer);
        let filled = buffer.filled().len();
        if filled == 0 {
            give_back(block);
            return result.map_ok(|()| false);
        }
        self.block = Some(block);
        (self.start, self.end) = (0, filled);
        Poll::Ready(Ok(true))
    }
}

/// TLS reads from here; an empty block goes back to the worker.
impl Read for Received {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(block) = &self.block else {
            return Ok(0);
        };
        let n = into.len().min(self.end - self.start);
        into[..n].copy_from_slice(&block[self.start..self.start + n]);
        self.start += n;
        if self.is_empty()
            && let Some(block) = self.block.take()
        {
            give_back(block);
        }
        Ok(n)
    }
}

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static STAGES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn take_block() -> Box<[u8]> {
    SPARE
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| vec![0; BLOCK].into_boxed_slice())
}

fn give_back(block: Box<[u8]>) {
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < SPARE_BLOCKS {
            spare.push(block);
        }
    });
}

fn take_stage() -> Vec<u8> {
    STAGES
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| Vec::with_capacity(STAGE))
}

/// `stage` is empty.
fn give_back_stage(stage: Vec<u8>) {
    STAGES.with_borrow_mut(|spare| {
        if spare.len() < SPARE_BLOCKS {
            spare.push(stage);
        }
    });
}

/// The socket as rustls wants it: synchronous, `WouldBlock` for not now.
struct Socket<'a, 'b> {
    tcp: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

impl Socket<'_, '_> {
    fn settle(poll: Poll<io::Result<usize>>) -> io::Result<usize> {
        match poll {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Socket<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::settle(Pin::new(&mut *self.tcp).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Self::settle(Pin::new(&mut *self.tcp).poll_write_vectored(self.cx, slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
