//! Clients: what a connection attempt comes to, and transfers whose every byte is checked.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use socket2::SockRef;
use xxhash_rust::xxh64::Xxh64;

use crate::place::Place;

/// A port on which nothing listens in any test.
pub const UNUSED_PORT: u16 = 9;
/// After this it hangs. A busy machine may take a while for what is a moment's work.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of a connection on which a client sent a line and awaited its echo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The echo came.
    Served,
    /// The connection was refused, reset or closed without an answer; how and after how long.
    Refused(ErrorKind, Duration),
    /// Neither answer nor end within the time.
    Hung,
}

impl Outcome {
    /// Whether it was refused.
    pub fn refused(&self) -> bool {
        matches!(self, Self::Refused(..))
    }
}

/// Tries an echo server (or any server that answers what it is sent) once.
pub fn attempt(place: &Place, to: SocketAddr, limit: Duration) -> Result<Outcome> {
    let start = Instant::now();
    let outcome = place.within(|| try_echo(to, limit))?;
    Ok(match outcome {
        Ok(()) => Outcome::Served,
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Outcome::Hung,
            kind => Outcome::Refused(kind, start.elapsed()),
        },
    })
}

fn try_echo(to: SocketAddr, limit: Duration) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    echo_on(&mut stream, b"is anybody there?")
}

/// One echo on an open connection.
pub fn echo_on(stream: &mut TcpStream, text: &[u8]) -> io::Result<()> {
    stream.write_all(text)?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    if answer == text {
        Ok(())
    } else {
        Err(io::Error::new(ErrorKind::InvalidData, "echo differs"))
    }
}

/// The echo must come.
pub fn must_serve(place: &Place, to: SocketAddr) -> Result<()> {
    match attempt(place, to, PATIENCE)? {
        Outcome::Served => Ok(()),
        other => bail!("{} -> {to}: {other:?} instead of an echo", place.name()),
    }
}

/// The connection must be refused, and that in time: a hang is no refusal.
pub fn must_refuse(place: &Place, to: SocketAddr) -> Result<()> {
    match attempt(place, to, PATIENCE)? {
        Outcome::Refused(..) => Ok(()),
        other => bail!("{} -> {to}: {other:?} instead of a refusal", place.name()),
    }
}

/// Waits until a connection is closed by the other side; gives the time it took.
pub fn wait_closed(stream: &mut TcpStream, limit: Duration) -> Result<Duration> {
    let start = Instant::now();
    stream.set_read_timeout(Some(limit))?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(start.elapsed()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("the connection is still open after {limit:?}");
            }
            Err(_) => return Ok(start.elapsed()),
        }
    }
}

/// Closes with RST, as a crashed program does.
pub fn close_with_reset(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

/// One MiB of bytes without short repetitions.
pub fn pattern() -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(1 << 20);
    while bytes.len() < 1 << 20 {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// The xxh64 of this many bytes of repeated [`pattern`].
pub fn pattern_hash(bytes: u64) -> u64 {
    let block = pattern();
    let mut hasher = Xxh64::new(0);
    let mut left = bytes;
    while left > 0 {
        let now = left.min(block.len() as u64) as usize;
        hasher.update(&block[..now]);
        left -= now as u64;
    }
    hasher.digest()
}

/// Sends bytes to a `Behaviour::Hash` server, half-closes, and compares the hash it answers.
pub fn upload(place: &Place, to: SocketAddr, bytes: u64) -> Result<()> {
    let mut stream = place.connect(to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let block = pattern();
    let mut left = bytes;
    while left > 0 {
        let now = left.min(block.len() as u64) as usize;
        stream.write_all(&block[..now]).context("uploading")?;
        left -= now as u64;
    }
    stream.shutdown(Shutdown::Write).context("half-closing")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("reading the hash over the half-closed connection")?;
    let expected = format!("{:016x}", pattern_hash(bytes));
    ensure!(answer == expected, "{to} got {answer}, sent {expected}");
    Ok(())
}

/// Reads everything from a `Behaviour::Send` server and compares count and hash.
pub fn download(place: &Place, from: SocketAddr, bytes: u64) -> Result<()> {
    let mut stream = place.connect(from, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut hasher = Xxh64::new(0);
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        let read = stream.read(&mut buffer).context("downloading")?;
        if read == 0 {
            break;
        }
        total += read as u64;
        hasher.update(&buffer[..read]);
    }
    ensure!(total == bytes, "{from} sent {total} of {bytes} bytes");
    ensure!(
        hasher.digest() == pattern_hash(bytes),
        "bytes from {from} differ"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_hash_covers_whole_and_partial_blocks() {
        let block = pattern();
        assert_eq!(block.len(), 1 << 20);
        let twice: Vec<u8> = [&block[..], &block[..5]].concat();
        assert_eq!(
            pattern_hash((1 << 20) + 5),
            xxhash_rust::xxh64::xxh64(&twice, 0)
        );
    }
}
