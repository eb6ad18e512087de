//! Cookies for consistent hashing: a client that has none is given one, and so comes back to the
//! endpoint that it got.
//!
//! The value is random and stands for nothing; an endpoint is found by its hash, as by that of any
//! other cookie. Who makes one up chooses among the endpoints that it may be sent to anyway.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::HeaderValue;

use crate::balance::hashed;
use crate::cookie::cookie;

/// The cookie that clients are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Affinity {
    /// Its name.
    pub name: Arc<str>,
    /// What paths it is for.
    pub path: Arc<str>,
    /// How long clients keep it; zero: until the browser closes.
    pub ttl: Duration,
}

/// The value for a client that had none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given(Box<str>);

impl Affinity {
    /// What a client is given; `None` for one that has a cookie of that name.
    pub(crate) fn give(&self, headers: &HeaderMap, random: impl FnOnce() -> u128) -> Option<Given> {
        match cookie(headers, &self.name) {
            Some(_) => None,
            None => Some(Given(format!("{:032x}", random()).into())),
        }
    }

    /// The value of `Set-Cookie`; `None` for what cannot be written in a header.
    pub(crate) fn tell(&self, given: &Given, secure: bool) -> Option<HeaderValue> {
        let Self { name, path, ttl } = self;
        let mut text = format!("{name}={}; Path={path}; HttpOnly; SameSite=Lax", given.0);
        if secure {
            text.push_str("; Secure");
        }
        if !ttl.is_zero() {
            // Writing to a String cannot fail. Nothing would be kept for 0 seconds.
            let _ = write!(text, "; Max-Age={}", ttl.as_secs().max(1));
        }
        HeaderValue::from_str(&text).ok()
    }
}

impl Given {
    /// What the endpoint is found by: the same as when the client comes with it.
    pub(crate) fn hash(&self) -> u64 {
        hashed(self.0.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;

    use super::*;
    use crate::tuning::{Features, HashOn};

    fn affinity(ttl: u64) -> Affinity {
        Affinity {
            name: "stick".into(),
            path: "/shop".into(),
            ttl: Duration::from_secs(ttl),
        }
    }

    #[test]
    fn who_has_none_is_given_one_that_hashes_to_the_same() {
        let kept = affinity(90);
        let given = kept.give(&HeaderMap::new(), || 0xabc).unwrap();
        let told = kept.tell(&given, true).unwrap();
        let told = told.to_str().unwrap();
        let (pair, rest) = told.split_once(';').unwrap();
        assert_eq!(
            rest,
            " Path=/shop; HttpOnly; SameSite=Lax; Secure; Max-Age=90"
        );
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, format!("a=b; {pair}").parse().unwrap());
        assert_eq!(kept.give(&headers, || 0), None);
        let features = Features {
            headers: Some(&headers),
            client: None,
        };
        let on = HashOn::Cookie("stick".into());
        assert_eq!(on.of(&features), Some(given.hash()));
    }

    #[test]
    fn without_a_lifetime_it_ends_with_the_browser() {
        let kept = affinity(0);
        let given = kept.give(&HeaderMap::new(), || 1).unwrap();
        let told = kept.tell(&given, false).unwrap();
        assert!(told.to_str().unwrap().ends_with("; SameSite=Lax"));
    }
}
