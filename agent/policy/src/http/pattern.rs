//! Lists of string patterns, compiled for many comparisons.

use agent_model::StringMatch;

/// OR of patterns.
#[derive(Debug, Clone, Default)]
pub(super) struct Patterns {
    /// Sorted, so that long lists are searched by halves.
    exact: Vec<Box<str>>,
    prefixes: Vec<Box<str>>,
    suffixes: Vec<Box<str>>,
    presence: bool,
}

impl Patterns {
    pub(super) fn new(patterns: &[StringMatch]) -> Self {
        let mut compiled = Self::default();
        for pattern in patterns {
            match pattern {
                StringMatch::Exact(text) => compiled.exact.push(text.as_str().into()),
                StringMatch::Prefix(text) => compiled.prefixes.push(text.as_str().into()),
                StringMatch::Suffix(text) => compiled.suffixes.push(text.as_str().into()),
                StringMatch::Presence => compiled.presence = true,
            }
        }
        compiled.exact.sort_unstable();
        compiled
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.presence
            && self.exact.is_empty()
            && self.prefixes.is_empty()
            && self.suffixes.is_empty()
    }

    /// True when one of them is `*`.
    pub(super) fn has_presence(&self) -> bool {
        self.presence
    }

    /// Compares byte by byte. A value that is present and empty satisfies `*`.
    pub(super) fn match_bytes(&self, value: &[u8]) -> bool {
        self.presence
            || self
                .exact
                .binary_search_by(|exact| exact.as_bytes().cmp(value))
                .is_ok()
            || self
                .prefixes
                .iter()
                .any(|p| value.starts_with(p.as_bytes()))
            || self.suffixes.iter().any(|s| value.ends_with(s.as_bytes()))
    }

    /// Compares byte by byte.
    pub(super) fn match_text(&self, value: &str) -> bool {
        self.match_bytes(value.as_bytes())
    }

    /// True for a principal that one of them matches by its trust domain and more.
    pub(super) fn match_domain(&self, principal: &str) -> bool {
        let exact = self
            .exact
            .binary_search_by(|exact| (**exact).cmp(principal));
        let mut prefixes = self.prefixes.iter().filter(|prefix| prefix.contains('/'));
        exact.is_ok() || prefixes.any(|prefix| principal.starts_with(&**prefix))
    }

    /// Compares without regard to ASCII case.
    pub(super) fn match_host(&self, host: &str) -> bool {
        let host = host.as_bytes();
        let starts = |prefix: &str| {
            host.get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
        };
        let ends = |suffix: &str| {
            let start = host.len().checked_sub(suffix.len());
            start
                .and_then(|start| host.get(start..))
                .is_some_and(|end| end.eq_ignore_ascii_case(suffix.as_bytes()))
        };
        self.presence
            || self
                .exact
                .iter()
                .any(|e| host.eq_ignore_ascii_case(e.as_bytes()))
            || self.prefixes.iter().any(|prefix| starts(prefix))
            || self.suffixes.iter().any(|suffix| ends(suffix))
    }
}
