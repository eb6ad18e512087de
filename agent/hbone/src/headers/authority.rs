//! `:authority` of a CONNECT request. Strict: two readers must never see two different targets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Longest DNS name, in bytes (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;
/// Longest label of a DNS name, in bytes.
const MAX_LABEL: usize = 63;

/// The target of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Authority {
    /// An address and the real target port. Never IPv4-mapped, no zone.
    Ip(SocketAddr),
    /// A service's host name and a service port.
    Host {
        /// Fully qualified, lower case, without a final dot.
        hostname: String,
        /// Never 0.
        port: u16,
    },
}

/// Not exactly a host and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a host and a port")]
pub struct InvalidAuthority;

impl FromStr for Authority {
    type Err = InvalidAuthority;

    /// Accepts `a.b.c.d:port`, `[v6]:port` and `name:port`. Refuses userinfo, missing or zero or
    /// padded ports, zones, IPv4-mapped IPv6, every IPv4 form but four decimal numbers, and names
    /// that end in a number (which others read as an address).
    fn from_str(text: &str) -> Result<Self, InvalidAuthority> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidAuthority)?;
        let port = parse_port(port)?;
        if let Some(bracketed) = host.strip_prefix('[') {
            let address = parse_v6(bracketed.strip_suffix(']').ok_or(InvalidAuthority)?)?;
            return Ok(Self::Ip(SocketAddr::new(address.into(), port)));
        }
        if let Ok(address) = host.parse::<Ipv4Addr>() {
            return Ok(Self::Ip(SocketAddr::new(address.into(), port)));
        }
        Ok(Self::Host {
            hostname: parse_name(host)?,
            port,
        })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => match address.ip() {
                IpAddr::V4(ip) => write!(f, "{ip}:{}", address.port()),
                IpAddr::V6(ip) => write!(f, "[{ip}]:{}", address.port()),
            },
            Self::Host { hostname, port } => write!(f, "{hostname}:{port}"),
        }
    }
}

fn parse_port(text: &str) -> Result<u16, InvalidAuthority> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    if !digits || text.starts_with('0') {
        return Err(InvalidAuthority);
    }
    text.parse().map_err(|_| InvalidAuthority)
}

fn parse_v6(text: &str) -> Result<Ipv6Addr, InvalidAuthority> {
    let address: Ipv6Addr = text.parse().map_err(|_| InvalidAuthority)?;
    if address.to_ipv4_mapped().is_some() {
        return Err(InvalidAuthority);
    }
    Ok(address)
}

fn parse_name(text: &str) -> Result<String, InvalidAuthority> {
    let name = text.to_ascii_lowercase();
    let valid = name.len() <= MAX_NAME && name.split('.').all(is_label);
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.starts_with(|c: char| c.is_ascii_digit())
        && (last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x"));
    if valid && !numeric {
        Ok(name)
    } else {
        Err(InvalidAuthority)
    }
}

fn is_label(label: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}
