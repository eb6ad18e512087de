//! Which rule a request falls under.
//!
//! An [`Index`] holds the routes of one listener, or of one service behind a waypoint. A request
//! walks it once, without an allocation: the host by a hash per label, the path by a hash for
//! exact matches and by its segments for prefixes, so that a thousand routes cost what one costs.
//!
//! Order of precedence (Gateway API, `HTTPRouteRule.matches`): host without a wildcard, longest
//! wildcard, any host; exact path, longest prefix, regular expression (the longest first), the
//! prefix `/`; a method; most headers; most query parameters; then the oldest route, the first by
//! namespace and name, the first rule, the first match. Rules of a less specific host count when
//! none of a more specific one matches.

mod condition;
mod hosts;
mod index;
mod query;
mod segments;
mod table;
#[cfg(test)]
mod tests;

use agent_model::gateway::{Hostname, HttpMatch, RouteKey};
use agent_policy::pattern::UnusablePattern;
use http::{HeaderMap, Method};

pub use hosts::HostMap;
pub use index::Index;

/// Why a match cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// A regular expression that is none, or takes too much.
    #[error(transparent)]
    Pattern(#[from] UnusablePattern),
    /// Not the name of a header.
    #[error("not a header name: {0:?}")]
    HeaderName(String),
    /// A path that no request can have.
    #[error("not a path in its normal form: {0:?}")]
    Path(String),
}

/// What of a request routing looks at; path and host in their normal form.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Host in lower case, without a port.
    pub host: &'a str,
    /// Path, beginning with `/`, without the query.
    pub path: &'a str,
    /// Query without its `?`.
    pub query: Option<&'a str>,
    /// Method.
    pub method: &'a Method,
    /// Header fields.
    pub headers: &'a HeaderMap,
}

/// A rule to be put into an [`Index`].
#[derive(Debug)]
pub struct Entry<'a, T> {
    /// Host names of the route that the listener takes; none for every one.
    pub hostnames: Vec<Hostname>,
    /// When the route was made.
    pub created: u64,
    /// The route.
    pub route: &'a RouteKey,
    /// Which of its rules this is.
    pub rule: usize,
    /// When it applies; none means always.
    pub matches: &'a [HttpMatch],
    /// What is found.
    pub value: T,
}

/// What a request found.
#[derive(Debug, PartialEq, Eq)]
pub struct Selected<'a, T> {
    /// Of the [`Entry`].
    pub value: &'a T,
    /// How many bytes of the path a prefix match took, without a closing `/`; `None` when the path
    /// was matched in another way.
    pub prefix: Option<usize>,
}

impl<T> Clone for Selected<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Selected<'_, T> {}

/// A match that cannot be used. It is left out; the others of its rule stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The route.
    pub route: RouteKey,
    /// Which of its rules.
    pub rule: usize,
    /// What is wrong.
    pub why: Unusable,
}

/// The host names of a route that a listener takes, narrowed to what both match; `None` when there
/// are none. Routes keep their own name where it is the narrower one, so that precedence among
/// routes follows what they say.
pub fn effective_hostnames(
    listener: Option<&Hostname>,
    route: &[Hostname],
) -> Option<Vec<Hostname>> {
    let Some(listener) = listener else {
        return Some(route.to_vec());
    };
    if route.is_empty() {
        return Some(vec![listener.clone()]);
    }
    let met: Vec<_> = route
        .iter()
        .filter_map(|name| listener.intersection(name).cloned())
        .collect();
    (!met.is_empty()).then_some(met)
}
