//! Authorization of requests (Istio `AuthorizationPolicy` with its HTTP fields), as gateways and
//! waypoints enforce it.
//!
//! The algebra: a policy is the OR of its rules; a rule the AND of `from`, `to` and every `when`;
//! `from` and `to` are the OR of their entries; an entry is the AND of its fields; a positive field
//! is the OR of its values, a `not` field holds when none of its values does. Empty is never the
//! same as absent: a policy without rules matches nothing, a rule without `from`, `to` and `when`
//! matches everything, and an entry without any field refuses: as part of a DENY it matches
//! everything, as part of an ALLOW nothing.

use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::authorization::{Action, PolicyKey, ServiceAccountMatch, StringMatch};
use crate::service::NamespacedHostname;

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// What it applies to; none applies to nothing.
    pub targets: Vec<PolicyTarget>,
    /// What a match does.
    pub action: Action,
    /// OR; none matches nothing.
    pub rules: Vec<AccessRule>,
    /// Log and count the outcome, enforce nothing.
    pub dry_run: bool,
}

impl Access {
    /// The policy's key.
    pub fn key(&self) -> PolicyKey {
        PolicyKey::new(&self.namespace, &self.name)
    }
}

/// What a request policy is attached to. Selectors, namespaces and classes are resolved to these
/// before a policy travels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PolicyTarget {
    /// Every request through a gateway or waypoint, by its `namespace/name`.
    Gateway(Arc<str>),
    /// Requests to one service, wherever they pass.
    Service(NamespacedHostname),
}

/// AND of the three; an empty list always holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessRule {
    /// Who sends the request: OR.
    pub from: Vec<Source>,
    /// What it asks for: OR.
    pub to: Vec<Operation>,
    /// What else has to hold: AND.
    pub when: Vec<Condition>,
}

/// Who sends a request: AND of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the fields are those of Istio's Source")]
pub struct Source {
    pub principals: Vec<StringMatch>,
    pub not_principals: Vec<StringMatch>,
    pub request_principals: Vec<StringMatch>,
    pub not_request_principals: Vec<StringMatch>,
    pub namespaces: Vec<StringMatch>,
    pub not_namespaces: Vec<StringMatch>,
    pub service_accounts: Vec<ServiceAccountMatch>,
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    pub ip_blocks: Vec<IpNet>,
    pub not_ip_blocks: Vec<IpNet>,
    pub remote_ip_blocks: Vec<IpNet>,
    pub not_remote_ip_blocks: Vec<IpNet>,
}

impl Source {
    /// True when no field is set: what it was meant to say is unknown.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a request asks for: AND of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the fields are those of Istio's Operation")]
pub struct Operation {
    pub hosts: Vec<StringMatch>,
    pub not_hosts: Vec<StringMatch>,
    pub ports: Vec<u16>,
    pub not_ports: Vec<u16>,
    pub methods: Vec<StringMatch>,
    pub not_methods: Vec<StringMatch>,
    pub paths: Vec<PathMatch>,
    pub not_paths: Vec<PathMatch>,
}

impl Operation {
    /// True when no field is set: what it was meant to say is unknown.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How a path is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    /// As a whole.
    Text(StringMatch),
    /// By segments: `{*}` stands for exactly one that is not empty, `{**}` (the last operator) for
    /// one or more that may be. It is checked where the policy is compiled.
    Template(String),
}

/// One entry of `when`. Without `values` and `notValues` it is an error of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Condition {
    /// On a text.
    #[serde(rename_all = "camelCase")]
    Text {
        /// Which.
        attribute: TextAttribute,
        /// OR; empty always holds.
        values: Vec<StringMatch>,
        /// None of these.
        not_values: Vec<StringMatch>,
    },
    /// On an address.
    #[serde(rename_all = "camelCase")]
    Address {
        /// Which.
        attribute: AddressAttribute,
        /// OR; empty always holds.
        values: Vec<IpNet>,
        /// None of these.
        not_values: Vec<IpNet>,
    },
    /// On the destination port.
    #[serde(rename_all = "camelCase")]
    DestinationPort {
        /// OR; empty always holds.
        values: Vec<u16>,
        /// None of these.
        not_values: Vec<u16>,
    },
}

/// A text that a condition asks about; the names in quotes are those of Istio.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TextAttribute {
    /// `request.headers[NAME]`.
    Header(String),
    /// `source.namespace`.
    SourceNamespace,
    /// `source.principal`.
    SourcePrincipal,
    /// `request.auth.principal`: `ISSUER/SUBJECT` of the token.
    RequestPrincipal,
    /// `request.auth.audiences`.
    RequestAudiences,
    /// `request.auth.presenter`: the token's `azp`.
    RequestPresenter,
    /// `request.auth.claims[A][B]`: the path to a claim, outermost first.
    Claim(Vec<String>),
    /// `connection.sni`.
    Sni,
}

/// An address that a condition asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AddressAttribute {
    /// `source.ip`: the peer of the connection.
    Source,
    /// `remote.ip`: the client, as trusted proxies in front say.
    Remote,
    /// `destination.ip`.
    Destination,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_is_not_absent_after_a_round_trip() {
        let matches_everything = AccessRule::default();
        let matches_nothing = AccessRule {
            from: vec![Source::default()],
            ..AccessRule::default()
        };
        let policy = Access {
            name: "p".into(),
            namespace: "shop".into(),
            targets: vec![PolicyTarget::Gateway("shop/edge".into())],
            action: Action::Allow,
            rules: vec![matches_everything, matches_nothing],
            dry_run: false,
        };
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Access>(&text).unwrap(), policy);
        assert!(policy.rules[1].from[0].is_empty() && Operation::default().is_empty());
    }
}
