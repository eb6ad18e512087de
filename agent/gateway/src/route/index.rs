//! The index of one listener's routes: hosts, then paths, then the rest.

use std::cmp::Reverse;
use std::collections::HashMap;

use agent_model::gateway::{Hostname, HttpMatch};

use super::condition::Conditions;
use super::hosts::HostMap;
use super::table::{Path, Rank, Table};
use super::{Entry, Facts, Fault, Selected};

/// Finds the rule of a request. Built once per change of configuration, then only read.
#[derive(Debug)]
pub struct Index<T> {
    values: Vec<T>,
    /// By rank, with the place of the value.
    matches: Vec<(Conditions, usize)>,
    hosts: HostMap<Table>,
}

impl<T> Index<T> {
    /// Puts rules into order. Matches that cannot be used are left out and reported.
    pub fn build<'a>(entries: impl IntoIterator<Item = Entry<'a, T>>) -> (Self, Vec<Fault>) {
        let every = [HttpMatch::default()];
        let mut faults = Vec::new();
        let mut values = Vec::new();
        let mut drafts = Vec::new();
        for entry in entries {
            let matches = match entry.matches {
                [] => &every[..],
                matches => matches,
            };
            for (place, one) in matches.iter().enumerate() {
                match Draft::new(&entry, place, one, values.len()) {
                    Ok(draft) => drafts.push(draft),
                    Err(why) => faults.push(Fault {
                        route: entry.route.clone(),
                        rule: entry.rule,
                        why,
                    }),
                }
            }
            values.push(entry.value);
        }
        drafts.sort_by(|one, other| one.order.cmp(&other.order));
        (Self::of(drafts, values), faults)
    }

    fn of(drafts: Vec<Draft<'_>>, values: Vec<T>) -> Self {
        let mut by_host: HashMap<Option<Hostname>, Vec<(Path, Rank)>> = HashMap::new();
        let mut matches = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let rank = Rank::try_from(matches.len()).unwrap_or(Rank::MAX);
            let names = match draft.hostnames.is_empty() {
                true => vec![None],
                false => draft.hostnames.into_iter().map(Some).collect(),
            };
            for name in names {
                let paths = by_host.entry(name).or_default();
                paths.push((draft.path.clone(), rank));
            }
            matches.push((draft.conditions, draft.value));
        }
        let tables = by_host.into_iter();
        let hosts = tables.map(|(name, paths)| (name, Table::new(paths.into_iter())));
        Self {
            values,
            matches,
            hosts: hosts.collect(),
        }
    }

    /// The rule of a request, if one matches.
    pub fn select(&self, facts: &Facts<'_>) -> Option<Selected<'_, T>> {
        self.hosts
            .matching(facts.host)
            .find_map(|table| table.find(facts.path, |rank| self.holds(rank, facts)))
            .map(|(rank, prefix)| Selected {
                value: &self.values[self.matches[rank as usize].1],
                prefix,
            })
    }

    /// Every value, in the order in which they were given.
    pub fn values(&self) -> &[T] {
        &self.values
    }

    fn holds(&self, rank: Rank, facts: &Facts<'_>) -> bool {
        self.matches[rank as usize].0.hold(facts)
    }
}

/// A match on its way into the index.
struct Draft<'a> {
    order: Order<'a>,
    hostnames: Vec<Hostname>,
    path: Path,
    conditions: Conditions,
    value: usize,
}

/// What decides between matches of one path; smaller wins.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Order<'a> {
    has_method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    created: u64,
    namespace: &'a str,
    name: &'a str,
    kind: agent_model::gateway::RouteKind,
    rule: usize,
    place: usize,
}

impl<'a> Draft<'a> {
    fn new<T>(
        entry: &Entry<'a, T>,
        place: usize,
        one: &HttpMatch,
        value: usize,
    ) -> Result<Self, super::Unusable> {
        Ok(Self {
            order: Order {
                has_method: Reverse(one.method.is_some()),
                headers: Reverse(one.headers.len()),
                query: Reverse(one.query.len()),
                created: entry.created,
                namespace: &entry.route.namespace,
                name: &entry.route.name,
                kind: entry.route.kind,
                rule: entry.rule,
                place,
            },
            hostnames: entry.hostnames.clone(),
            path: Path::compile(&one.path)?,
            conditions: Conditions::compile(one)?,
            value,
        })
    }
}
