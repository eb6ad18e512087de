//! Cookies of a request.

use http::HeaderMap;
use http::header::COOKIE;

/// The value of a cookie (RFC 6265, 5.4); of several with one name the first.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let fields = headers.get_all(COOKIE).into_iter();
    let mut pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.find_map(|pair| {
        let rest = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_name_counts() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=1; b=2; bb=3".parse().unwrap());
        headers.append(COOKIE, "b=4; c".parse().unwrap());
        for (name, value) in [
            ("a", Some("1")),
            ("b", Some("2")),
            ("bb", Some("3")),
            ("c", None),
            ("d", None),
        ] {
            assert_eq!(cookie(&headers, name), value.map(str::as_bytes), "{name}");
        }
    }
}
