//! What a client of a gateway sends over HTTP/1.1: where its requests end, and what they ask for.

use agent_gateway::framing::{Framing, Stop};
use agent_gateway::normalize::{PathRules, host, path};

pub(super) const WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "GET / HTTP/1.1\r\n",
    "Host: a\r\n",
    "Content-Length: ",
    "Transfer-Encoding: chunked\r\n",
    "Upgrade: websocket\r\n",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    ";x=y",
    "%2e",
    "%2f",
    "%5c",
    "%00",
    "/../",
    "/./",
    "/;",
    "..;",
    "//",
    "[::1]",
    ":80",
    "@",
];

/// The first place that has two meanings does not depend on the pieces in which bytes come, and
/// no line that is let through ends in a way of its own.
pub(super) fn framing(input: &[u8]) {
    let whole = read(input, input.len().max(1));
    for size in [1, 2, 7] {
        assert_eq!(read(input, size), whole, "in pieces of {size}");
    }
    if let Err(stop) = whole {
        assert!(stop.at < input.len());
        assert_eq!(read(&input[..stop.at], 3), Ok(()), "what stands before");
    }
}

fn read(input: &[u8], size: usize) -> Result<(), Stop> {
    let mut framing = Framing::default();
    for (number, piece) in input.chunks(size).enumerate() {
        framing.take(piece).map_err(|stop| Stop {
            at: number * size + stop.at,
            ..stop
        })?;
    }
    Ok(())
}

/// The first line is a host, the second a path. What is accepted has one form, and nothing in it
/// leads elsewhere for somebody who decodes it once more.
pub(super) fn target(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let (first, second) = text.split_once('\n').unwrap_or((text, text));
    if let Ok(read) = host(first) {
        let again = host(&read.name).expect("a normal host");
        assert_eq!(again.name, read.name);
        assert!(!read.name.contains(['@', '/', '%', ' ']), "{:?}", read.name);
        assert!(!read.name.bytes().any(|byte| byte.is_ascii_uppercase()));
    }
    let rules = PathRules::default();
    let Ok(normal) = path(second, rules) else {
        return;
    };
    assert_eq!(path(&normal, rules).as_deref(), Ok(&*normal));
    assert!(
        normal.starts_with('/') && !normal.contains("//"),
        "{normal:?}"
    );
    for read in [normal.to_string(), decoded(&normal)] {
        assert!(!read.contains(['\\', '\0', '\r', '\n']), "{read:?}");
        let mut segments = read.split('/').map(|segment| segment.split(';').next());
        assert!(
            !segments.any(|name| matches!(name, Some("." | ".."))),
            "{read:?}"
        );
    }
}

/// Escapes resolved, as a server behind the gateway would.
fn decoded(path: &str) -> String {
    let mut bytes = path.bytes();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let digits: Vec<u8> = bytes.by_ref().take(2).collect();
        let digits = std::str::from_utf8(&digits).expect("escapes are text");
        plain.push(u8::from_str_radix(digits, 16).expect("two hexadecimal digits"));
    }
    String::from_utf8_lossy(&plain).into_owned()
}
