//! What a rule does with its requests, compiled once and applied without parsing.
//!
//! Nothing here does I/O or draws random numbers: choices take a random number as an argument.

mod cors;
mod fields;
mod redirect;
mod rewrite;
mod split;
#[cfg(test)]
mod tests;

pub use cors::{CorsRules, Granted};
pub use fields::HeaderEdits;
pub use redirect::{From, location};
pub use rewrite::replaced_path;
pub use split::Split;

/// A filter that cannot be used. Its rule answers 500 rather than pass requests without it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Not the name of a header, or of one that belongs to the connection.
    #[error("header {0:?} cannot be changed")]
    HeaderName(String),
    /// Not the value of a header.
    #[error("not a value for header {0:?}")]
    HeaderValue(String),
    /// Not a redirect status.
    #[error("{0} is not a redirect status")]
    Status(u16),
    /// Not a path in its normal form.
    #[error("not a path to rewrite to: {0:?}")]
    Path(String),
    /// Not a host name.
    #[error("not a host to rewrite to: {0:?}")]
    Host(String),
    /// A prefix to replace where the rule has a match that is not a prefix.
    #[error("a prefix is replaced, but the rule does not match by prefix")]
    NoPrefix,
    /// The control plane said so.
    #[error("{0}")]
    Refused(String),
}
