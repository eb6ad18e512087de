//! Regular expressions of users: linear in time, bounded in size. Who judges one and who uses it do
//! so by the same function.

use regex::{Error, Regex, RegexBuilder};

/// Longest pattern that is taken, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;
/// What a compiled pattern may take, in bytes; `x{1000}{1000}` would take all there is, while ten
/// letters of any script (`\w{10}`) take half a megabyte.
const MAX_COMPILED_BYTES: usize = 2 * 1024 * 1024;
/// What a pattern may take while it is matched, in bytes.
const MAX_MATCHING_BYTES: usize = 256 * 1024;
/// How deep a pattern may nest.
const MAX_NESTING: u32 = 32;

/// Why a pattern is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnusablePattern {
    /// Longer than [`MAX_PATTERN_BYTES`].
    #[error("a regular expression of {0} bytes; at most {MAX_PATTERN_BYTES} are taken")]
    TooLong(usize),
    /// Too much memory when it is compiled, 2 MiB or more.
    #[error("a regular expression that takes more than {MAX_COMPILED_BYTES} bytes when compiled")]
    TooLarge,
    /// Not a regular expression, or one that nests too deep.
    #[error("not a regular expression (RE2): {0}")]
    Syntax(String),
}

/// Compiles a pattern that has to match the whole of a value.
pub fn whole(pattern: &str) -> Result<Regex, UnusablePattern> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(UnusablePattern::TooLong(pattern.len()));
    }
    // By itself first: `a)|(b` would be something else inside the group below.
    compile(pattern)?;
    compile(&format!(r"\A(?:{pattern})\z"))
}

fn compile(pattern: &str) -> Result<Regex, UnusablePattern> {
    let built = RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED_BYTES)
        .dfa_size_limit(MAX_MATCHING_BYTES)
        .nest_limit(MAX_NESTING)
        .build();
    built.map_err(|error| match error {
        Error::CompiledTooBig(_) => UnusablePattern::TooLarge,
        error => {
            // The last line says what is wrong, those before draw where.
            let text = error.to_string();
            let what = text.lines().last().unwrap_or_default();
            UnusablePattern::Syntax(what.trim_start_matches("error: ").to_owned())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_values() {
        let pattern = whole("a|b+").unwrap();
        assert!(pattern.is_match("a") && pattern.is_match("bb"));
        assert!(!pattern.is_match("ab") && !pattern.is_match("a\n"));
    }

    #[test]
    fn what_is_wrong_is_said_in_a_line() {
        let longest = "x".repeat(MAX_PATTERN_BYTES);
        assert!(whole(&longest).is_ok());
        for (pattern, why) in [
            (&*format!("{longest}x"), "1025 bytes; at most 1024"),
            ("(x{500}){500}", "more than 2097152 bytes when compiled"),
            ("(", "(RE2): unclosed group"),
            ("a)|(/b", "(RE2): unopened group"),
            (r"(a)\1", "(RE2): backreferences are not supported"),
            ("(?=a)", "(RE2): look-around"),
            (&"(".repeat(40), "(RE2): "),
        ] {
            let said = whole(pattern).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
            assert!(!said.contains('\n'), "{said:?}");
        }
    }
}
