//! Regular expressions of users: linear in time, bounded in size.

use regex::{Regex, RegexBuilder};

/// Longest pattern that is taken, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;
/// What a compiled pattern may take, in bytes; `x{1000}{1000}` would take all there is, while ten
/// letters of any script (`\w{10}`) take half a megabyte.
const MAX_COMPILED_BYTES: usize = 2 * 1024 * 1024;
/// What a pattern may take while it is matched, in bytes.
const MAX_MATCHING_BYTES: usize = 256 * 1024;
/// How deep a pattern may nest.
const MAX_NESTING: u32 = 32;

/// Why a match cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Longer than [`MAX_PATTERN_BYTES`].
    #[error("a regular expression of {0} bytes; at most {MAX_PATTERN_BYTES} are taken")]
    PatternTooLong(usize),
    /// Not a regular expression, or one that takes too much memory.
    #[error("not a usable regular expression: {0}")]
    Pattern(String),
    /// Not the name of a header.
    #[error("not a header name: {0:?}")]
    HeaderName(String),
    /// A path that no request can have.
    #[error("not a path in its normal form: {0:?}")]
    Path(String),
}

/// Compiles a pattern that has to match the whole of a value.
pub(super) fn whole(pattern: &str) -> Result<Regex, Unusable> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(Unusable::PatternTooLong(pattern.len()));
    }
    // By itself first: `a)|(b` would be something else inside the group below.
    compile(pattern)?;
    compile(&format!(r"\A(?:{pattern})\z"))
}

fn compile(pattern: &str) -> Result<Regex, Unusable> {
    RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED_BYTES)
        .dfa_size_limit(MAX_MATCHING_BYTES)
        .nest_limit(MAX_NESTING)
        .build()
        .map_err(|error| Unusable::Pattern(error.to_string()))
}
