//! What a rule changes in requests and responses.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Target;

/// One filter of a rule or of a backend reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Filter {
    /// Changes request headers.
    RequestHeaders(HeaderChange),
    /// Changes response headers.
    ResponseHeaders(HeaderChange),
    /// Answers with a redirect; nothing goes to a backend.
    Redirect(Redirect),
    /// Changes host and path on the way to the backend.
    Rewrite(Rewrite),
    /// Sends a copy elsewhere and ignores the answer.
    Mirror(Mirror),
    /// Answers preflight requests and adds the CORS headers.
    Cors(Cors),
    /// A filter that cannot be used, for this reason: requests get 500 rather than pass without it.
    Invalid(Arc<str>),
}

/// Header fields to set, add and remove, in this order. Names are lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderChange {
    /// Replaced, or made.
    pub set: Vec<HeaderValue>,
    /// Appended to what is there.
    pub add: Vec<HeaderValue>,
    /// Taken away.
    pub remove: Vec<Arc<str>>,
}

/// A header field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it")]
pub struct HeaderValue {
    pub name: Arc<str>,
    pub value: Arc<str>,
}

/// What a redirect changes of the request's URL; what is `None` stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redirect {
    /// Scheme of the new URL.
    pub scheme: Option<Scheme>,
    /// Host of the new URL.
    pub hostname: Option<Arc<str>>,
    /// Path of the new URL.
    pub path: Option<PathChange>,
    /// Port of the new URL. `None`: the well-known port of `scheme` when that is set, the
    /// listener's otherwise.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// Scheme of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// The scheme as URLs write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that URLs of this scheme leave out.
    pub fn well_known_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// What becomes of host and path on the way to the backend; `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rewrite {
    /// New Host.
    pub hostname: Option<Arc<str>>,
    /// New path.
    pub path: Option<PathChange>,
}

/// A new path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathChange {
    /// Instead of the whole path; the query stays.
    Full(Arc<str>),
    /// Instead of the prefix that the rule matched; only with prefix matches.
    Prefix(Arc<str>),
}

/// A copy of requests to somewhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// Where it goes.
    pub backend: Target,
    /// Share of the requests.
    pub fraction: Fraction,
}

/// A share, `numerator` of `denominator`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it")]
pub struct Fraction {
    pub numerator: u32,
    pub denominator: u32,
}

impl Fraction {
    /// All of it.
    pub const ALL: Self = Self {
        numerator: 1,
        denominator: 1,
    };

    /// True for `random` in the first `numerator` of `denominator` equal parts of all numbers.
    pub fn takes(self, random: u64) -> bool {
        let part = (u128::from(random) * u128::from(self.denominator)) >> 64;
        part < u128::from(self.numerator)
    }
}

/// Cross-origin resource sharing (the CORS protocol of the Fetch standard).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cors {
    /// Who may read the answers.
    pub allow_origins: Vec<OriginMatch>,
    /// With cookies and the like.
    pub allow_credentials: bool,
    /// Methods, `*` for all.
    pub allow_methods: Vec<Arc<str>>,
    /// Request headers, `*` for all.
    pub allow_headers: Vec<Arc<str>>,
    /// Response headers scripts may read, `*` for all.
    pub expose_headers: Vec<Arc<str>>,
    /// How long browsers may remember the answer to a preflight request.
    pub max_age: Option<Duration>,
}

/// An origin, `scheme://host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OriginMatch {
    /// Every one.
    Any,
    /// This one.
    Exact(Arc<str>),
    /// `scheme://*.host[:port]`: those with at least one more label.
    #[expect(missing_docs, reason = "the names say it")]
    Subdomain {
        scheme: Arc<str>,
        /// What follows the wildcard, with its dot and, where there is one, its port.
        suffix: Arc<str>,
    },
}

impl OriginMatch {
    /// Reads `*`, `scheme://host[:port]` or `scheme://*.host[:port]`; scheme and host are compared
    /// in lower case. `None` when it is none of them.
    pub fn parse(pattern: &str) -> Option<Self> {
        if pattern == "*" {
            return Some(Self::Any);
        }
        let pattern = pattern.to_ascii_lowercase();
        let (scheme, host) = pattern.split_once("://")?;
        if scheme.is_empty() || host.is_empty() || host.contains('/') {
            return None;
        }
        if let Some(suffix) = host.strip_prefix('*') {
            return (suffix.starts_with('.') && suffix.len() > 1 && !suffix.contains('*')).then(
                || Self::Subdomain {
                    scheme: scheme.into(),
                    suffix: suffix.into(),
                },
            );
        }
        (!host.contains('*')).then(|| Self::Exact(pattern.as_str().into()))
    }

    /// Whether an Origin header names an origin of these.
    pub fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact.eq_ignore_ascii_case(origin),
            Self::Subdomain { scheme, suffix } => {
                origin.split_once("://").is_some_and(|(theirs, host)| {
                    let at = host.len().saturating_sub(suffix.len());
                    theirs.eq_ignore_ascii_case(scheme)
                        && at > 0
                        && host.is_char_boundary(at)
                        && host[at..].eq_ignore_ascii_case(suffix)
                        && !host.contains('/')
                })
            }
        }
    }
}
