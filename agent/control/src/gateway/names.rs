//! Names of what is made for a Gateway.

use std::borrow::Cow;
use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};

/// Longest name of a Service, and longest value of a label.
const MAX_LABEL: usize = 63;
/// Of a longer name, what is kept for people.
const KEPT: usize = 40;

/// The name of a Gateway where it must be a DNS label (RFC 1035), as that of a Service is: itself where
/// it is one, else a part of it and a hash. The same for ever, as selectors cannot change.
pub(crate) fn short_name(name: &str) -> Cow<'_, str> {
    let is_fine = name.len() <= MAX_LABEL
        && !name.contains('.')
        && name.starts_with(|first: char| first.is_ascii_lowercase());
    if is_fine {
        return Cow::Borrowed(name);
    }
    let kept: String = name.chars().take(KEPT).collect();
    let mut short = format!("gw-{}", kept.replace('.', "-"));
    let hash = digest(&SHA256, name.as_bytes());
    short.push('-');
    for byte in hash.as_ref().iter().take(6) {
        let _ = write!(short, "{byte:02x}");
    }
    Cow::Owned(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_label_gets_a_hash_and_stays_apart_from_others() {
        assert_eq!(short_name("edge"), "edge");
        let long = ["a", "b"].map(|end| format!("{}{end}", "x".repeat(252)));
        for name in ["edge.example", "1st", &long[0], &long[1]] {
            let short = short_name(name);
            assert!(short.len() <= MAX_LABEL, "{short}");
            assert!(short.starts_with("gw-") && !short.contains('.'), "{short}");
            assert_eq!(short, short_name(name));
        }
        assert_ne!(short_name(&long[0]), short_name(&long[1]));
    }
}
