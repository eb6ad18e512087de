//! `forwarded`: for whom the sender sends, and what the application dialled.

use std::fmt;
use std::net::SocketAddr;

/// A header longer than this is ignored, in bytes.
const MAX_HEADER: usize = 1024;
/// A longer host is ignored, in bytes.
const MAX_HOST: usize = 253;

/// The two elements of the header that HBONE uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// The application's socket.
    pub client: Option<SocketAddr>,
    /// Host name of the service it dialled; empty when it dialled none.
    pub host: String,
}

impl Forwarded {
    /// Reads a header; elements that are malformed are left out.
    pub fn parse(header: &str) -> Self {
        let mut forwarded = Self::default();
        if header.len() > MAX_HEADER || !header.is_ascii() {
            return forwarded;
        }
        for (key, value) in header.split(';').filter_map(|pair| pair.split_once('=')) {
            let value = unquote(value.trim());
            match key.trim() {
                key if key.eq_ignore_ascii_case("for") => {
                    forwarded.client = value.parse().ok();
                }
                key if key.eq_ignore_ascii_case("host") && is_host(value) => {
                    value.clone_into(&mut forwarded.host);
                }
                _ => {}
            }
        }
        forwarded
    }
}

impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(client) = self.client {
            write!(f, "for=\"{client}\"")?;
        }
        if is_host(&self.host) {
            let separator = if self.client.is_some() { ";" } else { "" };
            write!(f, "{separator}host={}", self.host)?;
        }
        Ok(())
    }
}

fn unquote(value: &str) -> &str {
    value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(value)
}

fn is_host(host: &str) -> bool {
    (1..=MAX_HOST).contains(&host.len())
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}
