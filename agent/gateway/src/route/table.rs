//! The paths of one host name.

use std::collections::HashMap;

use agent_model::gateway::PathMatch;
use agent_policy::pattern;
use regex::Regex;

use super::Unusable;
use super::segments::Segments;

/// Place of a match in the order of precedence of everything but host and path; smaller wins.
pub(super) type Rank = u32;

/// A path match, compiled.
#[derive(Debug, Clone)]
pub(super) enum Path {
    Exact(Box<str>),
    /// Without a closing `/`.
    Prefix(Box<str>),
    Regex(Regex),
}

impl Path {
    pub(super) fn compile(path: &PathMatch) -> Result<Self, Unusable> {
        let rooted = |path: &str| match path.starts_with('/') {
            true => Ok(()),
            false => Err(Unusable::Path(path.to_owned())),
        };
        Ok(match path {
            PathMatch::Exact(path) => {
                rooted(path)?;
                Self::Exact(Box::from(&**path))
            }
            PathMatch::Prefix(path) => {
                rooted(path)?;
                Self::Prefix(path.strip_suffix('/').unwrap_or(path).into())
            }
            PathMatch::Regex(pattern) => Self::Regex(pattern::whole(pattern)?),
        })
    }
}

/// The matches of one host name, by path.
#[derive(Debug)]
pub(super) struct Table {
    exact: HashMap<Box<str>, Vec<Rank>>,
    prefixes: Segments<Rank>,
    /// In order of precedence.
    patterns: Vec<(Regex, Rank)>,
}

impl Table {
    pub(super) fn new(matches: impl Iterator<Item = (Path, Rank)>) -> Self {
        let mut table = Self {
            exact: HashMap::new(),
            prefixes: Segments::new(),
            patterns: Vec::new(),
        };
        for (path, rank) in matches {
            match path {
                Path::Exact(path) => table.exact.entry(path).or_default().push(rank),
                Path::Prefix(prefix) => table.prefixes.add(&prefix, rank),
                Path::Regex(regex) => table.patterns.push((regex, rank)),
            }
        }
        table
            .exact
            .values_mut()
            .for_each(|list| list.sort_unstable());
        table.prefixes.lists().for_each(|list| list.sort_unstable());
        table
            .patterns
            .sort_by_key(|(regex, rank)| (std::cmp::Reverse(regex.as_str().len()), *rank));
        table
    }

    /// The first match in order of precedence whose other conditions hold, with the length of the
    /// prefix it took.
    pub(super) fn find(
        &self,
        path: &str,
        holds: impl Fn(Rank) -> bool,
    ) -> Option<(Rank, Option<usize>)> {
        let first = |list: &[Rank]| list.iter().copied().find(|rank| holds(*rank));
        if !self.exact.is_empty()
            && let Some(rank) = self.exact.get(path).and_then(|list| first(list))
        {
            return Some((rank, None));
        }
        for (length, list) in self.prefixes.prefixes(path) {
            if let Some(rank) = first(list) {
                return Some((rank, Some(length)));
            }
        }
        for (regex, rank) in &self.patterns {
            if regex.is_match(path) && holds(*rank) {
                return Some((*rank, None));
            }
        }
        first(self.prefixes.root()).map(|rank| (rank, Some(0)))
    }
}
