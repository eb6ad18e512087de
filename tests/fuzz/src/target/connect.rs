//! A CONNECT request: two readers must never see two different targets.

use agent_hbone::headers::{Authority, ConnectRequest};
use http::{HeaderName, HeaderValue, Method, Request, Uri, request};

pub(super) const WORDS: &[&str] = &[
    "[::1]",
    "[::ffff:10.0.0.1]",
    "%25eth0",
    "0x7f000001",
    "0177.0.0.1",
    "127.1",
    ":80",
    ":080",
    ":0",
    ":65536",
    "@",
    "user@",
    "..",
    "xn--",
    "\nbaggage: ",
    "\nforwarded: ",
    "\ntraceparent: ",
    "for=\"10.0.0.1:1\"",
    "host=",
    "service.name=",
    ",",
    ";",
    "00-",
    "CONNECT ",
    "GET ",
    "\0",
];

/// The first line is `METHOD AUTHORITY`, every further one `NAME: VALUE`.
pub(super) fn run(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let (method, authority) = cut(first, b' ').unwrap_or((b"CONNECT", first));
    if let Ok(text) = std::str::from_utf8(authority) {
        check_text(text);
    }
    let Some(parts) = parts(method, authority, lines) else {
        return;
    };
    let Ok(read) = ConnectRequest::read(&parts) else {
        return;
    };
    assert_eq!(parts.method, Method::CONNECT);
    check(&read.authority);
    let (written, ()) = read.write().into_parts();
    assert_eq!(
        ConnectRequest::read(&written),
        Ok(read),
        "changed on its way"
    );
}

fn check_text(text: &str) {
    if let Ok(authority) = text.parse::<Authority>() {
        check(&authority);
        let shown = authority.to_string();
        assert_eq!(shown.parse(), Ok(authority));
        assert!(shown.len() <= text.len() + 64);
    }
}

/// What every accepted authority has in common.
fn check(authority: &Authority) {
    let port = match authority {
        Authority::Ip(address) => {
            assert_eq!(address.ip(), address.ip().to_canonical(), "IPv4-mapped");
            address.port()
        }
        Authority::Host { hostname, port } => {
            assert!(
                !looks_like_address(hostname),
                "{hostname} reads as an address"
            );
            assert!(hostname.len() <= 253 && *hostname == hostname.to_ascii_lowercase());
            let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            assert!(hostname.chars().all(inner), "{hostname:?}");
            *port
        }
    };
    assert_ne!(port, 0);
}

/// What the C library's `inet_aton` takes for an IPv4 address: up to four numbers, each decimal,
/// octal or hexadecimal. A port in brackets cannot come here.
fn looks_like_address(host: &str) -> bool {
    let number = |part: &str| match part.strip_prefix("0x") {
        Some(digits) => digits.chars().all(|c| c.is_ascii_hexdigit()),
        None => !part.is_empty() && part.chars().all(|c| c.is_ascii_digit()),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    host.split('.').count() <= 4 && host.split('.').all(number)
}

/// The request as HTTP/2 would hand it over; `None` for bytes that HTTP/2 itself refuses.
fn parts<'a>(
    method: &[u8],
    authority: &[u8],
    headers: impl Iterator<Item = &'a [u8]>,
) -> Option<request::Parts> {
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method).ok()?;
    let mut uri = http::uri::Parts::default();
    uri.authority = Some(authority.try_into().ok()?);
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    for line in headers {
        let (name, value) = cut(line, b':')?;
        let name = HeaderName::from_bytes(name).ok()?;
        let value = HeaderValue::from_bytes(value.trim_ascii()).ok()?;
        request.headers_mut().try_append(name, value).ok()?;
    }
    Some(request.into_parts().0)
}

fn cut(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}
