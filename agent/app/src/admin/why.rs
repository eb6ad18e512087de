//! `culvert why`: its JSON form and its text.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use agent_model::{Action, Identity, PolicyKey, Reason};
use serde::{Deserialize, Serialize};

use super::escape::printable;
use super::table::table;

/// What a node would do with one connection, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Why {
    /// Version of this form, [`super::SCHEMA`].
    pub(crate) schema: u32,
    /// Who connects.
    pub(crate) source: EndView,
    /// Where to.
    pub(crate) destination: SocketAddr,
    /// Host name of the service that has the destination address.
    pub(crate) service: Option<String>,
    /// What the source's node does.
    pub(crate) route: RouteKind,
    /// The same in a sentence.
    pub(crate) route_detail: String,
    /// Where the connection ends up.
    pub(crate) endpoint: Option<EndpointView>,
    /// Every policy that applies at the destination.
    pub(crate) policies: Vec<PolicyView>,
    /// Whether it would reach the application.
    pub(crate) allowed: bool,
    /// The Reason the log would show; `ok` when it is allowed.
    pub(crate) reason: Reason,
    /// The policy that decided, if one did.
    pub(crate) policy: Option<PolicyKey>,
    /// What the answer does not take into account, a sentence each.
    pub(crate) notes: Vec<String>,
}

/// The source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndView {
    /// `namespace/name` of the workload.
    pub(crate) workload: String,
    /// Address the connection would come from.
    pub(crate) address: Option<IpAddr>,
    /// Node it runs on.
    pub(crate) node: String,
    /// Its identity, when it is in the mesh.
    pub(crate) identity: Option<Identity>,
}

/// What the source's node does with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RouteKind {
    /// The source is not in the mesh: nothing is captured.
    NotCaptured,
    /// The destination is unknown to the mesh: plain TCP.
    Passthrough,
    /// Plain TCP to a workload that is not in the mesh.
    Direct,
    /// Mutual TLS to the destination's node.
    Tunnel,
    /// Mutual TLS to a waypoint.
    Waypoint,
    /// Refused.
    Deny,
}

/// The chosen endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointView {
    /// `namespace/name` of the workload.
    pub(crate) workload: String,
    /// Node it runs on.
    pub(crate) node: String,
    /// Address the application is reached at.
    pub(crate) target: SocketAddr,
    /// Address dialled.
    pub(crate) peer: SocketAddr,
    /// Identities one of which the peer must prove; empty for plain TCP.
    pub(crate) expected: Vec<Identity>,
}

/// One policy's part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PolicyView {
    /// The policy.
    pub(crate) policy: PolicyKey,
    /// What it does on a match.
    pub(crate) action: Action,
    /// Whether it matches.
    pub(crate) matches: bool,
    /// It is logged only.
    pub(crate) dry_run: bool,
}

impl Why {
    /// For people.
    pub(crate) fn to_text(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name:<13}{}", printable(value));
        };
        line("Source", &self.source.summary());
        line("Identity", &or_none(self.source.identity.as_ref()));
        line("Destination", &self.destination_summary());
        line("Route", &self.route_detail);
        if let Some(endpoint) = &self.endpoint {
            line("Endpoint", &endpoint.summary());
            for identity in &endpoint.expected {
                line("Expects", &identity.to_string());
            }
        }
        line("Verdict", &self.verdict());
        for note in &self.notes {
            line("Note", note);
        }
        self.write_policies(&mut out);
        out
    }

    fn destination_summary(&self) -> String {
        match &self.service {
            Some(service) => format!("{} (service {service})", self.destination),
            None => self.destination.to_string(),
        }
    }

    fn verdict(&self) -> String {
        let by = match &self.policy {
            Some(policy) => format!(", decided by {policy}"),
            None => String::new(),
        };
        if self.allowed {
            format!("ALLOWED{by}")
        } else {
            format!("REFUSED: {}{by}", self.reason)
        }
    }

    fn write_policies(&self, out: &mut String) {
        if self.policies.is_empty() {
            return;
        }
        let rows: Vec<Vec<String>> = self.policies.iter().map(policy_row).collect();
        let text = table(&["POLICY", "ACTION", "MATCHES", "MODE"], &rows);
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "\nPolicies at the destination ({})\n{text}",
            rows.len()
        );
    }
}

impl EndView {
    fn summary(&self) -> String {
        let address = or_none(self.address.as_ref());
        format!("{} ({address}) on {}", self.workload, self.node)
    }
}

impl EndpointView {
    fn summary(&self) -> String {
        let mut text = format!("{} at {} on {}", self.workload, self.target, self.node);
        if self.peer != self.target {
            text.push_str(&format!(", by way of {}", self.peer));
        }
        text
    }
}

fn policy_row(policy: &PolicyView) -> Vec<String> {
    let yes_no = |yes| if yes { "yes" } else { "no" };
    vec![
        policy.policy.to_string(),
        match policy.action {
            Action::Allow => "ALLOW",
            Action::Deny => "DENY",
        }
        .to_owned(),
        yes_no(policy.matches).to_owned(),
        if policy.dry_run {
            "dry run"
        } else {
            "enforced"
        }
        .to_owned(),
    ]
}

fn or_none(value: Option<&impl ToString>) -> String {
    value.map_or_else(|| "none".to_owned(), ToString::to_string)
}
