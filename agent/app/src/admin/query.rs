//! The query of `/why`, both ways.

use std::net::SocketAddr;

/// Path and query that ask about a connection.
pub(crate) fn why_path(source: &str, destination: SocketAddr) -> String {
    format!(
        "/why?src={}&dst={}",
        encode(source),
        encode(&destination.to_string())
    )
}

/// Reads what [`why_path`] wrote.
pub(super) fn parse_why(query: &str) -> Result<(String, SocketAddr), String> {
    let value = |name: &str| {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| decode(value))
            .ok_or_else(|| format!("query parameter {name} is missing or malformed"))
    };
    let destination = value("dst")?;
    let destination = destination
        .parse()
        .map_err(|_| format!("{destination:?} is not an address with a port"))?;
    Ok((value("src")?, destination))
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// `None` for a bad escape or what is not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let [high, low, tail @ ..] = rest else {
            return None;
        };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let value = digit(*high)? * 16 + digit(*low)?;
        out.push(u8::try_from(value).ok()?);
        rest = tail;
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        for (source, destination) in [
            ("shop/client", "10.0.0.1:80"),
            ("10.0.0.9", "[fd00::1]:65535"),
            ("a&b=%/ü", "[::]:0"),
        ] {
            let destination = destination.parse().unwrap();
            let path = why_path(source, destination);
            let query = path.strip_prefix("/why?").unwrap();
            assert_eq!(
                parse_why(query),
                Ok((source.to_owned(), destination)),
                "{path}"
            );
        }
    }

    #[test]
    fn malformed_queries_are_refused() {
        for query in [
            "",
            "src=a",
            "dst=10.0.0.1:80",
            "src=a&dst=web:80",
            "src=%&dst=10.0.0.1:80",
            "src=%zz&dst=10.0.0.1:80",
            "src=%+1&dst=10.0.0.1:80",
            "src=%ff&dst=10.0.0.1:80",
        ] {
            assert!(parse_why(query).is_err(), "{query}");
        }
    }
}
