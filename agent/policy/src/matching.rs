//! The match algebra: a policy is the OR of rules, a rule the AND of clauses, a clause the OR of
//! matches, a match the AND of fields.

use std::cell::OnceCell;
use std::net::IpAddr;

use agent_model::{
    Action, Authorization, Clause, Identity, Match, Rule, ServiceAccountMatch, StringMatch,
};
use ipnet::IpNet;

use crate::connection::Connection;

/// A connection under decision, with what is made of it for the comparisons at most once.
pub(crate) struct Subject<'a> {
    connection: &'a Connection<'a>,
    is_peer: bool,
    principal: OnceCell<String>,
}

impl<'a> Subject<'a> {
    pub(crate) fn new(connection: &'a Connection<'a>) -> Self {
        Self {
            connection,
            is_peer: false,
            principal: OnceCell::new(),
        }
    }

    /// The same connection as a policy looks at it that asks who the peer itself is.
    pub(crate) fn of_peer(connection: &'a Connection<'a>) -> Self {
        Self {
            is_peer: true,
            ..Self::new(connection)
        }
    }

    fn source(&self) -> Option<&'a Identity> {
        match self.is_peer {
            true => self.connection.peer,
            false => self.connection.source,
        }
    }

    /// The principal of whoever connects; empty for plaintext.
    fn principal(&self) -> &str {
        self.principal.get_or_init(|| {
            self.source()
                .map(|source| source.principal())
                .unwrap_or_default()
        })
    }
}

/// True when any rule of `policy` matches.
pub(crate) fn policy_matches(policy: &Authorization, subject: &Subject<'_>) -> bool {
    policy
        .rules
        .iter()
        .any(|rule| rule_matches(rule, policy.action, subject))
}

fn rule_matches(rule: &Rule, action: Action, subject: &Subject<'_>) -> bool {
    rule.clauses
        .iter()
        .all(|clause| clause_matches(clause, action, subject))
}

/// A match without any field is skipped, so a clause made only of those matches nothing.
fn clause_matches(clause: &Clause, action: Action, subject: &Subject<'_>) -> bool {
    clause.matches.is_empty()
        || clause
            .matches
            .iter()
            .any(|fields| !fields.is_empty() && fields_match(fields, action, subject))
}

fn fields_match(fields: &Match, action: Action, subject: &Subject<'_>) -> bool {
    identity_matches(fields, subject)
        && source_ip_matches(fields, action, subject.connection)
        && destination_matches(fields, subject.connection)
}

fn identity_matches(fields: &Match, subject: &Subject<'_>) -> bool {
    let principal_matches = |pattern: &StringMatch| string_matches(pattern, subject.principal());
    let source = subject.source();
    let namespace = source.map_or("", |source| source.namespace());
    any(&fields.principals, principal_matches)
        && none(&fields.not_principals, principal_matches)
        && any_string(&fields.namespaces, namespace)
        && no_string(&fields.not_namespaces, namespace)
        && any(&fields.service_accounts, |account| {
            is_account(account, source)
        })
        && none(&fields.not_service_accounts, |account| {
            is_account(account, source)
        })
}

/// Where nobody vouches for the source address, whatever is asked of it holds for a DENY and
/// fails for an ALLOW.
fn source_ip_matches(fields: &Match, action: Action, connection: &Connection<'_>) -> bool {
    let asked = !fields.source_ips.is_empty() || !fields.not_source_ips.is_empty();
    if asked && !connection.source_ip_vouched {
        return action == Action::Deny;
    }
    any_network(&fields.source_ips, connection.source_ip)
        && no_network(&fields.not_source_ips, connection.source_ip)
}

fn destination_matches(fields: &Match, connection: &Connection<'_>) -> bool {
    let (ip, port) = (connection.destination.ip(), connection.destination.port());
    any_network(&fields.destination_ips, ip)
        && no_network(&fields.not_destination_ips, ip)
        && any(&fields.destination_ports, |wanted| *wanted == port)
        && none(&fields.not_destination_ports, |wanted| *wanted == port)
}

fn is_account(account: &ServiceAccountMatch, source: Option<&Identity>) -> bool {
    source.is_some_and(|source| {
        source.namespace() == account.namespace
            && source.service_account() == account.service_account
    })
}

fn any_string(wanted: &[StringMatch], value: &str) -> bool {
    any(wanted, |pattern| string_matches(pattern, value))
}

fn no_string(unwanted: &[StringMatch], value: &str) -> bool {
    none(unwanted, |pattern| string_matches(pattern, value))
}

/// An absent value ("" stands for it: identities have no empty part) matches no pattern at all.
fn string_matches(pattern: &StringMatch, value: &str) -> bool {
    !value.is_empty()
        && match pattern {
            StringMatch::Exact(exact) => value == exact,
            StringMatch::Prefix(prefix) => value.starts_with(prefix.as_str()),
            StringMatch::Suffix(suffix) => value.ends_with(suffix.as_str()),
            StringMatch::Presence => true,
        }
}

fn any_network(wanted: &[IpNet], ip: IpAddr) -> bool {
    any(wanted, |network| network.contains(&ip))
}

fn no_network(unwanted: &[IpNet], ip: IpAddr) -> bool {
    none(unwanted, |network| network.contains(&ip))
}

/// An absent field always holds.
fn any<T>(wanted: &[T], holds: impl FnMut(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(holds)
}

fn none<T>(unwanted: &[T], holds: impl FnMut(&T) -> bool) -> bool {
    !unwanted.iter().any(holds)
}
