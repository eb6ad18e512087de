//! Host names of listeners and routes, with their wildcards.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A DNS name in lower case without a closing dot, or `*.` and such a name.
///
/// The wildcard stands for one label or more: `*.x.org` matches `a.x.org` and `a.b.x.org`, not
/// `x.org` (Gateway API, `Hostname`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(Arc<str>);

/// A string that is not a host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a host name, and not `*.` and a host name: {0:?}")]
pub struct InvalidHostname(pub String);

/// Bytes of a DNS name.
const LONGEST_NAME: usize = 253;
/// Bytes of one label.
const LONGEST_LABEL: usize = 63;

impl Hostname {
    /// The name as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True when it begins with `*.`.
    pub fn is_wildcard(&self) -> bool {
        self.suffix().is_some()
    }

    /// What a wildcard's names end with, dot included: `.x.org` of `*.x.org`.
    pub fn suffix(&self) -> Option<&str> {
        self.0.strip_prefix('*')
    }

    /// Whether a request's host is one of these names. `host` is without a port and in lower case.
    pub fn matches(&self, host: &str) -> bool {
        match self.suffix() {
            None => *self.0 == *host,
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        }
    }

    /// Whether every name that matches `other` matches this.
    pub fn covers(&self, other: &Self) -> bool {
        match (self.suffix(), other.suffix()) {
            (Some(mine), Some(theirs)) => theirs.ends_with(mine),
            (None, Some(_)) => false,
            (_, None) => self.matches(&other.0),
        }
    }

    /// The names that match both: the narrower of the two, as wildcards either nest or do not meet.
    pub fn intersection<'a>(&'a self, other: &'a Self) -> Option<&'a Self> {
        if self.covers(other) {
            Some(other)
        } else {
            other.covers(self).then_some(self)
        }
    }

    /// Which of two names that match a host wins: greater is more specific. A name without a
    /// wildcard comes first, then the longer one.
    pub fn by_specificity(&self, other: &Self) -> Ordering {
        let key = |name: &Self| (!name.is_wildcard(), name.0.len());
        key(self).cmp(&key(other))
    }
}

impl FromStr for Hostname {
    type Err = InvalidHostname;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let plain = name.strip_prefix("*.").unwrap_or(name);
        if plain.len() <= LONGEST_NAME && plain.split('.').all(is_label) {
            Ok(Self(name.to_ascii_lowercase().into()))
        } else {
            Err(InvalidHostname(name.to_owned()))
        }
    }
}

impl TryFrom<String> for Hostname {
    type Error = InvalidHostname;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl From<Hostname> for String {
    fn from(name: Hostname) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Letters, digits and inner hyphens, as RFC 1123 has it.
fn is_label(label: &str) -> bool {
    (1..=LONGEST_LABEL).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
