//! One form for path, host and headers, taken before anything looks at a request.
//!
//! Whoever matches, judges and forwards sees the same bytes; what could mean two things to two
//! servers is refused (400) rather than guessed at. What is refused of framing (lengths, chunks,
//! folded lines) is refused before, by [`framing`](crate::framing).

mod fields;
mod host;
mod path;
#[cfg(test)]
mod tests;

pub use fields::{clean, clean_response, drop_shadows};
pub use host::{Host, host, named_host};
pub use path::{EscapedSlashes, PathRules, path, pattern};

/// Why a request has no single meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The path does not begin with `/`.
    #[error("the request target is not a path")]
    NotAPath,
    /// `%` without two hexadecimal digits, or an encoded control character.
    #[error("the path holds an escape that means nothing good")]
    Escape,
    /// `\`, `%5c` or `%2f`: a separator for some servers only.
    #[error("the path holds a separator that only some servers see")]
    Separator,
    /// `..` leads above the root, or hides behind path parameters.
    #[error("the path leads out of its root")]
    Traversal,
    /// No host where the protocol needs one.
    #[error("no host")]
    NoHost,
    /// More than one, or a Host that contradicts the request target.
    #[error("more than one host")]
    ManyHosts,
    /// User information, an invalid name or an invalid port.
    #[error("not a host name with an optional port")]
    BadHost,
    /// A header name with `_` and the same with `-`, which some servers cannot tell apart.
    #[error("header names that some servers take for one")]
    Twins,
}
