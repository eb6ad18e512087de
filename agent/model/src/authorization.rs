//! Authorization policies in the form the data plane enforces (Istio `istio.security`).
//!
//! The algebra: a policy is the OR of its rules, a rule the AND of its clauses, a clause the OR of
//! its matches, a match the AND of its fields. Empty is never the same as absent: a policy without
//! rules matches nothing, a rule without clauses matches everything, and a match without any field
//! is skipped, so that a clause made only of those matches nothing.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Beginning of the names of policies that keep what did not pass a waypoint away. `_` cannot be in
/// the name of a user's policy.
const WAYPOINT_GUARD: &str = "culvert_waypoint_";

/// `namespace/name` of a policy.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyKey(pub Arc<str>);

impl PolicyKey {
    /// Makes a key of its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}").into())
    }

    /// The key of a policy that denies whatever did not pass a waypoint; `what` tells it from
    /// others of the namespace. To other implementations it is a DENY policy as any other.
    pub fn waypoint_guard(namespace: &str, what: &str) -> Self {
        Self::new(namespace, &format!("{WAYPOINT_GUARD}{what}"))
    }

    /// True for keys that [`Self::waypoint_guard`] made.
    pub fn is_waypoint_guard(&self) -> bool {
        self.name().starts_with(WAYPOINT_GUARD)
    }

    /// The policy's name, without its namespace.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(_, name)| name)
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authorization {
    /// Name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// What it applies to.
    pub scope: Scope,
    /// What a match does.
    pub action: Action,
    /// OR; none matches nothing.
    pub rules: Vec<Rule>,
    /// Log the outcome, enforce nothing.
    pub dry_run: bool,
}

impl Authorization {
    /// The policy's key.
    pub fn key(&self) -> PolicyKey {
        PolicyKey::new(&self.namespace, &self.name)
    }

    /// True for what denies whatever did not pass a waypoint.
    pub fn is_waypoint_guard(&self) -> bool {
        self.name.starts_with(WAYPOINT_GUARD)
    }
}

/// What a policy applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// Every workload.
    Global,
    /// Workloads of the policy's namespace.
    Namespace,
    /// Workloads that list the policy's key.
    WorkloadSelector,
}

/// What a match does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Permit; where ALLOW policies exist and none matches, the connection is refused.
    Allow,
    /// Refuse, whatever else matches.
    Deny,
}

/// AND of clauses; none matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The clauses.
    pub clauses: Vec<Clause>,
}

/// OR of matches; none matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clause {
    /// The matches.
    pub matches: Vec<Match>,
}

/// AND of fields. A positive field holds when any of its values does, a `not_` field when none
/// does, an empty field always.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of istio.security.Match")]
pub struct Match {
    pub namespaces: Vec<StringMatch>,
    pub not_namespaces: Vec<StringMatch>,
    pub principals: Vec<StringMatch>,
    pub not_principals: Vec<StringMatch>,
    pub service_accounts: Vec<ServiceAccountMatch>,
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    pub source_ips: Vec<IpNet>,
    pub not_source_ips: Vec<IpNet>,
    pub destination_ips: Vec<IpNet>,
    pub not_destination_ips: Vec<IpNet>,
    pub destination_ports: Vec<u16>,
    pub not_destination_ports: Vec<u16>,
}

impl Match {
    /// True when no field is set: such a match is skipped.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How a string is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StringMatch {
    /// Byte-equal.
    Exact(String),
    /// Starts with.
    Prefix(String),
    /// Ends with.
    Suffix(String),
    /// Not empty.
    Presence,
}

/// A service account in any trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it")]
pub struct ServiceAccountMatch {
    pub namespace: String,
    pub service_account: String,
}
