//! The smallest HTTP/1.1 client: one GET, one answer, connection closed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::place::Place;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body as text.
    pub body: String,
}

/// GET from a place.
pub fn get(place: &Place, to: SocketAddr, path: &str) -> Result<Answer> {
    let stream = place
        .connect(to, Duration::from_secs(5))
        .with_context(|| format!("connecting to {to} from {}", place.name()))?;
    get_on(stream, path)
}

/// GET on a connection, which ends with it.
pub fn get_on(stream: TcpStream, path: &str) -> Result<Answer> {
    get_within(stream, path, Duration::from_secs(10))
}

/// The same by one who does not wait longer than that for a byte.
pub fn get_within(mut stream: TcpStream, path: &str, limit: Duration) -> Result<Answer> {
    stream.set_read_timeout(Some(limit))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .context("sending a request")?;
    let mut bytes = Vec::new();
    stream
        .read_to_end(&mut bytes)
        .context("reading an answer")?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .with_context(|| format!("an answer of {} bytes has no head", bytes.len()))?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .with_context(|| format!("no status in {head:?}"))?;
    let body = if head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        unchunk(body)
    } else {
        body.to_owned()
    };
    Ok(Answer { status, body })
}

fn unchunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else {
            break;
        };
        let Some(chunk) = after.get(..size) else {
            break;
        };
        if size == 0 {
            break;
        }
        body.push_str(chunk);
        rest = after.get(size + 2..).unwrap_or_default();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_chunked_bodies_are_read() {
        let plain = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        assert_eq!((plain.status, plain.body.as_str()), (200, "hi"));
        let chunked = parse(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n",
        )
        .unwrap();
        assert_eq!(chunked.body, "hi!");
    }
}
