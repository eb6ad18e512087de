//! Where a request may carry tokens.

use agent_model::authentication::JwtRule;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::authenticator::AuthenticationFault;

/// The places that any rule names, each with the rules (by index) that take tokens from it.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    /// Per header the prefixes, longest first: a value belongs to the first that fits.
    headers: Vec<(HeaderName, Named)>,
    params: Named,
    cookies: Named,
}

/// Names (or prefixes), each with its rules.
type Named = Vec<(Box<str>, Vec<usize>)>;

/// A token as it was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'p, 'r> {
    pub(super) token: &'r str,
    pub(super) rules: &'p [usize],
    pub(super) place: Place<'p>,
}

/// Where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'p> {
    Header(&'p HeaderName),
    Param(&'p str),
    Cookie(&'p str),
}

impl Places {
    pub(super) fn add(&mut self, index: usize, rule: &JwtRule) -> Vec<AuthenticationFault> {
        let mut faults = Vec::new();
        for header in &rule.from_headers {
            match HeaderName::from_bytes(header.name.as_bytes()) {
                Ok(name) => self.add_header(name, &header.prefix, index),
                Err(_) => faults.push(AuthenticationFault::HeaderName(header.name.clone())),
            }
        }
        let params = rule.from_params.iter();
        params.for_each(|name| add(&mut self.params, name, index));
        let cookies = rule.from_cookies.iter();
        cookies.for_each(|name| add(&mut self.cookies, name, index));
        let says_nothing = rule.from_headers.is_empty()
            && rule.from_params.is_empty()
            && rule.from_cookies.is_empty();
        if says_nothing {
            self.add_header(header::AUTHORIZATION, "Bearer ", index);
            add(&mut self.params, "access_token", index);
        }
        faults
    }

    fn add_header(&mut self, name: HeaderName, prefix: &str, index: usize) {
        let known = self.headers.iter().position(|(header, _)| *header == name);
        let at = known.unwrap_or_else(|| {
            self.headers.push((name, Vec::new()));
            self.headers.len() - 1
        });
        let prefixes = &mut self.headers[at].1;
        add(prefixes, &prefix.to_ascii_lowercase(), index);
        prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
    }

    /// Headers that tokens come in.
    pub(super) fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        let cookie = (!self.cookies.is_empty()).then_some(&header::COOKIE);
        let named = self.headers.iter().map(|(name, _)| name);
        named.chain(cookie)
    }

    /// Every token of a request. A value that is not text is a token that cannot be read.
    pub(super) fn find<'p, 'r>(
        &'p self,
        headers: &'r HeaderMap,
        query: Option<&'r str>,
        mut found: impl FnMut(Found<'p, 'r>),
    ) {
        for (name, prefixes) in &self.headers {
            for line in headers.get_all(name) {
                let fit = prefixes.iter().find_map(|(prefix, rules)| {
                    let rest = strip_prefix(line.as_bytes(), prefix)?;
                    Some((std::str::from_utf8(rest).unwrap_or_default(), rules))
                });
                if let Some((token, rules)) = fit {
                    let place = Place::Header(name);
                    found(Found {
                        token: token.trim_ascii(),
                        rules,
                        place,
                    });
                }
            }
        }
        for (name, rules) in &self.params {
            let values = pairs(query.unwrap_or_default(), '&').filter(|pair| pair.0 == &**name);
            let place = Place::Param(name);
            values.for_each(|(_, token)| {
                found(Found {
                    token,
                    rules,
                    place,
                });
            });
        }
        for (name, rules) in &self.cookies {
            let place = Place::Cookie(name);
            for line in headers.get_all(header::COOKIE) {
                let line = std::str::from_utf8(line.as_bytes()).unwrap_or_default();
                let values = pairs(line, ';').filter(|pair| pair.0 == &**name);
                values.for_each(|(_, token)| {
                    found(Found {
                        token,
                        rules,
                        place,
                    });
                });
            }
        }
    }
}

impl Place<'_> {
    /// Takes the token out of the request; a new query where it changes.
    pub(super) fn remove(self, headers: &mut HeaderMap, query: Option<&str>) -> Option<String> {
        match self {
            Self::Header(name) => {
                headers.remove(name);
                None
            }
            Self::Param(name) => Some(without(query?, '&', "&", name)),
            Self::Cookie(name) => {
                let lines: Vec<_> = headers.get_all(header::COOKIE).iter().cloned().collect();
                headers.remove(header::COOKIE);
                for line in lines {
                    // A line that is not text holds no token that could have been found.
                    let kept = match std::str::from_utf8(line.as_bytes()) {
                        Ok(text) => HeaderValue::try_from(without(text, ';', "; ", name)),
                        Err(_) => Ok(line),
                    };
                    if let Ok(kept) = kept
                        && !kept.is_empty()
                    {
                        headers.append(header::COOKIE, kept);
                    }
                }
                None
            }
        }
    }
}

fn add(places: &mut Named, name: &str, index: usize) {
    match places.iter_mut().find(|(known, _)| **known == *name) {
        Some((_, rules)) if rules.contains(&index) => {}
        Some((_, rules)) => rules.push(index),
        None => places.push((name.into(), vec![index])),
    }
}

/// Schemes of `Authorization` are case-insensitive (RFC 9110, 11.1).
fn strip_prefix<'v>(value: &'v [u8], prefix: &str) -> Option<&'v [u8]> {
    let (start, rest) = value.split_at_checked(prefix.len())?;
    start
        .eq_ignore_ascii_case(prefix.as_bytes())
        .then_some(rest)
}

/// `name=value` pairs, without the white space around them.
fn pairs(text: &str, separator: char) -> impl Iterator<Item = (&str, &str)> {
    text.split(separator)
        .filter_map(|pair| pair.trim_ascii().split_once('='))
}

fn without(text: &str, separator: char, joined: &str, name: &str) -> String {
    let is_other = |pair: &&str| pair.split_once('=').is_none_or(|(own, _)| own != name);
    let kept: Vec<&str> = text
        .split(separator)
        .map(str::trim_ascii)
        .filter(is_other)
        .collect();
    kept.join(joined)
}
